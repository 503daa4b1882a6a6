"""Copies under two names: one file, the same voxels, or the same brain in two images.

# Fingerprints

A fingerprint is a small vector per case that survives copying; two are compared by correlation.

Public data sets overlap (patients of TCGA are in BraTS, in UCSF-PDGM, ...) under other ids, so ids alone do not keep a
test set clean. A fingerprint is the image on 24 x 28 x 24 points of a frame that the brain itself sets: its centre of
mass and its extent along left-right, back-front and bottom-top. Registered brains look alike at large, so what varies
over more than a few of these points is taken away; folds, ventricles and lesion are what is left.

Measured on five patients (two TCGA, three BraTS 2013), FLAIR and T1ce of each, T1 and T2 of the two TCGA ones:

| compared | similarity |
| --- | --- |
| copy: other number type, scale, orientation, field of view, padding, linear intensity, z-scores | 1.00 |
| copy on axes turned by 12 degrees that its affine knows of | >= 0.99 |
| copy moved by half a voxel, or resampled to 1.25 or 2 mm | >= 0.98 |
| copy with a coil's bias of +-20 %, or with noise of 10 % of the contrast | >= 0.99 |
| copy turned by 3 degrees against its axes, e.g. registered anew | >= 0.90 |
| copy whose brain mask lacks 2 voxels all around | >= 0.87 |
| copy turned by 8 degrees: not found | 0.67 to 0.75 |
| a brain and its own mirror image | <= 0.76 |
| two patients, T1ce, T1 or T2 | <= 0.61 |
| two patients, FLAIR | <= 0.47 |

The threshold lies between. Five patients say little of the tail over a million pairs, so look at a pair before you
believe it. A follow-up scan is another image: what links it to its patient is its patient id.

# Files and voxels

Unlike fingerprints, which find one brain in two images of one modality, every volume counts. Cases whose images are
all the same are one examination under two names: `mttu.cohort.leakage` tells of them.
"""

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter

from mttu.cohort.layouts import FoundCase
from mttu.data.findings import Finding
from mttu.data.manifest import BRAIN_MASK, SEG, Case
from mttu.errors import name_some

POINTS = (24, 28, 24)
"""Along left-right, back-front, bottom-top: 16,128 floats, 63 KiB."""
SAME_BRAIN = 0.8
"""Two fingerprints at least this similar show one brain; between all pairs of patients and all copies that count."""
PREFERENCE = ("flair", "t1ce", "t2", "t1")
"""Modality to compare by: FLAIR tells patients apart best."""

_HALF_WIDTH = 2.3
"""Of the frame, in standard deviations of the brain's voxels; an ellipsoid reaches 2.24."""
_SMOOTHING = 0.5
"""Before sampling, in distances between points; else a shift of half a voxel would show."""
_BACKGROUND = 2.0
"""Width in points of what is taken away as common to all brains."""
_FLAT = 1e-3
"""Length of what rounding alone leaves of an image without contrast; that of an image is above 1."""
_ROWS = 256
"""Of the matrix product at a time: 1.5 MB for 1,500 cases."""


@dataclass(frozen=True)
class SameBrain:
    """Two cases that show one brain."""

    first: str
    second: str
    similarity: float
    """Correlation of the fingerprints, `SAME_BRAIN` to 1."""


def choose_modality(modalities: Sequence[str]) -> str:
    """The modality to compare cases by: the first of `PREFERENCE` that all have, else the first one given."""
    return next((name for name in PREFERENCE if name in modalities), modalities[0])


def fingerprint(voxels: NDArray[np.float32], affine: NDArray[Any], brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What an image shows, whatever its file looks like.

    Args:
        voxels: (I, J, K) of one modality, in any orientation; only what lies inside the brain counts.
        affine: (4, 4) voxel to world (mm, RAS+).
        brain: (I, J, K), at least one voxel.

    Returns:
        (16128,) of length 1; all 0 if the brain has no contrast.
    """
    box = _find_box(brain)
    inside = brain[box].astype(np.float32)
    corner = [axis.start for axis in box]
    centre, spread = _measure_brain(brain[box], affine, corner)
    step = 2 * _HALF_WIDTH * spread / POINTS  # (3,) mm between points
    low, high = np.percentile(voxels[brain], [1, 99])
    image = inside * np.clip((voxels[box] - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)
    to_voxel = np.linalg.inv(affine)
    matrix = to_voxel[:3, :3] @ np.diag(step)
    first = centre - step * (np.array(POINTS) - 1) / 2
    offset = to_voxel[:3, :3] @ first + to_voxel[:3, 3] - corner
    sigma = _SMOOTHING * step.mean() / voxel_sizes(affine)

    def sample(volume: NDArray[np.float32]) -> NDArray[np.float32]:
        smooth = gaussian_filter(volume, sigma, mode="constant")
        return np.asarray(affine_transform(smooth, matrix, offset, POINTS, order=1, mode="constant"))

    weight = sample(inside)
    held = (weight > 0.5).astype(np.float32)  # points that lie in the brain
    values = held * sample(image) / np.maximum(weight, 0.5)
    common = gaussian_filter(values, _BACKGROUND, mode="constant")
    common /= np.maximum(gaussian_filter(held, _BACKGROUND, mode="constant"), 1e-3)
    detail = (held * (values - common)).ravel().astype(np.float32)
    length = float(np.linalg.norm(detail))
    return detail / np.float32(length) if length > _FLAT else np.zeros_like(detail)


def _find_box(brain: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    first, second, third = (
        np.flatnonzero(brain.any(axis=tuple(other for other in range(3) if other != axis))) for axis in range(3)
    )
    return (
        slice(int(first[0]), int(first[-1]) + 1),
        slice(int(second[0]), int(second[-1]) + 1),
        slice(int(third[0]), int(third[-1]) + 1),
    )


def _measure_brain(
    brain: NDArray[np.bool_], affine: NDArray[Any], corner: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre of mass and standard deviation of the brain's voxels along the world's axes, both (3,) in mm."""
    places = np.stack(np.nonzero(brain)).astype(np.float32)  # (3, N), exact: whole numbers below 1024
    covariance = affine[:3, :3] @ np.cov(places, ddof=0) @ affine[:3, :3].T
    centre = affine[:3, :3] @ (places.mean(axis=1, dtype=np.float64) + corner) + affine[:3, 3]
    thinnest = voxel_sizes(affine).min() / 2  # a brain of one slice has no extent across it
    return centre, np.maximum(np.sqrt(np.diag(covariance)), thinnest)


def find_same_brains(fingerprints: Mapping[str, NDArray[np.float32]], threshold: float = SAME_BRAIN) -> list[SameBrain]:
    """All pairs of cases whose fingerprints agree, by id; 1,500 cases take a second.

    Args:
        fingerprints: Case id to fingerprint, all of one modality.
        threshold: Least similarity.
    """
    names = sorted(fingerprints)
    if len(names) < 2:
        return []
    vectors = np.stack([fingerprints[name] for name in names])
    pairs = []
    for start in range(0, len(names), _ROWS):
        similarities = vectors[start : start + _ROWS] @ vectors[start:].T
        for row, column in np.argwhere(np.triu(similarities, 1) >= threshold).tolist():
            similarity = min(1.0, float(similarities[row, column]))
            pairs.append(SameBrain(names[start + row], names[start + column], similarity))
    return pairs


Digests = Mapping[str, Mapping[str, str]]
"""Case id to role to a hash of the voxels."""
_MOST_NAMED = 3


def find_shared_files(cases: Sequence[Case | FoundCase]) -> list[Finding]:
    """An error for each case that names a file which it, or another case, names in another place too.

    Links count as what they lead to. Files that are not there are left to whatever reads them.

    Args:
        cases: All of them: one that is refused may be the owner of a file that another one should not have.
    """
    users: dict[tuple[int, int], list[tuple[str, str]]] = {}
    own: list[tuple[str, str, Path, tuple[int, int]]] = []
    for case in cases:
        for role, path in _files(case).items():
            try:
                status = path.stat()
            except OSError:
                continue
            file = (status.st_dev, status.st_ino)
            users.setdefault(file, []).append((case.case_id, role))
            own.append((case.case_id, role, path, file))
    found = []
    for case_id, role, path, file in own:
        others = [
            other_role if other == case_id else f"{other_role} of case {other}"
            for other, other_role in users[file]
            if (other, other_role) != (case_id, role)
        ]
        if others:
            text = f"{role} {path.name}: is the file of {name_some(others, _MOST_NAMED)} too; give each its own"
            found.append(Finding("error", case_id, text))
    return found


def _files(case: Case | FoundCase) -> dict[str, Path]:
    return {
        **case.images,
        **{role: path for role, path in {SEG: case.seg, BRAIN_MASK: case.brain_mask}.items() if path},
    }


def share_volumes(digests: Digests) -> bool:
    """Whether any two cases have a volume in common, so that `find_copies` has something to tell."""
    own = [digest for roles in digests.values() for digest in set(roles.values())]
    return len(set(own)) < len(own)


def find_copies(cases: Sequence[Case], named: Sequence[Case], digests: Digests, compared: str) -> list[Finding]:
    """Volumes that have the same voxels in several cases, although the cases' images are not all the same.

    An image or tumour mask of another patient is an error, in both cases: which of them it belongs to is not known.
    Between examinations of one patient it is a warning, and so is a brain mask, which may be an atlas's. Cases that
    only an image makes one patient are two if that image is all that they share. Where a case could be read in part
    alone, and all images that both have are the same, that is a warning too: it may be what an interrupted copy left.
    One file under two names is left to `find_shared_files`.

    Args:
        cases: With one patient id for all that is known to be one patient, images included; those that are refused
            too, for one of them may be the owner of a volume that another one should not have.
        named: The same cases with the patient ids that names alone tell, in the same order.
        digests: Of the volumes that could be read.
        compared: Modality that images are compared by.
    """
    patient = {case.case_id: case.patient_id for case in cases}
    named_patient = {case.case_id: case.patient_id for case in named}
    read = [case for case in cases if case.case_id in digests]
    images = {
        case.case_id: {name: digests[case.case_id][name] for name in case.images if name in digests[case.case_id]}
        for case in read
    }
    files = {case.case_id: _files(case) for case in read}
    holders: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for case in read:
        for role, digest in digests[case.case_id].items():
            kind = role if role in (SEG, BRAIN_MASK) else "image"
            holders.setdefault((kind, digest), []).append((case.case_id, role))

    def is_part(first: str, second: str) -> bool:
        common = images[first].keys() & images[second].keys()
        return bool(common) and all(images[first][name] == images[second][name] for name in common)

    def is_one_patient(first: str, second: str) -> bool:
        if named_patient[first] == named_patient[second]:
            return True
        shared = set(images[first].values()) & set(images[second].values())
        return patient[first] == patient[second] and shared != {images[first].get(compared)}

    found = []
    for case in read:
        for role, digest in digests[case.case_id].items():
            kind = role if role in (SEG, BRAIN_MASK) else "image"
            others = [
                (other, other_role)
                for other, other_role in holders[kind, digest]
                if other != case.case_id
                and not (images[other] and images[other] == images[case.case_id])
                and not _is_one_file(files[case.case_id][role], files[other][other_role])
            ]
            if not others:
                continue
            parts = [is_part(case.case_id, other) for other, _ in others]
            same = kind == BRAIN_MASK or all(
                part or is_one_patient(case.case_id, other) for part, (other, _) in zip(parts, others, strict=True)
            )
            differ = "" if all(parts) else ", while other images differ"
            path = files[case.case_id][role]
            listed = name_some([f"{other_role} of case {other}" for other, other_role in others], _MOST_NAMED)
            advice = "restore the right file, or leave one of the cases out" if not same else "check that it is right"
            text = f"{role} ({path.name}) has the same voxels as {listed}{differ}; {advice}"
            found.append(Finding("warning" if same else "error", case.case_id, text))
    return found


def _is_one_file(first: Path, second: Path) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False


def find_twins(cases: Iterable[Case], digests: Digests) -> list[Finding]:
    """Warnings on cases whose images are all the same: for when nobody compares brains."""
    return [
        Finding("warning", name, f"all images have the same voxels as those of case {group[0]}; it counts twice")
        for group in _group_by_images(cases, digests)
        for name in group[1:]
    ]


def find_twins_left_out(cases: Sequence[Case], left_out: Set[str], digests: Digests) -> list[Finding]:
    """Warnings on cases whose images are all another's, one of the two being left out for something else.

    Of two that are both used, `mttu.cohort.leakage` tells; of one file in two places, `find_shared_files`.

    Args:
        cases: All of them.
        left_out: Ids of those with errors of their own.
        digests: Of the volumes that could be read.
    """
    whole = {
        case.case_id: case for case in cases if case.images and set(case.images) <= set(digests.get(case.case_id, ()))
    }
    found = []
    for group in _group_by_images(whole.values(), digests):
        for name in group:
            others = [
                f"case {other}{', which has errors of its own' if other in left_out else ''}"
                for other in group
                if other != name
                and not left_out.isdisjoint({name, other})
                and not any(_is_one_file(path, whole[other].images[role]) for role, path in whole[name].images.items())
            ]
            if others:
                listed = name_some(others, _MOST_NAMED)
                text = f"all images have the same voxels as those of {listed}; check whose they are"
                found.append(Finding("warning", name, text))
    return found


def find_same_images(cases: Iterable[Case], digests: Digests) -> list[Finding]:
    """Warnings on every case whose images are all another's, for when each case is looked at by itself."""
    return [
        Finding(
            "warning",
            name,
            f"all images have the same voxels as those of {name_some(others, _MOST_NAMED)}; check whose they are",
        )
        for group in _group_by_images(cases, digests)
        for name in group
        if (others := [f"case {other}" for other in group if other != name])
    ]


def _group_by_images(cases: Iterable[Case], digests: Digests) -> Iterable[list[str]]:
    """Case ids, those together whose images are all the same."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for case in cases:
        if case.case_id in digests:
            images = tuple((name, digests[case.case_id][name]) for name in sorted(case.images))
            groups.setdefault(images, []).append(case.case_id)
    return groups.values()

"""Copies under two names: one file, the same voxels, or the same brain in two images.

# Fingerprints

A fingerprint is a small vector per case that survives copying; two are compared by correlation.

Public data sets overlap (patients of TCGA are in BraTS, in UCSF-PDGM, ...) under other ids, so ids alone do not keep a
test set clean. A fingerprint is the image on 24 x 28 x 24 points of a frame given by the brain's centre of mass and
its extent along left-right, back-front and bottom-top. Registered brains look alike at a coarse scale, so what varies
slowly over these points is subtracted; folds, ventricles and lesion are left.

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

The threshold lies between. Five patients say little about the tail over a million pairs, so look at a pair before you
believe it. A follow-up scan is another image; only its patient id links it to its patient.

# Files and voxels

Fingerprints find one brain in two images of one modality; files and voxels are compared for every volume. Cases whose
images are all the same are one examination under two names, which `mttu.cohort.leakage` reports.
"""

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, find_objects, gaussian_filter

from mttu.cohort.layouts import FoundCase, list_files
from mttu.data.findings import Finding
from mttu.data.manifest import BRAIN_MASK, SEG, Case
from mttu.errors import name_some

POINTS = (24, 28, 24)
"""Along left-right, back-front, bottom-top: 16,128 floats, 63 KiB."""
SAME_BRAIN = 0.8
"""Two fingerprints at least this similar show one brain: above any two patients, below the copies to find."""
PREFERENCE = ("flair", "t1ce", "t2", "t1")
"""Modality to compare by: FLAIR tells patients apart best."""

_HALF_WIDTH = 2.3
"""Half the width of the frame, in standard deviations of the brain's voxels; an ellipsoid reaches 2.24."""
_SMOOTHING = 0.5
"""Smoothing before sampling, in distances between points, so that a shift of half a voxel does not show."""
_BACKGROUND = 2.0
"""Width, in points, of the filter that finds what all brains have in common."""
_FLAT = 1e-3
"""Length that rounding alone gives an image without contrast; that of other images is above 1."""
_ROWS = 256
"""Rows of the matrix product computed at once: 1.5 MB for 1,500 cases."""


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
    """The fingerprint of an image, which does not depend on how the image is stored.

    Args:
        voxels: (I, J, K) of one modality, in any orientation; only voxels of the brain count.
        affine: (4, 4) voxel to world (mm, RAS+).
        brain: (I, J, K), at least one voxel.

    Returns:
        (16128,) of length 1; all 0 if the brain has no contrast.
    """
    box = find_objects(brain.view(np.uint8))[0]
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
    """An error for each case with a file that occurs a second time, in this case or in another.

    Links count as what they lead to; missing files are ignored. `cases` are all cases, including refused ones: another
    case may contain one of their files by mistake.
    """
    users: dict[tuple[int, int], list[tuple[str, str]]] = {}
    own: list[tuple[str, str, Path, tuple[int, int]]] = []
    for case in cases:
        for role, path in list_files(case).items():
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


def share_volumes(digests: Digests) -> bool:
    """Whether any two cases have a volume in common, as `find_copies` reports."""
    own = [digest for roles in digests.values() for digest in set(roles.values())]
    return len(set(own)) < len(own)


def find_copies(cases: Sequence[Case], named: Sequence[Case], digests: Digests, compared: str) -> list[Finding]:
    """Volumes that have the same voxels in several cases, although the cases' images are not all the same.

    An image or tumour mask of another patient is an error of both cases, since its owner is not known. Between
    examinations of one patient it is a warning. So is a shared brain mask, which may be an atlas's. Cases that are one
    patient only because of an image are two if they share nothing but that image. Where a case could only be read in
    part, and all images that both have are the same, that is a warning, too: an interrupted copy may have left it.
    One file under two names is left to `find_shared_files`.

    Args:
        cases: With one patient id for all that is known to be one patient, by images, too; including refused cases,
            which may own a volume that another case has by mistake.
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
    files = {case.case_id: list_files(case) for case in read}
    holders: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for case in read:
        for role, digest in digests[case.case_id].items():
            holders.setdefault((_kind_of(role), digest), []).append((case.case_id, role))

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
            others = [
                (other, other_role)
                for other, other_role in holders[_kind_of(role), digest]
                if other != case.case_id
                and not (images[other] and images[other] == images[case.case_id])
                and not _is_one_file(files[case.case_id][role], files[other][other_role])
            ]
            if not others:
                continue
            parts = [is_part(case.case_id, other) for other, _ in others]
            same = role == BRAIN_MASK or all(
                part or is_one_patient(case.case_id, other) for part, (other, _) in zip(parts, others, strict=True)
            )
            differ = "" if all(parts) else ", while other images differ"
            path = files[case.case_id][role]
            listed = name_some([f"{other_role} of case {other}" for other, other_role in others], _MOST_NAMED)
            advice = "check that it is right" if same else "restore the right file, or leave one of the cases out"
            text = f"{role} ({path.name}) has the same voxels as {listed}{differ}; {advice}"
            found.append(Finding("warning" if same else "error", case.case_id, text))
    return found


def _kind_of(role: str) -> str:
    return role if role in (SEG, BRAIN_MASK) else "image"


def _is_one_file(first: Path, second: Path) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False


def find_twins(cases: Iterable[Case], digests: Digests) -> list[Finding]:
    """Warnings on cases whose images are all the same, used when brains are not compared."""
    return [
        Finding("warning", name, f"all images have the same voxels as those of case {group[0]}; it counts twice")
        for group in _group_by_images(cases, digests)
        for name in group[1:]
    ]


def find_twins_left_out(cases: Sequence[Case], left_out: Set[str], digests: Digests) -> list[Finding]:
    """Warnings on cases whose images are all the same, one of the two being left out for another reason.

    `mttu.cohort.leakage` reports those that are both used, `find_shared_files` one file in two places. `left_out` are
    ids of cases with errors of their own, `digests` are of the volumes that could be read.
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
                found.append(_say_same_images(name, others))
    return found


def find_same_images(cases: Iterable[Case], digests: Digests) -> list[Finding]:
    """Warnings on every case whose images are all the same as another's, used when cases have no splits."""
    return [
        _say_same_images(name, [f"case {other}" for other in group if other != name])
        for group in _group_by_images(cases, digests)
        for name in group
        if len(group) > 1
    ]


def _say_same_images(case_id: str, others: Sequence[str]) -> Finding:
    listed = name_some(others, _MOST_NAMED)
    return Finding("warning", case_id, f"all images have the same voxels as those of {listed}; check whose they are")


def _group_by_images(cases: Iterable[Case], digests: Digests) -> Iterable[list[str]]:
    """Case ids, those together whose images are all the same."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for case in cases:
        if case.case_id in digests:
            images = tuple((name, digests[case.case_id][name]) for name in sorted(case.images))
            groups.setdefault(images, []).append(case.case_id)
    return groups.values()

"""The same brain under two names: a small vector per case that survives copying, compared by correlation.

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
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter

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

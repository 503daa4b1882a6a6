"""Lesion-wise Dice and HD95 of the tumour regions, as the tool of BraTS 2023 counts them for adult glioma.

What a lesion is: the true region, grown by three voxels, falls into connected parts (26 neighbours); the true voxels
inside one part are one lesion. Predicted connected components that touch the grown lesion belong to it, all of their
voxels. A component that belongs to no lesion is a false one, whatever its size; it scores Dice 0 and 374 mm. So does a
missed lesion. A true lesion of at most 50 mm^3 isn't counted, and what touches it is no false one. A case's score is
the mean over counted and false lesions; Dice 1 and 0 mm if there are none.

HD95 weighs each border element with its area, unlike the voxel-wise HD95 of `mttu.metrics.segmentation`: border
elements lie between voxels, and the percentile is taken over the surface (as in DeepMind's surface-distance, which that
tool uses; the areas are from MONAI's copy of its table).

See github.com/rachitsaluja/BraTS-2023-Metrics (numbers for GLI) and github.com/google-deepmind/surface-distance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, find_objects, generate_binary_structure, label
from scipy.spatial import cKDTree

from mttu.data.labels import REGIONS, WHOLE_TUMOUR
from mttu.metrics.segmentation import check_shapes, find_box, select_region

GROWTH_VOXELS = 3
SMALLEST_MM3 = 50.0
"""A true lesion that is not larger isn't counted."""
PENALTY_MM = 374.0
_SHARE = 0.95
_GROWING, _TOUCHING = generate_binary_structure(3, 2), generate_binary_structure(3, 3)
_CORNERS = tuple(np.ndindex(2, 2, 2))


@dataclass(frozen=True)
class LesionScores:
    """Lesion-wise scores of one region of one case; None where the masks don't tell the region."""

    lesion_dice: float | None = None
    """Mean over counted and false lesions, in [0, 1]; 1 if there are none."""
    lesion_hd95_mm: float | None = None
    """The same mean; 0 if there are none."""
    num_lesions: int | None = None
    """True lesions that are counted."""
    num_missed_lesions: int | None = None
    """Those of them that no predicted component touches."""
    num_false_lesions: int | None = None
    """Predicted components that touch no true lesion."""


def score_lesions(
    predicted: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    spacing_mm: Sequence[float],
    regions: Sequence[str] = tuple(REGIONS),
) -> Mapping[str, LesionScores]:
    """Lesion-wise scores of each region of a case.

    Args:
        predicted: (H, W, D), classes 0 to 3, or `WHOLE_TUMOUR`.
        truth: Same shape and classes.
        spacing_mm: Size of a voxel along H, W, D.
        regions: As in `mttu.metrics.segmentation.score_regions`; the others get no scores.

    Raises:
        ValueError: The shapes differ.
    """
    check_shapes(predicted, truth)
    box = find_box(predicted, truth, GROWTH_VOXELS)
    predicted, truth = predicted[box], truth[box]
    whole = bool((predicted == WHOLE_TUMOUR).any() or (truth == WHOLE_TUMOUR).any())
    return {
        region: _score(select_region(predicted, members), select_region(truth, members), spacing_mm)
        if region in regions and (WHOLE_TUMOUR in members or not whole)
        else LesionScores()
        for region, members in REGIONS.items()
    }


def _score(predicted: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Sequence[float]) -> LesionScores:
    """Scores of one region; masks (H, W, D)."""
    if not (predicted.any() or truth.any()):
        return LesionScores(1.0, 0.0, 0, 0, 0)
    components, num_components = label(predicted, _TOUCHING)
    grown, num_grown = label(binary_dilation(truth, _GROWING, GROWTH_VOXELS), _TOUCHING)
    members = _match(components, grown)
    voxel_mm3 = float(np.prod(spacing_mm))
    sizes = np.bincount(grown[truth], minlength=num_grown + 1)
    counted = [lesion for lesion in range(1, num_grown + 1) if sizes[lesion] * voxel_mm3 > SMALLEST_MM3]
    found = [lesion for lesion in counted if lesion in members]
    component_boxes, lesion_boxes = find_objects(components), find_objects(grown)
    dice, hd95_mm = 0.0, 0.0
    for lesion in found:
        own = members[lesion]
        box = _span([lesion_boxes[lesion - 1], *(component_boxes[one - 1] for one in own)])
        true = truth[box] & (grown[box] == lesion)
        hit = np.isin(components[box], own)
        dice += 2 * np.count_nonzero(true & hit) / (np.count_nonzero(true) + np.count_nonzero(hit))
        hd95_mm += measure_surface_hd95_mm(hit, true, spacing_mm)
    num_false = num_components - len({component for own in members.values() for component in own})
    num_missed = len(counted) - len(found)
    total = len(counted) + num_false
    if total == 0:
        return LesionScores(1.0, 0.0, 0, 0, 0)
    penalties_mm = PENALTY_MM * (num_missed + num_false)
    return LesionScores(float(dice / total), (hd95_mm + penalties_mm) / total, len(counted), num_missed, num_false)


def _match(components: NDArray[np.int32], grown: NDArray[np.int32]) -> dict[int, list[int]]:
    """Lesion to the predicted components that touch it, grown; without the lesions that none touches."""
    both = (components > 0) & (grown > 0)
    base = int(components.max()) + 1
    members: dict[int, list[int]] = {}
    for pair in np.unique(grown[both].astype(np.int64) * base + components[both]).tolist():
        members.setdefault(pair // base, []).append(pair % base)
    return members


def _span(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    """The smallest box around several."""
    return tuple(
        slice(min(one.start for one in axis), max(one.stop for one in axis)) for axis in zip(*boxes, strict=True)
    )


def measure_surface_hd95_mm(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> float:
    """The larger of both directions' distances that 95 % of the surface's area does not exceed.

    Args:
        predicted: (H, W, D), with at least one voxel.
        truth: Same.
        spacing_mm: Size of a voxel along H, W, D.
    """
    surfaces = [_find_surface(mask, tuple(float(size) for size in spacing_mm)) for mask in (predicted, truth)]
    distances = []
    for (points, areas), (others, _) in zip(surfaces, reversed(surfaces), strict=True):
        found = cKDTree(others).query(points)[0]
        order = np.argsort(found)
        reached = np.cumsum(areas[order]) / areas.sum()
        place = min(int(np.searchsorted(reached, _SHARE)), len(order) - 1)
        distances.append(float(found[order[place]]))
    return max(distances)


def _find_surface(
    mask: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Border elements of a mask: where they lie, (N, 3) mm, and their areas, (N,) mm^2.

    An element is a cube of eight neighbouring voxels that holds some of the mask, but isn't full of it.
    """
    padded = np.pad(mask, 1)
    code = np.zeros([size - 1 for size in padded.shape], np.uint8)
    for bit, corner in zip(range(7, -1, -1), _CORNERS, strict=True):
        cut = tuple(slice(start, start + size) for start, size in zip(corner, code.shape, strict=True))
        code |= padded[cut].astype(np.uint8) << np.uint8(bit)
    border = np.flatnonzero((code != 0) & (code != 255))
    points = np.stack(np.unravel_index(border, code.shape), axis=1) * np.asarray(spacing_mm)
    return points, _tabulate_areas(spacing_mm)[code.ravel()[border]]


@lru_cache
def _tabulate_areas(spacing_mm: tuple[float, ...]) -> NDArray[np.float64]:
    """Area in mm^2 of the border through a cube of voxels, by its code, (256,)."""
    from monai.metrics.utils import get_code_to_measure_table  # takes seconds

    return np.asarray(get_code_to_measure_table(spacing_mm)[0], np.float64).ravel()

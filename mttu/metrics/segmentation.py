"""Overlap, volume and surface distance of the tumour regions WT, TC and ET.

A score that is undefined because a mask is empty is None; the status says which mask. Conventions for empty masks are
applied afterwards, see `mttu.metrics.empty_masks`.

HD95: a border voxel is a mask voxel that shares a face with a voxel outside the mask, or lies on the edge of the
volume. Distances are Euclidean, in mm, between the centres of each border voxel of one mask and the nearest border
voxel of the other. The HD95 is the larger of the 95th percentiles (linear interpolation) of both directions. This is
MONAI's definition. Others pool both directions before the percentile (medpy) or weight by surface area
(surface-distance of the BraTS 2023 tool), which gives other values for the same masks.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from torch import Tensor

from mttu.data.labels import CLASSES, REGIONS, WHOLE_TUMOUR
from mttu.metrics.empty_masks import Status

_NUM_CLASSES = max(len(CLASSES), WHOLE_TUMOUR + 1)


@dataclass(frozen=True)
class RegionScores:
    """Scores of one region of one case; None where the masks define none."""

    status: Status
    dice: float | None = None
    """In [0, 1]; 0 if one mask is empty. None if both are."""
    hd95_mm: float | None = None
    """None unless both masks hold the region."""
    sensitivity: float | None = None
    """Share of true voxels that are predicted. None if there are none."""
    specificity: float | None = None
    """Share of the other voxels of the volume that are not predicted. None if there are none."""
    predicted_ml: float | None = None
    truth_ml: float | None = None
    volume_difference_ml: float | None = None
    """Predicted minus true volume."""
    relative_volume_difference: float | None = None
    """The same, divided by the true volume. None if that is 0."""


def score_regions(
    predicted: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    spacing_mm: Sequence[float],
    regions: Sequence[str] = tuple(REGIONS),
) -> Mapping[str, RegionScores]:
    """All scores of each region of a case.

    Args:
        predicted: (H, W, D), classes 0 to 3, or `WHOLE_TUMOUR`.
        truth: Same shape and classes.
        spacing_mm: Size of a voxel along H, W, D.
        regions: Regions that both masks define, see `mttu.data.labels.find_regions`; the others get status not-defined,
            as do TC and ET if a mask contains `WHOLE_TUMOUR`.

    Raises:
        ValueError: The shapes differ, or a mask holds an unknown class.
    """
    check_shapes(predicted, truth)
    volume, box = predicted.size, find_box(predicted, truth)
    predicted, truth = predicted[box], truth[box]
    outside = volume - predicted.size  # background in both masks
    whole = bool((predicted == WHOLE_TUMOUR).any() or (truth == WHOLE_TUMOUR).any())
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    scores = {}
    for region, in_box in count_overlaps(predicted, truth).items():
        members = REGIONS[region]
        if region not in regions or (whole and WHOLE_TUMOUR not in members):
            scores[region] = RegionScores("not-defined")
            continue
        overlap = replace(in_box, true_negatives=in_box.true_negatives + outside)
        hd95_mm = None
        if overlap.status == "normal":
            hd95_mm = measure_hausdorff_mm(select_region(predicted, members), select_region(truth, members), spacing_mm)
        scores[region] = RegionScores(
            status=overlap.status,
            dice=overlap.dice,
            hd95_mm=hd95_mm,
            sensitivity=overlap.sensitivity,
            specificity=overlap.specificity,
            predicted_ml=overlap.predicted * voxel_ml,
            truth_ml=overlap.true * voxel_ml,
            volume_difference_ml=(overlap.predicted - overlap.true) * voxel_ml,
            relative_volume_difference=_ratio(overlap.predicted - overlap.true, overlap.true),
        )
    return scores


def find_box(predicted: NDArray[np.uint8], truth: NDArray[np.uint8], margin: int = 1) -> tuple[slice, ...]:
    """Bounding box of the tumour in either mask, `margin` voxels wider where the volume allows it."""
    (box,) = find_objects((np.bitwise_or(predicted, truth) > 0).view(np.uint8), 1)
    if box is None:
        return (slice(0, 0),) * predicted.ndim
    return tuple(slice(max(0, part.start - margin), part.stop + margin) for part in box)


def select_region(classes: NDArray[np.uint8], members: Sequence[int]) -> NDArray[np.bool_]:
    """Where a mask has one of some classes, (H, W, D)."""
    table = np.zeros(_NUM_CLASSES, np.bool_)
    table[list(members)] = True
    return np.asarray(table[classes])


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of a region: prediction against truth.

    The rest of the volume counts as true negatives, so specificity can only be compared on the same grids.
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def predicted(self) -> int:
        """Voxels of the predicted region."""
        return self.true_positives + self.false_positives

    @property
    def true(self) -> int:
        """Voxels of the true region."""
        return self.true_positives + self.false_negatives

    @property
    def status(self) -> Status:
        """Which of the two masks holds the region."""
        if self.true:
            return "normal" if self.predicted else "missed"
        return "spurious" if self.predicted else "both-empty"

    @property
    def dice(self) -> float | None:
        """2 TP / (2 TP + FP + FN). None if both masks are empty."""
        return _ratio(2 * self.true_positives, self.predicted + self.true)

    @property
    def sensitivity(self) -> float | None:
        """TP / (TP + FN). None if the true mask is empty."""
        return _ratio(self.true_positives, self.true)

    @property
    def specificity(self) -> float | None:
        """TN / (TN + FP) over the whole volume. None if the true mask fills it."""
        return _ratio(self.true_negatives, self.true_negatives + self.false_positives)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def count_overlaps(predicted: NDArray[np.uint8], truth: NDArray[np.uint8]) -> Mapping[str, Overlap]:
    """Voxels of each region by prediction and truth.

    Args:
        predicted: (H, W, D), classes 0 to 3, or `WHOLE_TUMOUR`.
        truth: Same shape and classes.

    Raises:
        ValueError: The shapes differ, or a mask holds an unknown class.
    """
    check_shapes(predicted, truth)
    highest = max(predicted.max(initial=0), truth.max(initial=0))
    if highest >= _NUM_CLASSES:
        raise ValueError(f"a mask holds the class {highest}; known are 0 to {WHOLE_TUMOUR}")
    pairs = np.asarray(predicted, np.uint8) * np.uint8(_NUM_CLASSES) + np.asarray(truth, np.uint8)
    # voxels by (predicted class, true class)
    table = np.bincount(pairs.ravel(), minlength=_NUM_CLASSES**2).reshape(_NUM_CLASSES, _NUM_CLASSES)
    overlaps = {}
    for region, members in REGIONS.items():
        inside = list(members)
        true_positives = int(table[np.ix_(inside, inside)].sum())
        false_positives = int(table[inside].sum()) - true_positives
        false_negatives = int(table[:, inside].sum()) - true_positives
        rest = int(table.sum()) - true_positives - false_positives - false_negatives
        overlaps[region] = Overlap(true_positives, false_positives, false_negatives, rest)
    return overlaps


def measure_hausdorff_mm(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Sequence[float], percentile: float = 95.0
) -> float | None:
    """Hausdorff distance at a percentile: the larger of both directions.

    Args:
        predicted: (H, W, D).
        truth: Same shape.
        spacing_mm: Size of a voxel along H, W, D.
        percentile: Above 0, at most 100; 100 is the Hausdorff distance itself.

    Returns:
        mm; None if a mask is empty.

    Raises:
        ValueError: The shapes differ, or the percentile is out of range.
    """
    from monai.metrics import compute_hausdorff_distance  # takes seconds

    check_shapes(predicted, truth)
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile is {percentile}; it must be above 0 and at most 100")
    if not (predicted.any() and truth.any()):
        return None
    masks = [torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (predicted, truth)]
    spacing = [float(size) for size in spacing_mm]
    with warnings.catch_warnings():
        # MONAI 1.6 triggers a deprecation warning of its own
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        return float(
            compute_hausdorff_distance(*masks, include_background=True, percentile=percentile, spacing=spacing)
        )


def check_shapes(predicted: NDArray[Any], truth: NDArray[Any]) -> None:
    """Raises ValueError if two masks have different shapes."""
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted has shape {predicted.shape}, truth {truth.shape}; they must agree")


def measure_volumes_ml(classes: Tensor, voxel_volume_mm3: float) -> Mapping[str, float]:
    """Volume of each region of a mask (H, W, D) of classes 0 to 3, in millilitres."""
    return {
        region: int(torch.isin(classes, classes.new_tensor(members)).sum()) * voxel_volume_mm3 / 1000.0
        for region, members in REGIONS.items()
    }

"""Distance between the borders of two masks.

Definition: a border voxel is a voxel of the mask with a face on the outside of the mask, or on the edge of the volume.
From each border voxel of one mask the Euclidean distance, in mm, to the nearest border voxel of the other is taken,
between centres. The 95th percentile (linear interpolation) is taken in each direction, and the larger of the two is the
HD95. This is MONAI's definition. Others pool both directions before the percentile (medpy) or weight by surface area
(surface-distance of the BraTS 2023 tool); they give other figures for the same masks.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance
from numpy.typing import NDArray


def measure_hausdorff_mm(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Sequence[float], percentile: float = 95.0
) -> float | None:
    """Hausdorff distance at a percentile: the larger of both directions.

    Args:
        predicted: (H, W, D).
        truth: Same shape.
        spacing_mm: Of the voxels along H, W, D.
        percentile: Above 0, to 100; 100 is the Hausdorff distance itself.

    Returns:
        mm; None if a mask is empty, for then there is no distance.

    Raises:
        ValueError: The shapes differ, or the percentile is out of range.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted has shape {predicted.shape}, truth {truth.shape}; they must agree")
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile is {percentile}; allowed is above 0, to 100")
    if not (predicted.any() and truth.any()):
        return None
    masks = [torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (predicted, truth)]
    with warnings.catch_warnings():
        # MONAI 1.6 passes an argument to itself that it has deprecated
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        found = compute_hausdorff_distance(
            *masks, include_background=True, percentile=percentile, spacing=[float(size) for size in spacing_mm]
        )
    return float(found)

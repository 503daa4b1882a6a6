"""Overlap and volume of the tumour regions WT, TC and ET."""

from collections.abc import Mapping

import torch
from monai.metrics import compute_dice
from torch import Tensor

from mttu.data.labels import REGIONS


def region_masks(classes: Tensor) -> Tensor:
    """One binary mask per region.

    Args:
        classes: (H, W, D), classes 0 to 3.

    Returns:
        (3, H, W, D), bool, in the order of `REGIONS`: WT, TC, ET. Regions are nested.
    """
    return torch.stack([torch.isin(classes, classes.new_tensor(members)) for members in REGIONS.values()])


def score_dice(predicted: Tensor, truth: Tensor) -> Mapping[str, float]:
    """Dice coefficient of each region.

    Empty masks, as in the BraTS challenges up to 2021: both empty scores 1, exactly one empty scores 0.

    Args:
        predicted: (H, W, D), classes 0 to 3.
        truth: Same shape, classes 0 to 3.

    Returns:
        Region name to a value in [0, 1].

    Raises:
        ValueError: The shapes differ.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted has shape {tuple(predicted.shape)}, truth {tuple(truth.shape)}; they must agree")
    scores = compute_dice(region_masks(predicted)[None], region_masks(truth)[None], ignore_empty=False)[0]
    return dict(zip(REGIONS, scores.tolist(), strict=True))


def measure_volumes_ml(classes: Tensor, voxel_volume_mm3: float) -> Mapping[str, float]:
    """Volume of each region in millilitres.

    Args:
        classes: (H, W, D), classes 0 to 3.
        voxel_volume_mm3: Volume of one voxel.
    """
    counts = region_masks(classes).flatten(start_dim=1).sum(dim=1).tolist()
    return {region: count * voxel_volume_mm3 / 1000.0 for region, count in zip(REGIONS, counts, strict=True)}

"""Small cases with a known content, on any grid."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mttu.cohort.discovery import discover_any
from mttu.cohort.found_cases import to_predict
from mttu.config import MetricSettings
from mttu.data.manifest import Case
from mttu.metrics.empty_masks import fill_dice
from mttu.metrics.segmentation import count_overlaps

MODALITIES = ("flair", "t1ce", "t1", "t2")
LPS = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 23], [0, 0, 1, 0], [0, 0, 0, 1]])
SHAPE = (20, 24, 18)


def draw_brain(shape: Sequence[int]) -> NDArray[np.bool_]:
    """An ellipsoid that leaves at least one voxel free on each side."""
    axes = [np.linspace(-1.15, 1.15, extent) for extent in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return np.asarray(x**2 + y**2 + z**2 < 1)


def score_dice(predicted: Tensor, truth: Tensor) -> dict[str, float | None]:
    """Dice of each region of two masks (H, W, D) of classes 0 to 3; empty masks count as in the authors' release."""
    overlaps = count_overlaps(predicted.cpu().numpy(), truth.cpu().numpy())
    return {region: fill_dice(overlap.dice, overlap.status, MetricSettings()) for region, overlap in overlaps.items()}


def draw_lesion(shape: Sequence[int]) -> NDArray[np.uint8]:
    """BraTS labels 1, 2, 4 in boxes that no flip or permutation maps onto themselves."""
    seg = np.zeros(shape, np.uint8)
    x, y, z = (extent // 2 for extent in shape)
    seg[x - 4 : x + 3, y - 1 : y + 5, z - 2 : z + 3] = 2
    seg[x - 3 : x + 1, y : y + 2, z - 1 : z + 2] = 4
    seg[x - 2, y + 1, z : z + 2] = 1
    return seg


def draw_volumes(shape: Sequence[int] = SHAPE, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Four int16 modalities, above 0 in the brain and 0 outside, and a mask; seed 0 draws the lesion as it is."""
    generator = np.random.default_rng(seed)
    brain = draw_brain(shape)
    volumes: dict[str, NDArray[Any]] = {
        name: np.where(brain, generator.integers(1, 1000, shape), 0).astype(np.int16) for name in MODALITIES
    }
    return {**volumes, "seg": sign(draw_lesion(shape), seed, 1)}


def sign(seg: NDArray[np.uint8], seed: int, label: int) -> NDArray[np.uint8]:
    """A mask of its own for each seed, since no two patients have the same: that label in some of 32 tumour voxels."""
    bits = (seed >> np.arange(32)) & 1 == 1
    signed = seg.copy()
    signed.flat[np.flatnonzero(seg)[-32:][bits]] = label
    return signed


def write_case(
    root: Path,
    case_id: str = "A",
    volumes: Mapping[str, NDArray[Any]] | None = None,
    affine: NDArray[Any] = LPS,
    ending: str = ".nii.gz",
) -> Path:
    """Writes a case folder in BraTS layout and returns it; without volumes, those that `draw_volumes` draws for it."""
    folder = root / case_id
    folder.mkdir(parents=True)
    for role, voxels in (volumes or draw_volumes(seed=zlib.crc32(case_id.encode()))).items():
        image = nib.Nifti1Image(voxels, affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, folder / f"{case_id}_{role}{ending}")
    return folder


def case_from_folder(folder: Path, labels: str, modalities: Sequence[str]) -> Case:
    """A case folder as a case to predict."""
    found = next(case for case in discover_any(folder, modalities) if case.folder == folder)
    return replace(to_predict(found), labels=labels)

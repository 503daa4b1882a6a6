"""Cases that are broken on purpose, as test material for whatever checks a cohort."""

from pathlib import Path

import nibabel as nib
import numpy as np

from mttu.data.phantom.scanner import MODALITIES

DEFECTS = {
    "truncated": "the file ends in the middle",
    "nan": "some voxels are NaN",
    "missing": "the file is not there",
    "shape": "the last slice is cut off, so that the grid is not that of the other modalities",
    "affine": "the image lies 5 mm further back than the other modalities",
    "empty": "the file has no byte",
    "constant": "every voxel of the brain has the same value",
}
"""Kinds of damage, in the order in which a cohort gets them, and what is wrong."""


def damage_case(folder: Path, number: int) -> tuple[str, str]:
    """Damages one image of a case.

    Args:
        folder: Of the case.
        number: The case's number among the damaged ones: decides the kind, and with it the modality.

    Returns:
        Name of the file and kind of damage.
    """
    kind = list(DEFECTS)[number % len(DEFECTS)]
    modality = MODALITIES[(number + number // len(DEFECTS)) % len(MODALITIES)]
    path = folder / f"{folder.name}_{modality}.nii.gz"
    if kind == "missing":
        path.unlink()
    elif kind in ("truncated", "empty"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2 if kind == "truncated" else 0])
    else:
        _rewrite(path, kind)
    return path.name, kind


def _rewrite(path: Path, kind: str) -> None:
    image = nib.load(path)
    voxels, affine, header = np.asarray(image.dataobj), image.affine.copy(), image.header.copy()
    if kind == "nan":
        voxels = voxels.astype(np.float32)
        voxels[tuple(extent // 2 for extent in voxels.shape)] = np.nan
        header.set_data_dtype(np.float32)
    elif kind == "shape":
        voxels = voxels[..., :-1]
    elif kind == "affine":
        affine[1, 3] -= 5
    else:
        voxels = np.where(voxels > 0, 100, 0).astype(voxels.dtype)
    nib.save(nib.Nifti1Image(voxels, affine, header), path)

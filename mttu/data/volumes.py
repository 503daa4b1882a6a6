"""NIfTI in and out: reading with every check that needs no other file, writing a mask where its image lies."""

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from mttu.atomic import atomic_file
from mttu.data.geometry import Geometry, restore_mask
from mttu.errors import InputError

__all__ = ["Geometry", "differ", "read_volume", "restore_mask", "write_mask"]

LARGEST_AXIS = 1024
"""Voxels; a larger axis is a damaged header or no brain MRI."""
SPACING_RANGE_MM = (0.1, 20.0)
"""A spacing outside of it is a header in other units."""
TOLERANCE = 1e-3
"""Two affines agree within this, in mm."""


def read_volume(path: Path, case_id: str) -> Any:
    """Reads a NIfTI file whole and checks it.

    A file whose two orientation codes are both 0 is read in nibabel's default order of axes.

    Args:
        path: `.nii` or `.nii.gz`.
        case_id: For the message.

    Returns:
        nibabel image; `get_fdata(dtype=np.float32)` gives the voxels, all finite, without reading again.

    Raises:
        InputError: Missing, damaged, not 3D, no numbers, not finite, or an impossible grid; the first of these.
    """
    where = f"case {case_id}: {path.name}"
    try:
        image = nib.load(path)
    except FileNotFoundError:
        raise InputError(f"case {case_id}: {path} not found; restore it, or write the manifest again") from None
    except (
        ImageFileError,
        HeaderDataError,
        OSError,
        EOFError,
        zlib.error,
    ) as error:
        raise InputError(f"{where}: no readable NIfTI file ({_reason(error)}); restore it from its source") from None
    if not isinstance(image, nib.Nifti1Pair):
        raise InputError(f"{where}: is {type(image).__name__}; expected NIfTI (.nii or .nii.gz)")
    if len(image.shape) != 3 or not all(1 < extent <= LARGEST_AXIS for extent in image.shape):
        raise InputError(f"{where}: has shape {image.shape}; expected three axes of 2 to {LARGEST_AXIS} voxels")
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{where}: has voxels of type {image.get_data_dtype()}; expected integers or floats")
    spacing = nib.affines.voxel_sizes(image.affine)
    low, high = SPACING_RANGE_MM
    if not (np.isfinite(image.affine).all() and (spacing >= low).all() and (spacing <= high).all()):
        raise InputError(f"{where}: has voxel spacing {spacing.round(4).tolist()} mm; expected {low:g} to {high:g}")
    if abs(np.linalg.det(image.affine[:3, :3])) < TOLERANCE * spacing.prod():
        raise InputError(f"{where}: two axes of its affine are parallel; repair the header")
    try:
        if path.name.endswith(".gz"):  # at one go: nibabel alone never gets to the checksum at the end
            image = type(image).from_bytes(gzip.decompress(path.read_bytes()))
        voxels = image.get_fdata(dtype=np.float32)
    except (OSError, EOFError, zlib.error, ValueError, MemoryError) as error:
        raise InputError(f"{where}: voxels cannot be read ({_reason(error)}); restore it from its source") from None
    finite = np.isfinite(voxels)
    if not finite.all():
        raise InputError(
            f"{where}: {finite.size - int(finite.sum())} voxels are NaN or infinite; replace them, e.g. by 0"
        )
    return image


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def differ(first: Any, second: Any) -> str | None:
    """What differs between the grids of two images, with both values; None if they are the same grid."""
    if first.shape != second.shape:
        return f"shape {first.shape} and {second.shape}"
    gap = np.abs(first.affine - second.affine)
    if gap.max() > TOLERANCE:
        row, column = np.unravel_index(int(gap.argmax()), gap.shape)
        values = f"{first.affine[row, column]:g} and {second.affine[row, column]:g}"
        return f"affine (row {row}, column {column}: {values})"
    return None


def write_mask(path: Path, mask: NDArray[np.uint8], geometry: Geometry) -> None:
    """Writes a mask on the original grid as NIfTI, uint8, with the place in space of the image it belongs to.

    Args:
        path: Ends with `.nii.gz` or `.nii`.
        mask: Labels, of `geometry.shape`.
        geometry: Of the prepared case; shape, affine, both forms and their codes are written bit by bit.
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(mask.shape)
    for name, value in geometry.header.items():
        header[name] = [*value, *header["pixdim"][4:]] if name == "pixdim" else value
    with atomic_file(path) as partial:
        nib.save(nib.Nifti1Image(mask, None, header), partial)

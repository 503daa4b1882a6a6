"""NIfTI files: reading with all checks that need no other file, and writing a mask on the grid of its image."""

import gzip
import logging
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from mttu.data.file_kinds import ENDINGS, explain_content, explain_refusal
from mttu.data.geometry import Geometry, spatial_shape, use_qform
from mttu.data.names import say_nearest
from mttu.errors import InputError, say_count
from mttu.files import atomic_file

LARGEST_AXIS = 1024
"""Voxels; a larger axis is a damaged header or no brain MRI."""
LARGEST_VOLUME = 2**27
"""Voxels; a head of 24 cm at half a millimetre has 111 million."""
LARGEST_HEADER_BYTES = 2**24
"""Header and extensions of a file, before its voxels."""
SPACING_RANGE_MM = (0.1, 20.0)
"""Outside of it a header has other units."""
TOLERANCE = 1e-3
"""Two affines agree within this, in mm."""
_HEADER_BYTES = 540 + 4
"""The longer header, of NIfTI-2, and the flag of extensions."""
_MOST_EXTENSIONS = 1000
_SPARE_BYTES = 2**20  # some writers pad a file at its end
_NOTES, _SCALING = "mttu notes", "mttu scaling"
"""Keys in nibabel's `extra` of an image for repairs while it was read, and for the scaling of its header."""

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it would print its repairs of damaged headers


def read_volume(path: Path, case_id: str) -> Any:
    """Reads a NIfTI file whole and checks it; memory stays bounded whatever its header claims.

    A file with both orientation codes 0 is read in nibabel's default order of axes. One whose sform is no placement,
    such as zeros, is read by its qform; `read_notes` says so. Axes of length 1 after the third, as ANTs and SPM write
    them, are dropped.

    Args:
        path: `.nii` or `.nii.gz`.
        case_id: For the message.

    Returns:
        nibabel image of three axes; `get_fdata(dtype=np.float32)` gives the voxels, all finite, without reading again.

    Raises:
        InputError: Missing, damaged, not 3D, no numbers, not finite, or an impossible grid; the first of these.
    """
    where = f"case {case_id}: {path.name}"
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{where}: is empty (0 bytes); restore it from its source")
        image = open_image(path)
        kind = image.get_data_dtype()
    except FileNotFoundError:
        what = "is a link to nothing" if path.is_symlink() else "not found"
        raise InputError(
            f"case {case_id}: {path} {what}; restore it, or write the manifest again{say_nearest(path)}"
        ) from None
    except InputError:
        raise
    except Exception as error:  # a damaged header makes nibabel raise nearly anything
        try:
            found = explain_content(path)
        except OSError as refusal:
            raise InputError(f"{where}: {explain_refusal(refusal)}") from None
        cause, cure = found or (_reason(error), "mend the header, or restore the file from its source")
        raise InputError(f"{where}: no readable NIfTI file ({cause}); {cure}") from None
    if not isinstance(image, nib.Nifti1Pair):
        raise InputError(f"{where}: is {type(image).__name__}; expected NIfTI (.nii or .nii.gz)")
    _check_voxels(image.shape, kind, where)
    start = int(image.dataobj.offset)
    if isinstance(image, nib.Nifti1Image) and start < image.header.sizeof_hdr:
        raise InputError(f"{where}: voxels start at byte {start}, within the header; set vox_offset to 352")
    note = use_qform(image)
    _check_grid(image.affine, where)
    try:
        with np.errstate(all="ignore"):  # overflow gives infinity, refused below
            if path.name.lower().endswith(".gz"):  # in one go: nibabel never reaches the checksum at the end
                image = type(image).from_bytes(_unpack(path, image))
                use_qform(image)
            voxels = image.get_fdata(dtype=np.float32)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except Exception as error:  # truncated, damaged inside, or a wrong header
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{where}: {explain_refusal(error)}") from None
        cause, cure = explain_content(path) or (_reason(error), "restore it from its source")
        raise InputError(f"{where}: voxels cannot be read ({cause}); {cure}") from None
    image.extra[_NOTES] = (f"{path.name}: {note}",) if note else ()
    image.extra[_SCALING] = (float(image.dataobj.slope), float(image.dataobj.inter))
    finite = np.isfinite(voxels)
    if not finite.all():
        cure = "put another value there, e.g. 0" if finite.any() else "these are all; restore it from its source"
        raise InputError(
            f"{where}: {say_count(finite.size - int(finite.sum()), 'voxel is', 'voxels are')} NaN or infinite; {cure}"
        )
    if voxels.ndim == 3:
        return image
    return type(image)(voxels.reshape(spatial_shape(voxels.shape)), image.affine, image.header, image.extra)


def open_image(path: Path) -> Any:
    """Opens a NIfTI file with nibabel: reads the header, and extensions up to a limit.

    Raises:
        Exception: Nearly anything for a damaged header; ValueError for an extension that claims too much, and for a
            name by which nibabel would unpack it without a limit.
    """
    if not path.name.lower().endswith(ENDINGS):
        path.stat()  # a missing file is reported as missing
        raise ValueError("its name ends in neither .nii nor .nii.gz")
    _check_extensions(path)
    return nib.load(path)


def _check_extensions(path: Path) -> None:
    """Checks the sizes that extensions claim: nibabel would read that much, or the rest of the file if below 0."""
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
        for kind in (nib.Nifti1Header, nib.Nifti2Header):
            size = kind.template_dtype.itemsize
            if not kind.may_contain_header(start):
                continue
            header = kind(start[:size], check=False)
            offset = float(header["vox_offset"])
            if not math.isfinite(offset):
                raise ValueError(f"voxels from byte {offset}; expected {size + 4} to {LARGEST_HEADER_BYTES}")
            if not start[size : size + 1].strip(b"\0"):
                continue
            left = int(offset) - size - 4
            if not 0 <= left <= LARGEST_HEADER_BYTES:
                raise ValueError(
                    f"has extensions, and voxels from byte {left + size + 4}; expected {size + 4} to "
                    f"{LARGEST_HEADER_BYTES}"
                )
            file.seek(size + 4)
            for _ in range(_MOST_EXTENSIONS):
                named = file.read(8) if left >= 16 else b""
                if len(named) < 8:
                    return
                claimed = int(np.frombuffer(named, f"{header.endianness}i4")[0])
                if not 8 <= claimed <= left:
                    raise ValueError(f"an extension claims {claimed} bytes; {left} are left before the voxels")
                file.seek(claimed - 8, 1)
                left -= claimed
            raise ValueError(f"more than {_MOST_EXTENSIONS} extensions")


def read_notes(image: Any) -> tuple[str, ...]:
    """Repairs of `read_volume` in an image, each sentence with the file's name."""
    return tuple(image.extra[_NOTES])


def read_scaling(image: Any) -> tuple[float, float]:
    """Slope and intercept in the header of an image from `read_volume`."""
    slope, inter = image.extra[_SCALING]
    return slope, inter


def _check_voxels(written: tuple[int, ...], kind: np.dtype[Any], where: str) -> None:
    shape = spatial_shape(written)
    if len(shape) > 3:
        raise InputError(
            f"{where}: has shape {written}, {math.prod(shape[3:])} volumes in one file; expected one volume, three "
            f"axes of 2 to {LARGEST_AXIS} voxels; keep the one that is meant, or give each modality a file of its own"
        )
    if len(shape) != 3 or not all(1 < extent <= LARGEST_AXIS for extent in shape):
        raise InputError(f"{where}: has shape {shape}; expected three axes of 2 to {LARGEST_AXIS} voxels")
    if math.prod(shape) > LARGEST_VOLUME:
        raise InputError(f"{where}: has shape {shape}; expected at most {LARGEST_VOLUME} voxels; resample it")
    if kind.kind not in "iuf":
        raise InputError(f"{where}: has voxels of type {kind}; expected integers or floats")


def _check_grid(affine: NDArray[np.float64], where: str) -> None:
    low, high = SPACING_RANGE_MM
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0)) if np.isfinite(affine).all() else np.full(3, np.nan)
    if not ((spacing >= low).all() and (spacing <= high).all()):
        raise InputError(f"{where}: has voxel spacing {spacing.round(4).tolist()} mm; expected {low:g} to {high:g}")
    if abs(np.linalg.det(affine[:3, :3])) < TOLERANCE * spacing.prod():
        raise InputError(f"{where}: two axes of its affine are parallel; repair the header")


def _unpack(path: Path, image: Any) -> bytes:
    """The bytes of a compressed file, its checksum verified; refuses more than its header accounts for."""
    start = int(image.dataobj.offset)
    if not 0 <= start <= LARGEST_HEADER_BYTES:
        raise InputError(f"voxels start at byte {start}; expected at most {LARGEST_HEADER_BYTES}; repair the header")
    most = start + math.prod(image.shape) * image.get_data_dtype().itemsize + _SPARE_BYTES
    with gzip.open(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(f"holds more than the {most} bytes its header accounts for; restore it from its source")
    return content


def differ(first: Any, second: Any) -> str | None:
    """How the grids of two images differ, with both values; None if they are the same."""
    if first.shape != second.shape:
        return f"shape {first.shape} and {second.shape}"
    gap = np.abs(first.affine - second.affine)
    if gap.max() > TOLERANCE:
        row, column = np.unravel_index(int(gap.argmax()), gap.shape)
        values = f"{first.affine[row, column]:g} and {second.affine[row, column]:g}"
        return f"affine (row {row}, column {column}: {values})"
    return None


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def write_mask(path: Path, mask: NDArray[np.uint8], geometry: Geometry) -> None:
    """Writes labels of `geometry.shape` as NIfTI, uint8; affine, both forms and their codes are those of the image."""
    _write(path, mask, geometry)


def write_map(path: Path, values: NDArray[np.float32], geometry: Geometry) -> None:
    """Writes values from 0 to 1 as `write_mask` does, float32, rounded to 1e-4 for a smaller file."""
    _write(path, values.round(4), geometry)


def _write(path: Path, voxels: NDArray[Any], geometry: Geometry) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    for name, value in geometry.header.items():
        header[name] = [*value, *header["pixdim"][4:]] if name == "pixdim" else value
    with atomic_file(path) as partial:
        nib.save(nib.Nifti1Image(voxels, None, header), partial)

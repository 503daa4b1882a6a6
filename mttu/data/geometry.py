"""Where a prepared case lies on the grid it came from: orientation, resampling, crop, and the way back."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

Shape = tuple[int, int, int]

SPACING_TOLERANCE_MM = 1e-3
"""A grid this close to the target spacing is not resampled."""
FORMS_DIFFER_MM = 1.0
"""An sform and a qform disagree if a corner of the grid lies further apart; rounding alone stays far below."""
_LEAST_VOLUME = 1e-3
"""Of the cell that three axes of length 1 span; below it they lie in a plane."""
_HEADER_FIELDS = (
    *("qform_code", "sform_code", "xyzt_units", "pixdim"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)


@dataclass(frozen=True)
class Geometry:
    """What was done to a case's grid: original -> LPS order of axes -> resampled -> cropped."""

    shape: Shape
    """Voxels of the original grid."""
    affine: tuple[tuple[float, ...], ...]
    """(4, 4) voxel to world (mm, RAS+) of the original grid."""
    header: Mapping[str, Any]
    """NIfTI fields that place the original grid in space: both forms with their codes, spacing, units."""
    axes: tuple[tuple[int, int], ...]
    """For each original axis its LPS axis, and 1 or -1 for the direction."""
    grid_shape: Shape
    """Voxels after reorientation and resampling, before the crop."""
    crop_start: Shape
    """First voxel of the crop."""
    crop_shape: Shape
    """Voxels of the crop: H, W, D of the prepared case."""
    spacing_mm: tuple[float, float, float]
    """Of the prepared case along H, W, D."""

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel of the original grid in millilitres."""
        return float(abs(np.linalg.det(np.array(self.affine)[:3, :3]))) / 1000

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> "Geometry":
        """The inverse of `to_dict`, also after a trip through JSON, which turns tuples into lists."""
        return Geometry(**{name: _frozen(value) for name, value in content.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def spatial_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without axes of length 1 after the third, as some programs append them: (x, y, z) of (x, y, z, 1)."""
    extents = tuple(shape)
    while len(extents) > 3 and extents[-1] == 1:
        extents = extents[:-1]
    return extents


def to_lps(voxels: NDArray[Any], affine: NDArray[Any]) -> NDArray[Any]:
    """Permutes and flips the axes to left, posterior, superior; oblique grids stay on their own axes."""
    return np.asarray(apply_orientation(voxels, _lps_transform(affine)))


def find_lps_spacing(affine: NDArray[Any]) -> tuple[float, float, float]:
    """Size of a voxel in mm along each axis that `to_lps` returns."""
    sizes, axes = voxel_sizes(affine).tolist(), io_orientation(affine)[:, 0].tolist()
    x, y, z = (sizes[axes.index(axis)] for axis in range(3))
    return x, y, z


def _lps_transform(affine: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(ornt_transform(io_orientation(affine), axcodes2ornt("LPS")))


def compare_forms(header: Any, shape: Sequence[int]) -> str | None:
    """How sform and qform of the header of a nibabel image differ; None if they don't, or not both are coded."""
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    if sform_code <= 0 or qform_code <= 0:
        return None
    codes = f"sform (code {sform_code}) and qform (code {qform_code})"
    used = "the sform is used, other programs may use the qform; mend the header"
    sform = header.get_sform()
    try:
        qform = header.get_qform()
    except (ValueError, HeaderDataError):  # a quaternion longer than 1 is no rotation; or a negative spacing
        qform = np.full((4, 4), np.nan)
    corners = np.array([[*np.multiply(corner, np.array(shape) - 1), 1] for corner in np.ndindex(2, 2, 2)])  # (8, 4)
    gap = float(np.linalg.norm((corners @ (sform - qform).T)[:, :3], axis=1).max())
    if not np.isfinite(gap):
        return f"{codes} disagree: the qform is no placement in space; {used}"
    if gap <= FORMS_DIFFER_MM:
        return None
    mirrored = " and left and right are opposite" if sform[0, :3] @ qform[0, :3] < 0 else ""
    return f"{codes} disagree by {gap:.3g} mm at a corner of the grid{mirrored}; {used}"


def use_qform(image: Any) -> str | None:
    """Places a nibabel image by its qform if its sform is coded but no placement, such as zeros, and the qform is one.

    The sform is then not coded any more, so that a mask written like the image has none either.

    Returns:
        What was done; None if nothing.
    """
    code = int(image.header["sform_code"])
    if code <= 0 or int(image.header["qform_code"]) <= 0 or _is_placement(image.header.get_sform()):
        return None
    try:
        qform = image.header.get_qform()
    except (ValueError, HeaderDataError):
        return None
    if not _is_placement(qform):
        return None
    image.set_sform(None, 0)
    return f"its sform (code {code}) is no placement in space; the qform is used; mend the header"


def _is_placement(affine: NDArray[np.float64]) -> bool:
    """Whether three axes span the space."""
    if not np.isfinite(affine).all():
        return False
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return bool(sizes.min() > 0 and abs(np.linalg.det(affine[:3, :3] / sizes)) > _LEAST_VOLUME)


def start_geometry(image: Any, spacing_mm: float) -> Geometry:
    """Geometry of an image brought to LPS and an isotropic spacing, not yet cropped.

    A grid within 1e-3 mm of the spacing is not resampled. Axes of length 1 after the third are dropped.
    """
    original = spatial_shape(image.shape)
    header = {name: np.nan_to_num(image.header[name]).tolist() for name in _HEADER_FIELDS}
    header["pixdim"] = header["pixdim"][:4]  # the others belong to time and further axes
    transform = _lps_transform(image.affine).astype(int).tolist()
    sizes = voxel_sizes(image.affine)
    keeps_grid = bool((np.abs(sizes - spacing_mm) <= SPACING_TOLERANCE_MM).all())
    grid, spacing = [0, 0, 0], [0.0, 0.0, 0.0]
    for extent, size, (target, _) in zip(original, sizes.tolist(), transform, strict=True):
        grid[target] = extent if keeps_grid else max(1, round(extent * size / spacing_mm))
        spacing[target] = extent * size / grid[target]
    shape: Shape = (grid[0], grid[1], grid[2])
    return Geometry(
        shape=(original[0], original[1], original[2]),
        affine=_frozen(image.affine.tolist()),
        header=header,
        axes=_frozen(transform),
        grid_shape=shape,
        crop_start=(0, 0, 0),
        crop_shape=shape,
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
    )


def resample(volume: NDArray[Any], shape: Sequence[int], order: int) -> NDArray[Any]:
    """Resamples a volume (H, W, D) to another shape over the same extent; the volume itself if the shape is the same.

    Order 1 is linear, after smoothing along axes that lose voxels; order 0 is nearest neighbour.
    """
    if volume.shape == tuple(shape):
        return volume
    factors = np.array(shape) / volume.shape
    if order == 1 and (factors < 1).any():
        volume = gaussian_filter(volume, np.maximum(0, (1 / factors - 1) / 2), mode="nearest")
    return np.asarray(zoom(volume, factors, order=order, mode="nearest", grid_mode=True, prefilter=False))


def restore_mask(classes: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    """Brings a mask of `geometry.crop_shape` back to the original grid by nearest neighbour, 0 outside of the crop."""
    return np.asarray(_restore(classes, geometry, order=0), np.uint8)


def restore_map(values: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float32]:
    """Brings values from 0 to 1 of `geometry.crop_shape` back to the original grid, linearly; 0 outside of the crop."""
    return np.asarray(_restore(values, geometry, order=1).clip(0.0, 1.0), np.float32)


def _restore(volume: NDArray[Any], geometry: Geometry, order: int) -> NDArray[Any]:
    grid = np.zeros(geometry.grid_shape, volume.dtype)
    crop = zip(geometry.crop_start, geometry.crop_shape, strict=True)
    grid[tuple(slice(start, start + extent) for start, extent in crop)] = volume
    targets, directions = zip(*geometry.axes, strict=True)
    lps_shape = [geometry.shape[targets.index(axis)] for axis in range(3)]
    lps = resample(grid, lps_shape, order)
    back = np.transpose(lps, targets)
    return np.ascontiguousarray(back[tuple(slice(None, None, direction) for direction in directions)])

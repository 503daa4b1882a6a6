"""A mask's surface as seen from outside, by casting parallel rays through the volume; no graphics library needed.

The mask is smoothed a little so that voxels do not show as stairs, but every voxel of it stays above the level of the
surface: nothing that was predicted vanishes.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, binary_erosion, distance_transform_edt, gaussian_filter, map_coordinates

LEVEL = 0.5
_SMOOTHING, _SMOOTHING_OF_LIGHT = 0.7, 1.3
"""In voxels."""
_LEAST_INSIDE = 0.75
"""Smoothing leaves so much of a voxel at a flat surface; thinner parts are kept at it, so that rays meet them."""
_LIGHT = np.array([-0.35, 0.45, 0.82])
"""Towards the lamp, in the camera's axes: right, up, towards the viewer."""


@dataclass(frozen=True)
class View:
    """Direction from which a volume in LPS order is seen, from far away."""

    azimuth_deg: float = 40.0
    """0 from the front, 90 from the patient's left."""
    elevation_deg: float = 20.0
    """90 from above."""

    @cached_property
    def axes(self) -> NDArray[np.float64]:
        """Camera's axes as rows, in LPS: right, up, towards the viewer."""
        azimuth, elevation = np.deg2rad(self.azimuth_deg), np.deg2rad(self.elevation_deg)
        towards = np.array(
            [np.sin(azimuth) * np.cos(elevation), -np.cos(azimuth) * np.cos(elevation), np.sin(elevation)]
        )
        right = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        return np.stack([right, np.cross(towards, right), towards])


@dataclass(frozen=True)
class Frame:
    """What a picture shows: the same for all masks that are to be compared."""

    centre_mm: NDArray[np.float64]
    """Middle of the picture, from the first voxel's centre."""
    half_mm: NDArray[np.float64]
    """Half of its width, height and depth."""
    pixel_mm: float


@dataclass(frozen=True)
class Hits:
    """Where each pixel's ray meets the surface first."""

    found: NDArray[np.bool_]
    """(rows, columns), the first row on top."""
    indices: NDArray[np.float64]
    """(3, rows, columns), voxel coordinates of the point; meaningless where nothing was found."""


def frame_masks(
    masks: list[NDArray[np.bool_]], spacing_mm: tuple[float, float, float], view: View, pixels: int
) -> Frame:
    """A frame that holds every mask, `pixels` wide or high. At least one mask has a voxel."""
    inside = np.argwhere(np.logical_or.reduce(masks)) * spacing_mm
    seen = inside @ view.axes.T
    low, high = seen.min(axis=0), seen.max(axis=0)
    half = (high - low) / 2 + 2.5 * max(spacing_mm)
    return Frame((low + high) / 2 @ view.axes, half, float(2 * half[:2].max() / pixels))


def cast_rays(mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float], view: View, frame: Frame) -> Hits:
    """First point of the mask's surface on each ray, to a fraction of a voxel.

    Args:
        mask: (H, W, D) in LPS order.
        spacing_mm: Of its voxels.
        view: Where the rays come from.
        frame: What is seen.
    """
    soft = np.maximum(gaussian_filter(mask.astype(np.float32), _SMOOTHING), mask * np.float32(_LEAST_INSIDE))
    step_mm = 0.5 * min(spacing_mm)
    columns, rows = (int(np.ceil(2 * half / frame.pixel_mm)) for half in frame.half_mm[:2])
    depths = int(np.ceil(2 * frame.half_mm[2] / step_mm)) + 1
    right, up, towards = view.axes / spacing_mm
    matrix = np.stack([-up * frame.pixel_mm, right * frame.pixel_mm, -towards * step_mm], axis=1)
    start = frame.centre_mm / spacing_mm - matrix @ (np.array([rows, columns, depths]) - 1) / 2
    samples = affine_transform(soft, matrix, start, (rows, columns, depths), order=1)
    inside = samples >= LEVEL
    found, first = inside.any(axis=2), inside.argmax(axis=2)
    after = np.take_along_axis(samples, first[..., None], axis=2)[..., 0]
    before = np.take_along_axis(samples, np.maximum(first - 1, 0)[..., None], axis=2)[..., 0]
    back = (after - LEVEL) / np.maximum(after - before, 1e-6)
    depth = np.where(found, first - np.clip(back, 0.0, 1.0), 0.0)
    row, column = np.mgrid[:rows, :columns]
    indices = np.einsum("ij,jrc->irc", matrix, np.stack([row, column, depth])) + start[:, None, None]
    return Hits(found, indices)


def shade(
    mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float], view: View, hits: Hits
) -> NDArray[np.float64]:
    """Brightness in [0, 1] of each pixel, (rows, columns), lit by one lamp beside the viewer."""
    soft = gaussian_filter(mask.astype(np.float32), _SMOOTHING_OF_LIGHT)
    slopes = [map_coordinates(slope, hits.indices, order=1) for slope in np.gradient(soft, *spacing_mm)]
    outwards = -np.einsum("ij,jrc->irc", view.axes, np.stack(slopes))
    length = np.maximum(np.linalg.norm(outwards, axis=0), 1e-9)
    lit = np.einsum("i,irc->rc", _LIGHT / np.linalg.norm(_LIGHT), outwards / length)
    brightness: NDArray[np.float64] = 0.5 + 0.5 * np.clip(lit, 0.0, 1.0)
    return brightness


def find_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of the mask with a face towards the outside; the volume's edge is outside."""
    border: NDArray[np.bool_] = mask & ~binary_erosion(mask)
    return border


def measure_distances(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], sampling: tuple[float, float, float]
) -> NDArray[np.float64]:
    """Distance of each border voxel of `predicted` to the nearest border voxel of `truth`.

    Args:
        predicted: (H, W, D), not empty.
        truth: (H, W, D), not empty.
        sampling: Length of a voxel on each axis, in the unit of the result.

    Returns:
        (H, W, D): a voxel that is no border voxel holds the value of the nearest one.
    """
    to_truth = distance_transform_edt(~find_border(truth), sampling=sampling)
    nearest = distance_transform_edt(
        ~find_border(predicted), sampling=sampling, return_distances=False, return_indices=True
    )
    distances: NDArray[np.float64] = to_truth[tuple(nearest)]
    return distances

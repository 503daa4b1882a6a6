"""The grid a phantom is drawn on, in millimetres of a life-size head, and smooth random fields on it."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates

Field = NDArray[np.float32]
"""(H, W, D)."""

_LIFE_SIZE = 200
"""Voxels per axis from which the head is life-size; in smaller grids it is scaled down."""
_EXTENT_MM = 264.0
"""Width of the random fields, wider than any grid."""
_HALF_MM = (79.0, 98.0, 84.0)
"""Half the box that holds every head: left to right, front to back, top to bottom."""


@dataclass(frozen=True)
class Grid:
    """A cube of `size` voxels of 1 mm per axis. Heads are drawn in a box in its middle only, to save time."""

    size: int

    @property
    def voxel_mm(self) -> float:
        """Edge of a voxel in millimetres of a life-size head: the unit of everything in this package."""
        return 1 / min(1.0, self.size / _LIFE_SIZE)

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        scale = min(1.0, self.size / _LIFE_SIZE)
        return tuple(max(0, math.floor(self.size / 2 - half * scale)) for half in _HALF_MM)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels of the box."""
        return tuple(self.size - 2 * start for start in self._starts)

    @property
    def first_mm(self) -> tuple[float, ...]:
        """Position of the box's first voxel."""
        return tuple((start - (self.size - 1) / 2) * self.voxel_mm for start in self._starts)

    @cached_property
    def points(self) -> Field:
        """(3, H, W, D) positions in the box: left, posterior, superior of the centre of the head."""
        pairs = zip(self.first_mm, self.shape, strict=True)
        axes = [(first + np.arange(count) * self.voxel_mm).astype(np.float32) for first, count in pairs]
        return np.stack(np.meshgrid(*axes, indexing="ij"))

    def embed(self, inside: NDArray[Any]) -> NDArray[Any]:
        """(size, size, size) with the box's content in its middle and 0 around it."""
        return np.pad(inside, [(start, start) for start in self._starts])


class Noise:
    """White noise smoothed by a Gaussian of `sigma_mm`, with mean 0 and standard deviation 1, the same on every grid.

    The number of draws depends on `sigma_mm` only.
    """

    def __init__(self, generator: np.random.Generator, sigma_mm: float) -> None:
        self._spacing = sigma_mm
        count = math.ceil(_EXTENT_MM / sigma_mm) + 1
        coarse = gaussian_filter(generator.standard_normal((count,) * 3, np.float32), 1.0, mode="wrap")
        self._values = np.asarray(coarse / coarse.std(), np.float32)
        self._middle = (count - 1) / 2

    def on(self, grid: Grid) -> Field:
        """The field at the voxels of a grid's box."""
        start = [self._middle + first / self._spacing for first in grid.first_mm]
        step = np.full(3, grid.voxel_mm / self._spacing)
        sampled = affine_transform(self._values, step, start, grid.shape, order=1, mode="grid-wrap")
        return np.asarray(sampled, np.float32)

    def at(self, points: Field) -> Field:
        """The field at positions (3, H, W, D)."""
        places = points / np.float32(self._spacing) + np.float32(self._middle)
        return np.asarray(map_coordinates(self._values, places, order=1, mode="grid-wrap"), np.float32)


def length(vectors: Field) -> Field:
    """(H, W, D) lengths of vectors (3, H, W, D)."""
    return np.asarray(np.sqrt((vectors**2).sum(axis=0)), np.float32)


def ellipsoid(points: Field, centre: ArrayLike, radii: ArrayLike) -> Field:
    """Depth below the surface of an ellipsoid along the ray to its centre, negative outside."""
    around = points - column(centre)
    relative = np.maximum(length(around / column(radii)), 1e-3)
    return np.asarray(length(around) / relative * (1 - relative), np.float32)


def capsule(points: Field, start: ArrayLike, stop: ArrayLike, radii: tuple[float, float]) -> Field:
    """Depth below the surface of a rod with round ends and linearly changing radius, negative outside."""
    first, way = column(start), column(stop) - column(start)
    along = np.clip(((points - first) * way).sum(axis=0) / (way**2).sum(), 0, 1)
    return np.asarray(radii[0] + along * (radii[1] - radii[0]) - length(points - first - along * way), np.float32)


def share_above(depth: Field, width_mm: float) -> Field:
    """Share of a voxel with positive `depth`, 0 to 1, for a voxel or a soft edge of `width_mm`."""
    return np.asarray(np.clip(depth / np.float32(width_mm) + np.float32(0.5), 0, 1), np.float32)


def share_between(distance: Field, half_mm: Field | float, width_mm: float) -> Field:
    """Share of a voxel of `width_mm` within `half_mm` of a sheet, 0 to 1, by the voxel's distance from the sheet."""
    upper = np.minimum(distance + np.float32(width_mm / 2), half_mm)
    lower = np.maximum(distance - np.float32(width_mm / 2), -half_mm)
    return np.asarray(np.clip((upper - lower) / np.float32(width_mm), 0, 1), np.float32)


def column(vector: ArrayLike) -> Field:
    """A vector (3,) that can be added to positions (3, H, W, D)."""
    return np.asarray(vector, np.float32).reshape(3, 1, 1, 1)

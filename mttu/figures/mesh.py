"""The surface of a mask as a mesh that a page can turn, coloured as in Fig. 4.

Naive surface nets (Gibson, 1998, doi:10.1007/BFb0056277): one vertex in each cell of 2x2x2 voxels that the surface
crosses, at the mean of its crossings of the cell's edges; four cells around a crossed edge make a face. The mask is
smoothed as for the drawing of Fig. 4.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from mttu.figures.surface import LEVEL, measure_distances, soften

MOST_FACES = 24_000
"""A finer mesh is drawn from every second voxel, and so on: a page turns so many without delay."""


@dataclass(frozen=True)
class Mesh:
    """A closed surface."""

    vertices_mm: NDArray[np.float64]
    """(N, 3), left, back and up from the centre of the first voxel."""
    faces: NDArray[np.int64]
    """(M, 4) numbers of vertices, counterclockwise seen from outside."""


def build_mesh(mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> Mesh:
    """The surface of a mask, (H, W, D) in LPS order; of an empty one, a mesh without faces."""
    step = 1
    mesh = _build(mask, spacing_mm, step)
    while len(mesh.faces) > MOST_FACES:
        step += 1
        mesh = _build(mask, spacing_mm, step)
    return mesh


def _build(mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float], step: int) -> Mesh:
    pad = 3 * step
    soft = soften(np.pad(mask, pad), step)[::step, ::step, ::step]
    inside = soft >= LEVEL
    cells = tuple(extent - 1 for extent in soft.shape)
    total, count = np.zeros((*cells, 3)), np.zeros(cells, dtype=np.int64)
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        for offsets in product((0, 1), repeat=2):
            corner = dict(zip(others, offsets, strict=True))
            low = _take(soft, cells, {**corner, axis: 0})
            high = _take(soft, cells, {**corner, axis: 1})
            crossed = (low >= LEVEL) != (high >= LEVEL)
            count += crossed
            total[..., axis][crossed] += (LEVEL - low[crossed]) / (high[crossed] - low[crossed])
            for other, offset in corner.items():
                total[..., other] += offset * crossed
    places = np.argwhere(count > 0)
    numbers = np.full(cells, -1, dtype=np.int64)
    numbers[count > 0] = np.arange(len(places))
    middle = places + total[count > 0] / count[count > 0][:, None]
    faces = np.concatenate([_find_faces(inside, numbers, axis) for axis in range(3)])
    return Mesh((middle * step - pad) * np.asarray(spacing_mm), faces)


def _take(volume: NDArray[np.float32], cells: tuple[int, ...], corner: dict[int, int]) -> NDArray[np.float32]:
    """The values at one corner of all cells."""
    return volume[tuple(slice(corner[axis], corner[axis] + cells[axis]) for axis in range(3))]


def _find_faces(inside: NDArray[np.bool_], numbers: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
    """Faces around the crossed edges along an axis; nothing is inside at the volume's border."""
    after = np.roll(inside, -1, axis)
    edges = np.argwhere(inside != after)
    second, third = (axis + 1) % 3, (axis + 2) % 3
    around = []
    for back in ((1, 1), (0, 1), (0, 0), (1, 0)):
        place = edges.copy()
        place[:, second] -= back[0]
        place[:, third] -= back[1]
        around.append(numbers[tuple(place.T)])
    faces = np.stack(around, axis=1).reshape(-1, 4)
    leaves = inside[tuple(edges.T)]  # the surface looks along the axis; otherwise against it
    return np.where(leaves[:, None], faces, faces[:, ::-1])


def measure_vertices(
    mesh: Mesh, mask: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> NDArray[np.float64]:
    """Distance in mm of each vertex of the mask's surface to that of the truth, see `measure_distances`.

    Both masks have a voxel.
    """
    distances = measure_distances(mask, truth, spacing_mm)
    return np.asarray(map_coordinates(distances, (mesh.vertices_mm / spacing_mm).T, order=1, mode="nearest"))

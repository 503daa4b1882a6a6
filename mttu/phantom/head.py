"""A healthy brain: hemispheres with folded cortex, ventricles, deep nuclei, cerebellum and stem, as tissue shares.

Surfaces are distances in millimetres of a life-size head, turned into the share of a voxel that a tissue fills: voxels
at an edge hold two tissues. Places and sizes are rounded from anatomy; the halves are mirror images until both are
deformed at random.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mttu.phantom.fields import Field, Grid, Noise, capsule, column, ellipsoid, length, share_above, share_between

WHITE, GREY, FLUID, VESSEL = range(4)

_CORTEX_MM, _SULCUS_DEPTH_MM, _FOLD_MM = 2.8, 21.0, 3.4
_UNFOLDED_MM = 42.0
"""Distance from the middle of the head up to which there are no sulci."""
_HORNS = (
    ((9, -32, 4), (8, -10, 14), (4.5, 4.5)),
    ((8, -10, 14), (13, 16, 19), (4.5, 4.5)),
    ((13, 16, 19), (25, 36, 7), (4.5, 7.0)),
    ((25, 36, 7), (21, 54, 4), (6.0, 2.5)),
    ((25, 36, 7), (33, 4, -17), (5.0, 2.0)),
)
"""Lateral ventricle: rods from, to, with radii."""
_NUCLEI = (((11, 14, 5), (9, 14, 8)), ((13, -18, 5), (6, 10, 9)), ((25, -2, 0), (6, 17, 10)))
"""Thalamus, head of the caudate, putamen with pallidum: centre and radii."""
_FAR = np.float32(60)
"""Depth in place of: not near this surface."""


@dataclass(frozen=True)
class Head:
    """A skull-stripped head before any scanner."""

    shares: Field
    """(4, H, W, D) share of white matter, grey matter, fluid and vessels; their sum is 1."""
    brain: NDArray[np.bool_]
    """(H, W, D)."""


@dataclass(frozen=True)
class Bulge:
    """A mass that pushes the brain aside."""

    centre: NDArray[np.float64]
    """Left, posterior, superior of the centre of the head, mm."""
    radius_mm: float
    push_mm: float


def draw_head(generator: np.random.Generator, grid: Grid, bulge: Bulge) -> Head:
    """Draws a head with the mass effect of a lesion."""
    stretch = column(generator.uniform(0.95, 1.05, 3))
    bends = np.stack([Noise(generator, 24.0).on(grid) for _ in range(3)])
    folds, lobes = Noise(generator, max(_FOLD_MM, 0.8 * grid.voxel_mm)), Noise(generator, 9.0)
    cleft_mm, ventricle_width = generator.uniform(0.5, 1.1), generator.uniform(0.75, 1.3)
    points, crowded = _pull(grid.points / stretch + np.float32(2.5) * bends, bulge)
    mirrored = np.concatenate([np.abs(points[:1]), points[1:]])
    unrest = lobes.on(grid)
    cerebrum, cerebellum = _cerebrum(mirrored), ellipsoid(mirrored, (0, 46, -36), (50, 31, 23))
    stem = capsule(mirrored, (0, 10, -8), (0, 22, -66), (15, 12))
    depth = np.maximum(np.maximum(cerebrum, cerebellum), stem)
    pattern = _on_surface(points, folds) + np.float32(0.35) * _on_surface(points, lobes)
    bottom = np.maximum(cerebrum - _SULCUS_DEPTH_MM - np.float32(6) * unrest, _UNFOLDED_MM - length(points))
    sulci = _sheet(pattern, np.maximum(bottom, crowded), grid)
    cortex = np.minimum(np.minimum(cerebrum, sulci), _fissures(mirrored))
    surface = np.maximum(np.maximum(cortex, _leaves(mirrored, cerebellum, grid)), stem)

    half_mm = cleft_mm * (1 + np.float32(1.5) * np.exp(depth * np.float32(-0.25)).clip(0, 1))  # clefts widen outwards
    fluid = np.maximum(share_between(surface, half_mm, grid.voxel_mm), share_above(-surface, grid.voxel_mm))
    grey = np.maximum(share_between(surface, half_mm + _CORTEX_MM, grid.voxel_mm) - fluid, 0)
    brain = (depth + np.float32(0.6) * unrest > 0.3) & ((fluid < 0.75) | (depth > 4))
    nuclei = np.max([ellipsoid(mirrored, centre, radii) for centre, radii in _NUCLEI], axis=0)
    grey = np.maximum(grey, np.minimum(share_above(nuclei, grid.voxel_mm), 1 - fluid))
    holes = share_above(np.minimum(_ventricles(mirrored, ventricle_width), -crowded), grid.voxel_mm)
    fluid, grey = np.maximum(fluid, holes), grey * (1 - holes)
    vessels = share_above(_vessels(points, mirrored, depth), grid.voxel_mm)
    tissues = np.stack([np.maximum(1 - fluid - grey, 0), grey, fluid]) * (1 - vessels)
    return Head(np.concatenate([tissues, vessels[None]]), brain)


def _pull(points: Field, bulge: Bulge) -> tuple[Field, Field]:
    """Where the tissue at `points` would be without the mass, and the depth inside the mass, which has no sulci."""
    away = points - column(bulge.centre)
    distance = np.maximum(length(away), 1e-3)
    reach = np.exp(-((distance / np.float32(bulge.radius_mm + 12.0)) ** 2))
    shift = bulge.push_mm * reach * (1 - np.exp(-distance / np.float32(8.0)))
    return points - away * (shift / distance), np.float32(1.15 * bulge.radius_mm) - distance


def _cerebrum(mirrored: Field) -> Field:
    """Depth below the smooth surface of hemispheres and temporal lobes."""
    x, y, z = mirrored
    upper = z > 8
    narrow = x * (1 + np.float32(0.14) * np.clip(-y / 85, 0, 1) ** 2)  # towards the front
    flattened = (z - 8) * np.where(upper, np.float32(1), np.float32(64 / 36))
    hemispheres = ellipsoid(np.stack([narrow, y, flattened]), (0, 0, 0), (67, 85, 64))
    temporal = capsule(mirrored, (40, -24, -20), (39, 36, -12), (20, 24))
    return np.maximum(hemispheres * np.where(upper, np.float32(1), np.float32(0.75)), temporal)


def _on_surface(points: Field, noise: Noise) -> Field:
    """Noise that changes slowly with depth, so that its sheets are perpendicular to the surface."""
    outward = (np.float32(62) / np.maximum(length(points), 20)) ** np.float32(0.8)
    return noise.at(np.asarray(points * outward, np.float32))


def _sheet(pattern: Field, below: Field, grid: Grid) -> Field:
    """Distance to the sheets where a pattern is 0; `below` is the depth under the bottom of the sheets."""
    slope = np.maximum(length(np.asarray(np.gradient(pattern, grid.voxel_mm), np.float32)), np.float32(0.08))
    return np.asarray(np.hypot(np.abs(pattern) / slope, np.maximum(below, 0)), np.float32)


def _fissures(mirrored: Field) -> Field:
    """Distance to the cleft between the hemispheres, down to the callosum, and to the Sylvian fissures."""
    x, y, z = mirrored
    callosum = np.hypot((y - 4) / 44, (z - 2) / 25)
    middle = np.hypot(x, np.maximum(0, (1 - callosum) * 32))
    height = z + 3 + np.float32(0.3) * (y + 10)
    beyond = np.hypot(np.maximum(0, 31 - x), np.maximum(0, np.abs(y + 10) - 34))
    return np.asarray(np.minimum(middle, np.hypot(height, beyond)), np.float32)


def _leaves(mirrored: Field, cerebellum: Field, grid: Grid) -> Field:
    """Distance to the clefts of the cerebellum."""
    _, y, z = mirrored
    period = max(7.0, 2.5 * grid.voxel_mm)
    wave = np.abs(np.sin(np.float32(np.pi / period) * (z + np.float32(0.3) * y))) * np.float32(period / np.pi)
    clefts = np.hypot(wave, np.maximum(0, cerebellum - 12)) + np.float32(0.8)
    return np.asarray(np.minimum(cerebellum, clefts), np.float32)


def _ventricles(mirrored: Field, width: float) -> Field:
    horns = [capsule(mirrored, start, stop, (r1 * width, r2 * width)) for start, stop, (r1, r2) in _HORNS]
    third, fourth = ((0, 6, 0), (2.2 * width, 14, 9)), ((0, 29, -36), (6, 5, 9))
    middle = [ellipsoid(mirrored, centre, radii) for centre, radii in (third, fourth)]
    return np.asarray(np.max([*horns, *middle], axis=0), np.float32)


def _vessels(points: Field, mirrored: Field, depth: Field) -> Field:
    """Superior sagittal sinus and choroid plexus."""
    x, y, z = points
    elsewhere = np.where((z > 30) | ((y > 40) & (z > -5)), np.float32(0), _FAR)
    sinus = np.float32(2.6) - np.hypot(np.hypot(x, depth - 2), elsewhere)
    plexus = capsule(mirrored, (19, 27, 13), (25, 36, 6), (1.5, 2.5))
    return np.asarray(np.maximum(sinus, plexus), np.float32)

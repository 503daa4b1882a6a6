"""A diffuse glioma in a head: its place, its size, and which voxels are core, necrosis, edema and enhancing tumour.

Place, size and shape are independent of IDH; the four signs decide the rest. Each compartment consists of the voxels
with the lowest arrival time (distance from the start with noise, longer through cortex and fluid than along white
matter) up to exactly its volume, so a sign changes no volume but its own.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mttu.phantom.fields import Field, Grid, Noise, column, length, share_above
from mttu.phantom.head import FLUID, GREY, Bulge, Head
from mttu.phantom.signs import Signs

EDEMA, TUMOUR, NECROSIS, ENHANCING = range(4)

_MEDIAN_ML, _LOG_DEVIATION, _RANGE_ML = 75.0, 0.55, (15.0, 200.0)
_LOBES = {
    "frontal": (0.40, (27, -40, 24)),
    "temporal": (0.29, (42, 0, -18)),
    "parietal": (0.14, (28, 34, 32)),
    "occipital": (0.03, (25, 56, 10)),
    "deep": (0.14, (27, 0, 12)),
}
"""Share of gliomas (Larjavaara et al. 2007, doi:10.1215/15228517-2007-016), and a place in the white matter, mm."""
_OUTSIDE = np.float32(500)
"""Arrival time where no lesion grows."""


@dataclass(frozen=True)
class Place:
    """Place and size of a lesion; independent of IDH."""

    lobe: str
    centre: NDArray[np.float64]
    """Left, posterior, superior of the centre of the head, mm."""
    volume_ml: float
    """Whole tumour, in a life-size head."""
    core_share: float
    """Of the whole tumour."""
    push: float
    """Mass effect, 0 to 1."""

    @property
    def bulge(self) -> Bulge:
        """Mass effect on the brain around it."""
        radius = _radius_mm(self.volume_ml * self.core_share)
        return Bulge(self.centre, radius, 0.45 * self.push * radius)


@dataclass(frozen=True)
class Lesion:
    """A lesion on the grid of a head."""

    shares: Field
    """(4, H, W, D) share of each voxel that is edema, tumour that doesn't enhance, necrosis, enhancing tumour."""
    classes: NDArray[np.uint8]
    """(H, W, D) true mask: 0 background, 1 necrosis or tumour that doesn't enhance, 2 edema, 3 enhancing."""
    interior: Field
    """(H, W, D) 0 at the edge of the lesion, 1 inside: where the T2-FLAIR mismatch shows."""


def draw_place(generator: np.random.Generator) -> Place:
    """Draws place and size: lobes as in patients, volumes log-normal about 75 ml."""
    names = list(_LOBES)
    lobe = names[int(generator.choice(len(names), p=[share for share, _ in _LOBES.values()]))]
    centre = np.array(_LOBES[lobe][1], np.float64) + generator.uniform(-9, 9, 3)
    centre[0] *= generator.choice([-1, 1])
    volume = float(np.clip(_MEDIAN_ML * np.exp(_LOG_DEVIATION * generator.standard_normal()), *_RANGE_ML))
    return Place(lobe, centre, volume, generator.uniform(0.25, 0.65), generator.uniform(0, 1))


def grow_lesion(generator: np.random.Generator, grid: Grid, head: Head, place: Place, signs: Signs) -> Lesion:
    """Grows a lesion in a head that has its mass effect; signs are as the image shows them, 0 to 1.

    The draws don't depend on the signs.
    """
    sigmas = (11.0, 9.0, 7.0, max(4.0, 0.6 * grid.voxel_mm))  # noise finer than a voxel would not show
    outline, inner, patches, ragged = (Noise(generator, sigma).on(grid) for sigma in sigmas)
    axes = column(np.exp(generator.uniform(-0.22, 0.22, 3)))
    radius = _radius_mm(place.volume_ml)
    offset = generator.uniform(-0.15, 0.15, 3) * radius
    fluid, grey = head.shares[FLUID], head.shares[GREY]
    across = np.clip(grid.points[0] * -float(np.sign(place.centre[0])), 0, 8)
    barred = 3 * across + np.where(head.brain, np.float32(0), _OUTSIDE)
    reach = length((grid.points - column(place.centre)) / axes) + radius * np.float32(0.17) * outline
    edema = np.asarray(reach + np.float32(1.2) * ragged + 9 * grey + 30 * fluid + barred, np.float32)
    nearby = length(grid.points - column(place.centre + offset)) + radius * np.float32(0.15) * inner
    core = np.asarray(nearby + 2 * grey + 3 * fluid + barred, np.float32)
    decay = np.asarray(core + 3 * patches, np.float32)

    volume = place.volume_ml * 1000 / grid.voxel_mm**3
    whole, edge = _lowest(edema, head.brain, volume)
    within, core_edge = _lowest(core, whole, place.core_share * volume)
    dead, dead_edge = _lowest(decay, within, (0.02 + 0.58 * signs.necrosis) * within.sum())
    living = within & ~dead
    order = np.asarray(np.abs(decay - dead_edge) / 4 + 5 * patches, np.float32)  # a rim around the necrosis, with gaps
    complete = min(max(1.1 * signs.enhancement - 0.1, 0.0), 1.0)
    bright, bright_edge = _lowest(order, living, complete * living.sum())

    margin_mm = max(0.8 + 11 * (1 - signs.sharpness), 0.7 * grid.voxel_mm)
    soft_mm = max(1.0, 0.8 * grid.voxel_mm)
    ramp = share_above(edge - edema, 1.6 * margin_mm) * head.brain
    affected = ramp * ramp * (3 - 2 * ramp)
    affected = np.where(within, np.maximum(affected, np.float32(0.9)), affected)
    core_share = np.minimum(share_above(core_edge - core, 0.6 * margin_mm), affected)
    dead_share = np.minimum(share_above(dead_edge - decay, soft_mm), core_share)
    bright_share = (core_share - dead_share) * share_above(bright_edge - order, soft_mm)
    shares = [affected - core_share, core_share - dead_share - bright_share, dead_share, bright_share]
    classes = np.where(bright, 3, np.where(within, 1, np.where(whole, 2, 0))).astype(np.uint8)
    interior = np.clip((edge - edema) / np.float32(max(4.0, grid.voxel_mm)), 0, 1)
    return Lesion(np.stack(shares), classes, np.asarray(interior, np.float32))


def _lowest(field: Field, allowed: NDArray[np.bool_], count: float) -> tuple[NDArray[np.bool_], float]:
    """The `count` allowed voxels with the lowest values, and their bound; none and a bound below all if that is 0."""
    values = field[allowed]
    number = min(round(float(count)), values.size)
    if number == 0:
        return np.zeros_like(allowed), float(values.min(initial=0)) - float(_OUTSIDE)
    bound = float(np.partition(values, number - 1)[number - 1])
    return allowed & (field <= bound), bound


def _radius_mm(volume_ml: float) -> float:
    """Radius of a ball."""
    return float(np.cbrt(volume_ml * 1000 * 3 / (4 * np.pi)))

"""One phantom case, drawn in memory."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from mttu.data.phantom.fields import Grid
from mttu.data.phantom.head import draw_head
from mttu.data.phantom.learnability import Truth
from mttu.data.phantom.lesion import draw_place, grow_lesion
from mttu.data.phantom.scanner import draw_protocol, scan
from mttu.data.phantom.signs import draw_signs
from mttu.data.phantom.subjects import Purpose, Recipe, Subject, stream


@dataclass(frozen=True)
class DrawnCase:
    """A case as its files show it, and the truth behind it."""

    images: Mapping[str, NDArray[np.int16]]
    """Modality to (size, size, size), above 0 inside the brain and 0 outside."""
    classes: NDArray[np.uint8]
    """(size, size, size) true mask, classes 0 to 3."""
    truth: Truth


def draw_case(recipe: Recipe, subject: Subject) -> DrawnCase:
    """Draws one case; it depends on seed, number and IDH status of the case, and on what a setting is about."""
    index = subject.index
    signs = draw_signs(stream(recipe, Purpose.SIGNS, index), subject.idh, recipe.difficulty)
    grid, visible = Grid(recipe.size), signs.visible()
    place = draw_place(stream(recipe, Purpose.PLACE, index))
    head = draw_head(stream(recipe, Purpose.HEAD, index), grid, place.bulge)
    lesion = grow_lesion(stream(recipe, Purpose.LESION, index), grid, head, place, visible)
    protocol = draw_protocol(stream(recipe, Purpose.PROTOCOL, subject.site), reference=subject.site == 0)
    scanner = stream(recipe, Purpose.SCAN, index)
    images = scan(scanner, grid, head, lesion, visible, protocol, recipe.thick_slices)
    classes = grid.embed(lesion.classes)
    truth = Truth(
        case_id=subject.case_id,
        split=subject.split,
        idh=subject.idh,
        age=subject.age,
        latents=astuple(signs),
        volume_ml=float(np.count_nonzero(classes)) / 1000,
        means=tuple(_mean_z_score(image, classes > 0) for image in images.values()),
    )
    return DrawnCase(images, classes, truth)


def _mean_z_score(image: NDArray[np.int16], inside: NDArray[np.bool_]) -> float:
    brain = image[image > 0].astype(np.float64)
    return float((image[inside].mean(dtype=np.float64) - brain.mean()) / brain.std())

"""Limits for a given brain mask, a brain taken from the images, and the tumour in it."""

import numpy as np
import pytest
from small_cases import SHAPE, draw_brain, draw_lesion, draw_volumes

from mttu.data.brain import check_brain, find_small

BRAIN = draw_brain(SHAPE)
LESION = draw_lesion(SHAPE)
HEAD = np.where(draw_brain((26, 30, 24))[3:-3, 3:-3, 3:-3], 500, 0)


def images(background: float = 0) -> list[np.ndarray]:
    drawn = draw_volumes()
    return [np.where(BRAIN, drawn[name], background).astype(np.float32) for name in ("flair", "t1ce")]


def check(brain, seg=None, given=True, volumes=None, spacing=(1.0, 1.0, 1.0)):
    found = check_brain(images() if volumes is None else volumes, brain, given, seg, spacing)
    return [(finding.severity, finding.text) for finding in found]


def roll(volume, voxels, axis=0):
    return np.roll(volume, voxels, axis)


def slab() -> np.ndarray:
    """A few slices of a brain, cropped tightly: it fills most of two faces."""
    disc = np.hypot(*np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 50), indexing="ij")) < 1
    return np.repeat(disc[..., None], 6, axis=2)


def test_what_is_right_is_silent():
    for brain in (BRAIN, np.asarray(BRAIN & (np.indices(SHAPE)[0] > 1))):
        assert check(brain, LESION) == check(brain, LESION, given=False) == []
    assert check(BRAIN, np.zeros(SHAPE, np.uint8)) == check(BRAIN, None) == []
    assert check(BRAIN, LESION, volumes=images(background=-3.2)) == []  # z-scores over the whole grid
    noisy = [image + np.float32(np.random.default_rng(0).random(SHAPE)) for image in images()]
    assert check(BRAIN, LESION, volumes=noisy) == []  # noise in air hides the brain
    assert check(BRAIN, LESION, volumes=[np.where(HEAD > 0, 300, 0).astype(np.float32)]) == []  # a head around it


@pytest.mark.parametrize("background", [0, -3.2])
@pytest.mark.parametrize(
    ("mask", "severity", "begins"),
    [
        (np.ones(SHAPE, bool), "error", "100% of the voxels on the grid's faces lie in the brain mask; expected at mo"),
        (~BRAIN, "error", "100% of the voxels on the grid's faces lie in the brain mask; expected at most 5%; is it t"),
        (LESION > 0, "error", "brain mask and skull-stripped images overlap with a Dice of 0.15 (100% of the mask li"),
        (roll(BRAIN, 1), "warning", "brain mask and skull-stripped images overlap with a Dice of 0.9"),
        (roll(BRAIN, 10), "error", "brain mask and skull-stripped images overlap with a Dice of 0.40 (40% of the mask"),
        (BRAIN & (np.indices(SHAPE)[1] < 14), "warning", "brain mask and skull-stripped images overlap with a Dice"),
    ],
    ids=["ones", "inverted", "tumour", "shifted", "wrapped", "cut"],
)
def test_a_mask_that_is_not_the_brain_s(mask, severity, begins, background):
    ((found, text),) = check(mask, volumes=images(background))
    assert text.startswith(begins)
    assert found == severity


def test_a_mask_on_a_head_must_lie_where_the_head_is():
    head = [np.where(HEAD > 0, 300, 0).astype(np.float32)]
    shifted = np.zeros(SHAPE, bool)
    shifted[:3, :3, :3] = shifted[-3:, -3:, -3:] = True
    ((severity, text),) = check(shifted, volumes=head)
    assert (severity, text[:70]) == ("error", "only 0% of the brain mask lie where an image shows something; expected")


def test_volume_has_limits_on_both_sides():
    litres = np.count_nonzero(BRAIN) / 1e6
    for volume, found in ((2.1, []), (2.5, ["warning"]), (3.5, ["error"])):
        side = (volume / litres) ** (1 / 3)
        assert [severity for severity, _ in check(BRAIN, spacing=(side, side, side))] == found
    assert check(BRAIN, spacing=(side, side, side))[0][1].startswith("the brain mask has 3.5 litres; a brain has at ")
    for volume, is_small in ((0.6, True), (0.8, False)):
        side = (volume / litres) ** (1 / 3)
        assert (find_small(BRAIN, (side, side, side)) is not None) == is_small
    assert find_small(BRAIN, (1, 1, 1)).startswith("the brain has 0.0026 litres; expected at least 0.7 l but for infan")


def test_a_slab_of_a_brain_is_worth_a_warning_alone():
    brain = slab()
    image = np.where(brain, np.random.default_rng(0).integers(1, 999, brain.shape), 0)
    found = check(brain, volumes=[image.astype(np.float32)])
    assert [severity for severity, _ in found] == ["warning"]


def test_tumour_outside_of_the_brain():
    inside = LESION.copy()
    inside[0, 0, :4] = 2
    assert check(BRAIN, inside) == []  # 4 of 214 voxels: 1.9%
    inside[0, 0, :5] = 2
    for given, place in ((True, "the brain mask"), (False, "the brain, where no image is other than 0")):
        assert check(BRAIN, inside, given=given) == [
            (
                "warning",
                f"2.3% of the 215 tumour voxels lie outside of {place}; expected at most 2%; is the mask of this case, "
                "and not shifted or mirrored?",
            )
        ]
    ((severity, text),) = check(BRAIN, roll(LESION, 10), given=False)
    assert severity == "error"
    assert text.startswith("64% of the 210 tumour voxels lie outside")


def test_a_brain_mask_given_as_the_tumour_s():
    tumour = BRAIN.astype(np.uint8)
    ((severity, text),) = check(BRAIN, tumour, given=False)
    assert (severity, text[:52]) == ("error", "the tumour mask has 100% of the brain's voxels; expe")
    half = np.where(np.indices(SHAPE)[0] < 10, tumour, 0)
    assert [severity for severity, _ in check(BRAIN, half)] == ["warning"]

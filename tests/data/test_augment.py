import numpy as np
import pytest
import torch

from mttu.config import AugmentSettings
from mttu.data.augment import Augmentation, augment_batch, draw_augmentation

PLAIN = {"flips": (False, False, False), "angle_degrees": 0.0, "scale": (1.0, 1.0), "shift": (0.0, 0.0)}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(1, 2, 10, 10, 6, generator=generator) + 0.5
    image[:, :, 0] = 0.0  # outside of the brain
    seg = torch.randint(0, 4, (1, 10, 10, 6), generator=generator, dtype=torch.uint8)
    return image, seg


def test_nothing_drawn_changes_nothing(batch):
    image, seg = augment_batch(*batch, [Augmentation(**PLAIN)])
    assert torch.equal(image, batch[0])
    assert torch.equal(seg, batch[1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flips_mirror_image_and_mask_alike(batch, axis):
    flips = tuple(index == axis for index in range(3))
    image, seg = augment_batch(*batch, [Augmentation(**PLAIN | {"flips": flips})])
    assert torch.equal(image, batch[0].flip(axis + 2))
    assert torch.equal(seg, batch[1].flip(axis + 1))


@pytest.mark.parametrize(("angle", "turns"), [(90.0, 1), (180.0, 2), (-90.0, 3)])
def test_rotation_turns_the_axial_plane(batch, angle, turns):
    image, seg = augment_batch(*batch, [Augmentation(**PLAIN | {"angle_degrees": angle})])
    candidates = [torch.rot90(batch[1], turns, dims) for dims in ((1, 2), (2, 1))]
    assert any(torch.equal(seg, candidate) for candidate in candidates)
    matching = (1, 2) if torch.equal(seg, candidates[0]) else (2, 1)
    expected = torch.rot90(batch[0], turns, [axis + 1 for axis in matching])
    torch.testing.assert_close(image, expected, atol=1e-4, rtol=0)


def test_rotation_keeps_an_oblong_patch_rigid():
    image = torch.zeros(1, 1, 32, 16, 4)
    image[0, 0, 16, 2:14] = 1.0  # a bar along W through the centre
    bar = Augmentation((False,) * 3, 10.0, (1.0,), (0.0,))
    turned, _ = augment_batch(image, torch.zeros(1, 32, 16, 4, dtype=torch.uint8), [bar])
    rows, columns = np.nonzero(turned[0, 0, :, :, 2].numpy() > 0.5)
    slope = np.polyfit(columns, rows, 1)[0]
    assert abs(slope) == pytest.approx(np.tan(np.deg2rad(10)), abs=0.05)


def test_intensity_changes_the_brain_only(batch):
    change = Augmentation(**PLAIN | {"scale": (1.1, 0.9), "shift": (0.1, -0.1)})
    image, seg = augment_batch(*batch, [change])
    assert (image[:, :, 0] == 0).all()
    torch.testing.assert_close(image[0, 0, 1:], batch[0][0, 0, 1:] * 1.1 + 0.1)
    torch.testing.assert_close(image[0, 1, 1:], batch[0][0, 1, 1:] * 0.9 - 0.1)
    assert torch.equal(seg, batch[1])


def test_draws_stay_in_range_and_replay():
    settings = AugmentSettings()
    drawn = [draw_augmentation(settings, 4, np.random.default_rng(seed)) for seed in range(300)]
    assert drawn == [draw_augmentation(settings, 4, np.random.default_rng(seed)) for seed in range(300)]
    angles = np.array([item.angle_degrees for item in drawn])
    scales = np.array([item.scale for item in drawn])
    shifts = np.array([item.shift for item in drawn])
    flips = np.array([item.flips for item in drawn])
    assert -10 <= angles.min() < -8
    assert 8 < angles.max() <= 10
    assert 0.9 <= scales.min() < 0.91
    assert 1.09 < scales.max() <= 1.1
    assert -0.1 <= shifts.min() < -0.09
    assert 0.09 < shifts.max() <= 0.1
    assert (np.abs(flips.mean(axis=0) - 0.5) < 0.1).all()


def test_the_number_of_draws_does_not_depend_on_the_settings():
    off = AugmentSettings(flip_probability=0, rotation_degrees=0, intensity_scale=0, intensity_shift=0)
    one, two = np.random.default_rng(1), np.random.default_rng(1)
    draw_augmentation(AugmentSettings(), 4, one)
    assert draw_augmentation(off, 4, two) == Augmentation((False,) * 3, 0.0, (1.0,) * 4, (0.0,) * 4)
    assert one.random() == two.random()

import numpy as np
import pytest
import torch

from mttu.config import AugmentSettings
from mttu.data.augment import Augmentation, augment_batch, draw_augmentation, rotation_margin

PLAIN = {"flips": (False, False, False), "angle_degrees": 0.0, "scale": (1.0, 1.0), "shift": (0.0, 0.0)}
SIZE = (10, 10, 6)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(1, 2, 10, 10, 6, generator=generator) + 0.5
    image[:, :, 0] = 0.0  # outside of the brain
    seg = torch.randint(0, 4, (1, 10, 10, 6), generator=generator, dtype=torch.uint8)
    return image, seg


def test_nothing_drawn_changes_nothing(batch):
    image, seg = augment_batch(*batch, [Augmentation(**PLAIN)], SIZE)
    assert torch.equal(image, batch[0])
    assert torch.equal(seg, batch[1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flips_mirror_image_and_mask_alike(batch, axis):
    flips = tuple(index == axis for index in range(3))
    image, seg = augment_batch(*batch, [Augmentation(**PLAIN | {"flips": flips})], SIZE)
    assert torch.equal(image, batch[0].flip(axis + 2))
    assert torch.equal(seg, batch[1].flip(axis + 1))


@pytest.mark.parametrize(("angle", "turns"), [(90.0, 1), (180.0, 2), (-90.0, 3)])
def test_rotation_turns_the_axial_plane(batch, angle, turns):
    image, seg = augment_batch(*batch, [Augmentation(**PLAIN | {"angle_degrees": angle})], SIZE)
    candidates = [torch.rot90(batch[1], turns, dims) for dims in ((1, 2), (2, 1))]
    assert any(torch.equal(seg, candidate) for candidate in candidates)
    matching = (1, 2) if torch.equal(seg, candidates[0]) else (2, 1)
    expected = torch.rot90(batch[0], turns, [axis + 1 for axis in matching])
    torch.testing.assert_close(image, expected, atol=1e-4, rtol=0)


def test_rotation_keeps_an_oblong_patch_rigid():
    image = torch.zeros(1, 1, 32, 16, 4)
    image[0, 0, 16, 2:14] = 1.0  # a bar along W through the centre
    bar = Augmentation((False,) * 3, 10.0, (1.0,), (0.0,))
    turned, _ = augment_batch(image, torch.zeros(1, 32, 16, 4, dtype=torch.uint8), [bar], (32, 16, 4))
    rows, columns = np.nonzero(turned[0, 0, :, :, 2].numpy() > 0.5)
    slope = np.polyfit(columns, rows, 1)[0]
    assert abs(slope) == pytest.approx(np.tan(np.deg2rad(10)), abs=0.05)


def smooth_volume(shape):
    """(1, 1, *shape) image that is nowhere 0, and labels in blocks of several voxels."""
    axes = np.meshgrid(*(np.linspace(0, 3, extent) for extent in shape), indexing="ij")
    image = torch.from_numpy(2.0 + np.sin(axes[0]) * np.cos(axes[1]) + 0.1 * axes[2]).float()[None, None]
    blocks = np.indices(shape).sum(axis=0) // 7 % 4
    return image, torch.from_numpy(blocks.astype(np.uint8))[None]


@pytest.mark.parametrize("angle", [10.0, -10.0, 4.0])
@pytest.mark.parametrize("size", [(24, 24, 4), (32, 16, 4)])
def test_a_rotation_turns_the_volume_into_the_patch_and_no_background(size, angle):
    margin, start = rotation_margin(size, 10.0), (20, 13, 2)
    volume, seg = smooth_volume((70, 61, 8))
    inside = tuple(
        slice(begin - beyond, begin + side + beyond) for begin, side, beyond in zip(start, size, margin, strict=True)
    )
    turn = Augmentation((False,) * 3, angle, (1.0,), (0.0,))
    patch, labels = augment_batch(volume[(..., *inside)], seg[(..., *inside)], [turn], size)
    assert patch.shape == (1, 1, *size)
    assert bool((patch > 0.5).all())
    # the whole volume turned about the patch's centre, then cut
    centre = [begin + side / 2 for begin, side in zip(start, size, strict=True)]
    reach = [int(min(at, extent - at)) for at, extent in zip(centre, volume.shape[2:], strict=True)]
    around = tuple(slice(int(at - by), int(at + by)) for at, by in zip(centre[:2], reach[:2], strict=True))
    whole = (2 * reach[0], 2 * reach[1], 8)
    turned, turned_labels = augment_batch(volume[:, :, *around], seg[:, *around], [turn], whole)
    cut = tuple(slice(by - side // 2, by + side // 2) for by, side in zip(reach[:2], size[:2], strict=True))
    torch.testing.assert_close(patch, turned[(..., *cut, slice(2, 6))], atol=1e-5, rtol=0)
    differing = labels != turned_labels[(..., *cut, slice(2, 6))]
    assert float(differing.float().mean()) < 0.002  # ties between nearest voxels


def test_a_rotated_mask_stays_on_its_image():
    size = (24, 24, 4)
    seg = torch.zeros(1, 30, 30, 4, dtype=torch.uint8)
    seg[:, 6:20, 11:25] = 3
    image = 1.0 + 9.0 * (seg == 3)[:, None].float()
    turned, labels = augment_batch(image, seg, [Augmentation((True, False, False), 9.0, (1.0,), (0.0,))], size)
    agree = (turned[0, 0] > 5.5) == (labels[0] == 3)
    assert float(agree.float().mean()) > 0.97
    assert float(turned.min()) == pytest.approx(1.0, abs=1e-4)
    assert 0 < int((labels == 3).sum()) < labels.numel()


@pytest.mark.parametrize(
    ("size", "degrees", "margin"),
    [
        ((128, 128, 128), 10.0, (11, 11, 0)),  # 63.5 (cos 10 + sin 10) - 63.5 = 10.06
        ((128, 128, 128), 0.0, (0, 0, 0)),
        ((24, 24, 24), 180.0, (5, 5, 0)),  # 11.5 (sqrt 2 - 1) = 4.76, at 45 degrees
        ((32, 16, 8), 10.0, (2, 3, 0)),  # H: 15.5 cos 10 + 7.5 sin 10 - 15.5 = 1.07; W: 2.58
        ((32, 16, 8), 90.0, (2, 10, 0)),  # to the corner at most: sqrt(15.5^2 + 7.5^2) = 17.22
    ],
)
def test_the_margin_is_what_the_largest_angle_needs(size, degrees, margin):
    assert rotation_margin(size, degrees) == margin


def test_intensity_after_a_rotation_leaves_the_background_at_zero():
    image = torch.zeros(1, 2, 28, 28, 4)
    image[:, :, 8:20, 8:20] = 1.5
    change = Augmentation((False,) * 3, 10.0, (1.1, 0.9), (0.1, 0.2))
    turned, _ = augment_batch(image, torch.zeros(1, 28, 28, 4, dtype=torch.uint8), [change], (24, 24, 4))
    brain = (turned != 0).any(dim=1)
    assert 0.2 < float(brain.float().mean()) < 0.35
    assert float(turned[0, 0][brain[0]].min()) >= 0.1  # voxels at its border are shifted, too
    assert float(turned[0, 1][brain[0]].min()) >= 0.2


def test_intensity_changes_the_brain_only(batch):
    change = Augmentation(**PLAIN | {"scale": (1.1, 0.9), "shift": (0.1, -0.1)})
    image, seg = augment_batch(*batch, [change], SIZE)
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

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion

from mttu.phantom.fields import Grid, Noise, share_between
from mttu.phantom.head import FLUID, GREY, VESSEL, WHITE, Bulge, Head, draw_head
from mttu.phantom.lesion import draw_place, grow_lesion
from mttu.phantom.scanner import draw_protocol, scan
from mttu.phantom.signs import Signs

GRID = Grid(48)
TYPICAL = Signs(mismatch=0.2, sharpness=0.5, enhancement=0.7, necrosis=0.5)


def seeded(*numbers):
    return np.random.default_rng(numbers)


@pytest.fixture(scope="module")
def place():
    return draw_place(seeded(4))


@pytest.fixture(scope="module")
def head(place):
    return draw_head(seeded(0, 1), GRID, place.bulge)


@pytest.fixture(scope="module")
def look(place, head):
    """Lesion and images for given signs; all else is the same."""
    drawn = {}

    def draw(signs, thick_slices=0.0):
        key = (signs, thick_slices)
        if key not in drawn:
            lesion = grow_lesion(seeded(0, 2), GRID, head, place, signs)
            protocol = draw_protocol(seeded(0), reference=True)
            images = scan(seeded(0, 3), GRID, head, lesion, signs, protocol, thick_slices)
            drawn[key] = GRID.embed(lesion.classes), images
        return drawn[key]

    return draw


def test_a_life_size_head_from_200_voxels_on():
    assert [Grid(size).voxel_mm for size in (25, 100, 200, 240)] == [8, 2, 1, 1]
    assert Grid(64).embed(np.ones(Grid(64).shape)).shape == (64, 64, 64)


@pytest.mark.parametrize("size", [24, 49])
def test_tissues_fill_each_voxel_and_the_brain_has_its_size(place, size):
    grid = Grid(size)
    head = draw_head(seeded(0, 1), grid, place.bulge)
    np.testing.assert_allclose(head.shares.sum(axis=0), 1, atol=1e-5)
    assert head.shares.min() >= 0
    litres = head.brain.sum() * grid.voxel_mm**3 / 1e6
    assert 1.1 < litres < 1.6
    means = [float(share[head.brain].mean()) for share in head.shares]
    assert 0.35 < means[WHITE] < 0.7
    assert 0.2 < means[GREY] < 0.5
    assert 0.08 < means[FLUID] < 0.25
    assert 0 < means[VESSEL] < 0.02
    partial = (head.shares[GREY] > 0.1) & (head.shares[GREY] < 0.9)
    assert partial[head.brain].mean() > 0.2


def test_a_mass_pushes_the_ventricles_aside(place):
    still, pushed = (draw_head(seeded(0, 1), GRID, Bulge(np.array([40.0, 0, 20]), 20.0, push)) for push in (0.0, 10.0))
    middle = np.abs(GRID.points[0]) < 25
    inner = middle & (np.abs(GRID.points[2] - 10) < 15) & (np.abs(GRID.points[1]) < 25)

    def balance(head):
        return float((head.shares[FLUID] * GRID.points[0])[inner].sum() / head.shares[FLUID][inner].sum())

    assert balance(pushed) < balance(still) - 1


def test_the_same_noise_on_every_grid():
    noise = Noise(seeded(1), 20.0)
    fine, coarse = noise.on(Grid(96)), noise.on(Grid(48))
    assert fine.std() == pytest.approx(1, abs=0.25)
    block = fine[tuple(slice(0, 2 * (extent // 2)) for extent in fine.shape)]
    halved = block.reshape(*(part for extent in block.shape for part in (extent // 2, 2))).mean(axis=(1, 3, 5))
    starts = [round((a - b) / Grid(48).voxel_mm) for a, b in zip(Grid(96).first_mm, Grid(48).first_mm, strict=True)]
    window = tuple(slice(start, start + extent) for start, extent in zip(starts, halved.shape, strict=True))
    same = coarse[window]
    cut = halved[tuple(slice(0, extent) for extent in same.shape)]
    assert np.corrcoef(cut.ravel(), same.ravel())[0, 1] > 0.99


def test_a_thin_sheet_fills_its_part_of_a_voxel():
    distance = np.array([0.0, 2.5, 3.0, 4.0], np.float32)
    np.testing.assert_allclose(share_between(distance, 0.5, 6.0), [1 / 6, 1 / 6, 0.5 / 6, 0])


def test_tissues_have_the_contrasts_of_each_sequence(look, head):
    classes, images = look(TYPICAL)
    far = ~np.asarray(binary_dilation(classes > 0, iterations=4)) & GRID.embed(head.brain)

    def mean(name, tissue):
        return float(images[name][far & (GRID.embed(head.shares[tissue]) > 0.75)].mean())

    assert mean("flair", FLUID) < 0.6 * mean("flair", WHITE)
    assert 1.02 < mean("flair", GREY) / mean("flair", WHITE) < 1.25
    for name in ("t1", "t1ce"):
        assert mean(name, FLUID) < 0.7 * mean(name, GREY)
        assert mean(name, GREY) < 0.9 * mean(name, WHITE)
    assert 1.2 < mean("t2", GREY) / mean("t2", WHITE) < 1.6
    assert mean("t2", FLUID) > 1.6 * mean("t2", GREY)


def test_images_are_above_zero_inside_the_brain_alone(look, head):
    _, images = look(TYPICAL)
    brain = GRID.embed(head.brain)
    assert all(((image > 0) == brain).all() for image in images.values())
    assert 0.1 < brain.mean() < 0.3


def test_lesions_have_the_sizes_and_places_of_gliomas():
    places = [draw_place(seeded(9, index)) for index in range(1500)]
    volumes = np.array([place.volume_ml for place in places])
    assert np.median(volumes) == pytest.approx(75, abs=5)
    assert np.log(volumes).std() == pytest.approx(0.53, abs=0.05)
    assert 15 <= volumes.min() < 25
    assert 180 < volumes.max() <= 200
    lobes = [place.lobe for place in places]
    for lobe, share in {"frontal": 0.4, "temporal": 0.29, "parietal": 0.14, "occipital": 0.03, "deep": 0.14}.items():
        assert lobes.count(lobe) / 1500 == pytest.approx(share, abs=0.035)
    assert np.mean([place.centre[0] > 0 for place in places]) == pytest.approx(0.5, abs=0.04)


def test_volumes_are_exact_and_the_lesion_lies_in_the_brain(look, place, head):
    classes, _ = look(TYPICAL)
    voxel_ml = GRID.voxel_mm**3 / 1000
    assert (classes > 0).sum() * voxel_ml == pytest.approx(place.volume_ml, abs=voxel_ml)
    assert np.isin(classes, (1, 3)).sum() / (classes > 0).sum() == pytest.approx(place.core_share, abs=0.01)
    assert set(np.unique(classes)) == {0, 1, 2, 3}
    assert not (classes > 0)[~GRID.embed(head.brain)].any()
    white = GRID.embed(head.shares[WHITE])
    assert white[classes == 2].mean() > 1.2 * white[GRID.embed(head.brain)].mean()


def test_signs_change_the_lesion_alone_and_neither_its_outline_nor_its_core(look):
    classes, images = look(Signs(0.95, 0.95, 0.0, 0.0))
    other_classes, other_images = look(Signs(0.05, 0.05, 1.0, 1.0))
    np.testing.assert_array_equal(classes > 0, other_classes > 0)
    np.testing.assert_array_equal(np.isin(classes, (1, 3)), np.isin(other_classes, (1, 3)))
    far = ~np.asarray(binary_dilation(classes > 0, iterations=9))
    for name, image in images.items():
        np.testing.assert_array_equal(image[far], other_images[name][far])
        assert not np.array_equal(image, other_images[name])


def test_mismatch_is_dark_in_flair_bright_in_t2_with_a_bright_edge(look):
    classes, without = look(Signs(0.0, 0.9, 0.0, 0.0))
    _, full = look(Signs(1.0, 0.9, 0.0, 0.0))
    core, whole = classes == 1, classes > 0
    edge = whole & ~np.asarray(binary_erosion(whole))
    assert full["flair"][core].mean() < 0.7 * without["flair"][core].mean()
    assert full["t2"][core].mean() > 1.1 * without["t2"][core].mean()
    assert without["flair"][edge].mean() < without["flair"][core].mean()
    assert full["flair"][edge].mean() > 1.1 * full["flair"][core].mean()
    assert np.array_equal(full["t1"], without["t1"])
    assert np.array_equal(full["t1ce"], without["t1ce"])


def test_a_sharp_margin_falls_steeply(look):
    def step(sharpness):
        classes, images = look(Signs(0.0, sharpness, 0.0, 0.0))
        whole = classes > 0
        edge = whole & ~np.asarray(binary_erosion(whole))
        around = np.asarray(binary_dilation(whole)) & ~whole & (images["flair"] > 0)
        return images["flair"][edge].mean() / images["flair"][around].mean()

    assert step(1.0) > step(0.5) + 0.03 > step(0.0) + 0.06


def test_enhancement_grows_in_extent_and_brightness(look):
    shares, uptakes = [], []
    for strength in (0.0, 0.4, 0.7, 1.0):
        classes, images = look(Signs(0.2, 0.5, strength, 0.4))
        shares.append((classes == 3).sum())
        bright = classes == 3
        uptakes.append(images["t1ce"][bright].mean() / images["t1"][bright].mean() if bright.any() else 0)
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert uptakes[1] < uptakes[2] < uptakes[3]
    assert np.count_nonzero(classes == 1) > 0  # necrosis does not enhance


def test_necrosis_darkens_the_core_in_t1(look):
    dark = []
    for strength in (0.0, 0.5, 1.0):
        classes, images = look(Signs(0.2, 0.5, 0.0, strength))
        core = classes == 1
        white = np.percentile(images["t1"][images["t1"] > 0], 80)
        dark.append(float((images["t1"][core] < 0.55 * white).mean()))
    assert dark[0] + 0.1 < dark[1] < dark[2] - 0.1


def test_thick_slices_blur_along_one_axis(place):
    grid = Grid(90)
    shares = np.zeros((4, *grid.shape), np.float32)
    shares[WHITE] = 1
    rng = seeded(3)
    shares[FLUID] = rng.random(grid.shape) < 0.5
    shares[WHITE] -= shares[FLUID]
    head = Head(shares, np.ones(grid.shape, bool))
    lesion = grow_lesion(seeded(1), grid, head, place, TYPICAL)
    protocol = draw_protocol(seeded(0), reference=True)
    thin, thick = (scan(seeded(5), grid, head, lesion, TYPICAL, protocol, share) for share in (0.0, 1.0))
    for name in thin:
        rough = [
            [float(np.abs(np.diff(image[name][30:60, 30:60, 30:60], axis=axis)).mean()) for axis in range(3)]
            for image in (thin, thick)
        ]
        ratios = sorted(after / before for before, after in zip(*rough, strict=True))
        assert ratios[0] < 0.75 * ratios[1]  # one axis loses detail, the others less

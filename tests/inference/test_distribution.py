"""Statistics of a scan, how far it is from others, and which changes of a scan they see."""

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from mttu.errors import InputError
from mttu.inference.distribution import (
    DISTRIBUTION,
    FEWEST_CASES,
    KeptDistribution,
    Usual,
    find_distance,
    pool_distributions,
    pool_into,
    read_distribution,
    summarise_cases,
    write_distribution,
)
from mttu.inference.image_statistics import find_least_spread, measure_image

NAMES = ("flair", "t1")
MM = (1.0, 1.0, 1.0)


def normalise(image):
    """z-scores inside, as a prepared image has them."""
    inside = (image != 0).any(axis=0)
    return np.stack(
        [np.where(inside, (one - one[inside].mean()) / one[inside].std(), 0).astype(np.float16) for one in image]
    )


def draw_head(seed, size=24):
    """A ball of smooth noise, two modalities that share half of it."""
    generator = np.random.default_rng(seed)
    noise = gaussian_filter(generator.normal(size=(3, size, size, size)), (0, 2, 2, 2))
    image = np.stack([noise[0] + noise[2], noise[1] + noise[2]]) + 0.3
    radius = size / 2 - 2 + generator.uniform(-0.6, 0.6)
    ball = sum((axis - (size - 1) / 2) ** 2 for axis in np.ogrid[:size, :size, :size]) < radius**2
    return normalise(image * ball)


@pytest.fixture(scope="module")
def kept():
    return summarise_cases([measure_image(draw_head(seed), NAMES, MM) for seed in range(30)])


def test_statistics_of_a_small_image_by_hand():
    image = np.zeros((1, 4, 3, 3), np.float16)
    image[0, 1:3, 1, 1] = (-1, 1)  # two voxels beside each other, left and right
    found = measure_image(image, ("flair",), (2.0, 1.0, 3.0))
    expected = {
        "brain_ml": 0.012,
        "extent_left_right_mm": 4.0,
        "extent_front_back_mm": 1.0,
        "extent_up_down_mm": 3.0,
        "brain_fill": 1.0,
        "brain_asymmetry": 0.0,
        "brain_cut_off": 1.0,
        "flair_quantile_0.01": -0.98,
        "flair_quantile_0.25": -0.5,
        "flair_quantile_0.5": 0.0,
        "flair_quantile_0.75": 0.5,
        "flair_quantile_0.99": 0.98,
        "flair_skewness": 0.0,
        "flair_roughness": 2.0,
        "flair_rim": 0.0,
        "flair_asymmetry": 2.0,
    }
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_rim_is_the_outer_5_mm():
    image = np.full((1, 7, 7, 7), 2.0, np.float16)
    image[0, 2:5, 2:5, 2:5] = 5.0
    assert measure_image(image, ("t1",), (2.5, 2.5, 2.5))["t1_rim"] == pytest.approx(-3.0)
    assert measure_image(image, ("t1",), (5.0, 5.0, 5.0))["t1_rim"] < -0.5  # one voxel: the next is inside


def test_correlation_and_a_modality_without_contrast():
    image = np.array([[1, 2, 3, 6], [3, 4, 5, 8], [1, 1, 1, 1]], np.float16).reshape(3, 4, 1, 1)
    found = measure_image(image, ("a", "b", "c"), MM)
    assert found["a_b_correlation"] == pytest.approx(1.0)
    assert (found["a_c_correlation"], found["c_skewness"]) == (0.0, 0.0)
    assert all(np.isfinite(list(found.values())))
    assert all(find_least_spread(name, 100.0) > 0 for name in found)


def test_the_farthest_statistic_counts_by_its_own_spread():
    usual = {"a": Usual(10.0, 2.0), "b": Usual(0.0, 0.1)}
    near = find_distance({"a": 16.0, "b": 0.2}, usual)
    assert (near.statistic, near.largest_z, near.is_inside) == ("a", 3.0, True)
    assert near.describe().startswith(
        "in distribution (farthest: a is 16, 10 in the median training case; robust z 3.0"
    )
    far = find_distance({"a": 16.0, "b": -0.51}, usual)
    assert (far.statistic, far.is_inside) == ("b", False)
    assert far.largest_z == pytest.approx(5.1)
    assert far.describe().startswith("OUT OF DISTRIBUTION (farthest: b is -0.51, 0 in the median")


def test_median_and_spread_of_training_cases_by_hand():
    rows = [{"brain_ml": float(value)} for value in (*range(1000, 1021), 5000)]  # one of 22 is another kind
    found = summarise_cases(rows).usual["brain_ml"]
    assert found.median == 1010.5
    assert found.spread == pytest.approx(101.05)  # 10 % of the median: the percentiles lie closer, 1001.05 and 1019.95
    wide = summarise_cases([{"brain_ml": 1000.0 + 100 * value} for value in range(21)]).usual["brain_ml"]
    assert wide == Usual(2000.0, pytest.approx(900 / 1.6449))


def test_too_few_cases_say_so():
    kept = summarise_cases([{"brain_ml": 1.0}] * (FEWEST_CASES - 1))
    assert kept.judge(draw_head(1), NAMES, MM) is None
    assert "9 training cases are too few" in kept.describe()


def test_a_scan_of_the_same_kind_is_inside(kept):
    found = [kept.judge(draw_head(seed), NAMES, MM) for seed in range(100, 110)]
    assert [one.is_inside for one in found] == [True] * 10, max(one.largest_z for one in found)


def cut(image):
    image = image.copy()
    image[:, :, :, 14:] = 0
    return normalise(image.astype(np.float32))


def add_noise(image):
    noise = np.random.default_rng(0).normal(size=image.shape)
    return normalise(np.where(image != 0, image + noise, 0))


def add_skull(image):
    size = image.shape[1]
    distance = sum((axis - (size - 1) / 2) ** 2 for axis in np.ogrid[:size, :size, :size])
    shell = (distance > 11**2) & (distance < 12**2)
    return normalise(np.where(shell, 6.0, image))


@pytest.mark.parametrize(
    ("change", "statistic"),
    [
        (cut, "extent_up_down_mm"),
        (add_noise, "roughness"),
        (add_skull, "quantile"),
        (lambda image: np.stack([image[0], -image[0]]), "correlation"),
        (lambda image: normalise(gaussian_filter(image.astype(np.float32), (0, 3, 3, 3)) * (image != 0)), "roughness"),
    ],
)
def test_a_scan_of_another_kind_is_flagged(kept, change, statistic):
    image = draw_head(200)
    found = kept.judge(change(image), NAMES, MM)
    assert kept.judge(image, NAMES, MM).is_inside
    assert not found.is_inside
    assert statistic in found.statistic


def test_what_it_cannot_see(kept):
    image = draw_head(201)
    before = kept.judge(image, NAMES, MM)
    flipped = kept.judge(image[:, ::-1], NAMES, MM)
    assert flipped.largest_z == pytest.approx(before.largest_z, abs=1e-6)
    scaled = kept.judge(normalise(np.where(image != 0, image.astype(np.float32) * 40 + 500, 0)), NAMES, MM)
    assert scaled.largest_z == pytest.approx(before.largest_z, abs=0.05)


def test_other_modalities_than_the_training_s_are_not_judged(kept):
    assert kept.judge(draw_head(1), ("flair", "t2"), MM) is None


def test_members_are_pooled_with_the_widest_spread():
    one = KeptDistribution(20, {"a": Usual(10.0, 1.0)})
    other = KeptDistribution(30, {"a": Usual(14.0, 2.0)})
    assert pool_distributions([one, other]) == KeptDistribution(30, {"a": Usual(12.0, 4.0)})
    unknown = pool_distributions([one, KeptDistribution(3, reason="too few")])
    assert unknown == KeptDistribution(reason="of a member of the ensemble: too few")
    mixed = pool_distributions([one, KeptDistribution(20, {"b": Usual(0.0, 1.0)})])
    assert (mixed.usual, mixed.reason) == ({}, "members of the ensemble have other statistics")


def test_what_is_kept_is_read_back_and_bound_to_its_weights(write_tiny, tmp_path, kept):
    folder = write_tiny(tmp_path / "best")
    assert "no statistics of training cases are kept" in read_distribution(tmp_path).describe()
    write_distribution(folder, kept)
    assert read_distribution(tmp_path) == kept
    (folder / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes() + b" ")
    with pytest.raises(InputError, match="of other weights"):
        read_distribution(folder)


@pytest.mark.parametrize("spoilt", [{"median": 1.0, "spread": 0.0}, {"median": "x", "spread": 1.0}, {"median": 1.0}, 3])
def test_a_damaged_file_is_refused(write_tiny, tmp_path, spoilt):
    folder = write_tiny(tmp_path / "best")
    write_distribution(folder, KeptDistribution(20, {"a": Usual(1.0, 1.0)}))
    content = json.loads((folder / DISTRIBUTION).read_text())
    content["statistics"]["a"] = spoilt
    (folder / DISTRIBUTION).write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"distribution\.json: damaged"):
        read_distribution(folder)


def test_an_ensemble_keeps_what_its_members_keep(write_tiny, tmp_path):
    from mttu.networks.ensemble import write_ensemble

    members = [write_tiny(tmp_path / name / "best") for name in ("one", "two")]
    write_ensemble(tmp_path / "none", members, lambda folder: pool_into(folder, members))
    assert not (tmp_path / "none" / DISTRIBUTION).exists()
    for place, median in zip(members, (1.0, 3.0), strict=True):
        write_distribution(place, KeptDistribution(20, {"a": Usual(median, 1.0)}))
    for _ in range(2):  # an ensemble that has the file is ours to replace
        write_ensemble(tmp_path / "both", members, lambda folder: pool_into(folder, members))
    assert read_distribution(tmp_path / "both") == KeptDistribution(20, {"a": Usual(2.0, 2.0)})

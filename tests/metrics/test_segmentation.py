import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_dice, compute_hausdorff_distance
from numpy.typing import NDArray
from small_cases import score_dice

from mttu.data.labels import REGIONS, WHOLE_TUMOUR, find_regions
from mttu.metrics.segmentation import (
    RegionScores,
    count_overlaps,
    measure_volumes_ml,
    score_regions,
)

ISOTROPIC = (1.0, 1.0, 1.0)


def row(*classes: int) -> torch.Tensor:
    return torch.tensor(classes, dtype=torch.uint8).view(-1, 1, 1)


def line(*classes: int) -> NDArray[np.uint8]:
    return np.array(classes, np.uint8).reshape(-1, 1, 1)


def test_dice_by_hand() -> None:
    scores = score_dice(row(0, 1, 2, 3, 3, 0), row(0, 1, 2, 2, 3, 3))
    # WT: 4 predicted, 5 true, 4 shared; TC: 3, 3, 2; ET: 2, 2, 1
    assert scores == {"wt": 8 / 9, "tc": 4 / 6, "et": 2 / 4}


@pytest.mark.parametrize(
    ("predicted", "truth", "et"),
    [((2, 1), (2, 1), 1.0), ((2, 3), (2, 1), 0.0), ((2, 1), (2, 3), 0.0)],
    ids=["both empty", "false alarm", "missed"],
)
def test_dice_of_empty_masks(predicted: tuple[int, ...], truth: tuple[int, ...], et: float) -> None:
    assert score_dice(row(*predicted), row(*truth))["et"] == et


def test_dice_of_two_empty_volumes_is_one_everywhere() -> None:
    assert score_dice(row(0, 0), row(0, 0)) == {"wt": 1.0, "tc": 1.0, "et": 1.0}


def test_dice_refuses_masks_of_different_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(2, 1, 1\).*\(3, 1, 1\)"):
        score_dice(row(0, 1), row(0, 1, 1))


def test_volumes_by_hand() -> None:
    # 3 mm³ a voxel: 4 voxels WT, 2 TC, 1 ET
    assert measure_volumes_ml(row(0, 1, 2, 2, 3), 3.0) == pytest.approx({"wt": 0.012, "tc": 0.006, "et": 0.003})


def test_every_score_by_hand_on_an_anisotropic_grid() -> None:
    # voxels:         0  1  2  3  4  5  6  7  8  9
    truth = line(0, 0, 2, 2, 1, 3, 3, 2, 0, 0)
    predicted = line(0, 2, 2, 1, 1, 3, 0, 0, 0, 0)
    scores = score_regions(predicted, truth, (2.0, 1.0, 5.0))  # 2 mm along the line, 10 mm^3 a voxel
    # WT: predicted 1-5, true 2-7, both 2-5; each voxel is a border. Distances in voxels from predicted to true:
    # 1 0 0 0 0, 95th percentile at position 3.8: 0.8; from true to predicted: 0 0 0 0 1 2, at 4.75: 1.75
    assert scores["wt"] == RegionScores(
        status="normal",
        dice=8 / 11,
        hd95_mm=3.5,
        sensitivity=4 / 6,
        specificity=3 / 4,
        predicted_ml=0.05,
        truth_ml=0.06,
        volume_difference_ml=-0.01,
        relative_volume_difference=-1 / 6,
    )
    # TC: predicted 3-5, true 4-6: 1 0 0 at position 1.9: 0.9 either way
    assert scores["tc"].hd95_mm == pytest.approx(1.8)
    assert (scores["tc"].dice, scores["tc"].sensitivity, scores["tc"].specificity) == (4 / 6, 2 / 3, 6 / 7)
    # ET: predicted 5, true 5-6
    assert scores["et"].hd95_mm == pytest.approx(1.9)
    assert scores["et"].relative_volume_difference == -1 / 2


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        ((2, 2, 0), (2, 0, 0), RegionScores("both-empty", None, None, None, 1.0, 0.0, 0.0, 0.0, None)),
        ((2, 3, 3), (2, 0, 0), RegionScores("spurious", 0.0, None, None, 1 / 3, 0.002, 0.0, 0.002, None)),
        ((2, 2, 0), (2, 3, 0), RegionScores("missed", 0.0, None, 0.0, 1.0, 0.0, 0.001, -0.001, -1.0)),
        ((3, 3, 3), (3, 3, 3), RegionScores("normal", 1.0, 0.0, 1.0, None, 0.003, 0.003, 0.0, 0.0)),
    ],
    ids=["both empty", "spurious", "missed", "truth fills the volume"],
)
def test_every_empty_case_has_its_status_and_no_nan(
    predicted: Sequence[int], truth: Sequence[int], expected: RegionScores
) -> None:
    assert score_regions(line(*predicted), line(*truth), ISOTROPIC)["et"] == expected


def test_two_empty_volumes() -> None:
    for scores in score_regions(line(0, 0), line(0, 0), ISOTROPIC).values():
        assert (scores.status, scores.dice, scores.specificity) == ("both-empty", None, 1.0)


def test_a_whole_tumour_mask_scores_the_whole_tumour_only() -> None:
    truth = line(0, WHOLE_TUMOUR, WHOLE_TUMOUR, 0)
    scores = score_regions(line(0, 3, 0, 0), truth, ISOTROPIC)
    assert scores["wt"].dice == 2 / 3
    assert scores["tc"] == scores["et"] == RegionScores("not-defined")
    empty = score_regions(line(0, 3, 0, 0), line(0, 0, 0, 0), ISOTROPIC, find_regions("whole-tumour"))
    assert [one.status for one in empty.values()] == ["spurious", "not-defined", "not-defined"]
    assert find_regions("brats") == tuple(REGIONS)


def test_what_is_no_pair_of_masks_is_refused() -> None:
    with pytest.raises(ValueError, match="must agree"):
        score_regions(line(0, 1), line(0, 1, 1), ISOTROPIC)
    with pytest.raises(ValueError, match="class 7"):
        count_overlaps(line(0, 7), line(0, 1))


MASKS = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4)).flatmap(
    lambda shape: st.tuples(*[arrays(np.uint8, shape, elements=st.sampled_from((0, 0, 0, 1, 2, 3)))] * 2)
)
SPACINGS = st.tuples(*[st.sampled_from((0.5, 1.0, 2.5))] * 3)


@given(MASKS, SPACINGS)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_scores_equal_voxel_by_voxel_counting(
    masks: tuple[NDArray[np.uint8], NDArray[np.uint8]], spacing_mm: tuple[float, float, float]
) -> None:
    predicted, truth = masks
    for region, scores in score_regions(predicted, truth, spacing_mm).items():
        inside = (np.isin(mask, REGIONS[region]).ravel().tolist() for mask in masks)
        pairs = list(zip(*inside, strict=True))
        counts = {(one, other): pairs.count((one, other)) for one in (True, False) for other in (True, False)}
        hits, extra, lost, rest = (counts[key] for key in ((True, True), (True, False), (False, True), (False, False)))
        assert scores.dice == (2 * hits / (2 * hits + extra + lost) if hits + extra + lost else None)
        assert scores.sensitivity == (hits / (hits + lost) if hits + lost else None)
        assert scores.specificity == (rest / (rest + extra) if rest + extra else None)
        voxel_ml = np.prod(spacing_mm) / 1000
        assert scores.volume_difference_ml == pytest.approx((extra - lost) * voxel_ml)
        names = (("both-empty", "missed"), ("spurious", "normal"))
        assert scores.status == names[hits + extra > 0][hits + lost > 0]
        assert (scores.hd95_mm is not None) == (scores.status == "normal")


@given(MASKS, SPACINGS)
@settings(max_examples=25, deadline=None, derandomize=True)
@pytest.mark.filterwarnings("ignore:.*all 0.*", "ignore:.*always_return_as_numpy.*")
def test_scores_equal_monais_on_the_uncropped_volume(
    masks: tuple[NDArray[np.uint8], NDArray[np.uint8]], spacing_mm: tuple[float, float, float]
) -> None:
    regions = [torch.from_numpy(np.stack([np.isin(mask, own) for own in REGIONS.values()]))[None] for mask in masks]
    dice = compute_dice(*regions, ignore_empty=False)[0].tolist()
    distances = compute_hausdorff_distance(*regions, include_background=True, percentile=95, spacing=spacing_mm)[0]
    found = score_regions(*masks, spacing_mm)
    assert list(score_dice(*map(torch.from_numpy, masks)).values()) == pytest.approx(dice, abs=1e-6)
    for scores, distance in zip(found.values(), distances.tolist(), strict=True):
        assert scores.hd95_mm is None or scores.hd95_mm == distance


def test_three_regions_of_a_whole_case_take_less_than_two_seconds_of_one_core() -> None:
    shape = (240, 240, 155)
    axes = np.ogrid[tuple(slice(0, extent) for extent in shape)]
    radius = np.sqrt(sum((axis - 0.4 * extent) ** 2 for axis, extent in zip(axes, shape, strict=True)))
    truth = np.select([radius < 10, radius < 20, radius < 30], [1, 3, 2], 0).astype(np.uint8)
    start = time.process_time()
    scores = score_regions(np.roll(truth, 3, axis=0), truth, ISOTROPIC)
    seconds = time.process_time() - start
    assert [one.status for one in scores.values()] == ["normal"] * 3
    assert scores["wt"].hd95_mm == pytest.approx(3, abs=0.2)
    assert seconds < 2

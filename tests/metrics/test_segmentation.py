import pytest
import torch

from mttu.metrics.segmentation import measure_volumes_ml, region_masks, score_dice


def row(*classes: int) -> torch.Tensor:
    return torch.tensor(classes, dtype=torch.uint8).view(-1, 1, 1)


def test_regions_are_nested_unions_of_classes() -> None:
    wt, tc, et = region_masks(row(0, 1, 2, 3))
    assert wt.flatten().tolist() == [False, True, True, True]
    assert tc.flatten().tolist() == [False, True, False, True]
    assert et.flatten().tolist() == [False, False, False, True]


def test_dice_by_hand() -> None:
    scores = score_dice(row(0, 1, 2, 3, 3, 0), row(0, 1, 2, 2, 3, 3))
    # WT: 4 predicted, 5 true, 4 shared; TC: 3, 3, 2; ET: 2, 2, 1
    assert scores == pytest.approx({"wt": 8 / 9, "tc": 4 / 6, "et": 2 / 4})


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
    # 3 mm slices: 4 voxels WT, 2 TC, 1 ET
    assert measure_volumes_ml(row(0, 1, 2, 2, 3), 3.0) == pytest.approx({"wt": 0.012, "tc": 0.006, "et": 0.003})

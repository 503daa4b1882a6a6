import random

import pytest

from mttu.config import MetricSettings
from mttu.errors import InputError
from mttu.metrics.empty_masks import BOTH, HD95, choose_conventions, fill_scores, summarise_region
from mttu.metrics.segmentation import RegionScores

NORMAL = RegionScores("normal", 0.8, 4.0, 0.7, 0.99, 9.0, 10.0, -1.0, -0.1)
MISSED = RegionScores("missed", 0.0, None, 0.0, 1.0, 0.0, 2.0, -2.0, -1.0)
SPURIOUS = RegionScores("spurious", 0.0, None, None, 0.98, 3.0, 0.0, 3.0, None)
BOTH_EMPTY = RegionScores("both-empty", None, None, None, 1.0, 0.0, 0.0, 0.0, None)
NOT_DEFINED = RegionScores("not-defined")


def row(case_id: str, scores: RegionScores, region: str = "et") -> dict[str, object]:
    return {"case_id": case_id, "region": region, **vars(scores)}


@pytest.mark.parametrize(
    ("convention", "scores", "dice", "hd95_mm"),
    [
        ("exclude-empty", NORMAL, 0.8, 4.0),
        ("exclude-empty", MISSED, 0.0, None),
        ("exclude-empty", SPURIOUS, None, None),
        ("exclude-empty", BOTH_EMPTY, None, None),
        ("brats2020", NORMAL, 0.8, 4.0),
        ("brats2020", MISSED, 0.0, 373.12866),
        ("brats2020", SPURIOUS, 0.0, 373.12866),
        ("brats2020", BOTH_EMPTY, 1.0, 0.0),
        ("brats2023", NORMAL, 0.8, 4.0),
        ("brats2023", MISSED, 0.0, 374.0),
        ("brats2023", SPURIOUS, 0.0, 374.0),
        ("brats2023", BOTH_EMPTY, 1.0, 0.0),
        *[(convention, NOT_DEFINED, None, None) for convention in BOTH],
    ],
)
def test_every_empty_case_under_every_convention(
    convention: str, scores: RegionScores, dice: float | None, hd95_mm: float | None
) -> None:
    filled = fill_scores(row("a", scores), BOTH[convention])
    assert fill_scores({**row("a", scores), **filled}, BOTH[convention]) == filled  # counted once is counted
    assert (filled["dice"], filled["hd95_mm"]) == (dice, hd95_mm)
    untouched = ("sensitivity", "specificity", "volume_difference_ml", "relative_volume_difference")
    assert all(filled[name] == getattr(scores, name) for name in untouched)


def test_the_penalty_is_the_diagonal_of_a_brats_volume() -> None:
    assert HD95["brats2020"].scores["missed"] == pytest.approx((2 * 240**2 + 155**2) ** 0.5, abs=1e-5)


ROWS = [
    row("a", NORMAL),
    row("b", RegionScores("normal", 0.6, 8.0, 0.5, 0.97, 5.0, 4.0, 1.0, 0.25)),
    row("c", MISSED),
    row("d", SPURIOUS),
    row("e", BOTH_EMPTY),
    row("f", NOT_DEFINED),
    row("a", RegionScores("normal", 0.1, 99.0, 0.1, 0.1, 1.0, 1.0, 0.0, 0.0), "wt"),
]


@pytest.mark.parametrize("convention", BOTH)
def test_the_counts_are_in_every_summary(convention: str) -> None:
    counts = summarise_region(ROWS, "et", BOTH[convention]).counts
    assert counts == {"normal": 2, "missed": 1, "spurious": 1, "both-empty": 1, "not-defined": 1}


def test_summaries_by_hand() -> None:
    excluded = summarise_region(ROWS, "et", BOTH["exclude-empty"]).metrics
    assert (excluded["dice"].n, excluded["dice"].mean) == (3, pytest.approx(1.4 / 3))
    assert (excluded["hd95_mm"].n, excluded["hd95_mm"].mean) == (2, 6.0)
    assert excluded["hd95_mm"].std == pytest.approx(8**0.5)  # ddof = 1
    assert (excluded["sensitivity"].n, excluded["specificity"].n) == (3, 5)
    assert excluded["volume_difference_ml"].mean == pytest.approx(0.2)
    penalised = summarise_region(ROWS, "et", BOTH["brats2020"]).metrics
    assert (penalised["dice"].n, penalised["dice"].mean) == (5, pytest.approx(2.4 / 5))
    assert (penalised["hd95_mm"].n, penalised["hd95_mm"].mean) == (5, pytest.approx((12 + 2 * 373.12866) / 5))


def test_nothing_to_summarise_is_none_not_nan() -> None:
    summary = summarise_region([row("e", BOTH_EMPTY)], "et", BOTH["exclude-empty"])
    assert (summary.counts["both-empty"], summary.metrics["dice"].n) == (1, 0)
    assert (summary.metrics["dice"].mean, summary.metrics["dice"].std) == (None, None)
    assert summarise_region([row("a", NORMAL)], "et", BOTH["exclude-empty"]).metrics["dice"].std is None


def test_the_order_of_rows_does_not_move_a_bit() -> None:
    generator = random.Random(0)
    rows = [
        row(f"case {index}", RegionScores("normal", generator.random(), 100 * generator.random(), 0.1, 0.1, 1, 1, 0, 0))
        for index in range(200)
    ]
    expected = summarise_region(rows, "et", BOTH["brats2020"])
    for _ in range(3):
        generator.shuffle(rows)
        assert summarise_region(rows, "et", BOTH["brats2020"]) == expected


def test_a_case_counts_once_and_a_convention_has_a_name() -> None:
    with pytest.raises(ValueError, match="cases a have two rows"):
        summarise_region([row("a", NORMAL), row("a", NORMAL)], "et", BOTH["brats2020"])
    with pytest.raises(ValueError, match="status"):
        summarise_region([{**row("a", NORMAL), "status": "odd"}], "et", BOTH["brats2020"])
    with pytest.raises(InputError) as caught:
        choose_conventions(MetricSettings(), "brats2019", "none", "nan")
    masks, dice, hd95 = caught.value.problems
    assert masks.startswith(
        "empty masks 'brats2019': unknown convention; choose one of exclude-empty (Dice exclude, HD95"
    )
    assert dice.startswith("empty masks in Dice 'none': unknown convention; choose one of brats (both empty 1, only")
    assert "exclude (left out unless both masks hold the region)" in hd95


def test_dice_and_distance_are_chosen_apart() -> None:
    default = MetricSettings()
    metrics = summarise_region(ROWS, "et", default).metrics
    assert (metrics["dice"].n, metrics["dice"].mean) == (5, pytest.approx(2.4 / 5))  # as the release has it
    assert (metrics["hd95_mm"].n, metrics["hd95_mm"].mean) == (2, 6.0)
    assert choose_conventions(default) == default
    chosen = choose_conventions(default, "exclude-empty", hd95="brats2023")
    assert (chosen.empty_dice, chosen.empty_hd95) == ("exclude", "brats2023")
    assert summarise_region(ROWS, "et", chosen).convention == "Dice exclude, HD95 brats2023"

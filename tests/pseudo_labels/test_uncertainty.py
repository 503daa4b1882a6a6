import pytest

from mttu.pseudo_labels.reports import measure_by_uncertainty
from mttu.pseudo_labels.score_table import ScoreRow, ScoreTable, summarise_passes


def scored(case_id, mean, spread):
    return summarise_passes(case_id, (mean - spread, mean + spread), mean, 0.0)


def test_bins_rise_in_uncertainty_and_hold_the_error_of_their_own_cases():
    sure = [scored(f"a{index}", 0.9, 0.01 + 0.001 * index) for index in range(5)]  # all right: |1 - 0.9|
    unsure = [scored(f"b{index}", 0.8, 0.1 + 0.001 * index) for index in range(5)]  # all wrong: |0 - 0.8|
    table = ScoreTable((*unsure, *sure, ScoreRow("broken", 0.0, "no file"), scored("unknown", 0.7, 0.2)))
    truth = {**{f"a{index}": 1 for index in range(5)}, **{f"b{index}": 0 for index in range(5)}, "broken": 1}
    curve = measure_by_uncertainty(table, truth, "pool")
    assert [row.num_cases for row in curve.bins] == [5, 5]
    assert [row.ece.value for row in curve.bins] == pytest.approx([0.1, 0.8])
    assert curve.bins[0].high < curve.bins[1].low
    assert curve.bins[0].low == pytest.approx(sure[0].uncertainty)
    assert curve.ece.value == pytest.approx(0.5 * 0.1 + 0.5 * 0.8)


def test_without_a_known_truth_there_is_no_bin():
    curve = measure_by_uncertainty(ScoreTable((scored("a", 0.9, 0.1),)), {}, "pool")
    assert curve.bins == []
    assert curve.ece.value is None


def test_equal_uncertainties_still_make_a_bar():
    table = ScoreTable(tuple(scored(f"c{index}", 0.75, 0.0) for index in range(5)))
    (one,) = measure_by_uncertainty(table, {f"c{index}": 1 for index in range(5)}, "pool").bins
    assert one.high > one.low
    assert one.ece.value == pytest.approx(0.25)

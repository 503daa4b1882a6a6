import math

import numpy as np
import pytest
from figure_contents import error_bars, labelled, notes, texts

from mttu.figures.estimates import Estimate
from mttu.figures.reliability import (
    Reliability,
    ReliabilityBin,
    UncertaintyBin,
    UncertaintyCurve,
    draw_ece_by_uncertainty,
    draw_reliability,
)

BINS = [
    ReliabilityBin(0.0, 0.5, 0, None, Estimate(0.0)),  # a zero that must not be drawn
    ReliabilityBin(0.5, 0.75, 4, 0.6, Estimate(0.5, 0.15, 0.85)),
    ReliabilityBin(0.75, 1.0, 10, 0.9, Estimate(0.7, 0.397, 0.892)),
]


def test_points_intervals_counts_and_title():
    figure = draw_reliability([Reliability("Before", BINS, Estimate(0.171, 0.08, 0.3)), Reliability("After", BINS)])
    accuracy, _, counts, _ = figure.axes
    assert labelled(accuracy, "observed") == ([0.6, 0.9], [0.5, 0.7])
    np.testing.assert_allclose(error_bars(accuracy), [(0.15, 0.85), (0.397, 0.892)])
    assert labelled(accuracy, "perfectly calibrated") == ([0, 1], [0, 1])
    assert [bar.get_height() for bar in counts.patches] == [0, 4, 10]
    assert [bar.get_x() for bar in counts.patches] == [0.0, 0.5, 0.75]
    assert [text.get_text().strip() for text in counts.texts] == ["4", "10"]
    shown = texts(figure)
    assert "Before, n = 14\nECE 0.171 [0.080, 0.300]" in shown
    assert "After, n = 14\nECE not defined" in shown
    assert "confidence (probability)" in shown
    assert "0.12 at n = 30 with 10 bins" in notes(figure)


def test_confidence_starts_at_half_unless_bins_below_have_cases():
    low = [ReliabilityBin(0.2, 0.4, 3, 0.3, Estimate(0.3)), *BINS[1:]]
    figure = draw_reliability([Reliability("A", BINS), Reliability("B", low)])
    assert [panel.get_xlim() for panel in figure.axes[:2]] == [(0.5, 1.0), (0.0, 1.0)]


def test_without_predictions_the_panel_says_so():
    figure = draw_reliability([Reliability("A", BINS[:1])])
    assert "no predictions" in texts(figure)
    assert len(figure.axes[0].containers) == 0
    assert "no reliability table" in texts(draw_reliability([]))


def test_a_phantom_table(phantom_cases):
    candidates = [case.candidate for case in phantom_cases if case.idh >= 0]
    members = [case for case in candidates if 0.5 <= case.confidence <= 0.6]
    assert members
    right = sum(case.predicted == case.idh for case in members)
    mean = sum(case.confidence for case in members) / len(members)
    row = ReliabilityBin(0.5, 0.6, len(members), mean, Estimate(right / len(members)))
    figure = draw_reliability([Reliability("Phantom", [row])])
    assert labelled(figure.axes[0], "observed") == ([mean], [right / len(members)])
    assert f"Phantom, n = {len(members)}" in texts(figure)


VALIDATION = UncertaintyCurve(
    "Validation",
    [
        UncertaintyBin(0.0, 0.1, 20, Estimate(0.1, 0.05, 0.2), 0.15),
        UncertaintyBin(0.1, 0.2, 0, Estimate(0.0)),  # a zero that must not be drawn
        UncertaintyBin(0.2, 0.3, 10, Estimate(0.3, 0.2, 0.5), 0.21),
    ],
    Estimate(0.132, 0.08, 0.21),
)


def test_points_intervals_and_counts_over_uncertainty():
    figure = draw_ece_by_uncertainty([VALIDATION])
    upper, lower = figure.axes
    x, y = labelled(upper, "Validation, n = 30: ECE of all 0.132 [0.080, 0.210]")
    assert x == pytest.approx([0.05, 0.15, 0.25])
    np.testing.assert_array_equal(y, [0.1, np.nan, 0.3])
    np.testing.assert_allclose(error_bars(upper), [(0.05, 0.2), (0.2, 0.5)])
    assert [bar.get_height() for bar in lower.patches] == [20, 0, 10]
    assert [text.get_text() for text in lower.texts] == ["20", "0", "10"]
    assert lower.get_xlabel() == "uncertainty (standard deviation of probability)"
    assert "Validation: no cases in 0.1 to 0.2." in notes(figure)
    assert "0.12 at n = 30 with 10 bins" in notes(figure)


def test_the_bias_at_each_n_is_drawn_where_it_is_known():
    figure = draw_ece_by_uncertainty([VALIDATION])
    marks = [line for line in figure.axes[0].lines if line.get_markersize() == 10]
    np.testing.assert_array_equal(marks[0].get_ydata(), [0.15, np.nan, 0.21])
    assert "expected of a perfectly calibrated predictor" in texts(figure)
    unknown = UncertaintyCurve("Test", [UncertaintyBin(0.0, 0.1, 5, Estimate(0.1))])
    assert "expected" not in texts(draw_ece_by_uncertainty([unknown]))


def test_two_sets_lie_beside_each_other():
    test = UncertaintyCurve("Test", [UncertaintyBin(0.0, 0.3, 70, Estimate(0.2))], Estimate(0.2))
    upper, lower = draw_ece_by_uncertainty([VALIDATION, test]).axes
    first, _ = labelled(upper, "Validation, n = 30: ECE of all 0.132 [0.080, 0.210]")
    second, _ = labelled(upper, "Test, n = 70: ECE of all 0.200")
    assert first[0] < 0.05
    assert second[0] > 0.15
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in lower.patches]
    assert bars[0][1] <= 0.05
    assert bars[3][0] >= 0.15
    assert lower.get_xlim()[0] < 0.0 < 0.3 < lower.get_xlim()[1]


def test_undefined_bins_are_named():
    curve = UncertaintyCurve(
        "Test", [UncertaintyBin(0.0, 0.1, 3, Estimate(math.nan)), UncertaintyBin(0.1, 0.2, 0, Estimate(0.0))]
    )
    figure = draw_ece_by_uncertainty([curve])
    assert "no bin with a defined ECE" in texts(figure)
    assert "Test: no cases in 0.1 to 0.2; ECE not defined in 0 to 0.1." in notes(figure)
    assert "no bins of uncertainty" in texts(draw_ece_by_uncertainty([]))

import math

import numpy as np
import pytest
from figure_contents import error_bars, labelled, notes, texts

from mttu.figures.estimates import Estimate
from mttu.figures.reliability import UncertaintyBin, UncertaintyCurve, draw_ece_by_uncertainty

VALIDATION = UncertaintyCurve(
    "Validation",
    [
        UncertaintyBin(0.0, 0.1, 20, Estimate(0.1, 0.05, 0.2), 0.15),
        UncertaintyBin(0.1, 0.2, 0, Estimate(0.0)),  # a zero that must not be drawn
        UncertaintyBin(0.2, 0.3, 10, Estimate(0.3, 0.2, 0.5), 0.21),
    ],
    Estimate(0.132, 0.08, 0.21),
)


def test_points_intervals_and_counts():
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

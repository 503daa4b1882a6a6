from dataclasses import replace

import numpy as np
import pytest
from figure_contents import labelled, notes, texts
from matplotlib.colors import to_rgba

from mttu.figures.estimates import Estimate
from mttu.figures.selection import (
    Candidate,
    MethodSelection,
    SelectionRow,
    draw_candidates,
    draw_pseudo_labels,
    draw_selection_error,
)
from mttu.figures.style import GREY, RIGHT_COLOUR, WRONG_COLOUR

ROWS = [
    SelectionRow(0.9, 0.1, 10, 1, 30),
    SelectionRow(0.9, 0.01, 0, 0, 30),  # not sorted, and nothing selected
    SelectionRow(0.6, 0.01, 5, 0, 30),
    SelectionRow(0.6, 0.1, 20, 5, 30),
    SelectionRow(0.65, 0.01, 5, 0, 30),
    SelectionRow(0.65, 0.1, 20, 5, 30),
]


def test_error_and_coverage_over_both_thresholds():
    figure = draw_selection_error({"Validation": ROWS}, chosen=(0.9, 0.05))
    error, coverage = figure.axes
    assert labelled(error, "0.6") == ([0.01, 0.1], [0.0, 25.0])
    x, y = labelled(error, "0.9")
    assert x == [0.01, 0.1]
    np.testing.assert_array_equal(y, [np.nan, 10.0])  # undefined, not zero
    assert labelled(coverage, "0.9")[1] == pytest.approx([0.0, 100 / 3])
    assert error.get_title() == "Validation, n = 30"
    assert "standard deviation" in coverage.get_xlabel()
    widths = {line.get_label(): line.get_linewidth() for line in error.lines}
    assert widths["0.9"] > max(widths["0.6"], widths["0.65"])
    assert any(list(line.get_xdata()) == [0.05, 0.05] for line in error.lines)


def test_what_hides_and_what_is_missing_is_said():
    said = notes(draw_selection_error({"Validation": ROWS}))
    assert r"Validation: the lines of $\tau_c$ = 0.6 and 0.65 coincide." in said
    assert r"nothing selected, no error defined, at $\tau_c$ = 0.9 with $\tau_u$ = 0.01." in said
    figure = draw_selection_error({"Validation": [SelectionRow(0.9, 0.05, 0, 0, 30)], "Test": []})
    assert [text.get_text() for text in figure.axes[0].texts] == ["nothing selected"]
    assert figure.axes[1].get_title() == "Test: no rows"
    assert "no thresholds were tried" in texts(draw_selection_error({"Validation": []}))


def test_every_column_fits_the_shared_axis():
    test = [SelectionRow(0.9, 0.05, 10, 6, 70)]
    figure = draw_selection_error({"Validation": ROWS, "Test": test})
    bottom, top = figure.axes[1].get_ylim()
    assert bottom < 0.0 < 60.0 < top


def test_a_set_without_cases_has_no_coverage():
    figure = draw_selection_error({"Test": [SelectionRow(0.9, 0.05, 0, 0, 0)]})
    assert np.isnan(labelled(figure.axes[1], "0.9")[1]).all()


def test_phantom_candidates_lie_where_their_table_says(phantom_cases):
    candidates = [case.candidate for case in phantom_cases]
    uncertainties = sorted(case.uncertainty for case in candidates)
    selected = [replace(case, selected=case.uncertainty <= uncertainties[3]) for case in candidates]
    figure = draw_candidates(selected, 0.5, uncertainties[3], "Phantom")
    drawn = np.concatenate([np.asarray(points.get_offsets()) for points in figure.axes[0].collections])
    expected = [(case.uncertainty, case.confidence) for case in candidates]
    np.testing.assert_allclose(sorted(map(tuple, drawn)), sorted(expected))
    assert "Phantom, n = 8" in texts(figure)
    assert notes(figure).count("4 cases") == 2
    known = sum(case.idh >= 0 for case in phantom_cases)
    assert known < len(candidates)
    assert "truth unknown" in texts(figure)


CANDIDATES = [
    Candidate("a", 0.95, 0.02, 1, 1, selected=True),
    Candidate("b", 0.90, 0.05, 0, 1, selected=True),  # on both thresholds: selected, and wrong
    Candidate("c", 0.80, 0.01, 0, 0, selected=False),
    Candidate("d", 0.97, 0.20, 1, selected=False),
]
LOST = Candidate("lost", float("nan"), 0.1, 1, selected=False)


def test_right_wrong_and_unknown_are_told_apart():
    figure = draw_candidates(CANDIDATES, 0.9, 0.05)
    axes = figure.axes[0]
    colours = {points.get_label(): tuple(points.get_edgecolors()[0]) for points in axes.collections}
    assert colours == {
        "called mutant, right: 1": to_rgba(RIGHT_COLOUR),
        "called mutant, truth unknown: 1": to_rgba(GREY),
        "called wild type, right: 1": to_rgba(RIGHT_COLOUR),
        "called wild type, wrong: 1": to_rgba(WRONG_COLOUR),
    }
    assert (
        notes(figure) == "Meets thresholds (shaded; confidence ≥ 0.9, uncertainty ≤ 0.05): 2 cases, 1 right, 1 wrong. "
        "Selected: 2 cases, 1 right, 1 wrong."
    )
    (region,) = axes.patches
    assert (region.get_x(), region.get_y(), region.get_width()) == (0, 0.9, 0.05)
    assert axes.get_xlabel() == "uncertainty (standard deviation of probability)"


def test_nothing_selected_and_values_that_are_not_finite():
    nothing = [replace(case, selected=False) for case in CANDIDATES]
    figure = draw_candidates([*nothing, LOST], 0.99, 0.01)
    assert "uncertainty ≤ 0.01): nothing. Selected: nothing." in notes(figure)
    assert "values are not finite: lost." in notes(figure)
    assert sum(len(points.get_offsets()) for points in figure.axes[0].collections) == 4
    assert "no case has finite values" in texts(draw_candidates([LOST], 0.9, 0.05))
    assert "no cases" in texts(draw_candidates([], 0.9, 0.05))


def test_thresholds_that_a_method_lacks_are_not_drawn():
    everything = [replace(case, selected=True) for case in CANDIDATES]
    figure = draw_candidates(everything, None, None)
    assert notes(figure) == "Selected: 4 cases, 2 right, 1 wrong, 1 truth unknown."
    assert not figure.axes[0].patches
    assert not figure.axes[0].lines
    figure = draw_candidates([replace(case, selected=case.confidence >= 0.9) for case in CANDIDATES], 0.9, None)
    assert "Meets thresholds (shaded; confidence ≥ 0.9): 3 cases" in notes(figure)
    (region,) = figure.axes[0].patches
    assert region.get_width() == figure.axes[0].get_xlim()[1]
    assert "selected: 3" not in texts(figure)  # the shading says it


def test_what_balance_drops_is_told_from_what_meets_the_thresholds():
    dropped = [replace(case, selected=case.case_id == "a") for case in CANDIDATES]
    figure = draw_candidates(dropped, 0.9, 0.05, balanced=True)
    assert "0.05): 2 cases, 1 right, 1 wrong. Selected after balance: 1 case, 1 right." in notes(figure)
    (ring,) = [points for points in figure.axes[0].collections if points.get_label() == "selected: 1"]
    assert ring.get_offsets().tolist() == [[0.02, 0.95]]


def test_counts_and_accuracy_of_each_method():
    rows = [
        MethodSelection("PL", 14, 16, 11, 14, Estimate(None, 0.66, 0.93)),
        MethodSelection("UPS", 6, 10, 6, 10),
    ]
    figure = draw_pseudo_labels({"Validation": rows}, {"Validation": 30})
    accuracy, counts = figure.axes
    assert [text.get_text() for text in accuracy.texts] == ["83.3%\n(11/14)", "100.0%\n(6/10)"]
    points = [container.lines[0].get_ydata()[0] for container in accuracy.containers]
    assert points == pytest.approx([100 * 25 / 30, 100.0])
    segment = accuracy.containers[0].lines[2][0].get_segments()[0]
    np.testing.assert_allclose(segment[:, 1], [66.0, 93.0])
    bars = [(bar.get_y(), bar.get_height(), bar.get_hatch()) for bar in counts.patches]
    assert bars == [
        (0, 14, None), (11, 3, "/////"), (0, 16, None), (14, 2, "/////"), (0, 6, None), (0, 10, None),
    ]  # fmt: skip
    assert [label.get_text() for label in counts.get_xticklabels()] == ["PL", "UPS"]
    assert "Validation, n = 30" in texts(figure)
    assert "(m/n)" in notes(figure)


def test_accuracy_is_left_out_where_the_truth_is_unknown_or_nothing_is_selected():
    rows = [MethodSelection("PL", 40, 181, None, None), MethodSelection("UPS", 0, 0, 0, 0)]
    figure = draw_pseudo_labels({"Unlabelled": rows, "Test": []}, {"Unlabelled": 221, "Test": 70})
    accuracy, other = figure.axes[:2]
    assert [text.get_text() for text in accuracy.texts] == ["truth\nunknown", "nothing\nselected"]
    assert len(accuracy.containers) == 0
    assert [text.get_text() for text in other.texts] == ["no methods"]
    assert notes(figure) == ""
    assert "no methods" in texts(draw_pseudo_labels({}, {}))

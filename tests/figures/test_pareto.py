import numpy as np
import pytest
from figure_contents import error_bars, find_collisions, labelled, notes, texts
from matplotlib.collections import PathCollection

from mttu.figures.estimates import UNDEFINED, Estimate
from mttu.figures.pareto import TradeOff, draw_pareto
from mttu.figures.style import save_figure


def trade_off(selected, error, tau_c=0.8, tau_u=0.1, on_front=False):
    return TradeOff(tau_c, tau_u, selected, 20, Estimate(error, error / 2, error + 0.1), on_front)


POINTS = [
    trade_off(20, 0.3, 0.5, None, on_front=True),
    trade_off(5, 0.1, 0.9, 0.05),
    trade_off(10, 0.1, 0.8, 0.1, on_front=True),
    trade_off(10, 0.1, 0.81, 0.1, on_front=True),
    TradeOff(0.99, 0.001, 0, 20, UNDEFINED, on_front=False),
]


def marks(panel):
    """Label and place of every marked pair."""
    rings = [one for one in panel.collections if isinstance(one, PathCollection)]
    return {one.get_label(): tuple(one.get_offsets()[0]) for one in rings}


def test_points_front_and_intervals():
    figure = draw_pareto(POINTS, POINTS[2], "Out of fold", ["A remark."])
    (panel,) = figure.axes
    assert labelled(panel, "pairs of thresholds: 4") == ([25.0, 50.0, 100.0], [10.0, 10.0, 30.0])
    assert labelled(panel, "Pareto front") == ([50.0, 100.0], [10.0, 30.0])
    np.testing.assert_allclose(error_bars(panel), [(5.0, 20.0), (15.0, 40.0)])
    assert panel.get_title() == "Out of fold, n = 20"
    assert "1 pair selects nothing, no error defined. A remark." in notes(figure)
    low, high = panel.get_ylim()
    assert low < 0 < 40 < high


def test_the_chosen_pair_and_the_papers_are_marked_with_their_thresholds():
    panel = draw_pareto(POINTS, POINTS[0]).axes[0]
    assert marks(panel) == {
        r"chosen: $\tau_c$ = 0.5, no $\tau_u$": (100.0, 30.0),
        r"paper: $\tau_c$ = 0.9, $\tau_u$ = 0.05": (25.0, 10.0),
    }
    without = draw_pareto([POINTS[0]], None)
    assert marks(without.axes[0]) == {}
    assert "No pair qualified, none is chosen." in notes(without)


def test_a_papers_pair_that_selects_nothing_is_named():
    nothing = TradeOff(0.9, 0.05, 0, 20, UNDEFINED, on_front=False)
    figure = draw_pareto([nothing, POINTS[0]], POINTS[0])
    assert list(marks(figure.axes[0])) == [r"chosen: $\tau_c$ = 0.5, no $\tau_u$"]
    assert r"Not drawn, selects nothing: paper, $\tau_c$ = 0.9, $\tau_u$ = 0.05." in notes(figure)


def test_without_a_selected_case_the_panel_says_so():
    figure = draw_pareto([POINTS[4]], None, "Out of fold")
    assert "no pair of thresholds selects a case" in texts(figure)
    assert figure.legends == []
    assert find_collisions(figure) == []
    assert "no thresholds were tried" in texts(draw_pareto([], None))


@pytest.mark.parametrize("points", [POINTS, POINTS[1:2]], ids=["several", "one"])
def test_legend_and_small_print_lie_on_nothing(points):
    assert find_collisions(draw_pareto(points, points[0], "Out of fold", ["A remark of some length. " * 6])) == []


def test_the_same_points_give_the_same_bytes(tmp_path):
    first, second = (save_figure(draw_pareto(POINTS, POINTS[2]), tmp_path / name, ["png"])[0] for name in "ab")
    assert first.read_bytes() == second.read_bytes()

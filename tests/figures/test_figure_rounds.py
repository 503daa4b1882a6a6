import numpy as np
import pytest
from figure_contents import error_bars, labelled, notes, texts

from mttu.figures.rounds import RoundScore, RoundSelection, draw_rounds

NAN = float("nan")


def test_lines_with_their_spread_over_folds():
    scores = [
        RoundScore("UPS", 1, "AUC", [0.8, 0.9, NAN]),
        RoundScore("UPS", 0, "AUC", [0.7, 0.8, 0.9]),  # not sorted
        RoundScore("PL", 0, "AUC", [0.75]),
        RoundScore("UPS", 0, "accuracy (%)", [80.0]),
    ]
    figure = draw_rounds(scores, chosen_rounds={"UPS": 1})
    auc, accuracy, *_ = figure.axes
    x, y = labelled(auc, "UPS (3 folds)")
    assert x == pytest.approx([0, 1], abs=0.1)
    assert y == pytest.approx([0.8, 0.85])
    np.testing.assert_allclose(error_bars(auc), [(0.7, 0.9), (0.85 - 0.05 * 2**0.5, 0.85 + 0.05 * 2**0.5)])
    assert labelled(auc, "PL")[1] == [0.75]
    assert error_bars(auc, 1) == []  # one value has no spread
    rings = [line for line in auc.lines if line.get_markersize() == 9]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in rings] == [(x[1], pytest.approx(0.85))]
    assert (auc.get_ylabel(), accuracy.get_ylabel(), auc.get_xlabel()) == ("AUC", "accuracy (%)", "round")
    assert "chosen on validation" in notes(figure)
    assert "standard deviation over folds" in notes(figure)


def test_undefined_rounds_are_gaps_and_said():
    scores = [RoundScore("UPS", number, "AUC", [value]) for number, value in enumerate((0.8, NAN, 0.9))]
    figure = draw_rounds(scores)
    np.testing.assert_array_equal(labelled(figure.axes[0], "UPS")[1], [0.8, np.nan, 0.9])
    assert "UPS: AUC is not defined in round 1." in notes(figure)
    assert "folds" not in notes(figure)
    assert "no rounds" in texts(draw_rounds([]))


def test_pseudo_labels_per_round():
    selections = [RoundSelection("UPS", 1, 5, 8), RoundSelection("UPS", 2, 0, 0), RoundSelection("PL", 1, 40, 64)]
    figure = draw_rounds([RoundScore("UPS", 0, "AUC", [0.8])], selections)
    _, ups, pl = figure.axes[:3]
    assert [(bar.get_y(), bar.get_height()) for bar in ups.patches] == [(0, 5), (5, 8), (0, 0), (0, 0)]
    assert [text.get_text() for text in ups.texts] == ["5/8", "none"]
    assert [text.get_text() for text in pl.texts] == ["40/64"]
    assert ups.get_ylim() == pl.get_ylim()  # comparable
    assert ups.get_ylim()[1] > 104
    assert "called wild type" in texts(figure)


def test_shares_that_hardly_differ_look_so_and_never_leave_0_to_1():
    scores = [RoundScore("UPS", number, "Dice", [value]) for number, value in enumerate((0.75, 0.76))]
    scores += [RoundScore("UPS", number, "AUC", [1.0]) for number in (0, 1)]
    scores += [RoundScore("UPS", 0, "HD95 (mm)", [2.0])]
    dice, auc, distance = draw_rounds(scores).axes[:3]
    low, high = dice.get_ylim()
    assert (low, high) == pytest.approx((0.705, 0.805))  # 0.1 around the middle
    assert auc.get_ylim()[1] == pytest.approx(1.02)
    low, high = distance.get_ylim()
    assert low < 2.0 < high  # no share: left as it is
    assert high > 1.02

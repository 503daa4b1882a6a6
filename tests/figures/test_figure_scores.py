import numpy as np
import pytest
import torch
from figure_contents import notes, texts
from small_cases import score_dice

from mttu.figures.case_scores import CaseScore, draw_case_scores
from mttu.figures.curves import draw_curves
from mttu.figures.estimates import Estimate
from mttu.figures.roc import RocCurve, draw_roc


def test_roc_curves_with_their_auc():
    curve = RocCurve("Age", [0.0, 0.0, 1.0], [0.0, 0.6, 1.0], Estimate(0.8, 0.7, 0.9), 32, 38)
    figure = draw_roc([curve])
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    line = lines["Age: AUC 0.80 [0.70, 0.90]\n(32 mutant, 38 wild type)"]
    assert list(line.get_xdata()) == [0.0, 0.0, 1.0]
    assert list(line.get_ydata()) == [0.0, 0.6, 1.0]
    assert "95% interval, DeLong" in notes(figure)
    assert "sensitivity" in axes.get_ylabel()


def test_one_class_has_no_roc_curve():
    one = RocCurve("Age", [0.0, 1.0], [0.0, 0.0], Estimate(None), 0, 38)
    figure = draw_roc([one, RocCurve("Net", [0.0, 1.0], [0.0, 1.0], Estimate(0.5), 3, 4)])
    assert "Age: not defined, 0 mutant, 38 wild type" in texts(figure)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    assert len(lines) == 2  # the diagonal and the other curve
    assert notes(figure) == ""
    assert "no curves" in texts(draw_roc([]))


def test_dice_of_phantom_masks_by_region(phantom_cases):
    scores = []
    for case in phantom_cases:
        dice = score_dice(torch.from_numpy(np.roll(case.classes, 1, axis=0)), torch.from_numpy(case.classes))
        scores += [CaseScore(case.case_id, "shifted", region, value, 1.0) for region, value in dice.items()]
    figure = draw_case_scores(scores)
    upper = figure.axes[0]
    for points, region in zip(upper.collections, ("wt", "tc", "et"), strict=True):
        expected = [score.dice for score in scores if score.region == region]
        np.testing.assert_allclose(np.asarray(points.get_offsets())[:, 1], expected)
    medians = [line.get_ydata()[0] for line in upper.lines if line.get_color() == "#000000"]
    expected = [np.median([score.dice for score in scores if score.region == name]) for name in ("wt", "tc", "et")]
    assert medians == pytest.approx(expected)
    assert [text.get_text() for text in upper.texts] == ["8", "8", "8"]
    assert [label.get_text() for label in upper.get_xticklabels()] == ["WT", "TC", "ET"]
    assert figure.axes[1].get_ylabel() == "HD95 (mm)"


def test_penalties_count_and_undefined_scores_do_not():
    scores = [
        CaseScore("a", "U-Net", "et", 0.9, 3.0),
        *(CaseScore(name, "U-Net", "et", 0.9, 3.0) for name in ("a2", "a3", "a4")),
        CaseScore("b", "U-Net", "et", 0.0, 373.12866),
        CaseScore("c", "U-Net", "et", None, None),
        CaseScore("c", "U-Net", "wt", 0.8, float("nan")),
    ]
    figure = draw_case_scores(scores, penalty_mm=373.12866)
    upper, lower = figure.axes
    assert [len(points.get_offsets()) for points in upper.collections] == [1, 5]
    assert np.asarray(lower.collections[0].get_offsets())[:, 1].tolist() == [3.0] * 4
    (mean,) = [line.get_ydata()[0] for line in lower.lines if line.get_marker() == "D"]
    assert mean == pytest.approx((4 * 3 + 373.12866) / 5)
    assert mean < lower.get_ylim()[1] < 100
    said = notes(figure)
    assert "Dice of ET leaves out: U-Net 1 not defined." in said
    assert "HD95 of ET leaves out: U-Net 1 not defined." in said
    assert "HD95 of ET, points not drawn: U-Net 1." in said
    assert "HD95 of WT leaves out: U-Net 1 not defined." in said
    assert "373.12866 mm" in said
    assert [text.get_text() for text in lower.texts] == ["0", "none", "0", "none", "5"]
    assert "no cases" in texts(draw_case_scores([]))


def test_learning_curves_of_what_was_measured():
    history = [
        {"epoch": 1, "train/loss": 2.0, "val/idh_ce": 0.7},
        {"epoch": 2, "train/loss": float("nan"), "val/score": -0.2, "val/dice_wt": 0.5},
        {"epoch": 4, "train/loss": 1.0, "val/score": -0.4, "val/dice_wt": 0.6},
    ]
    figure = draw_curves(history)
    panels = {panel.get_title(): panel for panel in figure.axes if panel.get_title()}
    assert list(panels) == ["Training loss", "Validation Dice", "Validation IDH cross entropy", "Validation score"]
    loss = panels["Training loss"].lines[0]
    assert list(loss.get_xdata()) == [1, 2, 4]
    np.testing.assert_array_equal(loss.get_ydata(), [2.0, np.nan, 1.0])
    assert list(panels["Validation Dice"].lines[0].get_ydata()) == [0.5, 0.6]
    assert panels["Validation IDH cross entropy"].get_ylabel() == "cross entropy (nats)"
    best = panels["Training loss"].lines[-1]
    assert list(best.get_xdata()) == [2, 2]
    assert "epoch 2, of the largest validation score" in notes(figure)
    assert "1 values are not finite" in notes(figure)


def test_curves_without_a_finite_value_or_without_metrics_say_so():
    figure = draw_curves([{"epoch": 1, "train/loss": float("inf")}])
    assert "no finite value" in texts(figure)
    assert "no metrics" in texts(draw_curves([{"epoch": 1}]))

import pytest

from mttu.figures.estimates import Estimate
from mttu.figures.subgroups import SubgroupLine, SubgroupPanel, draw_subgroups

LINES = [
    SubgroupLine("all cases", [Estimate(0.8, 0.7, 0.9), Estimate(0.6, 0.5, 0.7)], "9"),
    SubgroupLine("women", [Estimate(1.0), Estimate(0.5, 0.2, 0.9)], "4", starts=True),
    SubgroupLine("men", [Estimate(None), Estimate(None)], "5"),
]


def test_every_subgroup_has_its_markers_its_count_and_its_name():
    figure = draw_subgroups([SubgroupPanel("AUC", "n", LINES)], ["ours", "other"])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["all cases", "women", "men"]
    points = sorted(float(one.lines[0].get_xdata()[0]) for one in axes.containers)
    assert points == [0.5, 0.6, 0.8, 1.0]
    texts = {text.get_text() for text in axes.texts}
    assert {"9", "4", "5", "n", "not defined"} <= texts
    assert axes.get_xlim()[1] <= 1.03
    first, second, third = axes.get_yticks()
    assert second - first > third - second  # a gap before another kind


def test_panels_of_different_lines_are_refused_and_none_is_said():
    with pytest.raises(ValueError, match="panels have different lines"):
        draw_subgroups([SubgroupPanel("AUC", "n", LINES), SubgroupPanel("Dice", "n", LINES[:1])], ["a", "b"])
    assert draw_subgroups([], []).axes[0].texts[0].get_text() == "no subgroups"

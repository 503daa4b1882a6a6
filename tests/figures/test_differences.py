import numpy as np
import pytest
from figure_contents import find_collisions, notes, texts
from matplotlib.transforms import Bbox

from mttu.figures.differences import DifferencePanel, RowDifference, draw_differences
from mttu.figures.estimates import Estimate

QUESTION = "Table II: How deep should the transformer be, and is it better than convolution?"


def panel(metric="Dice", unit="percentage points", smaller_is_better=False, titles=("L = 1", "L = 2", "Conv")):
    rows = []
    for place, title in enumerate(titles):
        repeats = np.random.default_rng(place).normal(place - 1, 0.5, 5).tolist()
        mean = float(np.mean(repeats))
        rows.append(RowDifference(title, Estimate(mean, mean - 0.7, mean + 0.6), repeats, is_significant=place == 2))
    return DifferencePanel(metric, unit, smaller_is_better, rows)


def test_means_intervals_and_repeats_lie_where_the_numbers_are():
    given = panel()
    figure = draw_differences([given, panel("HD95", "mm", True)], "L = 4", "Table II", ["70 cases."])
    dice, hd95 = figure.axes
    bars = [one.lines[2][0].get_segments()[0] for one in dice.containers]
    for place, (row, bar, dots) in enumerate(zip(given.rows, bars, dice.collections[1::2], strict=True)):
        np.testing.assert_allclose(bar, [(row.difference.low, place), (row.difference.high, place)])
        np.testing.assert_allclose(dots.get_offsets()[:, 0], row.repeats)
        assert 0 < dots.get_offsets()[0, 1] - place < 0.4
    filled = [one.lines[0].get_markerfacecolor() != "white" for one in dice.containers]
    assert filled == [False, False, True]
    assert [text.get_text() for text in dice.get_yticklabels()] == ["L = 1", "L = 2", "Conv"]
    assert [text.get_text() for text in hd95.get_yticklabels()] == ["", "", ""]
    assert dice.get_ylim()[0] > dice.get_ylim()[1]  # the first row is on top
    assert [text.get_text() for text in dice.texts] == ["n", "5", "5", "5"]
    assert list(dice.lines[0].get_xdata()) == [0, 0]
    assert dice.get_xlabel() == "difference (percentage points)\nright is better"
    assert hd95.get_xlabel() == "difference (mm)\nleft is better"
    assert "Paired difference to L = 4" in notes(figure)
    assert "Filled: differs from 0" in notes(figure)
    assert "70 cases." in notes(figure)
    assert figure.get_suptitle() == "Table II"


def test_a_row_without_data_says_so_and_one_repeat_has_no_interval():
    rows = [
        RowDifference("SegNet", Estimate(None), absence="not measured"),
        RowDifference("ClsNet", Estimate(0.01), [0.01]),
    ]
    figure = draw_differences([DifferencePanel("AUC", "", False, rows)], "MTTU-Net")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["n", "0", "not measured", "1"]
    assert len(axes.containers) == 1
    assert [len(segment) for segment in axes.containers[0].lines[2][0].get_segments()] == [0]
    assert axes.get_xlabel() == "difference\nright is better"
    assert "Filled" not in notes(figure)
    nothing = draw_differences([DifferencePanel("AUC", "", False, rows[:1])], "MTTU-Net")
    assert nothing.axes[0].get_xlim() == (-1, 1)
    assert "Diamond" not in notes(nothing)
    assert "no rows to compare" in texts(draw_differences([], "MTTU-Net"))


def test_panels_have_the_same_rows():
    with pytest.raises(ValueError, match="different rows"):
        draw_differences([panel(), panel(titles=("L = 1",))], "L = 4")


@pytest.mark.parametrize(("num_panels", "grid"), [(1, (1, 1)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3))])
@pytest.mark.parametrize("size", ["short", "long"])
def test_nothing_is_cut_and_nothing_overlaps(num_panels, grid, size):
    many = [f"flair + t1ce + t1 + t2 + sequence {number}" for number in range(14)]
    titles = many if size == "long" else ("L = 1",)
    panels = [panel(f"Metric {number}", titles=titles) for number in range(num_panels)]
    missing = RowDifference(titles[0], Estimate(None), absence="not measured for the reference")
    panels[0] = DifferencePanel("Dice", "percentage points", False, [missing, *panels[0].rows[1:]])
    figure = draw_differences(panels, "L = 4", QUESTION, ["Test split of 70 cases, five seeds. " * 5])
    assert find_collisions(figure) == []
    assert figure.axes[0].get_gridspec().get_geometry() == grid
    boxes = [text.get_window_extent() for text in [figure._suptitle, figure._supxlabel]]
    for axes in figure.axes[:num_panels]:
        low, high = axes.get_xlim()
        ticks = [tick.label1 for tick in axes.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        labels = [*axes.get_yticklabels(), *ticks, *axes.texts, axes.title, axes.xaxis.label]
        boxes += [text.get_window_extent() for text in labels if text.get_text()]
    for index, box in enumerate(boxes):
        assert figure.bbox.padded(1).containsx(box.x0)
        assert figure.bbox.padded(1).containsx(box.x1)
        for other in boxes[index + 1 :]:
            shared = Bbox.intersection(box, other)
            assert shared is None or min(shared.width, shared.height) < 1.0

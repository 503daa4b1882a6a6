from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from figure_contents import texts
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from numpy.typing import NDArray

from mttu.data.labels import WHOLE_TUMOUR
from mttu.figures.overlay import choose_slices, draw_overlay

SHAPE = (40, 50, 30)


def brain() -> NDArray[np.float32]:
    image = np.zeros(SHAPE, dtype=np.float32)
    image[4:36, 4:46, 4:26] = np.random.default_rng(0).normal(size=(32, 42, 22))
    return image


def lesion() -> NDArray[np.uint8]:
    classes = np.zeros(SHAPE, dtype=np.uint8)
    classes[6:14, 8:20, 15:22] = 2
    classes[9, 8:24, 15:22] = classes[6:18, 13, 15:22] = classes[6:14, 6:22, 18] = 2  # the largest sections
    classes[8:12, 10:18, 16:20] = 1
    classes[9:11, 12:16, 17:19] = 3
    return classes


def test_slices_go_through_the_largest_cross_section_of_the_lesion() -> None:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[10:13, 20, 5:9] = True
    mask[11, 20:24, 7] = True
    assert choose_slices(brain(), mask) == (11, 20, 7)


def test_without_lesion_slices_go_through_the_middle_of_the_brain() -> None:
    nothing = np.zeros(SHAPE, dtype=bool)
    assert choose_slices(brain(), nothing) == (19, 24, 14)
    assert choose_slices(np.zeros(SHAPE), nothing) == (20, 25, 15)


def test_right_is_on_the_left_front_is_on_top_and_head_is_on_top() -> None:
    image = np.where(np.ones(SHAPE, dtype=bool), -1.0, 0.0)
    image[2:8, 2:8, 22:28] = 1.0  # right, anterior, superior in LPS order
    classes = (image > 0).astype(np.uint8) * 2  # makes all three planes pass through the corner
    figure = draw_overlay(image, classes, "corner", "flair", 1.0)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    height = pixels.shape[0]
    for panel, edges in zip(figure.axes, ("RLAP", "RLSI", "APSI"), strict=True):
        box = panel.get_window_extent()
        left, right, bottom, top = int(box.x0), int(box.x1), int(box.y0), int(box.y1)
        shown = pixels[height - top + 2 : height - bottom - 2, left + 2 : right - 2]
        blue = np.abs(shown - (0x56, 0xB4, 0xE9)).max(axis=-1) < 30  # the outline of the whole tumour
        rows, columns = np.nonzero(blue)
        assert rows.size > 0
        assert rows.max() < shown.shape[0] / 2, panel.get_title()
        assert columns.max() < shown.shape[1] / 2, panel.get_title()
        places = {text.get_text(): text.get_position() for text in panel.texts if len(text.get_text()) == 1}
        assert places[edges[0]][0] < places[edges[1]][0]
        assert places[edges[2]][1] > places[edges[3]][1]


def test_every_statement_is_on_the_figure() -> None:
    volumes = {"wt": 12.34, "tc": 5.67, "et": 0.89}
    figure = draw_overlay(brain(), lesion(), "case-7", "t1ce", 1.0, 0.456, volumes, ["undecided"])
    shown = texts(figure)
    for statement in ("case-7", "T1CE", "0.46", "undecided", "Research use only"):
        assert statement in shown
    assert "Whole tumour  12.3 ml" in shown
    assert "Tumour core  5.7 ml" in shown
    assert "Enhancing  0.9 ml" in shown
    assert "plane 19 of 30" in shown  # index 18


def test_long_statements_stay_on_the_figure_and_apart() -> None:
    remarks = ["calibrated 0.54", "wild type at threshold 0.50", "undecided (calibrated, 0.40 to 0.60)"]
    standing = "; ".join(["IDH probability calibrated on 41 validation cases"] * 10)  # three lines
    volumes = {"wt": 12.34, "tc": 5.67, "et": 0.89}
    name = "a-very-long-name-of-a-case-of-some-hospital"
    figure = draw_overlay(brain(), lesion(), name, "flair", 1.0, 0.8, volumes, [*remarks, "synthetic"], standing)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    title, said, small, research = (text.get_window_extent() for text in figure.texts)
    legend = figure.legends[0].get_window_extent()
    broken = figure.texts[1].get_text().split("\n")
    assert len(broken) > 1
    assert all(any(remark in line for line in broken) for remark in remarks)  # no line ends within one
    assert figure.texts[2].get_text().count("\n") == 2
    for box in (title, said, small, research):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
    assert said.y1 <= title.y0
    assert small.y1 <= research.y0
    assert small.y1 <= min(text.get_window_extent().y0 for text in figure.legends[0].get_texts())
    assert legend.y1 < min(panel.get_window_extent().y0 for panel in figure.axes)


def test_only_regions_in_the_plane_are_drawn() -> None:
    oedema = np.where(lesion() > 0, 2, 0).astype(np.uint8)
    counts = [
        [len(panel.collections) for panel in draw_overlay(brain(), classes, "case", "flair", 1.0).axes]
        for classes in (np.zeros(SHAPE, dtype=np.uint8), oedema, lesion())
    ]
    assert counts[0] == [0, 0, 0]
    assert all(none < one < three for none, one, three in zip(*counts, strict=True))


def test_a_mask_that_knows_the_whole_tumour_only_is_drawn_as_such() -> None:
    whole = np.where(lesion() > 0, WHOLE_TUMOUR, 0).astype(np.uint8)
    oedema = np.where(lesion() > 0, 2, 0).astype(np.uint8)  # whole tumour, and no other region
    shown, alike = (draw_overlay(brain(), classes, "case", "flair", 1.0) for classes in (whole, oedema))
    assert [len(panel.collections) for panel in shown.axes] == [len(panel.collections) for panel in alike.axes]
    assert len(shown.axes[0].collections) > 0
    assert "Whole tumour" in texts(shown)
    assert "Tumour core" not in texts(shown)
    assert "Enhancing" not in texts(shown)


def test_a_network_without_a_task_leaves_its_statements_out() -> None:
    without_seg = texts(draw_overlay(brain(), None, "case", "flair", 1.0, idh_mutant_probability=0.5))
    assert "Whole tumour" not in without_seg
    assert "IDH-mutant probability 0.50" in without_seg
    assert "IDH" not in texts(draw_overlay(brain(), lesion(), "case", "flair", 1.0))


def test_an_empty_image_is_drawn_black_not_refused() -> None:
    figure = draw_overlay(np.zeros(SHAPE), None, "empty", "flair", 1.0)
    assert all(float(panel.images[0].get_array().max()) == 0.0 for panel in figure.axes)


def test_the_background_stays_black_though_zero_is_a_mean_intensity() -> None:
    figure = draw_overlay(brain(), None, "case", "flair", 1.0)
    axial = np.asarray(figure.axes[0].images[0].get_array())
    assert axial[:4].max() == 0.0
    assert axial[4:46, 4:36].min() > 0.0


def test_the_figure_belongs_to_no_window_and_saves(tmp_path: Path) -> None:
    before = plt.get_fignums()
    draw_overlay(brain(), lesion(), "case", "flair", 1.0).savefig(tmp_path / "overlay.png", dpi=50)
    assert plt.get_fignums() == before
    assert imread(tmp_path / "overlay.png").shape[:2] == (320, 660)


@pytest.mark.parametrize(("spacing_mm", "length_mm"), [(1.0, 10.0), (2.0, 10.0), (2.5, 50.0)])
def test_the_scale_bar_has_its_length_and_does_not_widen_the_panel(spacing_mm: float, length_mm: float) -> None:
    panel = draw_overlay(brain(), None, "case", "flair", spacing_mm).axes[0]
    (bar,) = panel.lines
    start, stop = bar.get_xdata()
    assert (stop - start) * spacing_mm == length_mm
    assert f"{length_mm:.0f} mm" in [text.get_text() for text in panel.texts]
    assert panel.get_xlim() == (-0.5, SHAPE[0] - 0.5)

import numpy as np
from figure_contents import texts
from matplotlib.colors import to_rgba

from mttu.data.labels import REGIONS
from mttu.figures.comparison import FILL_ALPHA, draw_comparison
from mttu.figures.overlay import PLANES, REGION_STYLES, choose_slices


def test_fill_is_prediction_and_line_is_truth_on_phantom_masks(phantom_cases):
    case = phantom_cases[0]
    shifted = np.roll(case.classes, 2, axis=0)
    dice = {"shifted": {"wt": 0.812, "tc": 0.7, "et": None}}
    figure = draw_comparison(
        case.image, case.classes, {"shifted": shifted, "none": shifted * 0}, case.case_id, "flair", 1.0, dice
    )
    panels = np.array(figure.axes).reshape(2, 3)
    areas = (case.classes > 0).sum(axis=(0, 1))
    index = int(areas.argmax())  # cut where the truth is largest
    fill = np.asarray(panels[0, 0].images[1].get_array())
    for region, members in (("wt", 2), ("tc", 1), ("et", 3)):
        expected = members == shifted[:, :, index].T
        assert expected.any()
        np.testing.assert_array_equal((fill == to_rgba(REGION_STYLES[region][1], FILL_ALPHA)).all(axis=-1), expected)
    assert (np.asarray(panels[1, 0].images[1].get_array()) == 0.0).all()
    slices = choose_slices(case.image, case.classes > 0)
    for column, plane in enumerate(PLANES):
        section = np.take(case.classes, slices[plane.axis], plane.axis)
        present = sum(bool(np.isin(section, members).any()) for members in REGIONS.values())
        assert [len(panel.collections) for panel in panels[:, column]] == [present, present]  # a line per region
    (outline, *_) = panels[0, 0].collections[0].get_paths()
    rows, columns = np.nonzero((case.classes[:, :, index] > 0).T)
    extents = outline.get_extents()
    np.testing.assert_allclose(
        [extents.x0, extents.x1, extents.y0, extents.y1],
        [columns.min() - 0.5, columns.max() + 0.5, rows.min() - 0.5, rows.max() + 0.5],
    )
    shown = texts(figure)
    assert "shifted\nDice WT 0.81, TC 0.70, ET n.d." in shown
    assert "none: nothing predicted" in shown
    assert f"{case.case_id}, FLAIR" in shown
    assert f"Axial, plane {index + 1} of 16" in shown


def test_panels_are_cut_to_the_brain_and_keep_their_orientation():
    image = np.zeros((40, 50, 30), np.float32)
    image[10:30, 5:45, 8:20] = np.random.default_rng(0).normal(5, 1, (20, 40, 12))
    axial, coronal, sagittal = draw_comparison(image, None, {"A": None}, "case", "t1ce", 2.0).axes
    assert (axial.get_xlim(), axial.get_ylim()) == ((7.5, 31.5), (46.5, 2.5))
    assert (coronal.get_xlim(), coronal.get_ylim()) == ((7.5, 31.5), (5.5, 21.5))
    assert (sagittal.get_xlim(), sagittal.get_ylim()) == ((2.5, 46.5), (5.5, 21.5))
    (bar,) = axial.lines
    assert np.ptp(bar.get_xdata()) * 2.0 == 10.0


def test_planes_go_through_the_truth_whatever_was_predicted():
    image = np.ones((12, 12, 12), np.float32)
    truth, predicted = np.zeros((2, 12, 12, 12), np.uint8)
    truth[4:6, 4:6, 3] = 2
    predicted[:, :, 9] = 2
    assert "Axial, plane 4 of 12" in texts(draw_comparison(image, truth, {"A": predicted}, "case", "flair", 1.0))


def test_an_unknown_or_empty_truth_is_said():
    image = np.random.default_rng(0).normal(5, 1, (12, 12, 12)).astype(np.float32)
    classes = np.zeros(image.shape, np.uint8)
    classes[4:8, 4:8, 2:5] = 2
    unknown = draw_comparison(image, None, {"A": classes, "B": None}, "case", "flair", 1.0)
    assert "truth is not known" in texts(unknown)
    assert "B: does not segment" in texts(unknown)
    assert "plane 3 of 12" in texts(unknown)  # cut where the prediction is
    assert len(unknown.axes[3].images) == 1
    empty = draw_comparison(image, classes * 0, {"A": classes}, "case", "flair", 1.0)
    assert "truth is empty" in texts(empty)
    assert "no systems" in texts(draw_comparison(image, classes, {}, "case", "flair", 1.0))

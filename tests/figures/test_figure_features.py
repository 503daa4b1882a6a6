import numpy as np
import pytest
from figure_contents import notes, texts

from mttu.figures.features import FeatureCase, draw_feature_maps


def cut(level, index, size):
    """The axial plane of a level whose grid is coarser than the image's."""
    return level[..., int((index + 0.5) * level.shape[-1] / size)]


def test_an_untrained_networks_levels_on_phantom_cases(phantom_cases):
    pair = phantom_cases[:2]
    cases = [FeatureCase(case.case_id, case.image, case.classes, case.levels) for case in pair]
    figure = draw_feature_maps(cases, channels={"F2": 3}, index=5)
    panels = np.array(figure.axes[: 3 * 7]).reshape(3, 7)
    assert [panel.get_title().split("\n")[0] for panel in panels[0]] == ["FLAIR", "mask", "F1", "F2", "F3", "F4", "F5"]
    assert panels[0, 2].get_title() == "F1\nmean of 4 ch.\n16³"
    assert panels[0, 3].get_title() == "F2\nch. 3 of 4\n8³"
    assert panels[0, 6].get_title() == "F5\nmean of 16 ch.\n2³"
    for column, level in enumerate(("F1", "F2", "F3", "F4", "F5"), start=2):
        maps = [cut(case.levels[level], 5, 16) for case in pair]
        maps = [found[3] if level == "F2" else np.abs(found).mean(axis=0) for found in maps]
        limits = np.percentile(np.concatenate([found.ravel() for found in maps]), (1, 99))
        for row, expected in enumerate(maps):
            (picture,) = panels[row, column].images
            np.testing.assert_allclose(picture.get_array(), expected.T, rtol=1e-5)
            np.testing.assert_allclose(picture.get_clim(), limits, rtol=1e-5)  # one scale for both cases
            assert picture.get_extent() == [-0.5, 15.5, 15.5, -0.5]  # stretched over the image
    assert pair[0].case_id in texts(figure)
    assert "Enhancing" in texts(figure)
    assert "arbitrary units" in notes(figure)


def test_the_plane_goes_through_the_largest_section_and_can_be_chosen():
    image = np.random.default_rng(0).normal(size=(8, 10, 6)).astype(np.float32)
    classes = np.zeros(image.shape, np.uint8)
    classes[2:5, 3:6, 4] = 2
    level = np.arange(8 * 10 * 6, dtype=float).reshape(1, 8, 10, 6)
    figure = draw_feature_maps([FeatureCase("a", image, classes, {"F1": level})])
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array(), level[0, :, :, 4].T)
    coronal = draw_feature_maps([FeatureCase("a", image, classes, {"F1": level})], "Coronal")
    np.testing.assert_array_equal(coronal.axes[2].images[0].get_array(), level[0, :, 3, :].T)
    assert coronal.axes[2].images[0].get_extent() == [-0.5, 7.5, -0.5, 5.5]
    cut_already = draw_feature_maps([FeatureCase("a", image, classes, {"F1": -level[..., 0]})])
    np.testing.assert_array_equal(cut_already.axes[2].images[0].get_array(), level[0, :, :, 0].T)
    with pytest.raises(ValueError, match="'Oblique' is unknown"):
        draw_feature_maps([FeatureCase("a", image, classes, {"F1": level})], "Oblique")


def test_what_cannot_be_shown_is_said():
    image = np.ones((8, 8, 8), np.float32)
    cases = [
        FeatureCase("a", image, None, {"F1": np.full((2, 8, 8, 8), np.nan), "F2": np.full((2, 4, 4, 4), 7.0)}),
        FeatureCase("b", image, np.zeros((8, 8, 8), np.uint8), {"F2": np.full((2, 4, 4, 4), 7.0)}),
    ]
    figure = draw_feature_maps(cases)
    panels = np.array(figure.axes[: 3 * 4]).reshape(3, 4)
    said = [[" ".join(text.get_text() for text in panel.texts).replace("\n", " ") for panel in row] for row in panels]
    assert said[0] == ["a", "no mask", "not a number", "constant 7"]
    assert said[1] == ["b", "mask is empty", "not built", "constant 7"]
    assert "no cases" in texts(draw_feature_maps([]))

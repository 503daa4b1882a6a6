import numpy as np
import pytest
from figure_contents import notes, texts
from scipy.spatial.distance import cdist

from mttu.figures.surface import (
    SurfaceCase,
    View,
    cast_rays,
    draw_surface_distance,
    find_border,
    frame_masks,
    measure_distances,
    shade,
)

MM = (1.0, 1.0, 1.0)


def ball(radius, shape=(24, 24, 24), centre=(12, 12, 12)):
    grid = np.stack(np.indices(shape), axis=-1)
    return np.linalg.norm(grid - centre, axis=-1) <= radius


@pytest.mark.parametrize("sampling", [MM, (1.0, 2.0, 0.5)])
def test_distances_equal_brute_force(sampling):
    generator = np.random.default_rng(0)
    pairs = [*(generator.random((4, 2, 6, 7, 5)) > 0.6), (ball(1, (6, 7, 5), (2, 3, 2)), np.ones((6, 7, 5), bool))]
    for predicted, truth in pairs:
        distances = measure_distances(predicted, truth, sampling)
        of_prediction, of_truth = (np.argwhere(find_border(mask)) * sampling for mask in (predicted, truth))
        expected = cdist(of_prediction, of_truth).min(axis=1)
        np.testing.assert_allclose(distances[find_border(predicted)], expected)


def test_the_border_has_a_face_towards_the_outside():
    mask = np.zeros((5, 5, 5), bool)
    mask[1:4, 1:4, 1:4] = True
    inner = np.zeros_like(mask)
    inner[2, 2, 2] = True
    np.testing.assert_array_equal(find_border(mask), mask & ~inner)
    assert find_border(np.ones((3, 3, 3), bool)).sum() == 26


@pytest.mark.parametrize("view", [View(), View(90.0, 0.0), View(-30.0, 60.0)])
def test_rays_meet_a_ball_on_its_near_side(view):
    mask = ball(8)
    frame = frame_masks([mask], MM, view, 40)
    hits = cast_rays(mask, MM, view, frame)
    points = hits.indices[:, hits.found].T - 12
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 8.3, atol=0.8)
    assert (points @ view.axes[2] > -1.5).all()
    assert hits.found.sum() * frame.pixel_mm**2 == pytest.approx(np.pi * 8.0**2, rel=0.1)


def test_a_ball_stays_round_where_voxels_are_not_cubes():
    spacing = (1.0, 2.0, 0.8)
    grid = np.stack(np.indices((24, 12, 30)), axis=-1) * spacing
    mask = np.linalg.norm(grid - (12, 12, 12), axis=-1) <= 8
    hits = cast_rays(mask, spacing, View(), frame_masks([mask], spacing, View(), 40))
    points = hits.indices[:, hits.found].T * spacing - 12
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 8.3, atol=1.2)


def test_front_left_and_above_are_where_they_belong():
    mask = ball(3)
    mask[20:22, 11:14, 11:14] = True  # the patient's left, and nothing else sticks out
    hits = cast_rays(mask, MM, View(0.0, 0.0), frame_masks([mask], MM, View(0.0, 0.0), 40))
    columns = np.flatnonzero(hits.found.any(axis=0))
    gap = columns[np.flatnonzero(np.diff(columns) > 1)[0]]
    assert (columns <= gap).sum() > 2 * (columns > gap).sum()  # seen from the front, left is on the right
    assert hits.indices[1][hits.found].min() < 10  # the ball's front
    high = ball(3)
    high[11:14, 11:14, 20:22] = True
    hits = cast_rays(high, MM, View(0.0, 0.0), frame_masks([high], MM, View(0.0, 0.0), 40))
    rows = np.flatnonzero(hits.found.any(axis=1))
    gap = rows[np.flatnonzero(np.diff(rows) > 1)[0]]
    assert (rows <= gap).sum() < (rows > gap).sum()  # the head's side is on top


def test_not_even_a_single_voxel_vanishes():
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, 4] = True
    frame = frame_masks([mask], MM, View(), 40)
    assert cast_rays(mask, MM, View(), frame).found.any()


def test_what_faces_the_lamp_is_brighter():
    mask = ball(8)
    frame = frame_masks([mask], MM, View(0.0, 0.0), 40)
    hits = cast_rays(mask, MM, View(0.0, 0.0), frame)
    brightness = np.where(hits.found, shade(mask, MM, View(0.0, 0.0), hits), np.nan)
    rows, columns = brightness.shape
    assert np.nanmean(brightness[: rows // 2, : columns // 2]) > np.nanmean(brightness[rows // 2 :, columns // 2 :])
    assert np.nanmin(brightness) >= 0.5
    assert np.nanmax(brightness) <= 1.0


def test_a_perfect_prediction_has_one_colour_and_a_larger_one_its_distance():
    truth = ball(5)
    case = SurfaceCase("case-1, IDH mutant", truth, {"perfect": truth, "larger": ball(8), "none": truth & False})
    figure = draw_surface_distance([case], view=View(0.0, 0.0), pixels=40)
    perfect, larger, none, _, bar = figure.axes
    at_surface = measure_distances(ball(8), truth, MM)[find_border(ball(8))]
    assert "mean 0.0, largest 0.0 voxels" in [text.get_text() for text in perfect.texts]
    said = f"mean {at_surface.mean():.1f}, largest {at_surface.max():.1f} voxels"
    assert [text.get_text() for text in larger.texts] == [said]
    assert "nothing predicted" in [text.get_text() for text in none.texts]
    pictures = [np.asarray(panel.images[0].get_array()) for panel in (perfect, larger, none)]
    middle = pictures[0].shape[0] // 2
    ratio = pictures[0][middle, middle, :3] / pictures[1][middle, middle, :3]
    assert np.ptp(ratio) > 0.3  # 3 voxels have another colour than 0, not only another brightness
    assert (pictures[2] == 1.0).all()
    assert (bar.get_xlim(), bar.get_xlabel()) == ((0.0, 5.0), "distance of the predicted to the true surface (voxels)")
    assert all(len(panel.collections) == 1 for panel in (perfect, larger, none))  # the outline of the truth
    assert "case-1, IDH mutant" in texts(figure)
    assert "outline of the true mask" in notes(figure)


def test_phantom_cases_fill_a_grid_of_systems(phantom_cases):
    cases = []
    for case in phantom_cases[:2]:
        truth = case.classes > 0
        systems = {f"system {number}": np.roll(truth, number, axis=0) for number in range(5)}
        cases.append(SurfaceCase(case.case_id, truth, systems, (2.0, 2.0, 2.0)))
    figure = draw_surface_distance(cases, unit="mm", largest=10.0, pixels=24)
    panels = np.array(figure.axes[:16]).reshape(4, 4)
    titles = [[panel.get_title() for panel in row] for row in panels]
    assert titles == [[f"system {number}" for number in range(4)], ["system 4", "", "", ""]] * 2
    distances = measure_distances(np.roll(cases[0].truth, 2, axis=0), cases[0].truth, (2.0, 2.0, 2.0))
    at_surface = distances[find_border(np.roll(cases[0].truth, 2, axis=0))]
    said = f"mean {at_surface.mean():.1f}, largest {at_surface.max():.1f} mm"
    assert said in [text.get_text() for text in panels[0, 2].texts]
    assert figure.axes[-1].get_xlim() == (0.0, 10.0)
    headers = figure.axes[16:18]
    assert [header.texts[0].get_text() for header in headers] == [case.title for case in cases]
    figure.draw_without_rendering()
    tops = [panels[row, 0].title.get_window_extent().y1 for row in (0, 2)]
    bottoms = [header.texts[0].get_window_extent().y0 for header in headers]
    assert bottoms[0] > tops[0] > bottoms[1] > tops[1]  # each title stands above its case, whatever its length


@pytest.mark.parametrize("extents", [(4, 4, 20), (14, 14, 8), (16, 16, 10)])
def test_texts_keep_apart_whatever_the_tumours_shape(extents, caplog):
    cases = []
    for title, box in (("case-1", extents), ("case-2", (12, 12, 12))):
        truth = np.pad(np.ones(box, bool), 3)
        masks = {f"system {number}": np.roll(truth, number % 3, axis=2) for number in range(6)}
        cases.append(SurfaceCase(f"{title}, IDH mutant, whole tumour", truth, masks))
    figure = draw_surface_distance(cases, pixels=24)
    figure.set_dpi(72)
    figure.draw_without_rendering()
    texts = [panel.title for panel in figure.axes] + [text for panel in figure.axes for text in panel.texts]
    assert caplog.text == ""  # matplotlib has nothing to complain of
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert len(boxes) == 2 * (6 + 6 + 1 + 1)  # of each case: names, numbers, its title, the scale bar's length
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)


def test_empty_masks_are_said_and_shapes_checked():
    empty, full = np.zeros((8, 8, 8), bool), ball(2, (8, 8, 8), (4, 4, 4))
    cases = [
        SurfaceCase("a", empty, {"A": empty}),
        SurfaceCase("b", empty, {"A": full}),
        SurfaceCase("c", full, {}),
    ]
    shown = texts(draw_surface_distance(cases, pixels=24))
    assert "no tumour in truth\nand predictions" in shown
    assert "truth is empty:\ndistance not defined" in shown
    assert "no predictions" in shown
    assert "no cases" in texts(draw_surface_distance([]))
    with pytest.raises(ValueError, match=r"truth has shape \(8, 8, 8\), but .*\(4, 8, 8\)"):
        draw_surface_distance([SurfaceCase("a", full, {"A": full[:4]})])

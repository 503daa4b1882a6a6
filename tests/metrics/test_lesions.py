import numpy as np
import pytest
from numpy.typing import NDArray

from mttu.data.labels import WHOLE_TUMOUR, find_regions
from mttu.metrics.lesions import LesionScores, measure_surface_hd95_mm, score_lesions

EDEMA = 2
CubeAt = tuple[int, int, int, int]
"""First voxel on each axis, and the length of an edge."""


def masks(*cubes: CubeAt, size: int = 40) -> NDArray[np.uint8]:
    volume = np.zeros((size, size, size), np.uint8)
    for x, y, z, edge in cubes:
        volume[x : x + edge, y : y + edge, z : z + edge] = EDEMA
    return volume


def score_wt(predicted: NDArray[np.uint8], truth: NDArray[np.uint8], spacing_mm: float = 1.0) -> LesionScores:
    return score_lesions(predicted, truth, [spacing_mm] * 3)["wt"]


BIG, FAR, TINY = (2, 2, 2, 8), (26, 26, 26, 6), (26, 2, 2, 3)  # 512, 216 and 27 voxels


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        ((), (), LesionScores(1.0, 0.0, 0, 0, 0)),
        ((BIG,), (BIG,), LesionScores(1.0, 0.0, 1, 0, 0)),
        ((BIG,), (BIG, FAR), LesionScores(0.5, 187.0, 2, 1, 0)),  # one right, one missed
        ((BIG, FAR), (BIG,), LesionScores(0.5, 187.0, 1, 0, 1)),  # one right, one false
        ((FAR,), (), LesionScores(0.0, 374.0, 0, 0, 1)),
        ((TINY,), (), LesionScores(0.0, 374.0, 0, 0, 1)),  # a false lesion counts at any size
        ((), (TINY,), LesionScores(1.0, 0.0, 0, 0, 0)),  # 27 mm^3 aren't counted
        ((TINY,), (TINY,), LesionScores(1.0, 0.0, 0, 0, 0)),  # and what touches them is no false lesion
        ((FAR,), (BIG,), LesionScores(0.0, 374.0, 1, 1, 1)),
    ],
)
def test_lesions_are_found_missed_or_false(
    predicted: tuple[CubeAt, ...], truth: tuple[CubeAt, ...], expected: LesionScores
) -> None:
    assert score_wt(masks(*predicted), masks(*truth)) == expected


def test_the_smallest_counted_lesion_is_above_50_mm3() -> None:
    assert score_wt(masks(), masks(TINY), spacing_mm=1.22).num_lesions == 0  # 27 x 1.816 = 49.03 mm^3
    assert score_wt(masks(), masks(TINY), spacing_mm=1.23).num_lesions == 1  # 27 x 1.861 = 50.24 mm^3
    assert score_wt(masks(), masks((2, 2, 2, 1)), spacing_mm=50 ** (1 / 3) - 1e-9).num_lesions == 0


@pytest.mark.parametrize(("gap", "num_lesions"), [(5, 1), (6, 1), (7, 2)])
def test_parts_of_one_lesion_are_near_each_other(gap: int, num_lesions: int) -> None:
    # each grows by 3 voxels: up to 6 voxels between them leave none free
    found = score_wt(masks(), masks((2, 2, 2, 4), (6 + gap, 2, 2, 4)))
    assert (found.num_lesions, found.num_missed_lesions) == (num_lesions, num_lesions)


def test_a_component_belongs_whole_to_each_lesion_that_it_touches() -> None:
    truth = masks((2, 2, 2, 4), (16, 2, 2, 4))
    predicted = masks((2, 2, 2, 4))
    predicted[2:20, 2:6, 2:6] = EDEMA  # one bar over both, 18 x 4 x 4
    found = score_wt(predicted, truth)
    assert found.lesion_dice == pytest.approx(2 * 64 / (64 + 288))  # the same for both
    assert (found.num_lesions, found.num_false_lesions) == (2, 0)


def test_a_component_near_a_lesion_belongs_to_it() -> None:
    near, apart = (12, 2, 2, 2), (13, 2, 2, 2)  # the lesion fills 2 to 9 and grows to 12
    found = score_wt(masks(BIG, near), masks(BIG))
    assert (found.lesion_dice, found.num_false_lesions) == (pytest.approx(2 * 512 / (512 + 520)), 0)
    assert score_wt(masks(BIG, apart), masks(BIG)).num_false_lesions == 1


def test_components_touch_at_corners() -> None:
    both = masks((20, 20, 20, 2), (22, 22, 22, 2))
    assert score_wt(both, masks()).num_false_lesions == 1


def test_the_surface_distance_has_the_values_of_deepminds_tool() -> None:
    grid = np.indices((48, 48, 48))
    ball = ((grid - 24) ** 2).sum(axis=0) <= 100
    spurious = ((grid - 8) ** 2).sum(axis=0) <= 16
    assert measure_surface_hd95_mm(np.roll(ball, 3, axis=0), ball, (1, 1, 1)) == pytest.approx(8**0.5)
    assert measure_surface_hd95_mm(ball | spurious, ball, (1, 1, 1)) == pytest.approx(18.138357)


def test_distances_are_in_millimetres_along_each_axis() -> None:
    truth = masks((10, 10, 10, 8)) > 0
    for axis, spacing_mm in enumerate((1.0, 2.0, 5.0)):
        found = measure_surface_hd95_mm(np.roll(truth, 4, axis), truth, (1.0, 2.0, 5.0))
        assert found == pytest.approx(4 * spacing_mm)


def test_a_region_that_the_masks_do_not_tell_has_no_score() -> None:
    whole = masks(BIG)
    whole[whole > 0] = WHOLE_TUMOUR
    found = score_lesions(whole, masks(BIG), [1, 1, 1])
    assert (found["wt"].lesion_dice, found["tc"], found["et"]) == (1.0, LesionScores(), LesionScores())
    assert score_lesions(masks(), masks(), [1, 1, 1], find_regions("whole-tumour"))["et"] == LesionScores()


def test_the_edge_of_the_volume_is_a_surface() -> None:
    predicted, truth = masks(), masks()
    predicted[:10], truth[2:10] = EDEMA, EDEMA
    found = score_wt(predicted, truth)
    assert found.lesion_hd95_mm == pytest.approx(2.0)  # their other ends are at the same place
    assert found.lesion_dice == pytest.approx(16 / 18)

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

from mttu.data.labels import REGIONS, to_classes
from mttu.metrics.segmentation import measure_hausdorff_mm, score_regions

Mask = NDArray[np.bool_]
ISOTROPIC = (1.0, 1.0, 1.0)


def find_border(mask: Mask) -> NDArray[np.int64]:
    """Voxels with a face on the outside, found neighbour by neighbour."""
    padded = np.pad(mask, 1)
    centre = (slice(1, -1),) * 3
    inner = np.ones_like(mask)
    for axis in range(3):
        for step in (-1, 1):
            inner &= np.roll(padded, step, axis)[centre]
    return np.argwhere(mask & ~inner)


def by_brute_force(predicted: Mask, truth: Mask, spacing_mm: tuple[float, ...], percentile: float) -> float:
    table = cdist(find_border(predicted) * spacing_mm, find_border(truth) * spacing_mm)
    return max(np.percentile(table.min(axis=1), percentile), np.percentile(table.min(axis=0), percentile))


def test_ten_voxels_and_one_stray_by_hand() -> None:
    truth = np.zeros((10, 15, 1), bool)
    truth[:, 0] = True
    predicted = truth.copy()
    predicted[4, 10] = True  # ten distances of 0 and one of 10: the 95th percentile lies half-way between the last two
    assert measure_hausdorff_mm(predicted, truth, ISOTROPIC) == 5
    assert measure_hausdorff_mm(truth, predicted, ISOTROPIC) == 5
    assert measure_hausdorff_mm(predicted, truth, ISOTROPIC, percentile=100) == 10
    assert measure_hausdorff_mm(predicted, truth, (7.0, 0.5, 7.0), percentile=100) == 5


def test_spacing_belongs_to_its_axis() -> None:
    first, second = np.zeros((2, 4, 4, 4), bool)
    first[1, 1, 1] = second[2, 2, 3] = True
    assert measure_hausdorff_mm(first, second, (2.0, 3.0, 3.0)) == 7  # 2, 3 and 6 mm


def test_a_border_is_where_the_mask_ends_or_the_volume_does() -> None:
    full, centre = np.ones((5, 5, 5), bool), np.zeros((5, 5, 5), bool)
    centre[2, 2, 2] = True
    # the inside of the cube is no border; its corners are the farthest from the centre
    assert measure_hausdorff_mm(full, centre, ISOTROPIC, 100) == pytest.approx(np.sqrt(12))
    ball = full.copy()
    ball[0] = ball[-1] = False
    assert measure_hausdorff_mm(full, ball, ISOTROPIC, 100) == by_brute_force(full, ball, ISOTROPIC, 100) == 1


def test_no_distance_to_nothing() -> None:
    some, none = np.ones((2, 2, 2), bool), np.zeros((2, 2, 2), bool)
    for pair in ((some, none), (none, some), (none, none)):
        assert measure_hausdorff_mm(*pair, ISOTROPIC) is None


@pytest.mark.parametrize("percentile", [0, -1, 100.1])
def test_a_percentile_out_of_range_is_refused(percentile: float) -> None:
    mask = np.ones((2, 2, 2), bool)
    with pytest.raises(ValueError, match="percentile is"):
        measure_hausdorff_mm(mask, mask, ISOTROPIC, percentile)
    with pytest.raises(ValueError, match="must agree"):
        measure_hausdorff_mm(mask, mask[:1], ISOTROPIC)


MASKS = st.tuples(*[st.integers(1, 6)] * 3).flatmap(lambda shape: st.tuples(*[arrays(np.bool_, shape)] * 2))


@given(MASKS, st.tuples(*[st.sampled_from((0.5, 1.0, 2.5))] * 3), st.sampled_from((50.0, 95.0, 100.0)))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_distances_equal_brute_force(
    masks: tuple[Mask, Mask], spacing_mm: tuple[float, float, float], percentile: float
) -> None:
    found = measure_hausdorff_mm(*masks, spacing_mm, percentile)
    if not all(mask.any() for mask in masks):
        assert found is None
    else:
        assert found == pytest.approx(by_brute_force(*masks, spacing_mm, percentile), rel=1e-6)


@pytest.mark.real
@pytest.mark.parametrize("case_id", ["TCGA-DU-7294", "TCGA-FG-6692"])
def test_real_masks_shifted_by_some_voxels_are_as_many_mm_away(real_data: Path, case_id: str) -> None:
    image = nib.load(real_data / "tcga_lgg" / case_id / f"{case_id}_seg.nii.gz")
    volume = np.asarray(image.dataobj)
    places = np.argwhere(volume)
    box = tuple(slice(low - 4, high + 5) for low, high in zip(places.min(axis=0), places.max(axis=0), strict=True))
    truth = to_classes(volume[box], "brats", case_id)
    compared = 0
    for voxels, axis in ((1, 0), (2, 1), (3, 2)):
        predicted = np.roll(truth, voxels, axis)
        assert not np.take(predicted, range(voxels), axis).any()  # nothing came round
        scores = score_regions(predicted, truth, ISOTROPIC)
        for region, members in REGIONS.items():
            masks = [np.isin(mask, members) for mask in (predicted, truth)]
            if not masks[1].any():
                assert scores[region].status == "both-empty"
                continue
            assert measure_hausdorff_mm(*masks, ISOTROPIC, percentile=100) == voxels
            borders = [find_border(mask) for mask in masks]
            distances = [KDTree(to).query(of)[0] for of, to in (borders, borders[::-1])]
            expected = max(np.percentile(found, 95) for found in distances)
            assert scores[region].hd95_mm == pytest.approx(expected, rel=1e-6)
            compared += 1
    assert compared == (6 if case_id == "TCGA-DU-7294" else 9)  # the former has no enhancing tumour

import numpy as np
import pytest
from small_cases import MODALITIES, SHAPE, case_from_folder, draw_brain, draw_lesion, draw_volumes

from mttu.config import PrepareSettings
from mttu.data.cache_space import estimate_bytes
from mttu.data.preprocess import prepare_case
from mttu.data.sources import digest_readable
from mttu.errors import InputError

FULL = PrepareSettings(field_of_view="full")


def test_z_scores_inside_the_brain_and_zero_outside(make_case):
    prepared = prepare_case(make_case("A"), MODALITIES, FULL)
    brain = draw_brain(SHAPE)
    assert prepared.image.dtype == np.float16
    assert prepared.image.shape == (4, *SHAPE)
    inside = prepared.image[:, brain].astype(np.float64)
    np.testing.assert_allclose(inside.mean(axis=1), 0, atol=1e-3)
    np.testing.assert_allclose(inside.std(axis=1), 1, atol=1e-3)
    assert not prepared.image[:, ~brain].any()


def test_each_modality_is_normalised_on_its_own_by_hand_computed_values(make_case):
    volumes = draw_volumes()
    values = volumes["t1ce"][draw_brain(SHAPE)].astype(np.float64)
    prepared = prepare_case(make_case("A", volumes), MODALITIES, FULL)
    expected = (volumes["t1ce"][10, 12, 9] - values.mean()) / values.std()
    assert prepared.image[1, 10, 12, 9] == pytest.approx(expected, rel=1e-3)


def test_large_offsets_do_not_cost_precision(make_case):
    volumes = draw_volumes()
    shifted = {**volumes, "t1": np.where(draw_brain(SHAPE), volumes["t1"].astype(np.float32) + 1e5, 0)}
    plain = prepare_case(make_case("A", volumes), MODALITIES, FULL)
    offset = prepare_case(make_case("B", shifted), MODALITIES, FULL)
    np.testing.assert_allclose(offset.image[2].astype(float), plain.image[2].astype(float), atol=2e-3)


@pytest.mark.parametrize("brain_mask", [False, True])
def test_volumes_with_a_fourth_axis_of_length_1_are_prepared_to_the_same_bits(make_case, brain_mask):
    volumes = draw_volumes() | ({"brainmask": draw_brain(SHAPE).astype(np.uint8)} if brain_mask else {})
    four = {name: voxels[..., None] for name, voxels in volumes.items()}
    plain, squeezed = make_case("A", volumes), make_case("B", four)
    assert estimate_bytes(squeezed, MODALITIES, FULL) == estimate_bytes(plain, MODALITIES, FULL)
    assert digest_readable(squeezed) == digest_readable(plain)
    one, other = prepare_case(plain, MODALITIES, FULL), prepare_case(squeezed, MODALITIES, FULL)
    np.testing.assert_array_equal(other.image, one.image)
    np.testing.assert_array_equal(other.seg, one.seg)
    assert other.geometry == one.geometry


def test_the_crop_is_the_brain_s_box_and_its_margin_within_the_grid(make_case):
    brain = draw_brain(SHAPE)
    case = make_case("A")
    for margin in (0, 1, 30):
        prepared = prepare_case(case, MODALITIES, PrepareSettings(margin_voxels=margin))
        where = np.argwhere(brain)
        first = np.maximum(where.min(axis=0) - margin, 0)
        last = np.minimum(where.max(axis=0) + margin, np.array(SHAPE) - 1)
        assert prepared.geometry.crop_start == tuple(first)
        assert prepared.image.shape[1:] == prepared.geometry.crop_shape == tuple(last - first + 1)
        assert prepared.seg is not None
        np.testing.assert_array_equal(prepared.seg > 0, draw_lesion(SHAPE)[tuple(map(slice, first, last + 1))] > 0)


def test_thick_slices_become_isotropic(make_case):
    prepared = prepare_case(make_case("A", affine=np.diag([-1.0, -1, 3, 1])), MODALITIES, FULL)
    assert prepared.image.shape == (4, 20, 24, 54)
    assert prepared.seg is not None
    np.testing.assert_array_equal(prepared.seg[:, :, 1::3] > 0, draw_lesion(SHAPE) > 0)
    brain = np.repeat(draw_brain(SHAPE), 3, axis=2)
    assert not prepared.image[:, ~brain].any()
    np.testing.assert_allclose(prepared.image[:, brain].astype(float).std(axis=1), 1, atol=1e-3)


def test_a_case_without_a_mask(make_case):
    volumes = draw_volumes()
    del volumes["seg"]
    assert prepare_case(make_case("A", volumes), MODALITIES, FULL).seg is None


def test_tumour_outside_of_the_field_of_view_is_refused_not_lost(make_case):
    volumes = draw_volumes()
    volumes["seg"][0, 0, :3] = 2
    case = make_case("A", volumes)
    total = np.count_nonzero(volumes["seg"])
    with pytest.raises(InputError, match=f"case A: 3 of {total} tumour voxels lie outside .*field_of_view=full"):
        prepare_case(case, MODALITIES, PrepareSettings(margin_voxels=0))
    kept = prepare_case(case, MODALITIES, FULL).seg
    assert np.count_nonzero(kept) == total


def test_a_spacing_coarser_than_the_brain_is_refused(make_case):
    with pytest.raises(InputError, match="case A: "):
        prepare_case(make_case("A"), MODALITIES, PrepareSettings(spacing_mm=60))


@pytest.mark.real
def test_a_real_patient(real_data):
    case = case_from_folder(real_data / "tcga_lgg" / "TCGA-FG-6692", "brats", MODALITIES)
    prepared = prepare_case(case, MODALITIES, PrepareSettings())
    assert prepared.geometry.shape == (240, 240, 155)
    assert all(96 < extent < 200 for extent in prepared.geometry.crop_shape)
    assert prepared.seg is not None
    assert np.bincount(prepared.seg.ravel())[1:].tolist() == [2477, 20862, 6840]
    brain = prepared.image.any(axis=0)
    np.testing.assert_allclose(prepared.image[:, brain].astype(float).mean(axis=1), 0, atol=1e-3)

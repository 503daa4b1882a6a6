import json

import nibabel as nib
import numpy as np
import pytest
from small_cases import LPS, MODALITIES, draw_lesion

from mttu.config import PrepareSettings
from mttu.data.geometry import Geometry, compare_forms, resample, restore_mask, start_geometry, to_lps
from mttu.data.labels import from_classes
from mttu.data.preprocess import prepare_case
from mttu.data.volumes import write_mask

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.25, 0.2) @ np.diag([-1.0, -1.0, 1.0]), [11.5, 70.25, -33.0]
)
GRIDS = {
    "LPS": LPS,
    "RAS": np.diag([1.0, 1, 1, 1]),
    "flipped LAI": np.diag([-1.0, 1, -1, 1]),
    "permuted PSR": np.array([[0, 0, 1.0, -9], [-1, 0, 0, 4], [0, 1, 0, 2], [0, 0, 0, 1]]),
    "oblique": OBLIQUE,
    "oblique and permuted": OBLIQUE[:, [2, 0, 1, 3]] @ np.diag([1.0, -1, 1, 1]),
}


def dice(first, second):
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


def bring_home(case, tmp_path):
    """Ground truth through preparation, its cached geometry, and the writer: (written, original) voxels."""
    prepared = prepare_case(case, MODALITIES, PrepareSettings())
    geometry = Geometry.from_dict(json.loads(json.dumps(prepared.geometry.to_dict())))
    assert geometry == prepared.geometry
    labels = from_classes(restore_mask(prepared.seg, geometry), case.labels)
    write_mask(tmp_path / "home.nii.gz", labels, geometry)
    written, original = nib.load(tmp_path / "home.nii.gz"), nib.load(case.seg)
    assert written.shape == original.shape
    np.testing.assert_array_equal(written.affine, original.affine)
    for code in ("qform_code", "sform_code"):
        assert written.header[code] == original.header[code]
    return np.asarray(written.dataobj), np.asarray(original.dataobj)


@pytest.mark.parametrize("name", GRIDS)
def test_ground_truth_comes_home_from_any_1_mm_grid(make_case, tmp_path, name):
    voxels, truth = bring_home(make_case(affine=GRIDS[name]), tmp_path)
    assert [dice(voxels == label, truth == label) for label in (1, 2, 4)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("affine", [np.diag([-1.0, -1, 3, 1]), np.diag([1.0, 3, -1, 1])])
def test_ground_truth_comes_home_from_thick_slices(make_case, tmp_path, affine):
    voxels, truth = bring_home(make_case(affine=affine), tmp_path)
    assert min(dice(voxels == label, truth == label) for label in (1, 2, 4)) >= 0.9


def test_ground_truth_nearly_comes_home_from_smaller_voxels(make_case, tmp_path):
    shape = (40, 44, 38)
    seg = draw_lesion(shape)
    seg[8:30, 10:30, 9:27] = 2
    image = np.where(np.pad(np.ones([extent - 4 for extent in shape]), 2) > 0, 100, 0).astype(np.int16)
    image[20:, :, :] *= 2
    volumes = dict.fromkeys(MODALITIES, image) | {"seg": seg}
    voxels, truth = bring_home(make_case("A", volumes, np.diag([-0.9, -0.9, 0.9, 1])), tmp_path)
    assert dice(voxels > 0, truth > 0) >= 0.9


def test_the_same_head_on_two_grids_is_prepared_to_the_same_voxels(make_case, tmp_path):
    first = make_case("A")
    volumes = {}
    for role, path in {**first.images, "seg": first.seg}.items():
        turned = nib.as_closest_canonical(nib.load(path))
        permuted = turned.as_reoriented(nib.orientations.axcodes2ornt("SRA"))
        volumes[role], affine = np.asarray(permuted.dataobj), permuted.affine
    second = make_case("B", volumes, affine)
    assert nib.aff2axcodes(affine) != nib.aff2axcodes(LPS)
    one, other = (prepare_case(case, tuple(case.images), PrepareSettings()) for case in (first, second))
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.seg, other.seg)


def test_lps_means_first_axis_to_the_left():
    ras = np.zeros((4, 5, 6))
    ras[3, 0, 5] = 1  # right, posterior, superior
    assert to_lps(ras, np.eye(4))[0, 4, 5] == 1
    np.testing.assert_array_equal(to_lps(ras, LPS), ras)


def test_geometry_of_thick_slices():
    geometry = start_geometry(nib.Nifti1Image(np.zeros((10, 12, 6)), np.diag([1.0, 1, 3, 1])), 1.0)
    assert geometry.grid_shape == geometry.crop_shape == (10, 12, 18)
    assert geometry.spacing_mm == (1.0, 1.0, 1.0)
    assert geometry.voxel_ml == pytest.approx(0.003)


def test_a_spacing_within_a_thousandth_is_kept():
    near = start_geometry(nib.Nifti1Image(np.zeros((500, 4, 4)), np.diag([1.0009, 1, 1, 1])), 1.0)
    assert near.grid_shape == (500, 4, 4)
    far = start_geometry(nib.Nifti1Image(np.zeros((500, 4, 4)), np.diag([1.002, 1, 1, 1])), 1.0)
    assert far.grid_shape == (501, 4, 4)


def test_resampling_keeps_places_and_smooths_what_it_shrinks():
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32)[:, None, None], (8, 4, 4))
    doubled = resample(ramp, (16, 4, 4), order=1)
    np.testing.assert_allclose(doubled[2:-2, 0, 0], np.arange(16)[2:-2] / 2 - 0.25, atol=1e-6)
    stripes = np.broadcast_to(np.arange(32, dtype=np.float32)[:, None, None] % 2, (32, 4, 4))
    assert np.ptp(resample(stripes, (8, 4, 4), order=1)[2:-2]) < 0.1
    assert resample(ramp, (8, 4, 4), order=1) is ramp


def forms(sform, qform, sform_code=2, qform_code=1):
    header = nib.Nifti1Header()
    header.set_data_shape((240, 240, 155))
    header.set_sform(sform, sform_code)
    header.set_qform(qform, qform_code)
    return header


@pytest.mark.parametrize(
    ("qform", "found"),
    [
        (LPS, None),
        (nib.affines.from_matvec(LPS[:3, :3], LPS[:3, 3] + [0.5, 0.5, 0.5]), None),  # 0.87 mm
        (nib.affines.from_matvec(LPS[:3, :3], LPS[:3, 3] + [0, 37, 0]), "disagree by 37 mm at a corner of the grid"),
        (np.diag([1.0, -1, 1, 1]) @ LPS, "disagree by 432 mm at a corner of the grid"),
        (np.diag([-1.0, 1, 1, 1]) @ LPS, "disagree by 478 mm at a corner of the grid and left and right are opposite"),
        (nib.affines.from_matvec(1.01 * LPS[:3, :3], LPS[:3, 3]), "disagree by 3.71 mm at a corner of the grid"),
    ],
    ids=["same", "rounding", "shifted", "front is back", "left is right", "spacing"],
)
def test_two_placements_in_one_header(qform, found):
    text = compare_forms(forms(LPS, qform), (240, 240, 155))
    if found is None:
        assert text is None
    else:
        assert text.startswith(f"sform (code 2) and qform (code 1) {found}; the sform is used")
    for codes in ((0, 1), (2, 0), (0, 0)):
        assert compare_forms(forms(LPS, qform, *codes), (240, 240, 155)) is None  # only one counts


@pytest.mark.parametrize(("field", "value"), [("quatern_b", 2.0), ("quatern_b", np.nan), ("pixdim", [1, -1, 1, 1] * 2)])
def test_a_qform_that_is_no_placement(field, value):
    header = forms(LPS, LPS)
    header[field] = value
    assert "disagree: the qform is no placement in space" in compare_forms(header, (240, 240, 155))

"""Cases of other spacings than 1 mm: prepared inside a given brain mask, and brought back."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from small_cases import MODALITIES

from mttu.config import PrepareSettings
from mttu.data.geometry import restore_mask
from mttu.data.preprocess import prepare_case

FIELD_MM = np.array([50.0, 60.0, 50.0])
BRAIN_MM, LESION_MM = (21.0, 26.0, 21.0), (9.0, 11.0, 12.0)
LESION_AT_MM = np.array([22.0, 34.0, 26.0])
GRIDS = {
    "thick slices": (1.0, 1.0, 5.0),
    "small voxels": (0.5, 0.5, 0.5),
    "small voxels in thick slices": (0.5, 0.5, 5.0),
    "odd ones": (0.9, 1.2, 2.5),
}


def ellipsoid(shape, spacing, centre, radii):
    places = np.meshgrid(*[(np.arange(n) + 0.5) * size for n, size in zip(shape, spacing, strict=True)], indexing="ij")
    return sum(((x - c) / r) ** 2 for x, c, r in zip(places, centre, radii, strict=True)) < 1


@pytest.fixture
def head(make_case, tmp_path):
    """Builds a head that is not skull-stripped, with a brain mask, on a grid of that spacing: (case, seg, brain)."""

    def build(spacing, case_id="A"):
        shape = np.rint(FIELD_MM / spacing).astype(int)
        brain = ellipsoid(shape, spacing, FIELD_MM / 2, BRAIN_MM)
        seg = np.where(ellipsoid(shape, spacing, LESION_AT_MM, LESION_MM), 2, 0).astype(np.uint8)
        noise = np.random.default_rng(1).integers(0, 20, (4, *shape))
        images = 500 + noise - 300 * brain + 200 * (seg > 0)  # bright skin around a dark brain, nowhere 0
        volumes = dict(zip(MODALITIES, images.astype(np.int16), strict=True)) | {"seg": seg}
        affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
        case = make_case(case_id, volumes, affine)
        path = tmp_path / f"{case_id}_brain.nii.gz"
        nib.save(nib.Nifti1Image(brain.astype(np.uint8), affine), path)
        return replace(case, brain_mask=path), seg, brain

    return build


@pytest.mark.parametrize("name", GRIDS)
def test_a_given_brain_mask_bounds_the_case_at_1_mm(head, name):
    case, _, brain = head(GRIDS[name])
    prepared = prepare_case(case, MODALITIES, PrepareSettings(margin_voxels=3))
    assert prepared.geometry.spacing_mm == pytest.approx((1, 1, 1), abs=0.01)
    inside = prepared.image.any(axis=0)
    assert inside.sum() == pytest.approx(brain.sum() * np.prod(GRIDS[name]), rel=0.03)  # mm^3
    values = prepared.image[:, inside].astype(np.float64)
    np.testing.assert_allclose(values.mean(axis=1), 0, atol=2e-3)
    np.testing.assert_allclose(values.std(axis=1), 1, atol=2e-3)
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(inside.any(axis=others))
        assert occupied[0] == 3
        assert occupied[-1] == inside.shape[axis] - 4


@pytest.mark.parametrize("name", GRIDS)
def test_a_lesion_keeps_place_and_size_and_comes_home(head, name):
    spacing = np.array(GRIDS[name])
    case, seg, _ = head(GRIDS[name])
    prepared = prepare_case(case, MODALITIES, PrepareSettings())
    geometry = prepared.geometry
    volume = (seg > 0).sum() * np.prod(spacing)
    assert np.count_nonzero(prepared.seg) == pytest.approx(volume, rel=0.03)  # mm^3
    centre = (np.argwhere(prepared.seg).mean(axis=0) + geometry.crop_start + 0.5) * geometry.spacing_mm
    np.testing.assert_allclose(centre, (np.argwhere(seg).mean(axis=0) + 0.5) * spacing, atol=0.3)
    bright = prepared.image[0] > 1
    assert 2 * (bright & (prepared.seg > 0)).sum() / (bright.sum() + (prepared.seg > 0).sum()) > 0.9
    home = restore_mask(prepared.seg, geometry)
    assert home.shape == seg.shape
    overlap = 2 * np.count_nonzero(home & seg) / (np.count_nonzero(home) + np.count_nonzero(seg))
    assert overlap > 0.94  # a voxel of 1 mm holds up to eight of 0.5 mm


def test_the_same_head_is_nearly_the_same_from_every_grid(head):
    fine, plain = (
        prepare_case(head((size, size, size), name)[0], MODALITIES, PrepareSettings())
        for name, size in (("fine", 0.5), ("plain", 1.0))
    )
    assert fine.image.shape == plain.image.shape
    assert fine.geometry.grid_shape == plain.geometry.grid_shape
    both = fine.image.any(axis=0) & plain.image.any(axis=0)
    assert np.corrcoef(fine.image[0][both].astype(float), plain.image[0][both].astype(float))[0, 1] > 0.9

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from small_cases import LPS, MODALITIES, SHAPE, draw_brain, draw_volumes

from mttu.data.sources import read_sources
from mttu.errors import InputError


def refusals(case, modalities=MODALITIES):
    with pytest.raises(InputError) as caught:
        read_sources(case, modalities)
    return caught.value.problems


def test_modalities_come_in_the_order_asked_for(make_case):
    volumes = draw_volumes()
    sources = read_sources(make_case("A", volumes), ("t2", "flair"))
    np.testing.assert_array_equal(sources.images[0], volumes["t2"])
    np.testing.assert_array_equal(sources.images[1], volumes["flair"])
    assert sources.seg is not None
    assert sorted(np.unique(sources.seg)) == [0, 1, 2, 3]


def test_the_brain_is_where_any_modality_is_not_zero(make_case):
    volumes = draw_volumes()
    brain = draw_brain(SHAPE)
    volumes["t2"][brain & (np.indices(SHAPE)[0] < 8)] = 0
    volumes["t1"][10, 12, 9] = -3  # as resampling leaves them
    for name in ("flair", "t1ce", "t2"):
        volumes[name][10, 12, 9] = 0
    np.testing.assert_array_equal(read_sources(make_case("A", volumes), MODALITIES).brain, brain)


def test_a_given_brain_mask_decides(make_case):
    volumes = draw_volumes()
    for name in MODALITIES:
        volumes[name] = volumes[name] - np.int16(3)  # no background of 0
    mask = draw_brain(SHAPE).astype(np.float32) * 0.9999999
    sources = read_sources(make_case("A", {**volumes, "brainmask": mask}), MODALITIES)
    np.testing.assert_array_equal(sources.brain, draw_brain(SHAPE))


def test_different_grids_are_refused_with_both_values(make_case):
    case = make_case("A")
    nib.save(nib.Nifti1Image(np.ones((20, 24, 17), np.int16), LPS), case.images["t2"])
    shifted = LPS.copy()
    shifted[2, 3] = 1.5
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), shifted), case.seg)
    assert refusals(case) == [
        "case A: flair and t2 have different grids: shape (20, 24, 18) and (20, 24, 17); "
        "register all volumes of a case to one grid",
        "case A: flair and seg have different grids: affine (row 2, column 3: 0 and 1.5); "
        "register all volumes of a case to one grid",
    ]


def test_all_problems_of_a_case_are_named_at_once(make_case):
    volumes = draw_volumes()
    volumes["t1"] = volumes["t1"].astype(np.float32)
    volumes["t1"][0, 0, 0] = np.nan
    volumes["seg"][0, 0, 0] = 7
    case = make_case("A", volumes)
    case.images["t2"].write_bytes(b"nothing")
    found = refusals(case)
    assert len(found) == 3
    assert "t1.nii.gz: 1 voxel is NaN" in found[0]
    assert "A_t2.nii.gz: no readable NIfTI file" in found[1]
    assert "seg has labels {0, 1, 2, 4, 7}" in found[2]


def test_no_brain_and_no_contrast_are_refused(make_case):
    empty = {name: np.zeros(SHAPE, np.int16) for name in MODALITIES}
    (problem,) = refusals(make_case("A", empty))
    assert problem == "case A: no brain: all modalities are 0 everywhere; replace the files"
    (problem,) = refusals(make_case("B", {**draw_volumes(), "brainmask": np.zeros(SHAPE, np.uint8)}))
    assert problem == "case B: no brain: the brain mask has no voxel above 0.5; replace the files"
    flat = {**draw_volumes(), "t1ce": np.full(SHAPE, 5, np.int16)}
    (problem,) = refusals(make_case("C", flat))
    assert problem == "case C: t1ce is 5 everywhere in the brain; replace the file"


def test_a_modality_that_the_case_does_not_have(make_case):
    case = make_case("A")
    without = replace(case, images={name: path for name, path in case.images.items() if name != "t1"})
    assert refusals(without) == ["case A: the manifest has no t1"]

import os
from pathlib import Path

import pytest

from mttu.cohort.layouts import KNOWN_NAMES, LAYOUTS, match_folder

FOUR = ("flair", "t1ce", "t1", "t2")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def match(folder: Path, modalities=FOUR, layout="brats"):
    found = match_folder(folder, layout, modalities)
    assert found is not None
    return found


def names_of(found):
    return {name: path.name for name, path in found.images.items()}


def test_brats_names_with_both_endings(tmp_path):
    names = ("A_flair.nii", "A_t1.nii.gz", "A_t1ce.nii.gz", "A_t2.nii", "A_seg.nii.gz", "A_brainmask.nii.gz")
    found = match(touch(tmp_path / "A", *names, "A_notes.txt", "A_t1_old.nii.gz"))
    assert found.problems == ()
    assert names_of(found) == {
        "flair": "A_flair.nii",
        "t1ce": "A_t1ce.nii.gz",
        "t1": "A_t1.nii.gz",
        "t2": "A_t2.nii",
    }
    assert found.seg == tmp_path / "A" / "A_seg.nii.gz"
    assert found.brain_mask == tmp_path / "A" / "A_brainmask.nii.gz"
    assert (found.case_id, found.patient_id, found.later) == ("A", "A", False)


def test_mask_and_brain_mask_are_optional_and_only_the_asked_modalities_are_needed(tmp_path):
    found = match(touch(tmp_path / "A", "A_flair.nii.gz", "A_t1ce.nii.gz"), ("t1ce", "flair"))
    assert found.problems == ()
    assert list(found.images) == ["t1ce", "flair"]
    assert found.seg is None
    assert found.brain_mask is None


def test_missing_and_doubled_modalities_are_both_named(tmp_path):
    found = match(touch(tmp_path / "A", "A_flair.nii", "A_flair.nii.gz", "A_t1ce.nii.gz", "A_t2.nii.gz"))
    assert found.problems == (
        "case A: flair is there 2 times (A_flair.nii.gz and A_flair.nii); keep one of them",
        "case A: no t1; expected <case>_t1.nii.gz or <case>_t1.nii",
    )


def test_a_doubled_mask_is_named(tmp_path):
    found = match(touch(tmp_path / "A", "A_flair.nii", "A_seg.nii", "A_seg.nii.gz"), ("flair",))
    assert found.problems == ("case A: seg is there 2 times (A_seg.nii.gz and A_seg.nii); keep one of them",)


def test_endings_may_be_in_upper_case(tmp_path):
    found = match(touch(tmp_path / "A", "A_flair.NII.GZ", "A_t1.Nii", "A_seg.NII.gz"), ("flair", "t1"))
    assert found.problems == ()
    assert names_of(found) == {"flair": "A_flair.NII.GZ", "t1": "A_t1.Nii"}
    assert found.seg is not None


def test_a_link_to_nothing_is_a_problem_and_no_missing_mask(tmp_path):
    folder = touch(tmp_path / "A", "A_flair.nii.gz")
    (folder / "A_seg.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    (folder / "A_t1.nii").mkdir()
    found = match(folder, ("flair", "t1"))
    assert found.problems == (
        "case A: t1 A_t1.nii is a folder without a NIfTI file in it; put the file in its place, or take it away",
        "case A: seg A_seg.nii.gz is a link to nothing; restore it, or take it away",
    )
    touch(folder, "A_t1.nii.gz")
    assert match(folder, ("flair", "t1")).images["t1"].name == "A_t1.nii.gz"


def test_a_folder_of_links_to_nothing_is_a_case_with_problems(tmp_path):
    (tmp_path / "A").mkdir()
    (tmp_path / "A" / "A_flair.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    assert len(match(tmp_path / "A", ("flair",)).problems) == 1


def test_a_folder_without_the_images_of_a_layout_is_none_of_its_cases(tmp_path):
    assert match_folder(touch(tmp_path / "A", "A-t1n.nii.gz", "A-t2w.nii.gz"), "brats", FOUR) is None
    assert match_folder(touch(tmp_path / "B", "B_seg.nii.gz"), "brats", FOUR) is None


def test_the_misnamed_mask_of_brats_2020_is_found_for_its_case_only(tmp_path):
    stray = "W39_1998.09.19_Segm.nii"
    name = "BraTS20_Training_355"
    found = match(touch(tmp_path / name, f"{name}_flair.nii", stray), ("flair",))
    assert found.seg == tmp_path / name / stray
    other = match(touch(tmp_path / "B", "B_flair.nii", stray), ("flair",))
    assert other.seg is None


@pytest.mark.parametrize(("timepoint", "later"), [("000", False), ("001", True), ("100", True)])
def test_brats_2023_names(tmp_path, timepoint, later):
    name = f"BraTS-GLI-00005-{timepoint}"
    folder = touch(tmp_path / name, *(f"{name}-{part}.nii.gz" for part in ("t2f", "t1c", "t1n", "t2w", "seg")))
    found = match(folder, layout="brats2023")
    assert names_of(found) == {
        "flair": f"{name}-t2f.nii.gz",
        "t1ce": f"{name}-t1c.nii.gz",
        "t1": f"{name}-t1n.nii.gz",
        "t2": f"{name}-t2w.nii.gz",
    }
    assert found.seg == folder / f"{name}-seg.nii.gz"
    assert (found.case_id, found.patient_id, found.later) == (name, "BraTS-GLI-00005", later)
    assert LAYOUTS["brats2023"].labels is None


@pytest.mark.parametrize(("name", "later"), [("UCSF-PDGM-0004", False), ("UCSF-PDGM-0429_FU003d", True)])
def test_ucsf_pdgm_names(tmp_path, name, later):
    parts = ("FLAIR", "T1", "T1c", "T2", "tumor_segmentation", "brain_segmentation", "FLAIR_bias", "SWI", "ADC")
    folder = touch(tmp_path / f"{name}_nifti", *(f"{name}_{part}.nii.gz" for part in parts))
    found = match(folder, layout="ucsf-pdgm")
    assert found.problems == ()
    assert names_of(found)["flair"] == f"{name}_FLAIR.nii.gz"
    assert names_of(found)["t1ce"] == f"{name}_T1c.nii.gz"
    assert found.seg == folder / f"{name}_tumor_segmentation.nii.gz"
    assert found.brain_mask == folder / f"{name}_brain_segmentation.nii.gz"
    assert (found.case_id, found.patient_id, found.later) == (name, name[:14], later)


def test_upenn_masks_by_experts_come_before_automatic_ones(tmp_path):
    for number in (1, 2):
        name = f"UPENN-GBM-0000{number}_11"
        parts = ("FLAIR", "T1", "T1GD", "T2")
        touch(tmp_path / "images_structural" / name, *(f"{name}_{part}.nii.gz" for part in parts))
        touch(tmp_path / "automated_segm", f"{name}_automated_approx_segm.nii.gz")
    expert = tmp_path / "images_segm" / "UPENN-GBM-00001_11_segm.nii.gz"
    touch(expert.parent, expert.name)
    first, second = (
        match(tmp_path / "images_structural" / f"UPENN-GBM-0000{number}_11", layout="upenn-gbm") for number in (1, 2)
    )
    assert first.seg is not None
    assert first.seg.resolve() == expert
    assert second.seg is not None
    assert second.seg.name == "UPENN-GBM-00002_11_automated_approx_segm.nii.gz"
    assert (first.case_id, first.patient_id, first.later) == ("UPENN-GBM-00001_11", "UPENN-GBM-00001", False)


def test_upenn_follow_up(tmp_path):
    name = "UPENN-GBM-00001_21"
    assert match(touch(tmp_path / name, f"{name}_FLAIR.nii.gz"), ("flair",), "upenn-gbm").later


@pytest.mark.parametrize("nested", [False, True])
def test_both_exports_of_egd(tmp_path, nested):
    names = ("T1", "T1GD", "T2", "FLAIR", "MASK")
    if nested:
        files = [f"{number}_{name}/NIFTI/{name}.nii.gz" for number, name in enumerate(names, start=1)]
        folder = touch(tmp_path / "MR_EGD-0001", *files)
    else:
        folder = touch(tmp_path / "EGD-0001", *(f"{name}.nii.gz" for name in names))
    found = match(folder, layout="egd")
    assert found.problems == ()
    assert names_of(found) == {"flair": "FLAIR.nii.gz", "t1ce": "T1GD.nii.gz", "t1": "T1.nii.gz", "t2": "T2.nii.gz"}
    assert found.seg is not None
    assert found.seg.name == "MASK.nii.gz"
    assert found.case_id == "EGD-0001"
    assert LAYOUTS["egd"].labels == "whole-tumour"


def test_every_layout_names_every_modality_and_an_example():
    for name, layout in LAYOUTS.items():
        assert set(layout.images) == set(FOUR), name
        assert layout.example, name


def test_a_folder_of_masks_that_cannot_be_read_is_said(tmp_path, monkeypatch):
    name = "UPENN-GBM-00001_11"
    folder = touch(tmp_path / "a" / name, *(f"{name}_{part}.nii.gz" for part in ("FLAIR", "T1", "T1GD", "T2")))
    (tmp_path / "images_segm").mkdir()
    listing = os.listdir

    def refuse(place):
        if place.name == "images_segm":
            raise PermissionError(13, "Permission denied", str(place))
        return listing(place)

    monkeypatch.setattr(os, "listdir", refuse)
    assert match_folder(folder, "upenn-gbm", FOUR).problems == (
        f"case {name}: seg: {tmp_path / 'images_segm'} cannot be read (Permission denied); allow it, or move it away",
    )


PLAIN = ("flair", "t1ce", "t1", "t2")


def test_bare_names_are_those_of_their_folder_s_case(tmp_path):
    names = ("flair", "t1", "t1ce", "t2", "segmentation", "brain_mask")
    found = match(touch(tmp_path / "patient_1", *(f"{name}.nii.gz" for name in names)), layout="plain")
    assert (found.case_id, found.patient_id, found.problems) == ("patient_1", "patient_1", ())
    assert {role: path.name for role, path in found.images.items()} == {name: f"{name}.nii.gz" for name in PLAIN}
    assert found.seg is not None
    assert found.brain_mask is not None
    assert (found.seg.name, found.brain_mask.name) == ("segmentation.nii.gz", "brain_mask.nii.gz")
    assert LAYOUTS["plain"].labels is None


@pytest.mark.parametrize(("role", "name"), [(role, name) for role, names in KNOWN_NAMES.items() for name in names])
def test_every_bare_name_is_found_for_its_role_alone(tmp_path, role, name):
    others = {"flair": "flair", "t1ce": "t1ce", "t1": "t1", "t2": "t2"}
    folder = touch(tmp_path / "P", *(f"{(others | {role: name})[one]}.nii.gz" for one in others), f"{name}.nii.gz")
    found = match(folder, layout="plain")
    assert found.problems == ()
    there = {**found.images, "seg": found.seg, "brain mask": found.brain_mask}
    assert there[role].name == f"{name}.nii.gz"
    assert sum(path is not None for path in there.values()) == (4 if role in others else 5)


def test_two_bare_names_for_one_role_are_refused_with_both(tmp_path):
    folder = touch(tmp_path / "P", *(f"{name}.nii.gz" for name in (*PLAIN, "t1c", "mask", "seg")))
    assert match(folder, layout="plain").problems == (
        "case P: t1ce is there 2 times (t1ce.nii.gz and t1c.nii.gz); keep one of them",
        "case P: seg is there 2 times (seg.nii.gz and mask.nii.gz); keep one of them",
    )


@pytest.mark.parametrize("registered", [False, True])
def test_utsw_glioma_names(tmp_path, registered):
    suffixes = {"flair": "fl_ants", "t1ce": "t1ce_ants", "t1": "t1_ants", "t2": "t2_ants"}
    images = {role: f"brain_{suffixes[role] if registered else role}.nii.gz" for role in PLAIN}
    masks = ("tumorseg_FeTS.nii.gz", "tumorseg_manual_correction.nii.gz")
    folder = touch(tmp_path / "BT0001", *images.values(), *masks)
    found = match(folder, layout="utsw-glioma")
    assert (found.case_id, found.problems, names_of(found)) == ("BT0001", (), images)
    assert found.seg == folder / "tumorseg_FeTS.nii.gz"
    touch(folder, "rtumorseg_manual_correction.nii.gz")
    assert match(folder, layout="utsw-glioma").seg == folder / "rtumorseg_manual_correction.nii.gz"
    assert LAYOUTS["utsw-glioma"].labels == "brats"


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *(("A_t2W.nii.gz", "t2"), ("A-T2w.nii", "t2"), ("A_t2.nrrd", "t2"), ("A_T2_FLAIR.nii.gz", "flair")),
        *(("sub-A_ses-1_T1Gd.nii.gz", "t1ce"), ("A_flare.nii.gz", "flair"), ("A_t1_gd.nii.gz", "t1ce")),
    ],
)
def test_a_missing_image_names_the_nearest_file(tmp_path, name, role):
    folder = touch(tmp_path / "A", *(f"A_{one}.nii.gz" for one in PLAIN if one != role), name, "A_adc.nii.gz", "A_.txt")
    assert match(folder).problems == (
        f"case A: no {role}; expected <case>_{role}.nii.gz or <case>_{role}.nii; the nearest there is {name}",
    )


@pytest.mark.parametrize("name", ["A_t1ce_old.nii.gz", "A_t1gd.nii.gz", "A_dwi.nii.gz", "A_t1.txt", "A_t2w.nii.gz"])
def test_what_is_no_near_name_is_not_named(tmp_path, name):
    folder = touch(tmp_path / "A", *(f"A_{one}.nii.gz" for one in PLAIN if one != "t1"), name)
    assert match(folder).problems == ("case A: no t1; expected <case>_t1.nii.gz or <case>_t1.nii",)

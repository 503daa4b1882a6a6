import pytest
from small_cases import write_case
from test_layouts import FOUR, touch

from mttu.cohort.build import build_cohort
from mttu.cohort.discovery import discover_any, discover_folder
from mttu.cohort.found_cases import CohortRequest


def brats(folder, name, parts=(*FOUR, "seg")):
    return touch(folder / name, *(f"{name}_{part}.nii.gz" for part in parts))


def discover(root, layout=None):
    findings = []
    return discover_folder(root, layout, FOUR, findings), [
        (found.severity, found.case_id, found.text.removeprefix(f"{root}: ")) for found in findings
    ]


def test_names_match_whatever_the_case_of_their_letters(tmp_path):
    brats(tmp_path, "A")
    touch(tmp_path / "B", "B_FLAIR.nii.gz", "b_T1CE.nii.gz", "B_T1.nii.gz", "B_t2.nii.gz", "B_Seg.nii.gz")
    (first, second), told = discover(tmp_path)
    assert (first.problems, second.problems, told) == ((), (), [])
    assert second.seg.name == "B_Seg.nii.gz"
    assert second.images["t1ce"].name == "b_T1CE.nii.gz"


def test_a_folder_of_other_spellings_alone_is_recognised(tmp_path):
    touch(tmp_path / "A", *(f"A_{part.upper()}.NII.GZ" for part in (*FOUR, "seg")))
    name = "ucsf-pdgm-0004"
    touch(tmp_path / "u" / f"{name}_nifti", *(f"{name}_{part}.nii.gz" for part in ("flair", "T1C", "t1", "t2")))
    (case,), _ = discover(tmp_path / "u", "ucsf-pdgm")
    assert (case.case_id, case.problems) == (name, ())
    assert {found.case_id for found in discover_any(tmp_path, FOUR) if not found.problems} == {"A", name}


def test_two_names_that_differ_by_the_case_of_letters_alone_are_refused(tmp_path):
    folder = brats(tmp_path, "A")
    touch(folder, "A_Seg.nii.gz")
    if len(list(folder.iterdir())) == 5:
        pytest.skip("this file system does not tell them apart")
    (case,), _ = discover(tmp_path)
    assert len(case.problems) == 1
    assert case.problems[0].startswith("case A: seg is there 2 times (")


@pytest.mark.parametrize("name", ["#recycle", "$RECYCLE.BIN", ".Trash-1000", "lost+found", "@eaDir", ".snapshot"])
def test_bins_and_hidden_folders_are_left_out_and_said(tmp_path, name):
    brats(tmp_path, "A")
    brats(tmp_path / name, "C")
    cases, told = discover(tmp_path)
    assert [case.case_id for case in cases] == ["A"]
    assert told == [("note", "", f"1 hidden folder or bin is left out ({name}, which holds C)")]
    findings = []
    assert [case.case_id for case in discover_any(tmp_path, FOUR, findings)] == ["A"]
    assert len(findings) == 1


def test_hidden_volumes_and_predictions_are_said(tmp_path):
    brats(tmp_path, "A")
    touch(tmp_path / "A", "._A_flair.nii.gz")
    touch(tmp_path / "out", "predictions.parquet", "A_seg.nii.gz")
    assert discover(tmp_path)[1] == [
        ("note", "", "1 folder of predictions is left out (out)"),
        ("note", "", "1 hidden NIfTI file is left out (A/._A_flair.nii.gz)"),
    ]


def test_what_may_be_the_mask_of_a_case_without_one_is_named(tmp_path):
    for name in ("A", "B"):
        touch(brats(tmp_path, name, FOUR), f"{name}_tumor.nii.gz", f"{name}_brain.nii.gz")
    touch(brats(tmp_path, "C", FOUR), "C.seg.nrrd")
    touch(brats(tmp_path, "D"), "D_seg_old.nii.gz")
    told = discover(tmp_path)[1]
    tumor = "has no tumour mask, but <case>_tumor.nii.gz lies there; if it is the mask, make it <case>_seg.nii.gz"
    assert told == [
        ("warning", "A", tumor),
        ("warning", "B", tumor),
        ("warning", "C", tumor.replace("<case>_tumor.nii.gz", "<case>.seg.nrrd")),
        (
            "note",
            "",
            "volumes beside those of the cases are not used: <case>_brain.nii.gz (2 cases), "
            "<case>_tumor.nii.gz (2 cases), <case>_seg_old.nii.gz (case D), <case>.seg.nrrd (case C)",
        ),
    ]


def test_modalities_that_are_not_asked_for_and_masks_in_use_are_no_finding(tmp_path):
    brats(tmp_path, "A", (*FOUR, "seg", "brainmask"))
    findings = []
    discover_folder(tmp_path, None, ("flair", "t1ce"), findings)
    assert findings == []


def test_many_cases_make_one_note(tmp_path):
    for number in range(30):
        name = f"UCSF-PDGM-{number:04d}"
        parts = ("FLAIR", "T1c", "T1", "T2", "tumor_segmentation", "ADC", "SWI", "brain_parenchyma_segmentation")
        touch(tmp_path / f"{name}_nifti", *(f"{name}_{part}.nii.gz" for part in parts), "dti/1.dcm", "dti/2.dcm")
    assert discover(tmp_path)[1] == [
        (
            "note",
            "",
            "volumes beside those of the cases are not used: <case>_ADC.nii.gz (30 cases), <case>_SWI.nii.gz "
            "(30 cases), <case>_brain_parenchyma_segmentation.nii.gz (30 cases), dti/*.dcm (30 cases)",
        )
    ]


def test_cases_in_other_formats_are_said(tmp_path):
    brats(tmp_path, "A")
    touch(tmp_path / "B", *(f"B_{part}.mha" for part in FOUR))
    assert discover(tmp_path)[1] == [
        (
            "warning",
            "",
            "1 folder holds images in formats that are not read, and no case (B; e.g. B_flair.mha); "
            "convert them to .nii.gz",
        )
    ]


def test_a_bin_does_not_enter_a_cohort(tmp_path):
    write_case(tmp_path, "A")
    write_case(tmp_path / "#recycle", "C")
    cohort = build_cohort(CohortRequest((tmp_path,)))
    assert [case.case_id for case in cohort.manifest.cases] == ["A"]


def test_a_name_of_the_layout_in_another_folder_is_not_used(tmp_path):
    touch(brats(tmp_path, "A", FOUR) / "anat", "A_seg.nii.gz")
    touch(brats(tmp_path, "B") / "old", "B_t1.nii.gz")
    assert discover(tmp_path)[1] == [
        (
            "warning",
            "A",
            "has no tumour mask, but anat/<case>_seg.nii.gz lies there; if it is the mask, make it <case>_seg.nii.gz",
        ),
        (
            "note",
            "",
            "volumes beside those of the cases are not used: anat/<case>_seg.nii.gz (case A), "
            "old/<case>_t1.nii.gz (case B)",
        ),
    ]


def test_a_brain_mask_of_another_name_is_named(tmp_path):
    touch(brats(tmp_path, "A"), "A_brain_mask.nii.gz", "A_brain.nii.gz")
    touch(brats(tmp_path, "B", (*FOUR, "seg", "brainmask")), "B_brain_mask.nii.gz")
    touch(brats(tmp_path, "C", FOUR), "C_sge.nii.gz", "C_adc.nii.gz")
    brain = "has no brain mask, but <case>_brain_mask.nii.gz lies there; if it is the mask, make it "
    tumour = "has no tumour mask, but <case>_sge.nii.gz lies there; if it is the mask, make it <case>_seg.nii.gz"
    assert discover(tmp_path)[1][:2] == [
        ("warning", "C", tumour),
        ("warning", "A", f"{brain}<case>_brainmask.nii.gz"),
    ]
    findings = []
    discover_any(tmp_path, FOUR, findings)
    assert [(found.case_id, found.text) for found in findings] == [("A", f"{brain}<case>_brainmask.nii.gz")]

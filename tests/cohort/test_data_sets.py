"""Every data set people bring, in its true names: found, read, labelled as it documents, follow-ups left out."""

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_cases import LPS, draw_volumes, sign

from mttu.cohort.build import Cohort, build_cohort
from mttu.cohort.found_cases import CohortRequest, find_cases
from mttu.data.findings import Finding
from mttu.data.manifest import read_manifest, write_manifest
from mttu.errors import InputError

VOLUMES = draw_volumes()
OLD, NEW = VOLUMES["seg"], np.where(VOLUMES["seg"] == 4, 3, VOLUMES["seg"]).astype(np.uint8)
WHOLE = (OLD > 0).astype(np.uint8)


def put(root: Path, names: dict[str, str], seg=None, brain=None) -> None:
    """Writes a case: role to path without ending."""
    seed = zlib.crc32(names["flair"].encode())  # one brain or mask under two names would be found
    images = draw_volumes(seed=seed)
    for role, name in names.items():
        voxels = {**images, "seg": None if seg is None else sign(seg, seed, 0), "brain": brain}[role]
        path = root / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(voxels, LPS), path)


def brats2023(root: Path, name: str, seg=NEW) -> None:
    suffixes = {"flair": "t2f", "t1ce": "t1c", "t1": "t1n", "t2": "t2w", "seg": "seg"}
    put(root, {role: f"{name}/{name}-{suffix}" for role, suffix in suffixes.items()}, seg)


def ucsf(root: Path, name: str) -> None:
    suffixes = {"flair": "FLAIR", "t1ce": "T1c", "t1": "T1", "t2": "T2", "seg": "tumor_segmentation"}
    suffixes["brain"] = "brain_segmentation"
    brain = (VOLUMES["t1"] != 0).astype(np.uint8)
    put(root, {role: f"{name}_nifti/{name}_{suffix}" for role, suffix in suffixes.items()}, OLD, brain)


def upenn(root: Path, name: str, mask: str | None) -> None:
    suffixes = {"flair": "FLAIR", "t1ce": "T1GD", "t1": "T1", "t2": "T2"}
    names = {role: f"images_structural/{name}/{name}_{suffix}" for role, suffix in suffixes.items()}
    put(root, names if mask is None else {**names, "seg": mask}, OLD)


def egd(root: Path, name: str) -> None:
    names = {"flair": "FLAIR", "t1ce": "T1GD", "t1": "T1", "t2": "T2", "seg": "MASK"}
    put(root, {role: f"SUBJECTS/{name}/{stem}" for role, stem in names.items()}, WHOLE)


def build(*places: Path, **named) -> Cohort:
    return build_cohort(CohortRequest(places, **named))


def ids(cohort: Cohort) -> list[str]:
    assert cohort.manifest is not None, cohort.errors
    return [case.case_id for case in cohort.manifest.cases]


def test_brats_2023_needs_its_labels_named(tmp_path):
    for number in (1, 2):
        brats2023(tmp_path, f"BraTS-GLI-0000{number}-000")
    refused = build(tmp_path)
    assert refused.errors == [
        "cases BraTS-GLI-00001-000, BraTS-GLI-00002-000: file names do not tell what the labels of its mask mean; pass "
        "--labels with one of brats (BraTS to 2021), brats2013 (BraTS 2013), brats2023 (BraTS 2023), "
        "brats2024 (BraTS 2024, resection cavity 4 becomes background), "
        "brats2024-no-cavity (BraTS 2024, resection cavity 4 refused), "
        "msd (Medical Segmentation Decathlon and nnU-Net: 1 is edema), whole-tumour (whole tumour without parts)"
    ]
    cohort = build(tmp_path, labels="brats2023")
    assert ids(cohort) == ["BraTS-GLI-00001-000", "BraTS-GLI-00002-000"]
    assert {(case.labels, case.dataset) for case in cohort.manifest.cases} == {("brats2023", "brats2023")}


def test_brats_2024_is_after_treatment_and_its_cavity_is_background_or_refused(tmp_path):
    cavity = NEW.copy()
    cavity[5, 5, 5] = 4
    for name, seg in (("BraTS-GLI-00001-100", cavity), ("BraTS-GLI-00002-100", NEW)):
        brats2023(tmp_path, name, seg)
    with pytest.raises(InputError, match=r"2 follow-up or post-operative examinations are left out .* no others"):
        build(tmp_path, labels="brats2024")
    assert len(ids(build(tmp_path, labels="brats2024", follow_ups=True))) == 2
    refused = build(tmp_path, labels="brats2024-no-cavity", follow_ups=True)
    assert len(refused.errors) == 1
    assert (
        "case BraTS-GLI-00001-100: seg has labels {0, 1, 2, 3, 4}; expected a subset of {0, 1, 2, 3}"
        in (refused.errors[0])
    )


def test_ucsf_with_its_table_leaves_follow_ups_out_and_counts_them(tmp_path):
    for name in ("UCSF-PDGM-0004", "UCSF-PDGM-0005", "UCSF-PDGM-0005_FU003d"):
        ucsf(tmp_path / "data", name)
    table = tmp_path / "UCSF-PDGM-metadata_v5.csv"
    table.write_text(
        "ID,Sex,Age at MRI,WHO CNS Grade,Final pathologic diagnosis (WHO 2021),IDH,BraTS21 ID\n"
        'UCSF-PDGM-004,M,66,4,"Glioblastoma, IDH-wildtype",wildtype,BraTS2021_00097\n'
        'UCSF-PDGM-005,F,31,2,"Astrocytoma, IDH-mutant",IDH1 p.R132H,\n'
    )
    cohort = build(tmp_path / "data", clinical=(table,))
    assert ids(cohort) == ["UCSF-PDGM-0004", "UCSF-PDGM-0005"]
    wild, mutant = cohort.manifest.cases
    assert (wild.idh, wild.age, wild.sex, wild.labels) == (0, 66.0, "male", "brats")
    assert (mutant.idh, mutant.age, mutant.sex, mutant.patient_id) == (1, 31.0, "female", "UCSF-PDGM-0005")
    assert wild.brain_mask is not None
    notes = [finding.text for finding in cohort.findings if finding.severity == "note"]
    assert notes == [
        "1 follow-up or post-operative examination is left out (UCSF-PDGM-0005_FU003d); --follow-ups keeps them",
        f"clinical table {table}: 1 column is not used: Final pathologic diagnosis (WHO 2021)",
        "1 other name of a patient is no case here",
    ]
    both = build(tmp_path / "data", clinical=(table,), follow_ups=True)
    follow_up = both.manifest.cases[2]
    assert (follow_up.case_id, follow_up.patient_id, follow_up.idh) == ("UCSF-PDGM-0005_FU003d", "UCSF-PDGM-0005", 1)
    assert follow_up.split == both.manifest.cases[1].split


def test_upenn_with_masks_in_folders_of_their_own(tmp_path):
    upenn(tmp_path, "UPENN-GBM-00001_11", "images_segm/UPENN-GBM-00001_11_segm")
    upenn(tmp_path, "UPENN-GBM-00002_11", "automated_segm/UPENN-GBM-00002_11_automated_approx_segm")
    upenn(tmp_path, "UPENN-GBM-00003_11", None)
    upenn(tmp_path, "UPENN-GBM-00002_21", None)
    table = tmp_path / "UPENN-GBM_clinical_info_v2.1.csv"
    rows = ["00001_11,M,63.41,Wildtype", "00002_11,F,40.2,Mutated", "00003_11,F,71.9,NOS/NEC"]
    table.write_text("ID,Gender,Age_at_scan_years,IDH1\n" + "".join(f"UPENN-GBM-{row}\n" for row in rows))
    cohort = build(tmp_path / "images_structural", clinical=(table,))  # the masks lie beside the folder that is named
    assert ids(cohort) == [f"UPENN-GBM-0000{number}_11" for number in (1, 2, 3)]
    first, second, third = cohort.manifest.cases
    assert [case.seg is not None for case in cohort.manifest.cases] == [True, True, False]
    assert Finding("note", "", f"{tmp_path / 'images_structural'}: masks by their kind: 1 automatic, 1 by experts") in (
        cohort.findings
    )
    assert (first.idh, second.idh, third.idh) == (0, 1, -1)
    assert (second.patient_id, second.age, third.split) == ("UPENN-GBM-00002", 40.2, "unlabelled")
    write_manifest(cohort.manifest, tmp_path / "cohort.parquet")
    again = read_manifest(tmp_path / "cohort.parquet")
    assert all(case.seg is None or case.seg.is_file() for case in again.cases)


def test_utsw_says_how_many_masks_and_images_are_of_which_kind(tmp_path):
    registered, native = ("fl_ants", "t1ce_ants", "t1_ants", "t2_ants"), ("flair", "t1ce", "t1", "t2")
    for number, (names, mask) in enumerate(
        [(registered, "tumorseg_FeTS"), (registered, "rtumorseg_manual_correction"), (native, "tumorseg_FeTS")]
    ):
        folder = tmp_path / f"BT000{number}"
        folder.mkdir()
        for name in (*(f"brain_{one}" for one in names), mask):
            (folder / f"{name}.nii.gz").touch()
    findings = []
    find_cases(CohortRequest((tmp_path,)), findings)
    assert [finding.text for finding in findings] == [
        f"{tmp_path}: masks by their kind: 2 automatic, 1 corrected by hand",
        f"{tmp_path}: cases by the kind of their images: 1 brain_*, 2 brain_*_ants",
    ]


def test_upenn_as_downloaded_has_folders_that_are_no_cases(tmp_path):
    root = tmp_path / "NIfTI-files"
    for number in (1, 2):
        name = f"UPENN-GBM-0000{number}_11"
        upenn(root, name, f"images_segm/{name}_segm")
        unstripped = root / "images_structural_unstripped" / name / f"{name}_FLAIR_unstripped.nii.gz"
        automated = root / "automated_segm" / f"{name}_automated_approx_segm.nii.gz"
        for path in (unstripped, automated):
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(OLD, LPS), path)
    cohort = build(root)
    assert ids(cohort) == ["UPENN-GBM-00001_11", "UPENN-GBM-00002_11"]
    assert {case.seg.parent.name for case in cohort.manifest.cases} == {"images_segm"}
    assert [finding.text for finding in cohort.findings if finding.severity == "note"] == [
        f"{root}: folders of other images are not used: images_structural_unstripped",
        f"{root}: masks by their kind: 2 by experts",
    ]
    stray = root / "copies" / "UPENN-GBM-00001_11" / "scan.nii.gz"
    stray.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(OLD, LPS), stray)
    (error,) = build(root).errors
    assert error.startswith("case UPENN-GBM-00001_11: the folder holds 1 NIfTI file (scan.nii.gz) but no image that")


def test_egd_supervises_the_whole_tumour_and_reads_a_spreadsheet(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    for number in (1, 2):
        egd(tmp_path, f"EGD-000{number}")
    book = openpyxl.Workbook()
    for row in (["Subject", "IDH", "1p19q", "Grade"], ["EGD-0001", 1, 0, 2], ["EGD-0002", -1, -1, 4]):
        book.active.append(row)
    book.save(tmp_path / "Genetic_and_Histological_labels.xlsx")
    cohort = build(tmp_path / "SUBJECTS", clinical=(tmp_path / "Genetic_and_Histological_labels.xlsx",))
    assert ids(cohort) == ["EGD-0001", "EGD-0002"]
    assert {case.labels for case in cohort.manifest.cases} == {"whole-tumour"}
    assert [case.idh for case in cohort.manifest.cases] == [1, -1]


def test_named_labels_leave_the_documented_ones_of_a_mix_alone(tmp_path):
    egd(tmp_path / "egd", "EGD-0001")
    brats2023(tmp_path / "b23", "BraTS-GLI-00001-000")
    cohort = build(tmp_path / "egd", tmp_path / "b23", labels="brats2023")
    assert {case.case_id: case.labels for case in cohort.manifest.cases} == {
        "EGD-0001": "whole-tumour",
        "BraTS-GLI-00001-000": "brats2023",
    }
    (note,) = [finding.text for finding in cohort.findings if finding.severity == "note"]
    assert note == (
        "--labels brats2023 is taken for brats2023 (1 case); "
        "the others keep what their layout documents: egd is whole-tumour (1 case)"
    )
    ucsf(tmp_path / "ucsf", "UCSF-PDGM-0004")
    with pytest.raises(InputError, match=r"labels brats2013: every layout here documents another .* \(egd is whole-t"):
        build(tmp_path / "egd", tmp_path / "ucsf", labels="brats2013")


def test_labels_of_treated_patients_make_follow_ups_only_of_the_data_set_they_are_for(tmp_path):
    ucsf(tmp_path / "ucsf", "UCSF-PDGM-0004")
    brats2023(tmp_path / "b24", "BraTS-GLI-00001-100")
    assert ids(build(tmp_path / "ucsf", tmp_path / "b24", labels="brats2024")) == ["UCSF-PDGM-0004"]
    cohort = build(tmp_path / "ucsf", tmp_path / "b24", labels="brats2024", follow_ups=True)
    assert [case.labels for case in cohort.manifest.cases] == ["brats2024", "brats"]


def test_two_folders_of_one_layout_are_no_mix(tmp_path):
    for name in ("UCSF-PDGM-0004", "UCSF-PDGM-0005"):
        ucsf(tmp_path / name, name)
    cohort = build(tmp_path / "UCSF-PDGM-0004", tmp_path / "UCSF-PDGM-0005", labels="brats2013")
    assert {case.labels for case in cohort.manifest.cases} == {"brats2013"}


@pytest.mark.parametrize("as_table", [False, True])
def test_an_examination_without_a_row_is_on_the_side_of_its_patient(tmp_path, as_table):
    names = ("BraTS-GLI-00001-000", "BraTS-GLI-00002-000", "BraTS-GLI-00005-000", "BraTS-GLI-00005-001")
    for name in names:
        brats2023(tmp_path / "data", name)
    table = tmp_path / "t.csv"
    sides = ("train", "val", "test")
    rows = [f"{name},P{number},1,{split}\n" for number, (name, split) in enumerate(zip(names, sides, strict=False))]
    table.write_text("case_id,patient_id,idh,split\n" + "".join(rows))
    place = tmp_path / "data"
    if as_table:
        place = tmp_path / "paths.csv"
        suffixes = ("t2f", "t1c", "t1n", "t2w", "seg")
        lines = [
            ",".join([name, name[:15], *(f"data/{name}/{name}-{part}.nii.gz" for part in suffixes)]) for name in names
        ]
        place.write_text("case_id,patient_id,flair,t1ce,t1,t2,seg\n" + "\n".join(lines) + "\n")
    cohort = build(place, clinical=(table,), labels="brats2023", follow_ups=True)
    assert ids(cohort) == list(names)
    assert [(case.patient_id, case.split) for case in cohort.manifest.cases[2:]] == [("P2", "test"), ("P2", "test")]
    table.write_text(table.read_text() + f"{names[3]},Q,1,train\n")
    assert (
        build(place, clinical=(table,), labels="brats2023", follow_ups=True)
        .errors[0]
        .startswith(
            "cases BraTS-GLI-00005-000, BraTS-GLI-00005-001: its files name patient 'BraTS-GLI-00005', who is 'P2'"
        )
    )


def test_two_data_sets_make_one_cohort(tmp_path):
    ucsf(tmp_path / "ucsf", "UCSF-PDGM-0004")
    brats2023(tmp_path / "brats", "BraTS-GLI-00001-000")
    (tmp_path / "paths.csv").write_text(
        "case_id,flair,t1ce,t1,t2,seg,labels\n"
        + "X,"
        + ",".join(
            f"brats/BraTS-GLI-00001-000/BraTS-GLI-00001-000-{part}.nii.gz"
            for part in ("t2f", "t1c", "t1n", "t2w", "seg")
        )
        + ",brats2023\n"
    )
    cohort = build(tmp_path / "ucsf", tmp_path / "paths.csv")
    assert cohort.manifest.root == tmp_path
    assert [(case.case_id, case.labels, case.dataset) for case in cohort.manifest.cases] == [
        ("UCSF-PDGM-0004", "brats", "ucsf-pdgm"),
        ("X", "brats2023", "paths"),
    ]

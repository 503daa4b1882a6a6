import os

import pytest
from test_layouts import FOUR, touch

from mttu.cohort.discovery import discover_any, discover_folder, walk_folders
from mttu.cohort.left_out import LeftOut
from mttu.data.names import is_examination, patient_before_examination
from mttu.errors import InputError


def brats(folder, name, parts=("flair", "t1ce", "t1", "t2", "seg")):
    return touch(folder / name, *(f"{name}_{part}.nii.gz" for part in parts))


def brats2023(folder, name):
    return touch(folder / name, *(f"{name}-{part}.nii.gz" for part in ("t2f", "t1c", "t1n", "t2w", "seg")))


def test_walking_finds_nested_folders_once_and_skips_hidden_ones_and_predictions(tmp_path):
    brats(tmp_path / "HGG", "A")
    brats(tmp_path / "LGG", "B")
    touch(tmp_path / "LGG" / ".partial-C", "C_flair.nii.gz")
    touch(tmp_path / "results", "predictions.parquet", "A_seg.nii.gz")
    touch(tmp_path / "notes", "readme.txt", ".hidden.nii.gz")
    (tmp_path / "LGG" / "loop").symlink_to(tmp_path)
    assert [folder.name for folder, files in walk_folders(tmp_path, LeftOut()) if files] == ["A", "B"]


def test_a_layout_is_recognised_and_all_its_cases_found(tmp_path):
    for name in ("BraTS-GLI-00001-000", "BraTS-GLI-00002-000"):
        brats2023(tmp_path / "deep" / "down", name)
    found = discover_folder(tmp_path, None, FOUR)
    assert [(case.case_id, case.layout) for case in found] == [
        ("BraTS-GLI-00001-000", "brats2023"),
        ("BraTS-GLI-00002-000", "brats2023"),
    ]


def test_two_data_sets_in_one_folder_are_refused_with_the_candidates_unless_one_is_named(tmp_path):
    brats(tmp_path, "A")
    brats2023(tmp_path, "BraTS-GLI-00001-000")
    with pytest.raises(InputError) as caught:
        discover_folder(tmp_path, None, FOUR)
    (problem,) = caught.value.problems
    assert "fit brats (BraTS to 2021: 1 case, e.g. A) or brats2023 (BraTS 2023 and later: 1 case" in problem
    assert "pass --layout NAME" in problem
    found = discover_folder(tmp_path, "brats", FOUR)
    assert [case.case_id for case in found if not case.problems] == ["A"]
    assert [case.case_id for case in found if case.problems] == ["BraTS-GLI-00001-000"]


def test_an_unknown_layout_names_the_known_ones(tmp_path):
    with pytest.raises(InputError, match=r"layout 'dicom': unknown; choose one of brats \(BraTS to 2021\), brats2023"):
        discover_folder(tmp_path, "dicom", FOUR)


def test_no_case_says_what_was_expected_and_what_is_there(tmp_path):
    touch(tmp_path / "P1", "scan_T1.nii.gz", "scan_FLAIR.nii.gz")
    with pytest.raises(InputError) as caught:
        discover_folder(tmp_path, None, FOUR)
    (problem,) = caught.value.problems
    assert "holds no case; expected <case>/<case>_{flair,t1ce,t1,t2,seg}.nii[.gz] (BraTS to 2021); " in problem
    assert "for other names give a CSV file of paths; found 2 NIfTI files (P1/scan_FLAIR.nii.gz, " in problem


def test_images_that_belong_to_no_case_are_said(tmp_path):
    brats(tmp_path, "A")
    touch(tmp_path / "B", "scan.nii.gz")
    touch(tmp_path / "A" / "extra", "more.nii.gz")  # below a case: its owner's business
    stranger = discover_folder(tmp_path, None, FOUR)[1]
    assert stranger.case_id == "B"
    assert stranger.problems[0].startswith(
        "case B: the folder holds 1 NIfTI file (scan.nii.gz) but no image that is named after it; expected <case>/"
    )


def test_a_data_set_in_lower_case_is_the_one_that_has_all_images(tmp_path):
    name = "upenn-gbm-00001_11"
    touch(tmp_path / name, *(f"{name}_{part}.nii.gz" for part in ("flair", "t1", "t1gd", "t2")))
    for cases in (discover_folder(tmp_path, None, FOUR), discover_any(tmp_path, FOUR)):
        assert [(case.case_id, case.layout, case.problems) for case in cases] == [(name, "upenn-gbm", ())]


def test_masks_in_folders_of_their_own_are_no_strangers(tmp_path):
    name = "UPENN-GBM-00001_11"
    touch(tmp_path / "images_structural" / name, *(f"{name}_{part}.nii.gz" for part in ("FLAIR", "T1", "T1GD", "T2")))
    touch(tmp_path / "images_segm", f"{name}_segm.nii.gz")
    (case,) = discover_folder(tmp_path, None, FOUR)
    assert case.problems == ()


def test_to_predict_every_folder_stands_for_itself(tmp_path):
    brats(tmp_path, "A")
    brats2023(tmp_path, "BraTS-GLI-00001-000")
    touch(tmp_path / "C", "scan.nii.gz")
    name = "UPENN-GBM-00009_11"
    touch(tmp_path / name, *(f"{name}_{part}.nii.gz" for part in ("FLAIR", "T1", "T1GD", "T2", "flair", "t1")))
    found = {case.case_id: case for case in discover_any(tmp_path, FOUR)}
    assert {name for name, case in found.items() if not case.problems} == {"A", "BraTS-GLI-00001-000"}
    assert "no image that is named after it" in found["C"].problems[0]
    assert found[name].problems == (
        f"case {name}: its file names fit BraTS to 2021 and UPENN-GBM; keep the files of one",
    )


def test_a_folder_that_cannot_be_read_is_a_problem_of_its_case_alone(tmp_path, monkeypatch):
    for name in ("A", "B"):
        brats(tmp_path, name)
    for folder in (tmp_path / "A" / "inner", tmp_path / "C"):
        folder.mkdir()
    listing = os.scandir

    def refuse(folder):
        if folder.name in ("inner", "C"):
            raise PermissionError(13, "Permission denied")
        return listing(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    says = "the folder cannot be read (Permission denied); allow it, or move it away"
    for cases in (discover_folder(tmp_path, None, FOUR), discover_any(tmp_path, FOUR)):
        assert {case.case_id: case.problems for case in cases} == {
            "A": (f"case A: {tmp_path / 'A' / 'inner'}: {says}",),
            "B": (),
            "C": (f"case C: {tmp_path / 'C'}: {says}",),
        }
    with pytest.raises(InputError, match="C: the folder cannot be read"):
        discover_folder(tmp_path, "egd", FOUR)


def plain(folder, name, parts=("flair", "t1ce", "t1", "t2", "seg")):
    return touch(folder / name, *(f"{part}.nii.gz" for part in parts))


@pytest.mark.parametrize("discover", [lambda root: discover_folder(root, None, FOUR), lambda r: discover_any(r, FOUR)])
def test_bare_names_are_recognised_and_what_lies_in_such_a_case_is_none(tmp_path, discover):
    for name in ("patient_1", "patient_2"):
        plain(tmp_path / "site", name)
    plain(tmp_path / "site" / "patient_1", "raw", ("flair", "t1"))
    touch(tmp_path / "site" / "patient_3", "FLAIR.nii.gz", "T1.nii.gz", "T1Gd.nii.gz", "T2.nii.gz")
    assert [(case.case_id, case.layout, case.problems) for case in discover(tmp_path)] == [
        (f"patient_{number}", "plain", ()) for number in (1, 2, 3)
    ]


def test_bare_names_steal_nothing_from_other_layouts(tmp_path):
    for number in (1, 2):
        names = (f"{index}_{name}/NIFTI/{name}.nii.gz" for index, name in enumerate(("FLAIR", "T1GD", "T1", "T2"), 1))
        touch(tmp_path / "egd" / f"MR_EGD-000{number}", *names)
        plain(brats(tmp_path / "brats", f"B{number}"), "native")
        plain(brats2023(tmp_path / "b23", f"BraTS-GLI-0000{number}-000"), "native")
    for place, layout in (("egd", "egd"), ("brats", "brats"), ("b23", "brats2023")):
        for found in (discover_folder(tmp_path / place, None, FOUR), discover_any(tmp_path / place, FOUR)):
            assert [(case.layout, case.problems) for case in found] == [(layout, ())] * 2


def test_bare_names_beside_another_data_set_are_said_and_taken_if_they_are_asked_for(tmp_path):
    brats(tmp_path, "A")
    plain(tmp_path, "patient_1")
    first, second = discover_folder(tmp_path, None, FOUR)
    assert (first.layout, first.problems, second.case_id) == ("brats", (), "patient_1")
    assert second.problems[0].endswith(
        "for other names give a CSV file of paths; its files have the names of --layout plain (bare names): give such "
        "folders in a place apart"
    )
    found = discover_folder(tmp_path, "plain", FOUR)
    assert [case.case_id for case in found if not case.problems] == ["patient_1"]
    assert [case.layout for case in discover_any(tmp_path, FOUR)] == ["brats", "plain"]


def test_one_bare_name_is_no_data_set_but_one_of_its_cases(tmp_path):
    touch(tmp_path / "atlas", "t1.nii.gz")
    with pytest.raises(InputError, match="holds no case"):
        discover_folder(tmp_path, None, FOUR)
    plain(tmp_path, "patient_1")
    found = {case.case_id: case.problems for case in discover_folder(tmp_path, None, FOUR)}
    assert found["patient_1"] == ()
    assert [problem.partition(";")[0] for problem in found["atlas"]] == [
        f"case atlas: no {name}" for name in ("flair", "t1ce", "t2")
    ]
    touch(tmp_path / "one" / "x", "flair.nii.gz")
    assert [case.case_id for case in discover_folder(tmp_path / "one", None, ("flair",))] == ["x"]


def by_id(cases):
    return {case.case_id: case.patient_id for case in cases}


@pytest.mark.parametrize("discover", [lambda *a: discover_folder(a[0], None, *a[1:]), discover_any])
def test_examinations_are_those_of_the_patient_that_the_folder_above_names(tmp_path, discover):
    names = ("p1/2019-01-02", "p1/2020-05-06", "p2/ses-a/mri", "p2/baseline/mri", "p3/20170101")
    for name in names:
        plain(tmp_path, name)
    findings = []
    found = discover(tmp_path, FOUR, findings)
    assert by_id(found) == {
        **{"2019-01-02": "p1", "2020-05-06": "p1", "20170101": "p3"},
        **{"ses-a": "p2", "baseline": "p2"},
    }
    assert [finding.text for finding in findings] == [
        f"{tmp_path}: 2 cases are named after the folder above, because several folders have one name "
        "(p2/baseline/mri is baseline, p2/ses-a/mri is ses-a)",
        f"{tmp_path}: 5 cases are named like examinations, and taken as those of 3 patients, whom the folder above "
        "names (p1: 2019-01-02, 2020-05-06; p2: baseline, ses-a; p3: 20170101); where that is not so, give a table "
        "of paths with patient_id",
    ]
    assert [case.shared for case in found] == [None] * 5


def test_examinations_in_names_of_brats_are_one_patient_s_too(tmp_path):
    for name in ("2019-01-02", "2020-05-06"):
        brats(tmp_path / "p1", name)
    assert by_id(discover_folder(tmp_path, None, FOUR)) == {"2019-01-02": "p1", "2020-05-06": "p1"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("p1/mri", "p2/mri", "p3"), {"p1": "p1", "p2": "p2", "p3": "p3"}),
        (("s/p1/a/mri", "s/p2/a/mri"), {"p1": "p1", "p2": "p2"}),
        (("p1/ses-1", "p1/ses-2", "p2/ses-1"), {"p1_ses-1": "p1", "p1_ses-2": "p1", "p2_ses-1": "p2"}),
        (("X/001", "X/002", "Y/001"), {"X_001": "X_001", "X_002": "X_002", "Y_001": "Y_001"}),
        (("HGG/a", "HGG/b", "LGG/c"), {"a": "a", "b": "b", "c": "c"}),
    ],
)
def test_folders_that_share_a_name_are_named_by_the_folder_above(tmp_path, names, expected):
    for name in names:
        plain(tmp_path, name, ("flair", "t1", "t2"))
    found = discover_folder(tmp_path, "plain", FOUR)
    assert by_id(found) == expected
    assert [case.problems[0].partition(";")[0] for case in found] == [f"case {name}: no t1ce" for name in expected]


def test_more_examinations_than_a_patient_has_are_no_patient_s(tmp_path):
    for number in range(31):
        plain(tmp_path, f"clinic/visit_{number}", ("flair", "t1"))
    found = discover_folder(tmp_path, None, FOUR)
    assert len({case.patient_id for case in found}) == 31
    assert {case.shared for case in found} == {tmp_path / "clinic"}


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        *(("P7_ses-1", "P7"), ("sub-01_2019-01-02", "sub-01"), ("P7_20190102", "P7"), ("A.week-012", "A")),
        *(("Brats17_2013_10_1", None), ("BraTS20_Training_355", None), ("P7_scan3", None), ("20191302", None)),
        *(("phantom_000", None), ("UTSW_T1", None), ("session", None), ("TCGA-02-0001", None), ("2019-01-02", None)),
    ],
)
def test_examinations_in_names(name, patient):
    assert patient_before_examination(name) == patient
    assert is_examination(name) == (name == "2019-01-02")

import csv
import json
import shutil

import nibabel as nib
import pytest
from small_cases import LPS, MODALITIES, case_from_folder, draw_volumes, write_case

from mttu.cohort.build import build_cohort, describe_manifest, discover
from mttu.cohort.discovery import discover_folder
from mttu.cohort.found_cases import CohortRequest, doubt_patients, name_cases
from mttu.data.manifest import read_manifest, write_manifest
from mttu.errors import InputError


def write_table(path, *rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return path


def refusals(*arguments, **named):
    with pytest.raises(InputError) as caught:
        discover(*arguments, **named)
    return caught.value.problems


def test_the_phantom_cohort(phantom_folder, phantom_manifest):
    assert phantom_manifest.synthetic
    assert phantom_manifest.modalities == MODALITIES
    assert [case.case_id for case in phantom_manifest.cases] == [f"phantom_{index:03d}" for index in range(8)]
    case = phantom_manifest.cases[0]
    assert case.images["t1ce"] == phantom_folder / "phantom_000" / "phantom_000_t1ce.nii.gz"
    assert case.seg == phantom_folder / "phantom_000" / "phantom_000_seg.nii.gz"
    with (phantom_folder / "clinical.csv").open(encoding="utf-8") as file:
        rows = {row["case_id"]: row for row in csv.DictReader(file)}
    for case in phantom_manifest.cases:
        row = rows[case.case_id]
        assert (case.patient_id, case.split, case.sex, case.grade) == tuple(
            row[name] for name in ("patient_id", "split", "sex", "grade")
        )
        assert case.idh == int(row["idh"] or -1)
        assert case.age == float(row["age"])


def test_without_a_table_cases_with_masks_train_segmentation(phantom_folder):
    manifest = discover(phantom_folder)
    assert {case.idh for case in manifest.cases} == {-1}
    assert len(manifest.split("train")) == 6
    assert len(manifest.split("val")) == 2
    assert describe_manifest(manifest) == [
        "train: 6 cases (6 unknown IDH, 6 with a mask)",
        "val: 2 cases (2 unknown IDH, 2 with a mask)",
    ]


def test_seed_and_fraction_decide_the_split(phantom_folder):
    first = discover(phantom_folder, seed=0, val_fraction=0.5)
    assert len(first.split("val")) == 4
    assert discover(phantom_folder, seed=0, val_fraction=0.5) == first
    others = [discover(phantom_folder, seed=seed, val_fraction=0.5) for seed in range(1, 4)]
    assert any(other.split("val") != first.split("val") for other in others)


def test_a_case_without_a_row_is_unlabelled(phantom_folder, tmp_path):
    rows = [{"case_id": f"phantom_00{index}", "idh": "Mutant"} for index in range(3)]
    manifest = discover(phantom_folder, write_table(tmp_path / "t.csv", *rows, {"case_id": "elsewhere", "idh": "WT"}))
    assert len(manifest.split("unlabelled")) == 5
    assert describe_manifest(manifest)[0] == "train: 2 cases (2 mutant, 2 with a mask)"


def test_two_patients_both_train_and_the_empty_validation_is_said(tmp_path):
    for name in ("A", "B"):
        write_case(tmp_path / "data", name)
    table = write_table(tmp_path / "t.csv", {"case_id": "A", "idh": "1"}, {"case_id": "B", "idh": "0"})
    lines = describe_manifest(discover(tmp_path / "data", table))
    assert lines == [
        "train: 2 cases (1 mutant, 1 wild type, 2 with a mask)",
        "val: no case; name splits in the clinical table (column split)",
    ]


def test_synthetic_only_if_the_marker_lists_every_case(phantom_folder, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(phantom_folder / "phantom_000", root / "phantom_000")
    assert not discover(root).synthetic
    shutil.copy(phantom_folder / "phantom.json", root)
    assert discover(root).synthetic
    write_case(root, "patient")
    assert not discover(root).synthetic
    (root / "phantom.json").write_text(json.dumps({"synthetic": True}))
    with pytest.raises(InputError, match=r"phantom\.json: damaged"):
        discover(root)


def test_a_phantom_is_synthetic_from_above_and_through_a_table_too(phantom_folder, tmp_path):
    shutil.copytree(phantom_folder, tmp_path / "deep" / "phantom")
    assert discover(tmp_path).synthetic
    name = "phantom_000"
    rows = {role: f"deep/phantom/{name}/{name}_{role}.nii.gz" for role in (*MODALITIES, "seg")}
    table = write_table(tmp_path / "paths.csv", {"case_id": name, **rows})
    assert discover(table, labels="brats").synthetic
    write_case(tmp_path / "real", name.replace("000", "900"))
    assert not discover(tmp_path).synthetic
    shutil.rmtree(tmp_path / "deep" / "phantom" / name)
    write_case(tmp_path / "real", name)  # a patient who happens to have the name of a synthetic case
    shutil.rmtree(tmp_path / "real" / "phantom_900")
    assert not discover(tmp_path).synthetic


def test_all_problems_of_all_cases_are_named_at_once(tmp_path):
    root = tmp_path / "data"
    for name in ("A", "B", "C", "D"):
        write_case(root / "HGG", name)
    write_case(root / "LGG", "D")
    write_case(root / "LGG", "E 1")
    for name in ("A", "B"):
        (root / "HGG" / name / f"{name}_t2.nii.gz").unlink()
    seg = draw_volumes()["seg"]
    seg[seg == 1] = 3
    nib.save(nib.Nifti1Image(seg, LPS), root / "HGG" / "C" / "C_seg.nii.gz")
    (root / "HGG" / "D" / "D_t1.nii.gz").write_bytes(b"")
    table = write_table(tmp_path / "t.csv", {"case_id": "A", "idh": "?"}, {"case_id": "C", "idh": "WT"})
    found = refusals(root, table)
    expected = [
        "cases A, B: no t2; expected <case>_t2.nii.gz or <case>_t2.nii",
        "case E 1: this id is no safe file name",
        f"case D: 2 folders or rows have this name ({root / 'HGG' / 'D'}, {root / 'LGG' / 'D'}); give each one of its "
        "own, or a table of paths with a case_id for each",
        "case C: seg has labels {0, 2, 3, 4}; expected a subset of {0, 1, 2, 4} (BraTS to 2021)",
        "case D: D_t1.nii.gz: is empty (0 bytes)",
        f"clinical table {table}: line 2: idh is '?'",
    ]
    assert len(found) == len(expected)
    for problem, start in zip(found, expected, strict=True):
        assert problem.startswith(start)


def test_cases_that_share_a_name_are_counted_one_by_one(tmp_path):
    for name in ("HGG/D", "LGG/D", "E"):
        write_case(tmp_path / name, "D" if "D" in name else "E")
    cohort = build_cohort(CohortRequest((tmp_path,), skip_bad=True))
    assert [case.case_id for case in cohort.manifest.cases] == ["E"]
    assert cohort.findings[-1].text == "2 cases with errors are left out"


DOUBT = (
    "and every case counts as a patient of its own; where several are one patient's, give a clinical table with a "
    "column patient_id"
)


def test_cases_whose_patient_nobody_tells_are_doubted(tmp_path):
    def doubt(*names, told=()):
        for name in names:
            (tmp_path / name).mkdir(parents=True)
            for role in MODALITIES:
                (tmp_path / name / f"{role}.nii.gz").touch()
        found = discover_folder(tmp_path, None, MODALITIES)
        findings = doubt_patients(found, name_cases(found, [])[0], told)
        return [(one.severity, one.text.replace(f"{tmp_path}", "")) for one in findings]

    assert doubt("P/a", "P/b") == [("note", f"1 folder holds several cases (/P: a, b), {DOUBT}")]
    both = ("warning", f"2 folders hold several cases each (/P: a, b; /Q: c, d), {DOUBT}")
    assert doubt("Q/c", "Q/d") == [both]
    assert doubt("x", told=("c", "d")) == [("warning", f"1 folder holds several cases (/P: a, b), {DOUBT}")]
    named = f"1 patient seems to have several cases by name (R: R_ses-1, R_ses-2), {DOUBT}"
    assert doubt("R_ses-1", "R_ses-2") == [both, ("warning", named)]
    dates = f"2 patients seem to have several cases by name (: 2019-01-02, 2020-05-06; R: R_ses-1, R_ses-2), {DOUBT}"
    assert doubt("2019-01-02", "2020-05-06") == [both, ("warning", dates)]


def test_a_patient_whom_a_table_tells_is_not_doubted(tmp_path):
    for name in ("P_ses-1", "P_ses-2", "R_ses-1", "R_ses-2"):
        write_case(tmp_path, name)
    row = {"idh": "1", "split": "train", "patient_id": "Q"}
    table = write_table(tmp_path / "t.csv", *({"case_id": f"P_ses-{number}", **row} for number in (1, 2)))
    cohort = build_cohort(CohortRequest((tmp_path,), (table,), same_brain=2))
    (doubt,) = [found for found in cohort.findings if "seems" in found.text]
    assert doubt.text == f"1 patient seems to have several cases by name (R: R_ses-1, R_ses-2), {DOUBT}"


def test_examinations_in_a_table_of_paths_are_doubted(tmp_path):
    lines = ["case_id,flair,t1ce,t1,t2"]
    for number, name in enumerate(("2019-01-02", "2020-05-06")):
        write_case(tmp_path / "P", name)
        lines.append(",".join([f"X{number}", *(f"P/{name}/{name}_{role}.nii.gz" for role in MODALITIES)]))
    table = tmp_path / "paths.csv"
    table.write_text("\n".join(lines))
    (doubt,) = [found for found in build_cohort(CohortRequest((table,))).findings if "seems" in found.text]
    assert (doubt.severity, f"({tmp_path / 'P'}: X0, X1)" in doubt.text) == ("warning", True)


def test_ids_that_differ_in_case_only_are_refused(tmp_path):
    for name in ("x1", "X1", "y"):
        write_case(tmp_path / name.lower() / name, name)
    assert refusals(tmp_path) == [
        f"case {name}: {other} differs in upper and lower case only, which some file systems do not tell apart; "
        "rename one"
        for name, other in (("X1", "x1"), ("x1", "X1"))
    ]


def test_an_unsafe_id_is_itself_in_its_finding(tmp_path):
    for name in ("a: b", "c"):
        write_case(tmp_path, name)
    (error,) = [found for found in build_cohort(CohortRequest((tmp_path,))).findings if found.severity == "error"]
    assert error.case_id == "a: b"
    assert error.text.startswith("this id is no safe file name")


def test_rows_that_do_not_fit_are_refused(tmp_path):
    root = tmp_path / "data"
    write_case(root, "A")
    twice = write_table(tmp_path / "t.csv", {"case_id": "A", "idh": "1"}, {"case_id": "A", "idh": "1"})
    assert refusals(root, twice) == [f"case A: clinical table {twice} has several rows (lines 2, 3); keep one"]
    foreign = write_table(tmp_path / "u.csv", {"case_id": "X", "idh": "1"})
    (problem,) = refusals(root, foreign)
    assert "none of its ids is a case (X, ...; cases are A, ...)" in problem
    unsafe = write_table(tmp_path / "v.csv", {"case_id": "A", "patient_id": "../A", "idh": "1"})
    (problem,) = refusals(root, unsafe)
    assert problem.startswith("case A: patient '../A': this id is no safe file name")


def test_arguments_are_checked(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no case; expected <case>/<case>_{flair,t1ce,t1,t2,seg}" in refusals(tmp_path / "empty")[0]
    assert refusals(tmp_path / "absent", modalities=("flair", "swi"), val_fraction=1.0) == [
        f"{tmp_path / 'absent'}: not found or no folder; give the folder that holds the case folders, "
        "or a CSV file of paths",
        "modalities: flair,swi; expected some of flair, t1ce, t1, t2, each at most once",
        "val_fraction: 1.0; expected 0 to below 1",
    ]
    assert "labels 'x': unknown convention" in refusals(tmp_path / "empty", labels="x")[0]


def test_a_single_folder_becomes_a_case_to_predict(tmp_path):
    volumes = draw_volumes()
    del volumes["seg"]
    case = case_from_folder(write_case(tmp_path, "A", volumes, ending=".nii"), "brats2013", ("flair", "t2"))
    assert (case.case_id, case.split, case.seg, case.idh, case.labels) == ("A", "test", None, -1, "brats2013")
    assert case.images == {name: tmp_path / "A" / f"A_{name}.nii" for name in ("flair", "t2")}


def test_a_case_to_predict_needs_a_safe_name(tmp_path):
    with pytest.raises(InputError, match="no safe file name"):
        case_from_folder(write_case(tmp_path, "A B"), "brats", MODALITIES)


def test_a_single_folder_names_all_missing_modalities(tmp_path):
    folder = write_case(tmp_path, "A", {"flair": draw_volumes()["flair"]})
    with pytest.raises(InputError) as caught:
        case_from_folder(folder, "brats", MODALITIES)
    assert [problem.partition(";")[0] for problem in caught.value.problems] == [
        "case A: no t1ce",
        "case A: no t1",
        "case A: no t2",
    ]


@pytest.mark.real
def test_two_tcga_patients_become_a_manifest(real_data, tmp_path):
    table = write_table(
        tmp_path / "clinical.csv",
        {"TCIA_Subject_ID": "TCGA-DU-7294", "IDH_status": "Mutant", "Age": "53", "Gender": "female", "split": "train"},
        {"TCIA_Subject_ID": "TCGA-FG-6692", "IDH_status": "WT", "Age": "63", "Gender": "male", "split": "val"},
    )
    cohort = build_cohort(CohortRequest((real_data / "tcga_lgg",), (table,)))
    assert cohort.findings == ()  # nothing looks unstripped, shifted or odd
    write_manifest(cohort.manifest, tmp_path / "cohort.parquet")
    mutant, wild = read_manifest(tmp_path / "cohort.parquet").cases
    assert (mutant.case_id, mutant.idh, mutant.split, mutant.age) == ("TCGA-DU-7294", 1, "train", 53.0)
    assert (mutant.site, wild.site) == ("DU", "FG")
    assert (wild.case_id, wild.idh, wild.split, wild.sex) == ("TCGA-FG-6692", 0, "val", "male")


@pytest.mark.real
def test_three_brats_2013_patients_become_a_manifest_only_under_their_own_labels(real_data, tmp_path):
    folder, names = real_data / "brats2013_flair_t1c", [f"brats_2013_pat000{number}_1" for number in (3, 5, 6)]
    sides = ("train", "train", "val")
    splits = [{"case_id": name, "idh": "", "split": split} for name, split in zip(names, sides, strict=True)]
    table = write_table(tmp_path / "clinical.csv", *splits)
    cohort = build_cohort(CohortRequest((folder,), (table,), labels="brats2013", modalities=("flair", "t1ce")))
    assert cohort.findings == ()  # the brain masks settle what a background that is not 0 would raise
    manifest = cohort.manifest
    assert [(case.case_id, case.split, case.idh) for case in manifest.cases] == [
        (row["case_id"], row["split"], -1) for row in splits
    ]
    assert all(case.brain_mask is not None for case in manifest.cases)
    assert refusals(folder, table, modalities=("flair", "t1ce")) == [
        f"cases {', '.join(names)}: seg has labels {{0, 1, 2, 3, 4}}; expected a subset of {{0, 1, 2, 4}} "
        "(BraTS to 2021); pass --labels NAME for another convention"
    ]


def test_results_of_a_prediction_inside_the_folder_are_no_cases(phantom_folder, tmp_path):
    folder = tmp_path / "cohort"
    shutil.copytree(phantom_folder, folder)
    before = len(discover(folder).cases)
    (folder / "predictions").mkdir()
    (folder / "predictions" / "predictions.parquet").touch()
    (folder / "predictions" / "phantom_000_seg.nii.gz").write_bytes(b"whatever")
    assert len(discover(folder).cases) == before


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (
            "case_id,patient_id,idh\nA,P,1\nB,P,0\nC,C,1\nD,D,0\n",
            "patient P is IDH mutant and wild type (A mutant, B wild type); correct the clinical table",
        ),
        (
            "ID,Sex,Age at MRI,WHO CNS Grade,IDH,BraTS21 ID\nA,,,,1,\nB,,,,0,d01\nC,,,,1,\nD1,,,,1,\nD001,,,,0,\n",
            "clinical table: line 3: 'd01' may be patient D001 or D1; write the one you mean",
        ),
    ],
)
def test_a_patient_in_doubt_is_left_out_where_bad_cases_are_skipped(tmp_path, table, says):
    (tmp_path / "t.csv").write_text(table)
    rows = [line.split(",")[0] for line in table.splitlines()[1:]]
    for name in rows:
        write_case(tmp_path / "data", name)
    cohort = build_cohort(CohortRequest((tmp_path / "data",), (tmp_path / "t.csv",), skip_bad=True))
    bad = [found.case_id for found in cohort.findings if found.severity == "error" and found.text == says]
    assert bad, cohort.findings
    assert {case.case_id for case in cohort.manifest.cases} == set(rows) - set(bad)

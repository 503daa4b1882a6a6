"""Published tables with their true headers, and the cases that they name in whatever column: patients are made up."""

import shutil

import pytest
from small_cases import MODALITIES, write_case

from mttu.cohort.build import build_cohort
from mttu.cohort.found_cases import CohortRequest
from mttu.cohort.truth import read_truth

UCSF_HEADER = (
    "ID,Sex,Age at MRI,WHO CNS Grade,Final pathologic diagnosis (WHO 2021),MGMT status,MGMT index,1p/19q,IDH,"
    "1-dead 0-alive,OS,EOR,Biopsy prior to imaging,BraTS21 ID,BraTS21 Segmentation Cohort,BraTS21 MGMT Cohort"
)
UCSF_ROWS = (
    'UCSF-PDGM-801,F,41,3,"Astrocytoma, IDH-mutant",,,intact,IDH1 p.R132H,0,900,GTR,No,BraTS2021_08001,Training,',
    'UCSF-PDGM-802,M,63,4,"Glioblastoma, IDH-wildtype",,,,wildtype,1,300,STR,No,BraTS2021_08002,Validation,',
    'UCSF-PDGM-803,M,52,4,"Glioblastoma, IDH-wildtype",,,,wildtype,1,300,STR,No,,,',
)
UCSF = "\n".join((UCSF_HEADER, *UCSF_ROWS)) + "\n"


@pytest.fixture
def make(tmp_path):
    """Writes cases and tables, and builds the cohort: facts by case id, and the cohort."""

    def build(cases, *tables, **named):
        for name in cases:
            folder = tmp_path / "data" / name
            if not folder.exists():
                write_case(tmp_path / "data", name)
        paths = []
        for number, table in enumerate(tables):
            paths.append(tmp_path / f"table_{number}.csv")
            paths[-1].write_bytes(table.encode())
        cohort = build_cohort(CohortRequest((tmp_path / "data",), tuple(paths), **named))
        found = cohort.manifest.cases if cohort.manifest else ()
        return {case.case_id: (case.patient_id, case.idh, case.age, case.sex, case.grade) for case in found}, cohort

    return build


def texts(cohort, severity):
    return [(found.case_id, found.text) for found in cohort.findings if found.severity == severity]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_brats_2021_alone_gets_what_the_table_of_ucsf_says_of_it(make, ending):
    facts, cohort = make(("BraTS2021_08001", "BraTS2021_08002", "BraTS2021_08009"), UCSF.replace("\n", ending))
    assert facts == {
        "BraTS2021_08001": ("UCSF-PDGM-0801", 1, 41.0, "female", "3"),
        "BraTS2021_08002": ("UCSF-PDGM-0802", 0, 63.0, "male", "4"),
        "BraTS2021_08009": ("BraTS2021_08009", -1, None, None, None),
    }
    notes = [text for _, text in texts(cohort, "note")]
    assert "1 clinical row has no case here (UCSF-PDGM-0803)" in notes
    assert "1 case has no clinical row: IDH status unknown (BraTS2021_08009)" in notes
    assert not any("same number" in note for note in notes)


def test_the_folders_of_both_data_sets_are_one_patient_with_the_same_facts(make):
    facts, _ = make(("BraTS2021_08001", "UCSF-PDGM-0801", "BraTS2021_08002"), UCSF)
    assert facts["BraTS2021_08001"] == facts["UCSF-PDGM-0801"] == ("UCSF-PDGM-0801", 1, 41.0, "female", "3")
    splits = "case_id,split\nBraTS2021_08001,train\nUCSF-PDGM-0801,test\n"
    _, refused = make((), UCSF, splits)
    assert refused.manifest is None
    assert any("split is 'train'" in text and "'test'" in text for text in refused.errors)


def test_the_number_of_brats_2021_carries_over_and_is_said(make):
    names = ("BraTS-GLI-08001-000", "BraTS-GLI-08001-001", "BraTS2021_08002", "UCSF-PDGM-0801")
    facts, cohort = make(names, UCSF)
    assert {facts[name] for name in (*names[:2], names[3])} == {("UCSF-PDGM-0801", 1, 41.0, "female", "3")}
    note = (
        "2 cases count as the subject that has the same number in BraTS 2021 (BraTS-GLI-08001-000 as BraTS2021_08001, "
        "BraTS-GLI-08001-001 as BraTS2021_08001); --no-brats-numbers keeps the two apart"
    )
    assert ("", note) in texts(cohort, "note")
    facts, cohort = make((), UCSF, brats_numbers=False)
    assert facts["BraTS-GLI-08001-000"] == ("BraTS-GLI-08001-000", -1, None, None, None)
    assert ("", note) not in texts(cohort, "note")


def test_brats_2021_and_brats_gli_of_one_number_are_one_patient_without_a_table(make):
    names = ("BraTS2021_08001", "BraTS-GLI-08001-000", "BraTS-GLI-08002-000", "BraTS-SSA-08001-000")
    assert [facts[0] for facts in make(names)[0].values()] == [names[1], names[2], names[3], names[1]]
    assert len({facts[0] for facts in make((), brats_numbers=False)[0].values()}) == 4


def test_upenn_and_the_name_mapping_of_brats_2019_are_joined(make):
    upenn = (
        "ID,Gender,Age_at_scan_years,Survival_from_surgery_days,IDH1,MGMT,KPS,GTR_over90percent,"
        "Time_since_baseline_preop,PsP_TP_score\n"
        "UPENN-GBM-80001_11,F,52.16,Not Available,Wildtype,Not Available,Not Available,Y,0,NA\n"
    )
    mapping = (
        "Grade,BraTS_2017_subject_ID,BraTS_2018_subject_ID,TCGA_TCIA_subject_ID,BraTS_2019_subject_ID\n"
        "LGG,Brats17_TCIA88_1_1,Brats18_TCIA88_1_1,TCGA-XX-0088,BraTS19_TCIA88_1_1\n"
    )
    genes = "case_id,idh\nTCGA-XX-0088-01A,mutant\n"  # a sample of that patient, by its barcode
    facts, _ = make(("UPENN-GBM-80001_11", "BraTS19_TCIA88_1_1", "Brats17_TCIA88_1_1"), upenn, mapping, genes)
    assert facts["UPENN-GBM-80001_11"] == ("UPENN-GBM-80001", 0, 52.16, "female", None)
    assert facts["BraTS19_TCIA88_1_1"] == ("TCGA-XX-0088", 1, None, None, "LGG")
    assert facts["Brats17_TCIA88_1_1"] == facts["BraTS19_TCIA88_1_1"]


def test_the_table_of_utsw_glioma_is_known(make):
    table = "Subject ID\tTumor Grade\tTumor Type\tIDH\tAge at Imaging\tGender\nBT8001\t3\tAstrocytoma\tmutated\t44\tF\n"
    facts, _ = make(("BT8001",), table.replace("\t", ","))
    assert facts["BT8001"] == ("BT8001", 1, 44.0, "female", "3")


def test_rows_of_two_tables_fill_each_other_in_and_may_not_contradict(make):
    own = "case_id,idh,age\nBraTS2021_08001,NA,41.6\nBraTS2021_08002,mutant,\n"
    facts, cohort = make(("BraTS2021_08001", "BraTS2021_08002", "C"), UCSF, own, skip_bad=True)
    assert facts["BraTS2021_08001"] == ("UCSF-PDGM-0801", 1, 41.6, "female", "3")
    assert set(facts) == {"BraTS2021_08001", "C"}
    ((name, text),) = texts(cohort, "error")
    assert name == "BraTS2021_08002"
    assert text.startswith("IDH is 'mutant' (")
    assert "'wild type' (" in text


def test_two_patients_of_one_table_may_not_have_one_case(make):
    twice = UCSF.replace("BraTS2021_08002", "BraTS2021_08001")
    facts, cohort = make(("BraTS2021_08001", "C"), twice, skip_bad=True)
    assert list(facts) == ["C"]
    assert any(text.startswith("patient is 'UCSF-PDGM-0801' (") for _, text in texts(cohort, "error"))


def test_a_crosswalk_and_a_table_of_paths_lead_to_a_row_by_its_other_name(make, tmp_path):
    (tmp_path / "crosswalk.csv").write_text("ours,theirs\nX1,BraTS2021_08001\n")
    facts, _ = make(("X1", "X2"), UCSF, crosswalk=tmp_path / "crosswalk.csv")
    assert facts["X1"] == ("UCSF-PDGM-0801", 1, 41.0, "female", "3")
    lines = [
        ",".join(["Y", "BraTS2021_08002", "brats", *(f"data/X2/X2_{role}.nii.gz" for role in (*MODALITIES, "seg"))])
    ]
    (tmp_path / "paths.csv").write_text(f"case_id,BraTS21 ID,labels,{','.join(MODALITIES)},seg\n{lines[0]}\n")
    cohort = build_cohort(CohortRequest((tmp_path / "paths.csv",), (tmp_path / "table_0.csv",)))
    (case,) = cohort.manifest.cases
    assert (case.case_id, case.patient_id, case.idh) == ("Y", "UCSF-PDGM-0802", 0)


def test_scores_find_the_truth_by_the_other_name(tmp_path):
    table = tmp_path / "ucsf.csv"
    table.write_text(UCSF)
    truth = read_truth(table)
    assert (truth["BraTS2021_08001"], truth["UCSF-PDGM-0801"], truth["BraTS2021_08002"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("crosswalk", "bad", "says"),
    [
        ("a,b\nP001,Q\n", {"P1", "P01"}, "crosswalk line 2: 'P001' may be patient P01 or P1; write the one you mean"),
        ("a,b\nP1,U1\nP1,U2\n", {"P1"}, "crosswalk 'P1' is in lines 2 and 3, which disagree in column 'b'"),
        ("a,b\nP1,Q,Z\nR,U\n", {"P1", "Q"}, "crosswalk line 2 has 3 values; expected 2 as in the header"),
    ],
)
def test_a_doubtful_line_of_a_crosswalk_leaves_out_the_cases_it_may_mean(make, tmp_path, crosswalk, bad, says):
    path = tmp_path / "crosswalk.csv"
    path.write_text(crosswalk)
    names = ("P1", "P01", "Q", "R")
    facts, cohort = make(names, crosswalk=path, skip_bad=True)
    assert set(facts) == set(names) - bad
    assert {name for name, _ in texts(cohort, "error")} == bad
    assert all(text.startswith(says) for _, text in texts(cohort, "error"))


def test_a_crosswalk_that_names_cases_with_errors_alone_is_not_of_other_data(make, tmp_path):
    (tmp_path / "crosswalk.csv").write_text("a,b\nP1,P2\n")
    for name in ("P1", "P2"):
        (write_case(tmp_path / "data", name) / f"{name}_t1.nii.gz").unlink()
    facts, cohort = make(("R",), crosswalk=tmp_path / "crosswalk.csv", skip_bad=True)
    assert list(facts) == ["R"], cohort.errors


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_copy_of_a_case_that_is_refused_for_something_else_is_told(make, tmp_path, skip_bad):
    write_case(tmp_path / "data", "A")
    shutil.copytree(tmp_path / "data" / "A", tmp_path / "data" / "B")
    for file in list((tmp_path / "data" / "B").iterdir()):
        file.rename(file.with_name(file.name.replace("A_", "B_")))
    (tmp_path / "data" / "B" / "B_seg.nii.gz").write_bytes(b"")
    facts, cohort = make(("C",), skip_bad=skip_bad)
    assert list(facts) == (["A", "C"] if skip_bad else [])
    same = "all images have the same voxels as those of"
    assert [found for found in texts(cohort, "warning") if same in found[1]] == [
        ("A", f"{same} case B, which has errors of its own; check whose they are"),
        ("B", f"{same} case A; check whose they are"),
    ]

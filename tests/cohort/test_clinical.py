import csv
import io
import re

import pytest
from clinical_examples import (
    BRATS_2020,
    BRATS_NAMES,
    EGD_CLINICAL,
    EGD_LABELS,
    UCSF,
    UPENN,
    write_text,
    write_workbook,
)

from mttu.cohort.clinical import read_clinical_tables
from mttu.cohort.clinical_rows import is_low_grade
from mttu.cohort.clinical_tables import CLINICAL_TABLES, ROLES
from mttu.errors import InputError


@pytest.fixture
def read(tmp_path):
    def write_and_read(text, encoding="utf-8"):
        path = tmp_path / "clinical.csv"
        path.write_bytes(text.encode(encoding))
        return read_clinical_tables(path).rows

    return write_and_read


def refusals(read, text):
    with pytest.raises(InputError) as caught:
        read(text)
    return [problem.partition("clinical.csv: ")[2] for problem in caught.value.problems]


def facts(row):
    return row.patient_id, row.idh, row.grade, row.age, row.sex, row.site


def test_the_tables_of_brats_2020(read):
    mutant, wild, unknown = read(BRATS_2020)
    assert mutant.ids == {"TCGA-DU-7294", "BraTS20_Training_300"}
    assert facts(mutant) == ("TCGA-DU-7294", 1, "LGG", 53.0, "female", "DU")
    assert facts(wild) == ("TCGA-02-0006", 0, "HGG", 56.0, "male", "02")
    assert unknown.ids == {"BraTS20_Training_001"}
    assert facts(unknown) == (None, -1, "HGG", None, None, None)
    assert (mutant.split, mutant.line, mutant.aliases) == (None, 2, frozenset())
    assert mutant.source.endswith("clinical.csv")


def test_the_name_mapping_of_brats_has_grades_and_all_names(read):
    known, other = read(BRATS_NAMES)
    years = {"Brats17_TCIA_1_1", "Brats18_TCIA_1_1", "BraTS19_TCIA_1_1", "BraTS20_Training_300"}
    assert known.ids == {*years, "TCGA-DU-7294"}
    assert facts(known) == ("TCGA-DU-7294", -1, "LGG", None, None, "DU")
    assert facts(other) == (None, -1, "HGG", None, None, None)


def test_ucsf_pdgm_has_three_digits_in_the_table_and_four_in_folders(read):
    wild, nos, variant, later = read(UCSF)
    assert wild.ids == {"UCSF-PDGM-004", "UCSF-PDGM-0004", "UCSF-PDGM-0004_nifti"}
    assert facts(wild) == ("UCSF-PDGM-0004", 0, "4", 66.0, "male", None)
    assert wild.aliases == {"BraTS2021_00097"}
    assert facts(nos) == ("UCSF-PDGM-0005", 1, "2", 30.0, "female", None)
    assert nos.aliases == frozenset()
    assert variant.idh == later.idh == 1
    assert later.ids == {"UCSF-PDGM-0391_FU016d", "UCSF-PDGM-0391_FU016d_nifti"}
    assert not variant.ids & later.ids
    assert variant.patient_id == later.patient_id == "UCSF-PDGM-0391"


def test_upenn_gbm_has_several_scans_of_a_patient(read):
    first, later, old, unknown = read(UPENN)
    assert facts(first) == ("UPENN-GBM-00001", 0, None, 64.4, "male", None)
    assert (first.ids, later.ids) == ({"UPENN-GBM-00001_11"}, {"UPENN-GBM-00001_21"})
    assert later.patient_id == first.patient_id
    assert facts(old) == ("UPENN-GBM-00002", 1, None, 89.0, "female", None)
    assert facts(unknown) == ("UPENN-GBM-00003", -1, None, None, "female", None)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_egd_has_two_workbooks_that_become_one(tmp_path, order):
    files = [
        write_workbook(tmp_path / "Genetic_and_Histological_labels.xlsx", EGD_LABELS),
        write_workbook(tmp_path / "Clinical_data.xlsx", EGD_CLINICAL),
    ]
    mutant, unknown = read_clinical_tables([files[index] for index in order]).rows
    assert mutant.ids == {"EGD-0001", "MR_EGD-0001"}
    assert facts(mutant) == (None, 1, "3", 44.5, "female", None)
    assert facts(unknown) == (None, -1, None, None, "male", None)
    assert (mutant.source, mutant.line) == (str(files[order[0]]), 2)
    assert [row.age for row in read_clinical_tables(files[1]).rows] == [44.5, None]


@pytest.mark.parametrize("text", [BRATS_2020, UCSF, UPENN])
def test_only_the_named_columns_are_read(read, text):
    """Diagnosis, histology, 1p/19q, MGMT, survival: whatever they say, the rows are the same."""
    before = read(text)
    records = list(csv.DictReader(io.StringIO(text)))
    kept = {
        *("TCIA_Subject_ID", "BraTS_2020_ID", "ID", "Age", "Age at MRI", "Age_at_scan_years", "Gender", "Sex"),
        *("Grade", "WHO CNS Grade", "IDH_status", "IDH", "IDH1", "BraTS21 ID"),
    }
    others = [name for name in records[0] if name not in kept]
    assert others
    changed = io.StringIO()
    table = csv.DictWriter(changed, records[0])
    table.writeheader()
    table.writerows({**record, **dict.fromkeys(others, "Oligodendroglioma, IDH-mutant")} for record in records)
    assert read(changed.getvalue()) == before


@pytest.mark.parametrize("name", ["diagnosis", "Final pathologic diagnosis (WHO 2021)", "Histology", "WHO 2021"])
def test_a_diagnosis_in_a_generic_table_is_left_alone(read, name):
    plain = read("case_id,idh,grade\nA,,\n")
    assert read(f'case_id,idh,grade,{name}\nA,,,"Astrocytoma, IDH-mutant, grade 4"\n') == plain


def test_no_known_table_names_a_column_that_tells_the_diagnosis():
    named = [column for table in CLINICAL_TABLES.values() for role in ROLES for column in table.columns(role)]
    assert "who_cns_grade" in named
    named = [column for column in named if not re.fullmatch(r"brats_?2021(_subject)?_id", column)]
    assert not [column for column in named if any(word in column for word in ("diagnos", "histolog", "2021", "1p"))]


@pytest.mark.parametrize("table", [None, "generic"])
def test_any_table_may_be_given_splits_sites_and_ids(read, tmp_path, table):
    path = write_text(
        tmp_path / "t.csv",
        "TCIA_Subject_ID,BraTS_2020_ID,IDH_status,case_id,patient_id,site,split\n"
        "TCGA-DU-7294,BraTS20_Training_300,Mutant,BraTS2021_00001,P1,Bern,test\n",
    )
    (row,) = read_clinical_tables(path, table).rows
    assert row.ids == {"TCGA-DU-7294", "BraTS20_Training_300", "BraTS2021_00001"}
    assert (row.patient_id, row.site, row.split) == ("P1", "Bern", "test")


def test_a_table_that_could_be_two_is_refused_unless_it_is_named(tmp_path):
    path = write_text(
        tmp_path / "t.csv",
        "TCIA_Subject_ID,BraTS_2020_ID,IDH_status,Grade,BraTS_2020_subject_ID\nNA,B1,WT,LGG,B2\n",
    )
    with pytest.raises(InputError) as caught:
        read_clinical_tables(path)
    assert caught.value.problems == [
        f"clinical table {path}: its columns are those of brats2020 (BraTS 2020 with IDH status) and brats-names "
        "(name_mapping.csv of BraTS 2019 and 2020); pass --clinical-format NAME"
    ]
    assert read_clinical_tables(path, table="brats2020").rows[0].ids == {"B1"}
    assert read_clinical_tables(path, table="brats-names").rows[0].ids == {"B2"}
    with pytest.raises(InputError, match=r"clinical format 'ucsf': unknown; choose one of brats2020 .*ucsf-pdgm"):
        read_clinical_tables(path, table="ucsf")


def test_a_named_table_may_lack_columns(tmp_path):
    path = write_text(tmp_path / "t.csv", "ID,IDH\nUCSF-PDGM-004,IDH1 p.R132H\n")
    (row,) = read_clinical_tables(path, table="ucsf-pdgm").rows
    assert (row.patient_id, row.idh) == ("UCSF-PDGM-0004", 1)
    with pytest.raises(InputError, match=r"no column with ids; expected one of case_id, .*; found id, idh; name the"):
        read_clinical_tables(path)
    with pytest.raises(InputError, match="no column with ids; expected one of case_id, subject; found id, idh"):
        read_clinical_tables(path, table="egd")


@pytest.mark.parametrize(
    ("grade", "kept", "low"),
    [
        *[(grade, grade, True) for grade in ("LGG", "II", "III", "2", "3")],
        *[(grade, grade, False) for grade in ("HGG", "IV", "4")],
        *[("WHO grade II", "II", True), ("Grade 4", "4", False), ("G3", "3", True), ("lgg", "LGG", True)],
        *[("2.0", "2", True), ("WHO CNS grade iv", "IV", False), ("-1", None, None), ("", None, None)],
    ],
)
def test_grades(read, grade, kept, low):
    (row,) = read(f"case_id,idh,grade\nA,,{grade}\n")
    assert row.grade == kept
    assert is_low_grade(row.grade) is low


def test_a_grade_of_unknown_making_is_neither_low_nor_high():
    assert is_low_grade("II-III") is None


@pytest.mark.parametrize(
    ("age", "years"),
    [
        (">89", 89.0),
        ("89+", 89.0),
        (">= 90", 90.0),
        ("53,5", 53.5),
        ("60.463", 60.463),
        ("0", 0.0),
        ("120", 120.0),
        ("NA", None),
    ],
)
def test_ages(read, age, years):
    (row,) = read(f"case_id;idh;age\nA;;{age}\n")
    assert row.age == years


def test_separator_byte_order_mark_spaces_and_case_of_names_do_not_matter(read):
    (row,) = read("\ufeffCase_ID; IDH status ;Sex;Split\r\n A ; wt;F;Validation\r\n")
    assert (row.ids, row.idh, row.sex, row.split) == ({"A"}, 0, "female", "val")


def test_a_table_of_splits_alone_is_enough(read):
    (row,) = read("case_id,idh,split\npat0003,,train\n")
    assert (row.idh, row.split, row.patient_id) == (-1, "train", None)


def test_all_refused_values_are_named_with_line_and_value(read):
    found = refusals(read, "case_id,idh,age,sex,split\nA,maybe,31,f,train\nB,1,-3,f,\nC,0,old,x,holdout\n")
    assert found == [
        "line 2: idh is 'maybe'; expected Mutant, mutated, 1 or a variant such as IDH1 p.R132H; WT, wildtype or 0; "
        "NA, NOS/NEC, indeterminate, -1 or nothing",
        "line 3: age is '-3'; expected years, 0 to 120, >89 or 90+, or NA or nothing",
        "line 4: age is 'old'; expected years, 0 to 120, >89 or 90+, or NA or nothing",
        "line 4: sex is 'x'; expected female or F, male or M, other, or NA or nothing",
        "line 4: split is 'holdout'; expected train, val, unlabelled or test, or nothing",
    ]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("sex", "0", "numbers mean one sex in some tables and the other in others"),
        ("sex", "1", "numbers mean one sex in some tables and the other in others"),
        ("idh", "negative", "a stain that shows no R132H does not prove a wild type: write what was concluded"),
        ("grade", "Astrocytoma grade 4", "expected LGG or HGG, I to IV or 1 to 4, or NA or nothing"),
        ("age", "121", "expected years, 0 to 120"),
        ("age", "<18", "expected years, 0 to 120"),
        ("age", "066Y", "expected years, 0 to 120"),
        ("age", "1.050", "the mark before three digits may separate thousands; write it without, or fewer digits"),
        *(("age", text, "the mark before three digits may separate thousands") for text in (">1.050", "1.050+")),
        ("age", "17.520", "the mark before three digits may separate thousands"),
    ],
)
def test_what_cannot_be_told_is_refused(read, column, value, reason):
    header, cells = ("case_id,idh", "A,1") if column == "idh" else (f"case_id,idh,{column}", f"A,1,{value}")
    (problem,) = refusals(read, f"{header}\n{cells.replace('1', value) if column == 'idh' else cells}\n")
    assert problem.startswith(f"line 2: {column} is {value!r}; expected ")
    assert reason in problem


def test_a_refused_cell_is_named_by_its_column_as_written_and_cut_short(read):
    text = UCSF.replace("66", "x" * 1000, 1)
    (problem,) = refusals(read, text)
    assert problem.startswith(f"line 2: Age at MRI is '{'x' * 60}'; expected years")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name,idh\nA,1\n", "no column with ids"),
        ("case_id,idh1\nA,1\n", "no column idh (or IDH_status) and no column split; found case_id, idh1"),
        ("case_id,idh,IDH\nA,1,0\n", "column idh is there twice"),
        ("case_id,idh,idh_status\nA,1,0\n", "columns idh and idh_status say the same"),
        ("case_id,idh\nA,1,0\n", "line 2 has not 2 values as the header"),
        ("case_id,idh\nA\n", "line 2 has not 2 values as the header"),
        ("", "no column with ids; expected one of case_id"),
        ("case_id,split,IDH ratio\nA,train,1\n", "column idh_ratio is not known, but its name tells of IDH"),
        ("case_id,idh,age\n,1,30\n", "line 2: names no case; fill in an id or take the line out"),
    ],
)
def test_a_table_of_another_shape_is_refused(read, text, problem):
    assert any(problem in found for found in refusals(read, text))


@pytest.mark.parametrize(
    ("header", "cells", "idh"),
    [
        ("idh,IDH2", "WT,R172K", 1),
        ("IDH1,IDH2", "WT,Mutant", 1),
        ("IDH1 status,IDH2 status", "WT,WT", 0),
        ("idh,IDH1,IDH2", ",WT,NA", 0),
        ("idh,IDH2 mutation", ",WT", -1),
        ("idh,IDH1,IDH2", "Mutant,NA,WT", 1),
        ("IDH status,IDH mutation status", "WT,wildtype", 0),
        ("paper_IDH.status", "Mutant", 1),
        ("IDH mutated", "1", 1),
    ],
)
def test_all_columns_of_idh_are_read_together(read, header, cells, idh):
    (row,) = read(f"case_id,{header}\nA,{cells}\n")
    assert row.idh == idh


def test_a_mutation_beside_a_wild_type_of_idh1_is_said(read):
    (row,) = read("case_id,IDH,IDH1\nA,mutant,WT\n")
    (warning,) = row.warnings
    assert warning.endswith(
        "clinical.csv line 2: IDH 'mutant' and IDH1 'WT': taken as IDH mutant, because IDH2 may be; check the row"
    )
    assert row.idh == 1


def test_a_mutation_beside_a_wild_type_is_said(read):
    (row,) = read("case_id,IDH,IDH2\nA,WT,R172K\n")
    (warning,) = row.warnings
    assert warning.endswith(
        "clinical.csv line 2: IDH 'WT' and IDH2 'R172K': taken as IDH mutant, because any mutation counts; "
        "check the row"
    )


def test_the_second_gene_of_upenn_counts(read):
    head, first, *_ = UPENN.splitlines()
    (row,) = read(f"{head},IDH2\n{first},Mutated\n")
    assert row.idh == 1


@pytest.mark.parametrize(
    ("header", "cells", "problem"),
    [
        (
            "idh,IDH status",
            "1,WT",
            "line 2: columns idh and IDH status say the same thing differently: idh '1' and IDH status 'WT'; correct",
        ),
        (
            "IDH1,IDH1 mutation,IDH2",
            "WT,R132H,",
            "line 2: columns IDH1 and IDH1 mutation say the same thing differently: IDH1 'WT' and IDH1 mutation "
            "'R132H'; correct one",
        ),
        (
            "idh,IDH1,IDH2",
            "Mutant,WT,WT",
            "line 2: idh 'Mutant' and IDH1 'WT' and IDH2 'WT': mutant, but both genes are wild type; correct one",
        ),
        ("split,IDH2", "train,WT", "column idh2 is of one gene alone; call it idh if its wild type is that of IDH"),
    ],
)
def test_columns_of_idh_that_contradict_each_other_or_do_not_suffice_are_refused(read, header, cells, problem):
    (found,) = refusals(read, f"case_id,{header}\nA,{cells}\n")
    assert found.startswith(problem)


def test_columns_that_are_not_used_are_named_and_those_that_look_like_known_ones_twice(tmp_path):
    path = write_text(tmp_path / "t.csv", "case_id,idh,IDH_vaf,Age (years),MGMT,fold\nA,1,0.4,53,unknown,test\n")
    tables = read_clinical_tables(path)
    assert [(found.severity, found.text) for found in tables.findings] == [
        ("note", f"clinical table {path}: 4 columns are not used: IDH_vaf, Age (years), MGMT, fold"),
        ("note", f"clinical table {path}: column IDH_vaf looks like idh but is not used; call it idh if it is that"),
        (
            "note",
            f"clinical table {path}: column Age (years) looks like age but is not used; call it age if it is that",
        ),
        ("note", f"clinical table {path}: column fold looks like split but is not used; call it split if it is that"),
    ]


@pytest.mark.real
def test_the_whole_tables_of_brats_2020(real_data):
    train, test = (
        read_clinical_tables(real_data / "brats2020_idh_tables" / f"IDH_{part}_data.csv").rows
        for part in ("train", "test")
    )
    assert [[row.idh for row in rows].count(1) for rows in (train, test)] == [57, 32]
    assert [[row.idh for row in rows].count(0) for rows in (train, test)] == [91, 38]
    assert [row.idh for row in train].count(-1) == 221
    (patient,) = [row for row in train if "TCGA-DU-7294" in row.ids]
    assert facts(patient) == ("TCGA-DU-7294", 1, "LGG", 53.0, "female", "DU")
    both = read_clinical_tables(
        [real_data / "brats2020_idh_tables" / f"IDH_{part}_data.csv" for part in ("train", "test")]
    ).rows
    assert both == train + test
    labelled = [row for row in both if row.idh != -1]
    assert [row.idh for row in labelled if is_low_grade(row.grade)].count(1) == 84
    assert {row.site for row in labelled} == {"02", "06", "08", "12", "14", "19", "27", "76", "CS", "DU", "FG", "HT"}

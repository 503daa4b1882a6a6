from mttu.cohort.clinical import read_clinical_tables
from mttu.cohort.clinical_rows import ClinicalRow
from mttu.cohort.id_matching import join_clinical
from mttu.cohort.leakage import CrosswalkRow
from mttu.data.manifest import Case


def case(case_id, patient_id=None):
    return Case(case_id, patient_id or case_id, "", {}, None, None, -1, None, None, None, "brats")


def row(line, name, patient_id=None, split=None):
    return ClinicalRow(line, frozenset({name}), patient_id, 1, None, None, None, split, None, frozenset(), "t.csv")


def join(cases, rows, crosswalk=()):
    return join_clinical(cases, rows, crosswalk, [case.case_id for case in cases])


def patients(joined):
    return {case.case_id: case.patient_id for case in joined.cases}


def test_the_patient_of_a_row_is_that_of_all_examinations_in_the_file_names():
    cases = [case("B-5-000", "B-5"), case("B-5-001", "B-5"), case("B-6-000", "B-6")]
    joined = join(cases, [row(2, "B-5-000", "P5", "test"), row(3, "B-6-000")])
    assert patients(joined) == {"B-5-000": "P5", "B-5-001": "P5", "B-6-000": "B-6"}
    assert [case.split for case in joined.cases] == ["test", "", ""]
    assert [(names.case_id, names.file_patient) for names in joined.other_names] == [
        ("B-5-000", "B-5"),
        ("B-5-001", "B-5"),
        ("B-6-000", "B-6"),
    ]


def test_rows_that_give_one_patient_of_the_files_two_names_are_refused():
    joined = join(
        [case("A", "P"), case("B", "P"), case("C")], [row(2, "A", "P1"), row(3, "B", "P2"), row(4, "C", "P1")]
    )
    text = (
        "its files name patient 'P', who is 'P1' (A, t.csv line 2) and 'P2' (B, t.csv line 3) in the clinical tables; "
        "correct one of the rows"
    )
    assert [(found.severity, found.case_id, found.text) for found in joined.findings] == [
        ("error", "A", text),
        ("error", "B", text),
    ]


def test_a_crosswalk_finds_a_row_but_for_case_and_leading_zeros():
    crosswalk = [CrosswalkRow(2, ("brats2021_0007", "TCGA-1"))]
    joined = join([case("BraTS2021_00007")], [row(5, "tcga-01")], crosswalk)
    assert [item.idh for item in joined.cases] == [1]
    assert joined.row_of == {"BraTS2021_00007": 0}


def test_a_row_is_found_whatever_its_letters_but_not_where_it_may_be_another_s():
    joined = join(
        [case("p_001"), case("x1"), case("x01"), case("y01"), case("y1")],
        [
            row(2, "P_001", split="test"),
            row(3, "X1"),
            row(4, "y1"),
        ],
    )
    assert joined.row_of == {"p_001": 0, "y1": 2}
    assert joined.cases[0].split == "test"
    assert [(found.case_id, found.text) for found in joined.findings if found.severity == "error"] == [
        (name, "clinical table t.csv line 3: 'X1' may be x01 or x1; write the one you mean") for name in ("x1", "x01")
    ]


def test_a_column_of_other_names_joins_and_one_that_is_not_read_is_said(tmp_path):
    cases = [case("ses-1", "pat-1"), case("pat-2"), case("3"), case("pat-4")]
    table = tmp_path / "t.csv"

    def findings(column, *cells):
        rows = [f"R{number},{number},wt,{cell}" for number, cell in enumerate(cells)]
        table.write_text("\n".join([f"case_id,age,idh,{column}", *rows]))
        read = read_clinical_tables(table)
        joined = join_clinical(cases, read.rows, (), [one.case_id for one in cases], unused=read.unused)
        return joined.row_of, [(one.severity, one.text) for one in joined.findings if "holds" in one.text]

    assert findings("other name", "pat-1", "pat-2") == ({"ses-1": 0, "pat-2": 1}, [])
    told = (
        "column code is not used, but holds 2 names of cases without a row (pat-1, pat-2); call it other_name to join"
    )
    ((severity, text),) = findings("code", "pat-1", "pat-2", "x")[1]
    assert severity == "error"
    assert text.startswith(f"clinical table {table}: none of its ids is a case (R0, R1, R2, ...; ")
    assert text.endswith(f"...); {told} them")
    cases.append(case("R2"))
    assert findings("code", "pat-1", "pat-2", "x") == (
        {"R2": 2},
        [("warning", f"clinical table {table}: {told} them")],
    )
    assert findings("code", "3", "pat-4", "x") == ({"R2": 2}, [])  # a number, and one name alone
    assert findings("code", "pat-1", "x", "R2") == ({"R2": 2}, [])

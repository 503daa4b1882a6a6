import pytest
from clinical_examples import BRATS_2020, BRATS_NAMES, write_rows, write_text

from mttu.cohort.clinical import read_clinical_tables
from mttu.errors import InputError


@pytest.fixture
def write(tmp_path):
    def one(name, text):
        return write_text(tmp_path / name, text)

    return one


def refusals(*paths):
    with pytest.raises(InputError) as caught:
        read_clinical_tables(paths)
    return caught.value.problems


def test_names_of_one_table_and_facts_of_another(write):
    paths = [write("names.csv", BRATS_NAMES), write("idh.csv", BRATS_2020)]
    rows = read_clinical_tables(paths).rows
    assert [row.idh for row in rows] == [1, -1, 0]
    assert {"Brats18_TCIA_1_1", "BraTS20_Training_300", "TCGA-DU-7294"} < rows[0].ids
    assert (rows[0].grade, rows[0].age, rows[0].place) == ("LGG", 53.0, f"{paths[0]} line 2")
    assert rows[2].place == f"{paths[1]} line 3"
    assert [row.idh for row in read_clinical_tables(paths[::-1]).rows] == [1, 0, -1]


def test_three_tables_of_which_the_last_ties_the_others(write):
    a = write("a.csv", "brats_2020_id,idh\nB1,1\nB2,\n")
    b = write("b.csv", "tcia_subject_id,age\nT1,30\n")
    c = write("c.csv", "case_id,brats_2020_id,tcia_subject_id,split\nX,B1,T1,test\n")
    tied, alone = read_clinical_tables([a, b, c]).rows
    assert (tied.ids, tied.idh, tied.age, tied.split) == ({"B1", "T1", "X"}, 1, 30.0, "test")
    assert (alone.ids, alone.idh) == ({"B2"}, -1)


def test_what_two_tables_say_differently_is_refused_with_both_places(write):
    a = write("a.csv", "case_id,idh,age,sex,grade,site,split,patient_id\nA,1,30,F,LGG,Bern,train,P\nB,1,50,,II,,,\n")
    b = write("b.csv", "case_id,idh,age,sex,grade,site,split,patient_id\nB,,50.0,M,LGG,,,\nA,0,31,M,IV,Basel,val,Q\n")
    mend = "; correct one of the tables"
    assert refusals(a, b) == [
        f"case A: {what} is {one} ({a} line 2) and {two} ({b} line 3){mend}"
        for what, one, two in (
            ("patient", "'P'", "'Q'"),
            ("IDH", "'mutant'", "'wild type'"),
            ("grade", "'LGG'", "'IV'"),
            ("age", "30.0", "31.0"),
            ("sex", "'female'", "'male'"),
            ("site", "'Bern'", "'Basel'"),
            ("split", "'train'", "'val'"),
        )
    ]


@pytest.mark.parametrize(
    ("one", "two", "agree"), [("LGG", "3", True), ("II", "2", True), ("II", "III", False), ("HGG", "III", False)]
)
def test_grades_of_two_tables(write, one, two, agree):
    paths = [write("a.csv", f"case_id,idh,grade\nA,1,{one}\n"), write("b.csv", f"case_id,grade\nA,{two}\n")]
    if agree:
        assert [row.grade for row in read_clinical_tables(paths).rows] == [one]
    else:
        (problem,) = refusals(*paths)
        assert problem.startswith(f"case A: grade is '{one}' ({paths[0]} line 2) and '{two}' ({paths[1]} line 2)")


def test_two_rows_of_one_table_are_not_joined(write):
    twice = write("a.csv", "case_id,idh\nA,1\nA,1\n")
    other = write("b.csv", "case_id,age\nA,30\n")
    assert [row.line for row in read_clinical_tables(twice).rows] == [2, 3]
    assert [row.line for row in read_clinical_tables([twice, write("c.csv", "case_id,age\nB,30\n")]).rows] == [2, 3, 2]
    assert refusals(twice, other) == [f"case A: two rows of one table ({twice} line 2, {twice} line 3); keep one"]


def test_all_files_are_checked_before_any_is_refused(write, tmp_path):
    a, b = write("a.csv", "case_id,idh\nA,x\n"), write("b.csv", "case_id,sex\nA,1\n")
    found = refusals(a, b, tmp_path / "c.csv")
    assert [problem.partition(": ")[0] for problem in found] == [
        f"clinical table {path}" for path in (a, b, tmp_path / "c.csv")
    ]


def test_a_table_beside_another_must_say_something(write):
    a, b = write("a.csv", "case_id,idh\nA,1\n"), write("b.csv", "case_id,note\nA,x\n")
    (problem,) = refusals(a, b)
    assert problem == (
        f"clinical table {b}: no column says anything; expected some of idh, grade, age, sex, site, split; "
        "found case_id, note"
    )


def test_of_many_rows_of_one_name_eight_are_named(tmp_path):
    many = write_rows(tmp_path / "a.csv", [("case_id", "idh"), *[("A", "1")] * 1000])
    (problem,) = refusals(many, write_rows(tmp_path / "b.csv", [("case_id", "idh"), ("A", "1")]))
    assert f"({many} line 2, {many} line 3, " in problem
    assert problem.endswith(f"{many} line 9 and 992 more); keep one")

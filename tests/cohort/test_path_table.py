from dataclasses import replace

import pytest
from small_cases import write_case

from mttu.cohort.build import build_cohort
from mttu.cohort.found_cases import CohortRequest
from mttu.cohort.path_table import read_path_table

FOUR = ("flair", "t1ce", "t1", "t2")


@pytest.fixture
def read(tmp_path):
    for name in FOUR:
        (tmp_path / f"{name}.nii.gz").touch()
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "flair.nii.gz")

    def write_and_read(**cells):
        row = {"case_id": "A", **{name: f"{name}.nii.gz" for name in FOUR}, **cells}
        table = tmp_path / "paths.csv"
        table.write_text(f"{','.join(row)}\n{','.join(row.values())}\n", encoding="utf-8")
        (case,) = read_path_table(table, FOUR, [])
        return case

    return write_and_read


def test_relative_paths_start_at_the_table(read, tmp_path):
    case = read()
    assert case.problems == ()
    assert case.images == {name: tmp_path / f"{name}.nii.gz" for name in FOUR}


@pytest.mark.parametrize("copy", ["flair.nii.gz", "../{folder}/flair.nii.gz", "link.nii.gz"])
def test_one_file_under_two_roles_is_a_problem_of_the_case(read, tmp_path, copy):
    path = copy.format(folder=tmp_path.name)
    assert read(t1=path).problems == (f"case A: t1 {path}: is the file of flair too; give each its own",)
    assert read(seg=path).problems == (f"case A: seg {path}: is the file of flair too; give each its own",)


def test_what_is_no_path_is_a_problem_of_the_case(read):
    (problem,) = read(t1="y" * 300 + ".nii.gz").problems
    assert problem == f"case A: t1 '{'y' * 60}': is no path (File name too long)"
    (problem,) = read(t2="a\0b.nii.gz").problems
    assert problem.startswith("case A: t2 'a")


def fill(folder, rows, columns="case_id,flair,t1ce,t1,t2,seg,split,idh,age,sex,grade,site,patient"):
    """Three cases and a table of their paths, with what `rows` says of each after the paths."""
    lines = [columns]
    for name, row in zip("ABC", rows, strict=True):
        write_case(folder, name)
        lines.append(",".join([name, *(f"{name}/{name}_{part}.nii.gz" for part in (*FOUR, "seg")), row]))
    table = folder / "paths.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


ROWS = ("train,Mutant,31,F,2,Bern,P1", "test,WT,62,M,4,Bern,P2", ",R132H,40,F,3,Basel,P3")


def about_tables(cohort, table):
    """What was found about the cohort, not about one of its small brains."""
    return [found.text.removeprefix(f"table of paths {table}: ") for found in cohort.findings if not found.case_id]


def told(case):
    return case.patient_id, case.idh, case.age, case.sex, case.grade, case.site


def test_what_a_table_of_paths_says_of_its_cases_counts(tmp_path):
    cohort = build_cohort(CohortRequest((fill(tmp_path, ROWS),), labels="brats"))
    a, b, c = cohort.manifest.cases
    assert (a.split, b.split) == ("train", "test")
    assert told(a) == ("P1", 1, 31.0, "female", "2", "Bern")
    assert told(b) == ("P2", 0, 62.0, "male", "4", "Bern")
    assert told(c) == ("P3", 1, 40.0, "female", "3", "Basel")
    assert about_tables(cohort, tmp_path / "paths.csv") == []


def test_columns_of_a_table_of_paths_that_are_not_used_are_named(tmp_path):
    table = fill(tmp_path, ("x,test", "y,test", "z,"), "case_id,flair,t1ce,t1,t2,mask,kps,subset")
    cohort = build_cohort(CohortRequest((table,), labels="brats"))
    assert about_tables(cohort, table) == [
        "3 columns are not used: mask, kps, subset",
        "column mask looks like seg but is not used; call it seg if it is that",
        "column subset looks like split but is not used; call it split if it is that",
    ]


def test_a_table_of_paths_and_a_clinical_table_add_up_but_may_not_contradict_each_other(tmp_path):
    table = fill(tmp_path, ("test,WT,62,,,,", ",,,,,,", ",Mutant,,,,,"))
    clinical = tmp_path / "clinical.csv"
    clinical.write_text("case_id,idh,age,sex,split\nA,WT,62,F,\nB,1,50,M,train\nC,1,,,\n", encoding="utf-8")
    request = CohortRequest((table,), (clinical,), labels="brats")
    a, b, _ = build_cohort(request).manifest.cases
    assert (a.split, a.idh, a.sex) == ("test", 0, "female")
    assert (b.split, b.idh, b.age) == ("train", 1, 50.0)
    clinical.write_text("case_id,idh,age,sex,split\nA,Mutant,63,F,train\nB,1,,,\nC,1,,,\n", encoding="utf-8")
    mend = "; correct one of the tables"
    assert build_cohort(request).errors == [
        f"case A: {what} is {one} ({table} line 2) and {two} ({clinical} line 2){mend}"
        for what, one, two in (
            ("IDH", "'wild type'", "'mutant'"),
            ("age", "62.0", "63.0"),
            ("split", "'test'", "'train'"),
        )
    ]
    assert [case.case_id for case in build_cohort(replace(request, skip_bad=True)).manifest.cases] == ["B", "C"]


def test_a_refused_cell_is_a_problem_of_its_case(tmp_path):
    table = fill(tmp_path, ("train,maybe,31,F,2,,", "hold out,WT,1.050,M,4,,", "train,1,40,F,3,,"))
    request = CohortRequest((table,), labels="brats")
    first, second, third = build_cohort(request).errors
    assert first.startswith(f"case A: {table} line 2: idh is 'maybe'; expected Mutant")
    assert second.startswith(f"case B: {table} line 3: age is '1.050'; expected years")
    assert third.startswith(f"case B: {table} line 3: split is 'hold out'; expected train")
    assert [case.case_id for case in build_cohort(replace(request, skip_bad=True)).manifest.cases] == ["C"]


def test_a_line_that_does_not_fit_the_header_is_a_problem_of_its_case(tmp_path):
    table = fill(tmp_path, (*ROWS[:2], "train"))
    assert build_cohort(CohortRequest((table,), labels="brats")).errors == [
        f"case C: {table} line 4: has not 13 values as the header"
    ]

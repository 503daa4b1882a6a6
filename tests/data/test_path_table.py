import pytest

from mttu.data.path_table import read_path_table

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
        (case,) = read_path_table(table, FOUR)
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

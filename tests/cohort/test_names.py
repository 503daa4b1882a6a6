"""Names that are near one that is not there, and names that only look so."""

import pytest

from mttu.cohort.build import build_cohort
from mttu.cohort.found_cases import CohortRequest
from mttu.cohort.path_table import read_path_table
from mttu.data.names import say_nearest
from mttu.data.volumes import read_volume
from mttu.errors import InputError


@pytest.mark.parametrize(
    ("there", "wanted", "near"),
    [
        ("P1_t2W.nii.gz", "P1_t2.nii.gz", True),
        ("p1_T2.nii.gz", "P1_t2.nii.gz", True),
        ("P01_t2.nii.gz", "P1_t2.nii.gz", True),
        ("P2_t2.nii.gz", "P1_t2.nii.gz", False),  # another patient's
        ("P1_t1.nii.gz", "P1_t2.nii.gz", False),  # another modality
        ("readme.txt", "P1_t2.nii.gz", False),
        (".P1_t2.nii.gz", "P1_t2.nii.gz", False),
    ],
)
def test_near_names(tmp_path, there, wanted, near):
    (tmp_path / there).touch()
    assert say_nearest(tmp_path / wanted) == (f"; the nearest there is {tmp_path / there}" if near else "")


def test_a_missing_folder_is_what_is_near(tmp_path):
    (tmp_path / "images").mkdir()
    assert say_nearest(tmp_path / "image" / "a" / "b.nii") == f"; the nearest there is {tmp_path / 'images'}"


def test_of_many_names_only_those_around_are_compared(tmp_path):
    for number in range(300):
        (tmp_path / f"P{number:03d}_t2w.nii.gz").touch()
    assert say_nearest(tmp_path / "P200_t2.nii.gz") == f"; the nearest there is {tmp_path / 'P200_t2w.nii.gz'}"


def test_tables_of_paths_volumes_and_places_name_it(tmp_path):
    (tmp_path / "A_t2W.nii.gz").touch()
    table = tmp_path / "paths.csv"
    table.write_text("case_id,t2,seg\nA,A_t2.nii.gz,\n", encoding="utf-8")
    nearest = f"; the nearest there is {tmp_path / 'A_t2W.nii.gz'}"
    (case,) = read_path_table(table, ["t2"], [])
    assert case.problems == (f"case A: t2 A_t2.nii.gz: no such file; relative paths start at {tmp_path}{nearest}",)
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path / "A_t2.nii.gz", "A")
    assert caught.value.problems[0].endswith(f"restore it, or write the manifest again{nearest}")
    (tmp_path / "cases").mkdir()
    with pytest.raises(InputError) as caught:
        build_cohort(CohortRequest((tmp_path / "case",)))
    assert caught.value.problems[0].endswith(f"or a CSV file of paths; the nearest there is {tmp_path / 'cases'}")

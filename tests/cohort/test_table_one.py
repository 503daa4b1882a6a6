import csv
from pathlib import Path

import pytest

from mttu.cohort.table_one import table_one
from mttu.data.manifest import Case, Manifest

PAPER = """
Subject n            | 148          | 221           | 70
Age median (range)   | 54 (18-84)   | -             | 55 (23-80)
Sex
Male                 | 77 [52.03%]  | 14 [6.33%]    | 40 [57.14%]
Female               | 71 [47.97%]  | 5 [2.26%]     | 30 [42.86%]
Unknown              | 0            | 202 [91.41%]  | 0
Grade
LGG                  | 64 [43.24%]  | 12 [5.43%]    | 42 [60.00%]
HGG                  | 84 [56.76%]  | 209 [94.57%]  | 28 [40.00%]
IDH status
mutant               | 57 [38.51%]  | 0             | 32 [45.71%]
wild                 | 91 [61.49%]  | 0             | 38 [54.29%]
Unknown              | 0            | 221 [100.00%] | 0
"""
"""Table I, section V-A; ages of 19 additional subjects are in the tables but not in the paper."""


def case(case_id, split, patient_id=None, idh=-1, seg=True, grade=None, age=None, sex=None):
    mask = Path(f"/{case_id}_seg.nii") if seg else None
    return Case(case_id, patient_id or case_id, split, {}, mask, None, idh, grade, age, sex, "brats")


def describe(*cases):
    return [(row.title, *row.cells) for row in table_one(Manifest(Path("/"), cases, ("flair",), False))]


def read_paper():
    return [tuple(cell.strip() for cell in line.split("|")) for line in PAPER.strip().splitlines()]


def read_subjects(folder: Path):
    def known(text):
        return None if text == "NA" else text

    for file, split in (("IDH_train_data.csv", "train"), ("IDH_test_data.csv", "test")):
        with (folder / file).open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                idh = {"Mutant": 1, "WT": 0, "NA": -1}[row["IDH_status"]]
                age = known(row["Age"])
                (case_id,) = (value for name, value in row.items() if name.startswith("BraTS_2020"))
                yield case(
                    case_id,
                    "unlabelled" if idh == -1 else split,
                    known(row["TCIA_Subject_ID"]),
                    idh,
                    split == "train",
                    known(row["Grade"]),
                    float(age) if age else None,
                    known(row["Gender"]),
                )


@pytest.mark.real
def test_the_papers_cohort_gives_the_papers_table(real_data):
    found = describe(*read_subjects(real_data / "brats2020_idh_tables"))
    ours = dict.fromkeys(row[0] for row in found)
    assert {"Age mean ± SD", "Age known n", "Case n", "With mask"} <= set(ours)
    shared = [row for row in found[: found.index(("Cases",))] if row[0] not in ("Age mean ± SD", "Age known n")]
    expected = read_paper()
    expected[1] = ("Age median (range)", "54 (18-84)", "61 (27-76)", "55 (23-80)")
    expected[5] = ("Unknown", "0", "202 [91.40%]", "0")  # 202 / 221 is 91.403 %: the paper rounds it up
    assert shared == expected
    assert ("Age known n", "148", "19", "70") in found


def test_every_cell_of_a_small_cohort():
    table = describe(
        case("a", "train", idh=1, grade="II", age=30.5, sex="female"),
        case("b", "val", idh=0, grade="IV", age=60, sex="other", seg=False),
        case("c", "train", grade="IV"),
        case("t", "test", idh=0, age=71, sex="male"),
    )
    assert table == [
        ("Subject n", "3", "0", "1"),
        ("Age median (range)", "45.25 (30.5-60)", "-", "71 (71-71)"),
        ("Age mean ± SD", "45.2 ± 20.9", "-", "71.0"),
        ("Age known n", "2", "0", "1"),
        ("Sex",),
        ("Male", "0", "0", "1 [100.00%]"),
        ("Female", "1 [33.33%]", "0", "0"),
        ("Other", "1 [33.33%]", "0", "0"),
        ("Unknown", "1 [33.33%]", "0", "0"),
        ("Grade",),
        ("II", "1 [33.33%]", "0", "0"),
        ("IV", "2 [66.67%]", "0", "0"),
        ("Unknown", "0", "0", "1 [100.00%]"),
        ("IDH status",),
        ("mutant", "1 [33.33%]", "0", "0"),
        ("wild", "1 [33.33%]", "0", "1 [100.00%]"),
        ("Unknown", "1 [33.33%]", "0", "0"),
        ("Cases",),
        ("Case n", "3", "0", "1"),
        ("With mask", "2 [66.67%]", "0", "1 [100.00%]"),
    ]


def test_a_patient_with_several_cases_counts_once_with_what_is_known():
    table = describe(
        case("a1", "train", "a"),
        case("a2", "val", "a", idh=1, age=40, sex="male", grade="LGG"),
        case("b", "train", idh=0),
    )
    assert ("Subject n", "2", "0", "0") in table
    assert ("Age median (range)", "40 (40-40)", "-", "-") in table
    assert ("mutant", "1 [50.00%]", "0", "0") in table
    assert ("wild", "1 [50.00%]", "0", "0") in table
    assert ("LGG", "1 [50.00%]", "0", "0") in table
    assert [row[0] for row in table if row[1:] == ("0", "0", "0")] == []
    assert ("Case n", "3", "0", "0") in table


def test_an_empty_cohort_has_a_table():
    assert describe() == [
        ("Subject n", "0", "0", "0"),
        ("Age known n", "0", "0", "0"),
        ("IDH status",),
        ("mutant", "0", "0", "0"),
        ("wild", "0", "0", "0"),
        ("Cases",),
        ("Case n", "0", "0", "0"),
        ("With mask", "0", "0", "0"),
    ]


def test_rows_that_hold_nothing_are_left_out():
    titles = [row[0] for row in describe(case("a", "train", sex="male"), case("b", "test", idh=0))]
    assert titles == [
        *("Subject n", "Age known n", "Sex", "Male", "Unknown", "Grade", "Unknown"),
        *("IDH status", "mutant", "wild", "Unknown", "Cases", "Case n", "With mask"),
    ]

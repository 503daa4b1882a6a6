import os
from pathlib import Path

import pytest

from mttu.cohort.copies import SameBrain
from mttu.cohort.leakage import CrosswalkRow, Link, OtherNames, find_leaks, link_patients, read_crosswalk
from mttu.data.manifest import Case
from mttu.errors import InputError


def case(case_id, split="", patient_id=None):
    return Case(case_id, patient_id or case_id, split, {}, None, None, -1, None, None, None, "brats")


def patients(linked):
    return {item.case_id: item.patient_id for item in linked.cases}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "crosswalk.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_crosswalk_has_free_titles_gaps_and_any_separator(tmp_path):
    text = "BraTS21 ID;UCSF ID;comment id\nBraTS2021_00001; UCSF-PDGM-004 ;NA\n\n;UCSF-PDGM-005;\nB;C;B\n"
    assert read_crosswalk(write(tmp_path, "\ufeff" + text)) == [
        CrosswalkRow(2, ("BraTS2021_00001", "UCSF-PDGM-004")),
        CrosswalkRow(4, ("UCSF-PDGM-005",)),
        CrosswalkRow(5, ("B", "C")),
    ]


def test_rows_of_a_crosswalk_that_agree_may_share_a_name(tmp_path):
    rows = read_crosswalk(write(tmp_path, "a,b,c\nx,y,\nx,,z\nx,y,z\n"))
    assert [row.names for row in rows] == [("x", "y"), ("x", "z"), ("x", "y", "z")]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (
            "brats,ucsf\nB1,U1\nB2,U2\nB1,U3\n",
            [
                "'B1' is in lines 2 and 4, which disagree in column 'ucsf' ('U1' and 'U3'); write all names of a "
                "patient into one row, and leave columns out that hold no ids"
            ],
        ),
        ("a,b\nx,y\nz,x\n", ["'x' is in lines 2 and 3, which disagree in column 'a' ('x' and 'z')"]),
        ("id,sex\nU1,M\nU2,F\nU3,M\nU4,M\n", ["'M' is in lines 2 and 4, which disagree in column 'id'"]),
        ("a,b\nx,y\nz\n", ["line 3 has 1 values; expected 2 as in the header"]),
        ("a\nx\n", ["has the columns a; expected a header and two or more columns of ids"]),
        ("", ["has the columns nothing; expected a header and two or more columns of ids"]),
    ],
)
def test_refused_crosswalks(tmp_path, text, problems):
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_crosswalk(path)
    assert len(caught.value.problems) == len(problems)
    for found, expected in zip(caught.value.problems, problems, strict=True):
        assert found.startswith(f"crosswalk {path}: ")
        assert expected in found


def test_what_cannot_be_a_crosswalk_is_refused_before_it_is_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.csv")  # reading it would wait for ever
    with pytest.raises(InputError, match=r"crosswalk .*pipe\.csv: is no file; give"):
        read_crosswalk(tmp_path / "pipe.csv")
    path = write(tmp_path, "a,b\nx,y\n")
    monkeypatch.setattr("mttu.cohort.leakage.LARGEST_BYTES", path.stat().st_size)
    assert len(read_crosswalk(path)) == 1
    monkeypatch.setattr("mttu.cohort.leakage.LARGEST_BYTES", path.stat().st_size - 1)
    with pytest.raises(InputError, match="is larger than 0 MiB; give"):
        read_crosswalk(path)


def test_columns_of_a_crosswalk_that_hold_no_names_are_said_and_not_taken_for_names(tmp_path):
    findings = []
    path = write(tmp_path, "Grade,a,b,Age\nHGG,x,y,61.5\nHGG,z,w,61.5\n")
    assert [row.names for row in read_crosswalk(path, findings)] == [("x", "y"), ("z", "w")]
    assert [finding.text for finding in findings] == [
        f"crosswalk {path}: 2 columns hold no names and are not used: Grade, Age"
    ]


def test_a_crosswalk_that_is_no_text_or_not_there_is_refused(tmp_path):
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x80")
    for path in (tmp_path / "binary.csv", tmp_path / "absent.csv"):
        with pytest.raises(InputError, match=r"cannot be read .*; give a CSV file in UTF-8"):
            read_crosswalk(path)


def test_patients_are_merged_over_all_three_kinds_of_links():
    cases = [case("c"), case("b1", patient_id="b"), case("b2", patient_id="b"), case("a"), case("d"), case("e")]
    linked = link_patients(cases, [SameBrain("a", "b2", 0.97)], [CrosswalkRow(2, ("c", "b")), CrosswalkRow(3, ("e",))])
    assert patients(linked) == {"c": "a", "b1": "a", "b2": "a", "a": "a", "d": "d", "e": "e"}
    assert [item.case_id for item in linked.cases] == [item.case_id for item in cases]
    assert linked.links == [
        Link("b1", "b2", "patient id b"),
        Link("b1", "c", "crosswalk line 2 (c, b)"),
        Link("a", "b2", "same image (similarity 0.970)", same_image=True),
    ]


def test_without_links_nothing_changes():
    cases = [case("a", "train"), case("b", "test")]
    linked = link_patients(cases)
    assert linked.cases == cases
    assert find_leaks(linked.cases, linked.links).problems == []
    assert link_patients([]).cases == []


def test_unknown_names_are_counted_and_known_ones_match_but_for_case_and_zeros():
    cases = [case("UCSF-PDGM-0004"), case("BraTS2021_00100"), case("UCSF-PDGM-0010")]
    rows = [
        CrosswalkRow(2, ("UCSF-PDGM-004", "brats2021_00100")),
        CrosswalkRow(3, ("UCSF-PDGM-010", "BraTS2021_00777")),
        CrosswalkRow(4, ("UCSF-PDGM-0100", "BraTS2021_01000")),
    ]
    linked = link_patients(cases, crosswalk=rows)
    assert patients(linked) == {
        "UCSF-PDGM-0004": "BraTS2021_00100",
        "BraTS2021_00100": "BraTS2021_00100",
        "UCSF-PDGM-0010": "UCSF-PDGM-0010",
    }
    assert linked.unknown_names == 3


def test_a_crosswalk_of_other_data_or_with_a_doubtful_name_is_refused():
    with pytest.raises(InputError, match=r"names x, y, \.\.\.; none is a case or a patient here \(a, \.\.\.\)"):
        link_patients([case("a")], crosswalk=[CrosswalkRow(2, ("x", "y"))])
    with pytest.raises(InputError, match="line 2: 'P001' may be patient p01 or p1; write the one you mean"):
        link_patients([case("p1"), case("p01"), case("q")], crosswalk=[CrosswalkRow(2, ("P001", "q"))])
    with pytest.raises(InputError, match="line 2: 'a' may be patient a or p; write the one you mean"):
        link_patients([case("a", patient_id="p"), case("b", patient_id="a")], crosswalk=[CrosswalkRow(2, ("a", "b"))])
    assert patients(link_patients([case("p1"), case("p01"), case("q")], crosswalk=[CrosswalkRow(2, ("p1", "q"))])) == {
        "p1": "p1",
        "p01": "p01",
        "q": "p1",
    }


@pytest.mark.parametrize("first", ["train", "val", "unlabelled"])
def test_one_patient_in_test_and_anywhere_else_is_a_problem(first):
    cases = [case("UCSF-1", "test"), case("TCGA-1", first)]
    linked = link_patients(cases, [SameBrain("TCGA-1", "UCSF-1", 0.9874)])
    leaks = find_leaks(linked.cases, linked.links)
    counts = " (unlabelled counts as training)" if first == "unlabelled" else ""
    assert leaks.warnings == []
    assert leaks.problems == [
        f"cases TCGA-1 ({first}) and UCSF-1 (test): are one patient on two sides{counts}: "
        "same image (similarity 0.987); put both into one split, or leave one out"
    ]


def test_all_reasons_for_a_pair_are_named_at_once():
    cases = [case("a1", "val", "a"), case("a2", "unlabelled", "a")]
    linked = link_patients(cases, [SameBrain("a1", "a2", 0.9)], [CrosswalkRow(7, ("a1", "a2"))])
    (problem,) = find_leaks(linked.cases, linked.links).problems
    assert "patient id a; same image (similarity 0.900)" in problem
    assert "a1 (val) and a2 (unlabelled)" in problem


def test_a_patient_of_many_cases_on_two_sides_is_found_wherever_they_stand():
    for order in (("train", "train", "test"), ("train", "test", "train"), ("test", "train", "train")):
        cases = [case(f"scan{index}", split, "p") for index, split in enumerate(order)]
        assert find_leaks(cases, link_patients(cases).links).problems
    cases = [case("x", "train", "p"), case("y", "train", "q"), case("z", "test", "q")]
    linked = link_patients(cases, crosswalk=[CrosswalkRow(2, ("p", "q"))])
    (problem,) = find_leaks(linked.cases, linked.links).problems
    assert problem.startswith("cases y (train) and z (test)")


def test_twins_on_one_side_or_without_a_split_are_only_worth_a_warning():
    cases = [case("a", "train"), case("b", "unlabelled"), case("c"), case("d", "test"), case("e", "val", "f")]
    brains = [SameBrain("a", "b", 0.95), SameBrain("c", "d", 0.9)]
    leaks = find_leaks(cases, link_patients(cases, brains).links)
    assert leaks.problems == []
    assert leaks.warnings == [
        "cases a (train) and b (unlabelled): show one brain under two names: same image (similarity 0.950); "
        "it counts twice; drop one",
        "cases c and d (test): show one brain under two names: same image (similarity 0.900); "
        "it counts twice; drop one",
    ]


def test_two_examinations_of_a_patient_on_one_side_are_normal():
    cases = [case("a1", "train", "a"), case("a2", "unlabelled", "a")]
    leaks = find_leaks(cases, link_patients(cases).links)
    assert leaks.problems == leaks.warnings == []


def test_cases_of_one_patient_by_their_files_stay_linked_whatever_tables_call_them():
    cases = [case("B-5-000", "test", "P5"), case("B-5-001", "train", "Q7"), case("B-6-000", "train", "B-6")]
    others = [OtherNames("B-5-000", "B-5"), OtherNames("B-5-001", "B-5"), OtherNames("B-6-000", "B-6")]
    linked = link_patients(cases, other_names=others)
    assert linked.links == [Link("B-5-000", "B-5-001", "same patient in the file names (B-5)")]
    assert len(find_leaks(linked.cases, linked.links).problems) == 1


@pytest.mark.parametrize("name", ["B-5-000", "B-5", "b-05", "P5", "TCGA-1", "UCSF-9"])
def test_a_crosswalk_may_use_any_name_of_a_case(name):
    cases = [case("B-5-000", patient_id="P5"), case("X", patient_id="PX")]
    others = [OtherNames("B-5-000", "B-5", frozenset({"TCGA-1"}), frozenset({"UCSF-9"}), 4), OtherNames("X", "X")]
    linked = link_patients(cases, crosswalk=[CrosswalkRow(2, (name, "X"))], other_names=others)
    assert patients(linked) == {"B-5-000": "P5", "X": "P5"}


def test_a_name_that_a_table_and_a_case_share_is_not_in_doubt():
    cases = [case("UCSF-4", patient_id="P4"), case("B-97"), case("TCGA-1")]
    others = [OtherNames("UCSF-4", "UCSF-4", frozenset({"UCSF-4"}), frozenset({"B-97"}), 3)]
    linked = link_patients(cases, crosswalk=[CrosswalkRow(2, ("B-97", "TCGA-1"))], other_names=others)
    assert set(patients(linked).values()) == {"B-97"}
    assert linked.links[0] == Link("B-97", "UCSF-4", "clinical table line 3 (UCSF-4, B-97)")

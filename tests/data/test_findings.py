import csv

import pytest

from mttu.data.findings import Finding, check_findings_target, merge_findings, to_findings, write_findings
from mttu.errors import InputError


def test_sentences_become_findings_about_a_case_or_about_the_cohort():
    assert to_findings("warning", ["case A: shape (2, 3): odd", "table t.csv: line 2"]) == [
        Finding("warning", "A", "shape (2, 3): odd"),
        Finding("warning", "", "table t.csv: line 2"),
    ]


def test_what_several_cases_share_is_said_once():
    sentences = [f"case {name}: no t2; find it" for name in "ABCDEFGHIJ"]
    sentences += ["case A: no t1", "table: odd", "case A: no t1"]
    assert merge_findings(to_findings("error", sentences)) == [
        "cases A, B, C, D, E, F, G, H and 2 more: no t2; find it",
        "case A: no t1",
        "table: odd",
    ]


def test_the_table_holds_every_finding_unmerged(tmp_path):
    path = tmp_path / "findings.csv"
    write_findings(path, to_findings("error", ['case A: a, "b"', 'case B: a, "b"']))
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"severity": "error", "case_id": name, "finding": 'a, "b"'} for name in "AB"
        ]


def test_an_older_table_is_replaced_and_a_foreign_file_never(tmp_path):
    path = tmp_path / "findings.csv"
    write_findings(path, to_findings("error", ["case A: odd"]))
    write_findings(path, [])
    assert path.read_text(encoding="utf-8").splitlines() == ["severity,case_id,finding"]
    path.write_text("my notes")
    with pytest.raises(InputError, match="is there and no table of findings; it would be lost"):
        write_findings(path, [])
    assert path.read_text() == "my notes"


def test_a_target_that_cannot_take_the_table_is_refused_beforehand(tmp_path):
    check_findings_target(tmp_path / "findings.csv")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="is a folder, and the table of findings goes there; move it away"):
        check_findings_target(tmp_path / "folder")
    (tmp_path / "notes.csv").write_text("sev")
    with pytest.raises(InputError, match="is there and no table of findings"):
        check_findings_target(tmp_path / "notes.csv")

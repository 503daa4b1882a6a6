from pathlib import Path

import pytest

from mttu.cohort.truth import match_truth, read_truth
from mttu.data.manifest import Manifest, write_manifest
from mttu.errors import InputError


def test_truth_of_a_manifest_and_of_a_table(phantom_manifest: Manifest, tmp_path: Path):
    write_manifest(phantom_manifest, tmp_path / "cohort.parquet")
    known = {case.case_id: case.idh for case in phantom_manifest.cases if case.idh != -1}
    assert read_truth(tmp_path / "cohort.parquet") == known
    assert len(known) == 7
    (tmp_path / "truth.csv").write_text("case_id,idh\na,mutant\nb,0\nc,NA\na,1\n")
    assert read_truth(tmp_path / "truth.csv") == {"a": 1, "b": 0}
    (tmp_path / "truth.csv").write_text("case_id,idh,IDH2,kps\na,WT,R172K,80\n")
    notes = []
    assert read_truth(tmp_path / "truth.csv", notes) == {"a": 1}
    assert [note.partition(".csv")[2] for note in notes] == [
        ": 1 column is not used: kps",
        " line 2: idh 'WT' and IDH2 'R172K': taken as IDH mutant, because any mutation counts; check the row",
    ]


def test_hidden_truth_has_a_column_of_its_own(tmp_path: Path):
    (tmp_path / "truth.csv").write_text("case_id,split,true_idh,age\na,unlabelled,1,40\nb,train,0,50\nc,test,,\n")
    assert read_truth(tmp_path / "truth.csv") == {"a": 1, "b": 0}
    notes = []
    read_truth(tmp_path / "truth.csv", notes)
    assert notes == [f"truth {tmp_path / 'truth.csv'}: 2 columns are not used: split, age"]
    (tmp_path / "truth.csv").write_text("case_id,true_idh\na,yes\n")
    with pytest.raises(InputError, match="line 2: true_idh is 'yes'; expected 1"):
        read_truth(tmp_path / "truth.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case_id,idh\na,1\na,0\n", "case a is mutant in one row and wild type in another"),
        ("case_id,idh\na,NA\n", "no case has a known IDH class"),
        ("case_id,idh\na,perhaps\n", "idh is 'perhaps'"),
        ("name,idh\na,1\n", "no column with ids"),
    ],
)
def test_refused_truth(tmp_path: Path, text, message):
    (tmp_path / "truth.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_truth(tmp_path / "truth.csv")


def test_how_many_cases_the_truth_knows(tmp_path):
    path = tmp_path / "truth.csv"
    assert match_truth({"a": 1, "z": 0}, ["a", "b", "c"], path) == "1 of 3 cases have a true class"
    assert match_truth({"a": 1}, [], path) == "0 of 0 cases have a true class"
    with pytest.raises(InputError) as caught:
        match_truth({"A": 1}, ["a", "b"], path)
    assert caught.value.problems == [
        f"truth {path}: names A and none of the 2 scored cases, such as a, b; give the truth of these cases, by the "
        "same ids"
    ]

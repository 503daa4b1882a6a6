import csv

import pytest


def read_table(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr("mttu.report.files.draw_pictures", lambda *tables: {})


@pytest.mark.usefixtures("undrawn")
def test_a_checkpoint_is_predicted_and_scored_in_one_go(run, tiny_checkpoint, manifest_file, tmp_path, monkeypatch):
    scores, words = (
        tmp_path / "scores",
        (tiny_checkpoint, manifest_file, "-o", tmp_path / "scores", "--resamples", "20"),
    )
    code, out, err = run("evaluate", *words, "--device", "cpu")
    assert code == 0, err
    predicted = read_table(tmp_path / "scores-predictions" / "predictions.csv")
    idh = read_table(scores / "case_idh.csv")
    assert {row["case_id"]: row["mutant_probability"] for row in idh} == {
        row["case_id"]: row["idh_mutant_probability"] for row in predicted
    }
    assert {row["case_id"] for row in read_table(scores / "case_scores.csv")} == {row["case_id"] for row in predicted}
    assert "scored. Research use only." in out

    monkeypatch.setattr("mttu.predict.predict_cases", lambda *_: pytest.fail("nothing may be predicted"))
    (scores / "notes.txt").write_text("mine")
    code, _, err = run("evaluate", *words, "--scores", "x.csv")
    assert code == 2
    assert "holds notes.txt, which is not of an evaluation" in err
    assert "best is a checkpoint, which predicts them itself" in err


def test_a_folder_for_predictions_is_of_a_checkpoint_alone(run, manifest_file, tmp_path):
    code, _, err = run("evaluate", tmp_path, manifest_file, "-o", tmp_path / "out", "--predict-into", tmp_path / "p")
    assert (code, "is no checkpoint, so that nothing is predicted; leave it out" in err) == (2, True)

import csv
from dataclasses import replace

import pytest
import typer

from mttu.cli.output import give
from mttu.data.manifest import write_manifest


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--empty-dice", "none"], "none"),
        (["--split", "tset"], "tset"),
        (["--compare", "nowhere"], "nowhere"),
        (["--predict-into", "out"], "one folder holds the other"),
        (["--predict-into", "out/predictions"], "one folder holds the other"),
        (["--predict-into", "."], "one folder holds the other"),
        (["--compare", "p", "--predict-into", "p"], "holds the predictions of --compare"),
    ],
)
def test_nothing_is_predicted_before_all_else_is_known_to_fit(
    words, said, run, tiny_checkpoint, manifest_file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mttu.predict.predict_cases", lambda *_: pytest.fail("nothing may be predicted"))
    code, out, err = run("evaluate", tiny_checkpoint, manifest_file, "-o", "out", "--json", *words)
    assert (code, out, said in err) == (2, "", True), err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"grade": "V"}, {"idh": -1, "seg": None}])
def test_nor_before_the_manifest_is_known_to_be_of_use(
    change, run, tiny_checkpoint, phantom_manifest, tmp_path, monkeypatch
):
    monkeypatch.setattr("mttu.predict.predict_cases", lambda *_: pytest.fail("nothing may be predicted"))
    cases = tuple(replace(case, **change) for case in phantom_manifest.cases)
    write_manifest(replace(phantom_manifest, cases=cases), tmp_path / "odd.parquet")
    words = "evaluate", tiny_checkpoint, tmp_path / "odd.parquet", "-o", tmp_path / "out"
    code, _, err = run(*words)
    said = "grade 'V'" if "grade" in change else "has a true mask or a known IDH status"
    assert (code, said in err) == (2, True), err
    code, _, err = run(*words[:2], tmp_path / "none.parquet", *words[3:], "--empty", "x", "--predict-into", words[4])
    assert (code, "none.parquet" in err, "'x'" in err, "one folder holds" in err) == (2, True, True, True)
    assert [path.name for path in tmp_path.iterdir()] == ["odd.parquet"]


def test_predictions_are_not_printed_as_the_result(run, tiny_checkpoint, manifest_file, tmp_path, monkeypatch):
    def give_predictions(*_, **__):
        give({"cases": ["of the prediction"]})
        raise typer.Exit(1)

    monkeypatch.setattr("mttu.cli.predict", give_predictions)
    code, out, err = run("evaluate", tiny_checkpoint, manifest_file, "-o", tmp_path / "out", "--json")
    assert (code, out, "scores-predictions" in err or "out-predictions" in err) == (2, "", True)


@pytest.mark.parametrize(("name", "value"), [("--predict-into", "p"), ("--device", "gpu")])
def test_what_predicting_needs_is_of_a_checkpoint_alone(name, value, run, manifest_file, tmp_path):
    code, _, err = run("evaluate", tmp_path, manifest_file, "-o", tmp_path / "out", name, value)
    assert (code, f"{name}: {tmp_path} is no checkpoint" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []

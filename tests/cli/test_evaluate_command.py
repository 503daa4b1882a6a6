import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from empty_pictures import save_empty

from mttu.cli.output import give
from mttu.data.manifest import write_manifest
from mttu.errors import InputError


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


@pytest.fixture
def predictions(run, tiny_checkpoint, manifest_file, tmp_path):
    """Predictions of the test cases."""
    code, _, err = run("predict", tiny_checkpoint, manifest_file, "-o", tmp_path / "predicted", "--split", "test")
    assert code == 0, err
    return tmp_path / "predicted"


@pytest.mark.usefixtures("undrawn")
def test_several_systems_are_scored_one_by_one_and_compared(
    run, tiny_checkpoint, predictions, manifest_file, tmp_path, monkeypatch
):
    monkeypatch.setattr("mttu.report.comparison_files.save_figure", save_empty)
    words = f"seeds={predictions},{tiny_checkpoint}", predictions, manifest_file, "-o", tmp_path / "out"
    code, out, err = run("evaluate", *words, "--resamples", "20", "--json")
    assert code == 0, err
    found = json.loads(out)
    folders = {name: [Path(one) for one in places] for name, places in found["systems"].items()}
    assert folders == {
        "seeds": [tmp_path / "out" / "seeds" / "1", tmp_path / "out" / "seeds" / "2"],
        "predicted": [tmp_path / "out" / "predicted"],
    }
    tables = [read_table(one / "case_scores.csv") for places in folders.values() for one in places]
    dice = [[(row["case_id"], row["region"], row["dice"]) for row in table] for table in tables]
    assert dice[0] == dice[1] == dice[2]  # the same network thrice
    rows = read_table(tmp_path / "out" / "comparison" / "table.csv")
    assert {"seeds", "predicted"} <= {next(iter(row.values())) for row in rows}
    assert (tmp_path / "out-predictions" / "seeds" / "2" / "predictions.csv").exists()
    assert found["failed"] == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{p}", "{p}"], "2 systems have this name; write NAME=FOLDER"),
        (["a={p},{p}"], "system a: {p} is given twice"),
        (["a={p}", "comparison={c}"], "system 'comparison': cannot be the name of a folder here"),
        (["a={p}", "b/c={c}"], "system 'b/c': cannot be the name of a folder here"),
        (["a={p}", "b={c}", "--labels", "msd"], "--labels: is for one folder of predictions"),
        (["a={p}", "b={c}", "--predict-into", "x"], "--predict-into: is for one folder of predictions"),
        (["a={p}", "b={c}", "--compare", "{p}"], "--compare: is for one folder of predictions"),
        (["a={p}", "b=nowhere"], "nowhere"),
        (["a={p}", "b={c}", "--split", "tset"], "tset"),
        (["a={p},{c}", "--no-clinical-baselines"], "system a: has nothing to be compared with without baselines"),
        (["a={p}", "b={o}"], "Dice exclude, HD95 exclude in b; name one way with --empty"),
        (["a={p}", "b={p}x", "--device", "cpu"], "--device: none is a checkpoint"),
    ],
)
def test_of_several_nothing_is_predicted_before_all_fits(
    words, said, run, tiny_checkpoint, write_tiny, predictions, manifest_file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mttu.predict.predict_cases", lambda *_: pytest.fail("nothing may be predicted"))
    other = write_tiny(tmp_path / "other" / "best", {"metrics.empty_dice": "exclude"})
    places = {"p": predictions, "c": tiny_checkpoint, "o": other}
    words = [word.format(**places) for word in words]
    start = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    code, out, err = run("evaluate", *words[:start], manifest_file, "-o", "out", "--json", *words[start:])
    assert (code, out, said.format(**places) in err) == (2, "", True), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "predicted"]


def test_weights_of_mlflow_are_fetched_first(run, manifest_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []

    def fetch(address, into, runs):
        asked.append((address, into, runs))
        raise InputError(f"{address}: not found")

    monkeypatch.setattr("mttu.tracking.fetch_checkpoint", fetch)
    code, _, err = run("evaluate", "a=runs:/1", "b=models:/glioma@best", manifest_file, "-o", "out")
    assert (code, "runs:/1: not found" in err, "models:/glioma@best: not found" in err) == (2, True, True)
    assert asked == [
        ("runs:/1", tmp_path / "out-weights" / "a", Path("runs")),
        ("models:/glioma@best", tmp_path / "out-weights" / "b", Path("runs")),
    ]
    code, _, err = run("compare", "a=runs:/1", tmp_path, "-o", "out")
    assert (code, "system a: runs:/1 is of weights in MLflow, which have no scores" in err) == (2, True)

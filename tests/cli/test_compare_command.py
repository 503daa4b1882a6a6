import json
from dataclasses import replace

import pytest
from empty_pictures import save_empty

from mttu.data.manifest import write_manifest
from mttu.predict.results import PredictionRow, open_staging, publish, write_tables
from mttu.report.files import write_evaluation

PROBABILITIES = (0.9, 0.3, 0.6, 0.2)


@pytest.fixture
def cases(phantom_manifest):
    """Four cases, mutant and wild type by turns."""
    return [replace(case, idh=1 - number % 2) for number, case in enumerate(phantom_manifest.cases[:4])]


@pytest.fixture
def write(cases, tmp_path, monkeypatch):
    """Writes the folder of an evaluation of IDH probabilities."""
    monkeypatch.setattr("mttu.report.files.draw_pictures", lambda *tables: {})
    monkeypatch.setattr("mttu.report.comparison_files.save_figure", save_empty)

    def make(name, probabilities=PROBABILITIES):
        idh = [
            {"case_id": case.case_id, "patient_id": case.patient_id, "system": "net", "learned_from": False}
            | {"idh": case.idh, "mutant_probability": value, "confidence": 0.9, "right": True}
            for case, value in zip(cases, probabilities, strict=True)
        ]
        columns = ("case_id", "patient_id", "idh", "grade", "age", "sex", "site")
        facts = [{column: getattr(case, column) for column in columns} for case in cases]
        summary = {"systems": [{"name": "net", "checkpoint": "run/best"}], "split": "test", "synthetic": True}
        write_evaluation(tmp_path / name, [], idh, summary | {"empty_masks": "Dice brats, HD95 exclude"}, facts)
        return tmp_path / name

    return make


@pytest.fixture
def manifest(cases, phantom_manifest, tmp_path):
    gone = {name: phantom_manifest.root / f"gone-{name}.nii.gz" for name in cases[0].images}  # so that no image is read
    write_manifest(
        replace(phantom_manifest, cases=tuple(replace(case, images=gone) for case in cases)), tmp_path / "c.parquet"
    )
    return tmp_path / "c.parquet"


def write_predictions(out, cases, probabilities=PROBABILITIES, checkpoint="run/best"):
    staging = open_staging(out)
    rows = [
        PredictionRow(case.case_id, 1.0, "", value, in_distribution=False, distribution_z=7.25)
        for case, value in zip(cases, probabilities, strict=False)
    ]
    rows = [replace(row, distribution_farthest="t1 spread", warnings="looks flipped") for row in rows]
    write_tables(staging, rows, {"labels": "brats", "checkpoint": checkpoint})
    publish(out)
    return out


def test_compare_names_all_problems_and_writes_nothing(run, write, tmp_path):
    good, out = write("good"), tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    code, shown, err = run("compare", good, tmp_path / "none", "-o", out, "--json")
    assert (code, shown) == (2, "")
    assert "holds notes.txt, which is not of a comparison" in err
    assert "none: is no folder; give one that `mttu evaluate` wrote" in err
    code, shown, err = run("compare", good, write("b"), "-o", tmp_path / "new", "--reference", "c", "--json")
    assert (code, shown, "no such system; choose one of good, b" in err) == (2, "", True)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    assert not (tmp_path / "new").exists()


def test_compare_gives_rows_and_notes(run, write, tmp_path):
    code, shown, err = run(
        "compare", write("a"), write("b", (0.9, 0.3, 0.2, 0.6)), "-o", tmp_path / "out", "--resamples", 20, "--json"
    )
    assert code == 0, err
    found = json.loads(shown)
    rows = {row["name"]: row["scores"]["auc"]["mean"] for row in found["summary"]["rows"]}
    assert (rows, found["summary"]["reference"]) == ({"a": 1.0, "b": 0.5}, "a")  # 0.9, 0.2 against 0.3, 0.6
    assert "the data are synthetic: these scores say nothing about patients" in found["notes"]
    assert "fewer than 10 cases of an IDH class: DeLong's intervals and p-values are too optimistic" in found["notes"]
    assert (tmp_path / "out" / "table.csv").is_file()


def test_failures_names_all_problems_and_writes_nothing(run, write, cases, manifest, tmp_path):
    scores, out = write("scores"), tmp_path / "out"
    code, shown, err = run("failures", tmp_path / "x", tmp_path / "y", tmp_path / "z.parquet", "-o", out, "--json")
    assert (code, shown) == (2, "")
    assert all(word in err for word in ("evaluation ", "predictions ", "z.parquet"))
    other = write_predictions(tmp_path / "other", cases[:3], (0.9, 0.3, 0.7), "else/best")
    code, shown, err = run("failures", scores, other, manifest, "-o", out, "--json")
    assert (code, shown) == (2, "")
    assert f"lack the cases {cases[3].case_id} of evaluation" in err
    assert "were made by else/best, but those evaluated by run/best" in err
    assert f"have other IDH probabilities for {cases[2].case_id} than those evaluated" in err
    (tmp_path / "empty").mkdir()
    code, _, err = run("failures", scores, tmp_path / "empty", manifest, "-o", out)
    assert (code, "have no table, but those evaluated are of run/best" in err) == (2, True)
    assert not out.exists()


def test_failures_gives_the_cases_and_what_is_odd(run, write, cases, manifest, tmp_path):
    values = (0.9, 0.7, 0.6, 0.2)
    predictions = write_predictions(tmp_path / "p", cases, values)
    words = write("scores", values), predictions, manifest, "-o", tmp_path / "out"
    code, shown, err = run("failures", *words, "--json")
    assert code == 0, err
    (one,) = json.loads(shown)["failures"]
    assert (one["case_id"], one["mutant_probability"]) == (cases[1].case_id, 0.7)
    assert one["oddities"] == ["unlike the training cases: t1 spread, robust z 7.2", "looks flipped"]

"""What stands beside a probability, in the table and on the terminal."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from mttu.cli import main
from mttu.config import override
from mttu.data.cache import CachedCase, open_cached
from mttu.inference.distribution import KeptDistribution, Usual, read_distribution, write_distribution
from mttu.inference.image_statistics import measure_image
from mttu.patients import KnownPatients, derive_key, name_patients
from mttu.predict import cases as predicting
from mttu.predict import plan_predictions, predict_cases
from mttu.training.run import _spread, launch_locally, measure_training_cases, run_training


@pytest.fixture
def measured(tiny_checkpoint, cases, tmp_path, monkeypatch):
    """Statistics of case "a" as the network sees it."""
    found = {}

    class Spy(KeptDistribution):
        def judge(self, image, modalities, spacing_mm):
            found.update(measure_image(image, modalities, spacing_mm))

    plan = plan_predictions(tiny_checkpoint, [cases / "a"], tmp_path / "spied")
    predict_cases(replace(plan, distribution=Spy()))
    return found


def test_an_older_checkpoint_says_that_nothing_is_known(tiny_checkpoint, cases, tmp_path):
    (row,) = predict_cases(plan_predictions(tiny_checkpoint, [cases / "a"], tmp_path / "out"))
    assert (row.in_distribution, row.distribution_z, row.distribution_farthest) == (None, None, None)
    assert row.standing == (
        "IDH probability not calibrated (no calibration is kept with this checkpoint); in distribution or not: not "
        "known (no statistics of training cases are kept with this checkpoint); learned from this patient or not: not "
        "known; research use only"
    )


def test_a_scan_far_outside_is_flagged_with_the_figure(write_tiny, cases, tmp_path, measured, capsys):
    folder = write_tiny(tmp_path / "run" / "best")
    usual = {name: Usual(value, 1.0) for name, value in measured.items()}
    write_distribution(folder, KeptDistribution(20, usual))
    (inside,) = predict_cases(plan_predictions(folder, [cases / "a"], tmp_path / "inside"))
    assert (inside.in_distribution, inside.distribution_z) == (True, pytest.approx(0.0, abs=1e-9))
    assert "in distribution (farthest: " in inside.standing
    write_distribution(folder, KeptDistribution(20, {**usual, "t2_skewness": Usual(measured["t2_skewness"] - 7, 1.0)}))
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(folder), str(cases / "a"), "-o", str(tmp_path / "outside"), "--threads", "1"])
    assert stopped.value.code == 0
    table = pq.read_table(tmp_path / "outside" / "predictions.parquet")
    (row,) = table.to_pylist()
    assert (row["in_distribution"], row["distribution_farthest"]) == (False, "t2_skewness")
    assert row["distribution_z"] == pytest.approx(7.0)
    assert row["idh_mutant_probability"] == inside.idh_mutant_probability  # flagged, not changed
    shown = capsys.readouterr()
    assert "a: warning: " in shown.err
    assert "OUT OF DISTRIBUTION (farthest: t2_skewness is " in shown.err
    assert "scans are compared with 20 training cases by 49 statistics" in shown.out
    assert json.loads(table.schema.metadata[b"distribution"]) == {"limit": 5.0, "num_cases": 20, "reason": ""}


def test_whether_it_learned_from_the_patient_is_said(tiny_checkpoint, cases, tmp_path):
    known = name_patients(["a"], derive_key(["x"]))
    assert isinstance(known, KnownPatients)
    plan = replace(plan_predictions(tiny_checkpoint, [cases], tmp_path / "out"), known_patients=known)
    first, second = predict_cases(plan)
    assert "LEARNED FROM THIS PATIENT: no fair test" in first.standing
    assert "not learned from this patient" in second.standing


def test_the_standing_is_drawn_on_the_overlay(tiny_checkpoint, cases, tmp_path, monkeypatch):
    drawn = []
    draw = predicting.draw_overlay
    monkeypatch.setattr(
        predicting, "draw_overlay", lambda *given, **more: drawn.append(draw(*given, **more)) or drawn[-1]
    )
    (row,) = predict_cases(plan_predictions(tiny_checkpoint, [cases / "a"], tmp_path / "out"))
    assert row.standing in [text.get_text().replace("\n", " ") for text in drawn[0].texts]


def test_a_training_keeps_what_its_cases_look_like(trained, tiny, monkeypatch):
    content = json.loads((trained / "best" / "distribution.json").read_text())
    assert content["num_cases"] == 4
    assert "4 training cases are too few" in content["reason"]
    assert content["statistics"] == {}
    for module in ("mttu.inference.distribution", "mttu.training.run"):
        monkeypatch.setattr(f"{module}.FEWEST_CASES", 4)
    kept = measure_training_cases(tiny)
    assert (kept.num_cases, len(kept.usual)) == (4, 49)
    assert 5 < kept.usual["brain_ml"].median < 32**3 / 1000
    with monkeypatch.context() as patch:
        patch.setattr("mttu.training.run.MOST_MEASURED", 2)
        patch.setattr("mttu.training.run.summarise_cases", lambda rows: [row["brain_ml"] for row in rows])
        assert len(set(measure_training_cases(tiny))) == 2
    monkeypatch.setattr("mttu.training.run.open_cached", lambda *given: (_ for _ in ()).throw(OSError("gone")))
    assert "could not be read" in measure_training_cases(tiny).reason


def test_a_damaged_training_case_costs_its_statistics_and_not_the_training(tiny, phantom_manifest, monkeypatch, caplog):
    def spoil(cache, case_id):
        cached = open_cached(cache, case_id)
        return replace(cached, image=np.zeros_like(cached.image)) if case_id == spoilt else cached

    spoilt = phantom_manifest.split("train")[2].case_id
    for module in ("mttu.inference.distribution", "mttu.training.run"):
        monkeypatch.setattr(f"{module}.FEWEST_CASES", 4)
    monkeypatch.setattr(CachedCase, "will_need", lambda *given: None)  # zeros have no file to read ahead
    monkeypatch.setattr("mttu.training.run.open_cached", spoil)
    folder = run_training(override(tiny, {"train.epochs": 1}), launch_locally)
    kept = read_distribution(folder)
    assert (dict(kept.usual), kept.reason) == ({}, "a prepared training case was damaged when the training ended")
    assert f"case {spoilt}: its prepared image cannot be measured" in caplog.text


def test_cases_are_spread_over_the_manifest():
    assert _spread(list("abcdefg"), 3) == ["a", "c", "e"]
    assert _spread(list("abc"), 3) == _spread(list("abc"), 100) == ["a", "b", "c"]

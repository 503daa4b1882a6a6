"""What stands beside a probability, in the table and on the terminal."""

import json
from dataclasses import replace
from math import nan

import numpy as np
import pyarrow.parquet as pq
import pytest

from mttu.cli import main
from mttu.config import override
from mttu.data.cache import CachedCase, open_cached
from mttu.figures import style
from mttu.inference.calibration import KeptCalibration, parse_calibration
from mttu.inference.distribution import KeptDistribution, Usual, read_distribution, write_distribution
from mttu.inference.image_statistics import measure_image
from mttu.metrics.calibration import Calibration
from mttu.patients import KnownPatients, derive_key, name_patients
from mttu.predict import PredictionRow, plan_predictions, predict_cases
from mttu.predict import cases as predicting
from mttu.predict.plan import find_input_cases
from mttu.predict.standing import Ground, add_probability, add_standing, is_undecided
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
        "IDH probability not calibrated (no calibration is kept with this checkpoint); UNDECIDED: the uncalibrated "
        f"probability {row.idh_mutant_probability:.3g} lies in the band 0.4 to 0.6; in distribution or not: not known "
        "(no statistics of training cases are kept with this checkpoint); learned from this patient or not: not known; "
        "research use only"
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
    assert "the IDH probability of 1 of these 1 cases is undecided: a" in shown.out + shown.err  # 0.52
    assert json.loads(table.schema.metadata[b"distribution"]) == {"limit": 5.0, "num_cases": 20, "reason": ""}


def keep(temperature):
    """A calibration of that temperature, and of threshold 0.5."""
    fitted = {"temperature": Calibration(temperature, 0.0, 9, True)}
    return KeptCalibration("validation", 9, 4, 0.5, fitted, patients=KnownPatients())


@pytest.mark.parametrize(
    ("raw", "temperature", "calibrated", "undecided"),
    [
        (0.80, 9.61, 0.536, "UNDECIDED: the calibrated probability 0.536 lies in the band 0.4 to 0.6"),
        (0.45, 0.2368, 0.300, ""),
        (0.80, None, None, ""),
        (0.45, None, None, "UNDECIDED: the uncalibrated probability 0.45 lies in the band 0.4 to 0.6"),
    ],
)
def test_the_calibrated_probability_decides_what_is_undecided(raw, temperature, calibrated, undecided):
    ground = Ground((0.4, 0.6), KeptCalibration() if temperature is None else keep(temperature))
    row = add_standing(add_probability(PredictionRow("a", 1.0), raw, "a", ground), ground, None)
    assert row.idh_calibrated_probability == (None if calibrated is None else pytest.approx(calibrated, abs=5e-4))
    assert is_undecided(row) == bool(undecided)
    assert [part for part in row.standing.split("; ") if "UNDECIDED" in part] == ([undecided] if undecided else [])


def test_a_case_without_a_probability_is_not_undecided():
    ground = Ground((0.4, 0.6))
    assert "UNDECIDED" not in add_standing(PredictionRow("a", 1.0), ground, None).standing


def test_what_is_known_of_the_patient_is_said(tiny_checkpoint, cases, tmp_path):
    known = name_patients(["a"], derive_key(["x"]))
    assert isinstance(known, KnownPatients)
    plan = replace(plan_predictions(tiny_checkpoint, [cases], tmp_path / "out"), known_patients=known)
    first, second = predict_cases(plan)
    assert "LEARNED FROM THIS PATIENT: no fair test" in first.standing
    assert (
        "learned from this patient or not: not known (only the folder names the patient; no patient of that name was "
        "learned from)"
    ) in second.standing
    told = add_standing(PredictionRow("b", 1.0, learned_from=False), Ground((0.4, 0.6)), None)
    assert told.standing.split("; ")[1:] == ["no patient of this id was learned from", "research use only"]


def test_a_folder_tells_the_patient_only_where_its_layout_does(tmp_path, write_case, manifest_file):
    write_case(tmp_path, "BraTS-GLI-00007-000")
    for name in ("flair", "t1ce", "t1", "t2"):
        short = {"flair": "t2f", "t1ce": "t1c", "t1": "t1n", "t2": "t2w"}[name]
        folder = tmp_path / "BraTS-GLI-00007-000"
        (folder / f"{folder.name}_{name}.nii.gz").rename(folder / f"{folder.name}-{short}.nii.gz")
    write_case(tmp_path, "patient_7")
    modalities = ("flair", "t1ce", "t1", "t2")
    found, problems = find_input_cases([tmp_path], modalities)
    told = {one.case_id: one.is_patient_told for one in found}
    assert (told, problems) == ({"BraTS-GLI-00007-000": True, "patient_7": False}, [])
    assert all(one.is_patient_told for one in find_input_cases([manifest_file], modalities)[0])


@pytest.fixture
def drawn(monkeypatch):
    """The overlays that are drawn."""
    figures, draw = [], predicting.draw_overlay
    monkeypatch.setattr(
        predicting, "draw_overlay", lambda *given, **more: figures.append(draw(*given, **more)) or figures[-1]
    )
    return figures


def test_the_standing_is_drawn_on_the_overlay(tiny_checkpoint, cases, tmp_path, drawn):
    (row,) = predict_cases(plan_predictions(tiny_checkpoint, [cases / "a"], tmp_path / "out"))
    assert row.standing in [text.get_text().replace("\n", " ") for text in drawn[0].texts]


def test_that_it_learned_from_the_patient_is_no_small_white_print(tiny_checkpoint, cases, tmp_path, drawn):
    known = name_patients(["a"], derive_key(["x"]))
    predict_cases(replace(plan_predictions(tiny_checkpoint, [cases], tmp_path / "out"), known_patients=known))
    colours = [text.get_color() for figure in drawn for text in figure.texts if "IDH probability" in text.get_text()]
    assert colours == [style.ORANGE, "white"]


def test_the_overlay_says_which_probability_is_undecided(tiny_checkpoint, cases, tmp_path, drawn):
    plan = replace(plan_predictions(tiny_checkpoint, [cases / "a"], tmp_path / "out"), calibration=keep(10.0))
    for band in ([0.5, 0.51], [0.52, 0.6]):  # the first has the calibrated 0.502 in it, the second the raw 0.523
        predict_cases(replace(plan, config=override(plan.config, {"inference.undecided_band": band})))
    shown = [" ".join(text.get_text() for text in figure.texts).replace("\n", " ") for figure in drawn]
    assert "undecided (calibrated, 0.50 to 0.51)" in shown[0]
    assert "undecided" not in shown[1].lower()


@pytest.mark.parametrize("damage", [{"temperature": 0.0}, {"temperature": nan}, {"bias": nan}, {"temperature": "1"}])
def test_a_calibration_that_is_no_number_is_refused(damage):
    content = keep(2.0).to_json()
    assert parse_calibration(content).calibrate(0.8) == pytest.approx(2 / 3)  # sigmoid(logit(0.8) / 2)
    content["calibrations"]["temperature"] |= damage
    with pytest.raises((ValueError, TypeError)):
        parse_calibration(content)


@pytest.mark.parametrize("threshold", [nan, -0.1, 1.1])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(ValueError, match="expected 0 to 1"):
        parse_calibration(keep(2.0).to_json() | {"threshold": threshold})


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

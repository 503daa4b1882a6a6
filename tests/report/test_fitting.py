"""What threshold and calibration are fitted on: no case that taught the network, none that is scored."""

import json

import pytest

from mttu.errors import InputError
from mttu.inference.calibration import KeptCalibration, fit_kept
from mttu.report import plan_evaluation
from mttu.report.tables import build_tables, describe_cases

KEPT = fit_kept([0.9, 0.8, 0.2, 0.4, 0.6], [1, 0, 0, 1, 1], "out-of-fold", ["fold 3: why"])


@pytest.fixture
def summarise(evaluate):
    return lambda predictions, **settings: evaluate(predictions, **settings, num_resamples=5, baselines=False).summary


def with_kept(kept):
    return {"labels": "brats", "checkpoint": "run/ensemble", "calibration": json.dumps(kept.to_json())}


def values(summary):
    idh = summary["idh"]
    return [one["threshold"] for one in idh["at_thresholds"]], [one["temperature"] for one in idh["calibrations"]]


def test_an_ensemble_of_folds_fits_nothing_on_cases_that_members_learned_from(write_predictions, summarise):
    summary = summarise(write_predictions("a", taught_by=("train", "val")))
    assert values(summary) == ([0.5], [])
    assert (
        "threshold 0.5 only, no calibration: the validation cases that the network did not learn from are 0 mutant and "
        "0 wild type; both are needed; the network learned from 2 val cases"
    ) in describe_cases(summary)


def test_where_it_is_not_known_nothing_is_fitted(write_predictions, summarise):
    summary = summarise(write_predictions("a", taught_by=None))
    assert values(summary) == ([0.5], [])
    assert "of 2 val cases the predictions do not say whether the net" in summary["idh"]["not_fitted"]
    told = "a: does not say whom it was trained on: whether this is a fair test is not known"
    assert told in describe_cases(summary)


def test_what_is_kept_with_the_predictions_comes_first(write_predictions, summarise):
    predictions = write_predictions("a", metadata=with_kept(KEPT), calibrated_on=("train", "val"))
    summary = summarise(predictions)
    assert values(summary) == ([0.5, KEPT.threshold], [one.temperature for one in KEPT.calibrations.values()])
    assert summary["idh"]["fitted_on"] == {"cases": "out-of-fold", "num_cases": 5, "notes": ["fold 3: why"]}
    lines = describe_cases(summary)
    assert "threshold and calibration: fitted on 5 out-of-fold cases" in lines
    assert "about that: fold 3: why" in lines
    shown = [str(cell) for table in build_tables(summary) for column in table.columns for cell in column.cells]
    assert any("(5 out-of-fold cases)" in cell for cell in shown)


def test_cases_that_it_was_fitted_on_are_not_scored_with_it(write_predictions, summarise):
    predictions = write_predictions(
        "a", metadata=with_kept(KEPT), calibrated_on=("train", "val"), taught_by=("train", "val")
    )
    summary = summarise(predictions, split="val")
    assert values(summary) == ([0.5], [])
    assert "the kept calibration was fitted on 2 of the evaluated cases" in summary["idh"]["not_fitted"]
    assert any("no fair test" in line for line in describe_cases(summary))


def test_where_nothing_could_be_kept_val_cases_serve(write_predictions, summarise):
    kept = fit_kept([0.9], [1], "out-of-fold")
    summary = summarise(write_predictions("a", metadata=with_kept(kept)))
    assert summary["idh"]["fitted_on"] == {"cases": "validation", "num_cases": 2, "notes": [kept.reason]}


def test_why_the_kept_calibration_does_not_hold_is_told(write_predictions, summarise):
    reason = "the kept calibration was fitted with inference.flips=False, now True"
    predictions = write_predictions("a", metadata=with_kept(KeptCalibration(reason=reason)))
    assert f"about that: {reason}" in describe_cases(summarise(predictions))
    predictions = write_predictions("b", metadata=with_kept(KeptCalibration(reason=reason)), taught_by=("train", "val"))
    assert reason in summarise(predictions)["idh"]["not_fitted"]


def test_rows_say_whether_the_network_knows_the_patient(write_predictions, evaluate):
    found = evaluate(write_predictions("a"), split="train", num_resamples=2, baselines=False)
    assert {row["learned_from"] for row in (*found.region_rows, *found.idh_rows)} == {True}


def test_a_damaged_calibration_is_refused(write_predictions, manifest, tmp_path):
    for text in ("{", "[]", "{}", json.dumps({**KEPT.to_json(), "calibrations": {}})):
        predictions = write_predictions("a", metadata={"labels": "brats", "calibration": text})
        with pytest.raises(InputError, match="the calibration in its metadata is damaged; write it again with `mttu p"):
            plan_evaluation(predictions, manifest, tmp_path / "out")

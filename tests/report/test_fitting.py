"""What threshold and calibration are fitted on: no case that taught the network, none that is scored."""

import json
from dataclasses import replace

import pytest

from mttu.data.manifest import write_manifest
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


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_calibration_of_unknown_origin_is_not_scored_on_cases_that_may_have_fitted_it(
    write_predictions, summarise, split
):
    predictions = write_predictions("a", metadata=with_kept(KEPT), calibrated_on=None, taught_by=("train", "val"))
    summary = summarise(predictions, split=split)
    assert values(summary) == ([0.5], [])
    assert "not known whether the kept calibration was fitted on 2 of the evaluated" in summary["idh"]["not_fitted"]


def test_a_calibration_of_unknown_origin_is_said_to_be_that_elsewhere(write_predictions, summarise):
    summary = summarise(write_predictions("a", metadata=with_kept(KEPT), calibrated_on=None))
    assert values(summary)[0] == [0.5, KEPT.threshold]
    told = "about that: not known whether the kept calibration was fitted on 4 of the evaluated cases"
    assert told in describe_cases(summary)


def test_scores_of_cases_that_chose_the_post_processing_are_said_to_be_too_good(write_predictions, summarise, cohort):
    told = {name: write_predictions(name, chosen_on=on) for name, on in {"a": ("val",), "b": None, "c": ()}.items()}
    first, second = (case.case_id for case in cohort.split("val"))
    chose = summarise(told["a"], split="val")
    assert chose["cases"]["postprocessing_chosen_on"] == {"a": [first, second]}
    assert (
        "a: which components of masks are dropped was chosen on patients of the same ids as "
        f"{first}, {second}: their masks' scores are a little too good"
    ) in describe_cases(chose)
    silent = "does not say on whom it was chosen which components of 2 masks are dropped"
    found = {
        name: [line for line in describe_cases(summarise(one, split="val")) if silent in line]
        for name, one in told.items()
    }
    assert {name: len(lines) for name, lines in found.items()} == {"a": 0, "b": 1, "c": 0}
    assert not any("components" in line for line in describe_cases(summarise(told["a"])))  # test cases chose nothing


def test_pseudo_labels_are_no_truth(write_predictions, evaluate, cohort, tmp_path):
    pseudo = cohort.split("train")[0]
    soft = replace(pseudo, pseudo_label=True, idh_probability=0.8, idh_weight=0.5)
    path = tmp_path / "round.parquet"
    write_manifest(replace(cohort, cases=tuple(soft if case == pseudo else case for case in cohort.cases)), path)
    summary = evaluate(write_predictions("a"), path, num_resamples=2).summary
    assert summary["baselines"]["fitted_on"] == 3  # two val cases and the other train case
    assert "the IDH status of 1 case of the manifest is a pseudo-label and counts as unknown" in describe_cases(summary)
    found = evaluate(write_predictions("a"), path, split="train", num_resamples=2)
    assert [row["case_id"] for row in found.idh_rows] == [cohort.split("train")[1].case_id]
    assert {row["case_id"]: row["idh"] for row in found.fact_rows}[pseudo.case_id] == -1


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
    nan = json.dumps({**KEPT.to_json(), "threshold": float("nan")})
    for text in ("{", "[]", "{}", json.dumps({**KEPT.to_json(), "calibrations": {}}), nan):
        predictions = write_predictions("a", metadata={"labels": "brats", "calibration": text})
        with pytest.raises(InputError, match="the calibration in its metadata is damaged; write it again with `mttu p"):
            plan_evaluation(predictions, manifest, tmp_path / "out")

"""Summary of an evaluation: regions, IDH, baselines without images, and a paired comparison of two systems."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mttu.config import MetricSettings
from mttu.data.labels import IDH_MUTANT, REGIONS
from mttu.data.manifest import Case
from mttu.inference.calibration import KeptCalibration
from mttu.metrics.calibration import Calibration
from mttu.metrics.classification import DEFAULT_THRESHOLD, score_classification
from mttu.metrics.clinical_baselines import Baseline, Subject, estimate_auc_by_grade, fit_baselines
from mttu.metrics.comparisons import (
    adjust_holm,
    align_cases,
    compare_mcnemar,
    compare_paired_t,
    compare_two_samples_t,
    compare_wilcoxon,
)
from mttu.metrics.delong import compare_auc, estimate_auc
from mttu.metrics.empty_masks import fill_scores, summarise_region
from mttu.metrics.intervals import bootstrap_mean, bootstrap_over_patients, wilson_interval
from mttu.metrics.reliability import Binning, measure_calibration_error, tabulate_reliability
from mttu.report.plan import EvaluationPlan, describe_subject
from mttu.report.predictions import Predictions


def report_segmentation(
    rows: Sequence[Mapping[str, Any]], settings: MetricSettings, num_resamples: int
) -> dict[str, Any] | None:
    """Summary of each region; None without scored masks.

    Args:
        rows: Of one system, see `mttu.report.files.REGION_SCHEMA`.
        settings: Conventions for empty masks.
        num_resamples: Of the bootstrap.

    Returns:
        Region to counts and, for each metric, spread and interval of the mean over patients.
    """
    if not rows:
        return None
    report: dict[str, Any] = {}
    for region in REGIONS:
        own = sorted((row for row in rows if row["region"] == region), key=lambda row: str(row["case_id"]))
        report[region] = asdict(summarise_region(own, region, settings))
        filled = [(fill_scores(row, settings), row["patient_id"]) for row in own]
        for name, spread in report[region]["metrics"].items():
            known = [(value, patient) for scores, patient in filled if (value := scores[name]) is not None]
            values, patients = [value for value, _ in known], [patient for _, patient in known]
            spread["interval_of_mean"] = asdict(bootstrap_mean(values, patients, num_resamples))
    return report


BINNINGS: tuple[Binning, ...] = ("equal-width", "adaptive")
SCORES = ("auc", "accuracy", "sensitivity", "specificity", "balanced_accuracy", "f1", "brier", "cross_entropy")


def report_idh(
    cases: Sequence[Case], fitted: KeptCalibration, system: Predictions, num_resamples: int
) -> dict[str, Any] | None:
    """Scores of the IDH probabilities of one system; None without cases.

    Args:
        cases: Cases to score, of known IDH status.
        fitted: Threshold and calibration, fitted on other cases; or why there are none.
        system: Has a probability for each of the cases.
        num_resamples: Of each bootstrap.
    """
    if not cases:
        return None
    cases = sorted(cases, key=lambda case: case.case_id)
    probabilities, idh = list(system.probabilities(cases).values()), [case.idh for case in cases]
    patients = [case.patient_id for case in cases]
    thresholds = [("default", DEFAULT_THRESHOLD)]
    if fitted.threshold is not None:
        thresholds.append((fitted.fitted_on, fitted.threshold))
    cohort = _Cohort(probabilities, idh, patients, num_resamples)
    return {
        "auc_delong": asdict(estimate_auc(probabilities, idh)),
        "several_cases_per_patient": len(set(patients)) < len(patients),
        "at_thresholds": [{"chosen_on": source, **_score(cohort, threshold)} for source, threshold in thresholds],
        "calibration_errors": [_measure_error(cohort, binning) for binning in BINNINGS],
        "reliability": _tabulate(cohort),
        "fitted_on": {"cases": fitted.fitted_on, "num_cases": fitted.num_cases, "notes": list(fitted.notes)},
        "not_fitted": None if fitted.fitted else fitted.reason,
        "calibrations": [
            {"name": name, **asdict(calibration), **_compare(calibration, cohort)}
            for name, calibration in fitted.calibrations.items()
        ],
    }


@dataclass(frozen=True)
class _Cohort:
    probabilities: list[float]
    idh: list[int]
    patients: list[str]
    num_resamples: int


def _score(cohort: _Cohort, threshold: float) -> dict[str, Any]:
    probability, status = np.asarray(cohort.probabilities), np.asarray(cohort.idh)

    def statistics(rows: NDArray[np.int64]) -> Mapping[str, float | None]:
        found = score_classification(probability[rows], status[rows], threshold)
        return {name: getattr(found, name) for name in SCORES}

    intervals = bootstrap_over_patients(statistics, cohort.patients, cohort.num_resamples)
    found = score_classification(probability, status, threshold)
    num_wild = found.num_cases - found.num_mutant
    wilson = {
        name: wilson_interval(round((getattr(found, name) or 0.0) * count), count)
        for name, count in (("accuracy", found.num_cases), ("sensitivity", found.num_mutant), ("specificity", num_wild))
    }
    return {
        **asdict(found),
        "intervals": {name: asdict(interval) for name, interval in intervals.items()},
        "wilson_intervals": {name: asdict(interval) for name, interval in wilson.items()},
    }


def _measure_error(cohort: _Cohort, binning: Binning) -> dict[str, Any]:
    cases = (cohort.probabilities, cohort.idh, cohort.patients)
    return asdict(measure_calibration_error(*cases, binning=binning, num_resamples=cohort.num_resamples))


def _compare(calibration: Calibration, cohort: _Cohort) -> dict[str, Any]:
    """Scores before and after calibration, on cases that it was not fitted on."""
    calibrated = replace(cohort, probabilities=calibration.apply(cohort.probabilities).tolist())
    report: dict[str, Any] = {}
    for name, one in {"before": cohort, "after": calibrated}.items():
        found = score_classification(one.probabilities, one.idh)
        report[name] = {
            **{score: getattr(found, score) for score in ("cross_entropy", "brier", "accuracy")},
            "calibration_error": _measure_error(one, "equal-width"),
            "reliability": _tabulate(one),
        }
    return report


def _tabulate(cohort: _Cohort) -> list[dict[str, Any]]:
    return [asdict(bar) for bar in tabulate_reliability(cohort.probabilities, cohort.idh)]


def report_baselines(plan: EvaluationPlan, system: Predictions) -> dict[str, Any] | None:
    """Baselines fitted on train and val, scored on the evaluated cases; None without cases of known IDH status.

    Returns:
        `fitted_on`: number of training cases with known IDH status; `baselines`: for each its AUC with DeLong's
        interval, the AUC within low grade, and the paired test of the network against it on the cases that both score,
        adjusted by Holm over the baselines; `within_grade`: the network's AUC within low and high grade.
    """
    cases = sorted(plan.with_idh(system), key=lambda case: case.case_id)
    if not cases:
        return None
    subjects = [describe_subject(case) for case in cases]
    training = plan.training()
    own = system.probabilities(cases)
    reports = [_report(baseline, subjects, own) for baseline in fit_baselines(training, subjects)]
    _adjust([report["against_network"] for report in reports])
    return {
        "fitted_on": sum(subject.idh >= 0 for subject in training),
        "baselines": reports,
        "within_grade": {grade: asdict(estimate) for grade, estimate in estimate_auc_by_grade(own, subjects).items()},
    }


def _report(baseline: Baseline, subjects: list[Subject], network: Mapping[str, float]) -> dict[str, Any]:
    scored = [subject for subject in subjects if subject.case_id in baseline.probabilities]
    idh = [subject.idh for subject in scored]
    values = [baseline.probabilities[subject.case_id] for subject in scored]
    rivals = [network[subject.case_id] for subject in scored]
    return {
        "name": baseline.name,
        "post_operative": baseline.post_operative,
        "num_training": baseline.num_training,
        "auc": asdict(estimate_auc(values, idh)),
        "within_low_grade": asdict(estimate_auc_by_grade(baseline.probabilities, scored)["low"]),
        "against_network": asdict(compare_auc(rivals, values, idh)),
    }


COMPARED = ("dice", "hd95_mm")


def report_comparison(plan: EvaluationPlan, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tests of the first system against the second.

    A case counts for a score if the conventions for empty masks give both systems one; the others are counted in
    `pairs_left_out`. Holm's adjustment is over tests of the same kind for all regions and scores, and over DeLong's and
    McNemar's together.

    Args:
        plan: Of two systems.
        rows: Region scores of both.

    Raises:
        InputError: The systems have scores for different cases.
    """
    first, second = plan.systems
    regions = tuple(REGIONS) if plan.can_compare("segmentation") else ()
    tests = [test for region in regions for name in COMPARED for test in _compare_region(rows, plan, region, name)]
    idh = _compare_idh(plan) if plan.can_compare("idh") else {}
    for kind in dict.fromkeys(test["name"] for test in tests):
        _adjust([test for test in tests if test["name"] == kind])
    _adjust(list(idh.values()))
    return {"first": first.name, "second": second.name, "segmentation": tests, "idh": idh}


def _compare_region(
    rows: Sequence[Mapping[str, Any]], plan: EvaluationPlan, region: str, score: str
) -> list[dict[str, Any]]:
    tables: dict[str, dict[str, Mapping[str, Any]]] = {system.name: {} for system in plan.systems}
    for row in rows:
        if row["region"] == region:
            tables[row["system"]][row["case_id"]] = row
    case_ids = align_cases(tables)
    left, right, patients = [], [], []
    for case_id in case_ids:
        one, other = (fill_scores(table[case_id], plan.metrics)[score] for table in tables.values())
        if one is not None and other is not None:
            left.append(one)
            right.append(other)
            patients.append(tables[plan.systems[0].name][case_id]["patient_id"])
    differences = [one - other for one, other in zip(left, right, strict=True)]
    interval = asdict(bootstrap_mean(differences, patients, plan.num_resamples))
    common = {"region": region, "score": score, "pairs_left_out": len(case_ids) - len(left)}
    return [
        {**common, "interval_of_difference": interval, **asdict(compare(left, right))}
        for compare in (compare_paired_t, compare_wilcoxon, compare_two_samples_t)
    ]


def _compare_idh(plan: EvaluationPlan) -> dict[str, dict[str, Any]]:
    tables = {system.name: system.probabilities(plan.with_idh(system)) for system in plan.systems}
    case_ids = align_cases(tables)
    if not case_ids:
        return {}
    status = {case.case_id: case.idh for case in plan.cases}
    idh = [status[case_id] for case_id in case_ids]
    first, second = ([table[case_id] for case_id in case_ids] for table in tables.values())
    right = [
        [(value >= DEFAULT_THRESHOLD) == (own == IDH_MUTANT) for value, own in zip(values, idh, strict=True)]
        for values in (first, second)
    ]
    return {"auc": asdict(compare_auc(first, second, idh)), "accuracy": asdict(compare_mcnemar(*right))}


def _adjust(tests: Sequence[dict[str, Any]]) -> None:
    """Adds `p_holm` to each test of a family."""
    for test, p in zip(tests, adjust_holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = p

"""IDH over cases: scores with intervals, calibration error, reliability, before and after calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mttu.calibration import Calibration
from mttu.data.manifest import Case
from mttu.evaluate.predictions import Predictions
from mttu.metrics.classification import DEFAULT_THRESHOLD, score_classification
from mttu.metrics.delong import estimate_auc
from mttu.metrics.intervals import bootstrap_over_patients, wilson_interval
from mttu.metrics.reliability import Binning, measure_calibration_error, tabulate_reliability
from mttu.training.kept_calibration import KeptCalibration

BINNINGS: tuple[Binning, ...] = ("equal-width", "adaptive")
SCORES = ("auc", "accuracy", "sensitivity", "specificity", "balanced_accuracy", "f1", "brier", "cross_entropy")


def report_idh(
    cases: Sequence[Case], fitted: KeptCalibration, system: Predictions, num_resamples: int
) -> dict[str, Any] | None:
    """Everything about the IDH probabilities of one system; None without cases.

    Args:
        cases: Cases to score, of known IDH status.
        fitted: Threshold and calibration, fitted on other cases; or why there are none.
        system: Has a probability for all of them.
        num_resamples: Of each bootstrap.
    """
    if not cases:
        return None
    cases = sorted(cases, key=lambda case: case.case_id)
    probabilities, idh = _read(cases, system)
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


def _read(cases: Sequence[Case], system: Predictions) -> tuple[list[float], list[int]]:
    probabilities = system.probabilities(cases)
    return [probabilities[case.case_id] for case in cases], [case.idh for case in cases]


def _score(cohort: _Cohort, threshold: float) -> dict[str, Any]:
    probability, status = np.asarray(cohort.probabilities), np.asarray(cohort.idh)

    def statistics(rows: NDArray[np.int64]) -> Mapping[str, float | None]:
        found = score_classification(probability[rows], status[rows], threshold)
        return {name: getattr(found, name) for name in SCORES}

    intervals = bootstrap_over_patients(statistics, cohort.patients, num_resamples=cohort.num_resamples)
    found = score_classification(probability, status, threshold)
    trials = {
        "accuracy": found.num_cases,
        "sensitivity": found.num_mutant,
        "specificity": found.num_cases - found.num_mutant,
    }
    return {
        **asdict(found),
        "intervals": {name: asdict(interval) for name, interval in intervals.items()},
        "wilson_intervals": {
            name: asdict(wilson_interval(round((getattr(found, name) or 0.0) * count), count))
            for name, count in trials.items()
        },
    }


def _measure_error(cohort: _Cohort, binning: Binning) -> dict[str, Any]:
    found = measure_calibration_error(
        cohort.probabilities, cohort.idh, cohort.patients, binning=binning, num_resamples=cohort.num_resamples
    )
    return asdict(found)


def _compare(calibration: Calibration, cohort: _Cohort) -> dict[str, Any]:
    """Scores that calibration changes, before and after, on cases that it was not fitted on."""
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

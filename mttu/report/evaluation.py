"""Scores of every case, and their summary: regions, IDH, baselines without images, comparison of two systems."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from mttu import __version__
from mttu.cohort.label_checks import MaskLook, find_label_suspicions, look_at_mask
from mttu.config import MetricSettings
from mttu.data.labels import IDH_MUTANT, REGIONS
from mttu.data.manifest import Case
from mttu.data.tables import read_table
from mttu.errors import collecting, raise_if_any
from mttu.metrics.calibration import (
    Binning,
    call_top_label,
    measure_calibration_error,
    tabulate_reliability,
)
from mttu.metrics.classification import DEFAULT_THRESHOLD, score_classification
from mttu.metrics.clinical_baselines import Baseline, Subject, estimate_auc_by_grade, fit_baselines
from mttu.metrics.comparisons import (
    adjust_holm,
    compare_mcnemar,
    compare_paired_t,
    compare_two_samples_t,
    compare_wilcoxon,
)
from mttu.metrics.delong import compare_auc, estimate_auc
from mttu.metrics.empty_masks import fill_scores, name_conventions, summarise_region
from mttu.metrics.intervals import bootstrap_mean, bootstrap_over_patients, describe, wilson_interval
from mttu.metrics.lesions import score_lesions
from mttu.metrics.segmentation import score_regions
from mttu.predict.results import FORMAT_VERSION, TABLE
from mttu.report.facts import list_baselines, list_facts
from mttu.report.masks import read_masks
from mttu.report.plan import EvaluationPlan, describe_subject
from mttu.report.predictions import Predictions

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Evaluation:
    """Tables of cases, and their summary."""

    region_rows: Rows
    """See `mttu.report.files.REGION_SCHEMA`; by system, case and region."""
    idh_rows: Rows
    """See `mttu.report.files.IDH_SCHEMA`."""
    summary: Mapping[str, Any]
    """JSON values."""
    fact_rows: Rows = field(default_factory=list)
    """See `mttu.report.files.FACT_SCHEMA`; by case."""
    baseline_rows: Rows = field(default_factory=list)
    """See `mttu.report.files.BASELINE_SCHEMA`."""


def evaluate_cases(plan: EvaluationPlan, on_case: Callable[[int, str], None] | None = None) -> Evaluation:
    """Scores every case of a plan and summarises.

    Args:
        plan: See `plan_evaluation`.
        on_case: Called after each mask with the number of scored masks and the case.

    Raises:
        InputError: Masks that cannot be read or lie on other grids; lists all of them.
    """
    region_rows: Rows = []
    looks: dict[str, dict[str, MaskLook]] = {system.name: {} for system in plan.systems}
    problems: list[str] = []
    pairs = [(system, case) for system in plan.systems for case in _by_id(plan.with_masks(system))]
    for done, (system, case) in enumerate(pairs, start=1):
        with collecting(problems):
            scores = score_masks(case, system, looks[system.name])
            region_rows += [_region_row(case, plan, system, region, own) for region, own in scores.items()]
        if on_case is not None:
            on_case(done, case.case_id)
    raise_if_any(problems)
    idh_rows = [row for system in plan.systems for row in _idh_rows(plan.with_idh(system), system)]
    summary = _summarise(plan, region_rows, looks)
    return Evaluation(region_rows, idh_rows, summary, list_facts(plan), list_baselines(plan))


def score_masks(case: Case, system: Predictions, looks: dict[str, MaskLook]) -> Mapping[str, Mapping[str, Any]]:
    """Scores a predicted mask against the true one, both on the original grid, by voxels and by lesions.

    `looks` gets what a mask of another tool says of the meaning of its labels.

    Returns:
        Region to the fields of `RegionScores` and `LesionScores`.

    Raises:
        InputError: A mask cannot be read, holds labels that its convention lacks, or the grids differ.
    """
    pair = read_masks(case, system)
    if system.is_foreign and pair.predicted.any():
        looks[case.case_id] = look_at_mask(pair.predicted)
    masks = pair.predicted, pair.truth, voxel_sizes(pair.affine).tolist(), pair.regions
    lesions = score_lesions(*masks)
    return {region: vars(scores) | vars(lesions[region]) for region, scores in score_regions(*masks).items()}


def _doubt_labels(plan: EvaluationPlan, system: Predictions, looks: Mapping[str, MaskLook]) -> list[str]:
    """What speaks against the labels that another tool's masks are said to have."""
    cases = [replace(case, labels=system.labels, dataset=None) for case in plan.with_masks(system)]
    return [finding.text for finding in find_label_suspicions(cases, looks)]


def _by_id(cases: Sequence[Case]) -> list[Case]:
    return sorted(cases, key=lambda case: case.case_id)


def _describe(case: Case, system: Predictions) -> dict[str, Any]:
    """What rows of both tables start with."""
    learned = system.rows[case.case_id].get("learned_from")
    return {"case_id": case.case_id, "patient_id": case.patient_id, "system": system.name, "learned_from": learned}


def _region_row(
    case: Case, plan: EvaluationPlan, system: Predictions, region: str, scores: Mapping[str, Any]
) -> dict[str, Any]:
    """Scores by the conventions that the row names; its status says what is in the masks."""
    row = {**_describe(case, system), "region": region, **scores}
    return {**row, **fill_scores(row, plan.metrics), **plan.metrics.model_dump()}


def _idh_rows(cases: Sequence[Case], system: Predictions) -> Rows:
    rows: Rows = []
    probabilities = system.probabilities(cases)
    for case in _by_id(cases):
        probability = probabilities[case.case_id]
        confidence, mutant = call_top_label(np.array([probability]))
        right = bool(mutant[0]) == (case.idh == IDH_MUTANT)
        scores = {"mutant_probability": probability, "confidence": float(confidence[0]), "right": right}
        rows.append({**_describe(case, system), "idh": case.idh, **scores})
    return rows


def _read_weights(system: Predictions) -> str | None:
    """SHA-256 of the weights that made the predictions; None where their table does not say, or there is none."""
    path = system.folder / TABLE
    if system.is_foreign or not path.is_file():
        return None
    return read_table(path, "predictions", FORMAT_VERSION, "write it again with `mttu predict`")[0].get(
        "weights_sha256"
    )


def _summarise(plan: EvaluationPlan, region_rows: Rows, looks: Mapping[str, Mapping[str, MaskLook]]) -> dict[str, Any]:
    system = plan.systems[0]
    own = [row for row in region_rows if row["system"] == system.name]
    told = ("name", "checkpoint", "labels", "precision")
    return {
        "mttu_version": __version__,
        "split": plan.split,
        "empty_masks": name_conventions(plan.metrics),
        **plan.metrics.model_dump(),
        "num_resamples": plan.num_resamples,
        "systems": [
            {
                **{key: getattr(one, key) for key in told},
                "weights_sha256": _read_weights(one),
                "notes": [*one.notes, *_doubt_labels(plan, one, looks[one.name])],
            }
            for one in plan.systems
        ],
        "synthetic": plan.manifest.synthetic,
        "cases": {
            "in_split": len(plan.cases),
            "failed": {one.name: plan.failed(one) for one in plan.systems},
            "learned_from": {one.name: plan.learned_from(one) for one in plan.systems},
            "learned_from_not_said": {one.name: plan.not_said(one) for one in plan.systems},
            "postprocessing_chosen_on": {one.name: plan.chosen_on(one) for one in plan.systems},
            "postprocessing_chosen_not_said": {one.name: plan.chosen_not_said(one) for one in plan.systems},
            "pseudo_labelled": sum(case.pseudo_label for case in plan.manifest.cases),
            "without_true_mask": sum(case.seg is None for case in plan.cases),
            "masks_scored": len(plan.with_masks(system)),
            "idh_scored": len(plan.with_idh(system)),
        },
        "segmentation": report_segmentation(own, plan.metrics, plan.num_resamples),
        "lesions": report_lesions(own, plan.num_resamples),
        "idh": report_idh(plan, system),
        "baselines": report_baselines(plan, system) if plan.baselines else None,
        "comparison": report_comparison(plan, region_rows) if len(plan.systems) > 1 else None,
    }


def report_segmentation(rows: Rows, settings: MetricSettings, num_resamples: int) -> dict[str, Any] | None:
    """Region to counts and, for each metric, spread and interval of the mean over patients; None without scored masks.

    Args:
        rows: Rows of one system, see `mttu.report.files.REGION_SCHEMA`.
        settings: Conventions for empty masks.
        num_resamples: Number of bootstrap resamples.
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


LESION_COUNTS = ("num_lesions", "num_missed_lesions", "num_false_lesions")


def report_lesions(rows: Rows, num_resamples: int) -> dict[str, Any] | None:
    """Region to sums of the counts, and to spread and interval of the lesion-wise scores; None without scored masks.

    Args:
        rows: As of `report_segmentation`.
        num_resamples: Number of bootstrap resamples.
    """
    if not rows:
        return None
    report: dict[str, Any] = {}
    for region in REGIONS:
        told = [row for row in rows if row["region"] == region and row["lesion_dice"] is not None]
        own = sorted(told, key=lambda row: str(row["case_id"]))
        patients = [row["patient_id"] for row in own]
        report[region] = {name: sum(row[name] for row in own) for name in LESION_COUNTS}
        for name in ("lesion_dice", "lesion_hd95_mm"):
            values = [row[name] for row in own]
            interval = asdict(bootstrap_mean(values, patients, num_resamples))
            report[region][name] = {**asdict(describe(values)), "interval_of_mean": interval}
    return report


BINNINGS: tuple[Binning, ...] = ("equal-width", "adaptive")
SCORES = ("auc", "accuracy", "sensitivity", "specificity", "balanced_accuracy", "f1", "brier", "cross_entropy")


def report_idh(plan: EvaluationPlan, system: Predictions) -> dict[str, Any] | None:
    """Scores of the IDH probabilities of one system; None without cases."""
    cases, fitted = _by_id(plan.with_idh(system)), plan.fit(system)
    if not cases:
        return None
    probabilities, idh = list(system.probabilities(cases).values()), [case.idh for case in cases]
    patients = [case.patient_id for case in cases]
    thresholds = [("default", DEFAULT_THRESHOLD)]
    if fitted.threshold is not None:
        thresholds.append((fitted.fitted_on, fitted.threshold))
    cohort = _Cohort(probabilities, idh, patients, plan.num_resamples)
    before = _report_calibration(cohort) if fitted.calibrations else {}
    return {
        "auc_delong": asdict(estimate_auc(probabilities, idh)),
        "several_cases_per_patient": len(set(patients)) < len(patients),
        "at_thresholds": [{"chosen_on": source, **_score(cohort, threshold)} for source, threshold in thresholds],
        "calibration_errors": [_measure_error(cohort, binning) for binning in BINNINGS],
        "reliability": _tabulate(cohort),
        "fitted_on": {"cases": fitted.fitted_on, "num_cases": fitted.num_cases, "notes": list(fitted.notes)},
        "not_fitted": None if fitted.fitted else fitted.reason,
        "calibrations": [
            {
                "name": name,
                **asdict(calibration),
                "before": before,
                "after": _report_calibration(
                    replace(cohort, probabilities=calibration.apply(cohort.probabilities).tolist())
                ),
            }
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


def _report_calibration(cohort: _Cohort) -> dict[str, Any]:
    """Scores that a calibration may change, on cases that it was not fitted on."""
    found = score_classification(cohort.probabilities, cohort.idh)
    return {
        **{score: getattr(found, score) for score in ("cross_entropy", "brier", "accuracy")},
        "calibration_error": _measure_error(cohort, "equal-width"),
        "reliability": _tabulate(cohort),
    }


def _tabulate(cohort: _Cohort) -> list[dict[str, Any]]:
    return [asdict(bar) for bar in tabulate_reliability(cohort.probabilities, cohort.idh)]


def report_baselines(plan: EvaluationPlan, system: Predictions) -> dict[str, Any] | None:
    """Baselines fitted on train and val, scored on the evaluated cases; None without cases of known IDH status.

    Returns:
        `fitted_on`: number of training cases with known IDH status; `baselines`: for each its AUC with DeLong's
        interval, the AUC within low grade, and the paired test of the network against it on the cases that both score,
        adjusted by Holm over the baselines; `within_grade`: the network's AUC within low and high grade.
    """
    cases = _by_id(plan.with_idh(system))
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


def report_comparison(plan: EvaluationPlan, rows: Rows) -> dict[str, Any]:
    """Tests of the first system against the second.

    A case counts for a score if the conventions for empty masks give both systems one; the others are counted in
    `pairs_left_out`. Holm's adjustment is over tests of the same kind for all regions and scores, and over DeLong's and
    McNemar's together.

    Args:
        plan: Plan of two systems, which have scores for the same cases.
        rows: Region scores of both.
    """
    first, second = plan.systems
    regions = tuple(REGIONS) if plan.can_compare("segmentation") else ()
    tests = [test for region in regions for name in COMPARED for test in _compare_region(rows, plan, region, name)]
    idh = _compare_idh(plan) if plan.can_compare("idh") else {}
    for kind in dict.fromkeys(test["name"] for test in tests):
        _adjust([test for test in tests if test["name"] == kind])
    _adjust(list(idh.values()))
    return {"first": first.name, "second": second.name, "segmentation": tests, "idh": idh}


def _compare_region(rows: Rows, plan: EvaluationPlan, region: str, score: str) -> Rows:
    first, second = (
        {row["case_id"]: row for row in rows if row["system"] == system.name and row["region"] == region}
        for system in plan.systems
    )
    left, right, patients = [], [], []
    for case_id in sorted(first):
        one, other = (table[case_id][score] for table in (first, second))
        if one is not None and other is not None:
            left.append(one)
            right.append(other)
            patients.append(first[case_id]["patient_id"])
    differences = [one - other for one, other in zip(left, right, strict=True)]
    interval = asdict(bootstrap_mean(differences, patients, plan.num_resamples))
    common = {"region": region, "score": score, "pairs_left_out": len(first) - len(left)}
    return [
        {**common, "interval_of_difference": interval, **asdict(compare(left, right))}
        for compare in (compare_paired_t, compare_wilcoxon, compare_two_samples_t)
    ]


def _compare_idh(plan: EvaluationPlan) -> dict[str, dict[str, Any]]:
    cases = _by_id(plan.with_idh(plan.systems[0]))
    if not cases:
        return {}
    idh = [case.idh for case in cases]
    first, second = (list(system.probabilities(cases).values()) for system in plan.systems)
    right = [
        [(value >= DEFAULT_THRESHOLD) == (own == IDH_MUTANT) for value, own in zip(values, idh, strict=True)]
        for values in (first, second)
    ]
    return {"auc": asdict(compare_auc(first, second, idh)), "accuracy": asdict(compare_mcnemar(*right))}


def _adjust(tests: Rows) -> None:
    """Adds `p_holm` to each test of a family."""
    for test, p in zip(tests, adjust_holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = p

"""Baselines without images beside the network, and the AUC within each grade."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mttu.evaluate.plan import EvaluationPlan, describe_subject
from mttu.evaluate.predictions import Predictions
from mttu.metrics.clinical_baselines import Baseline, Subject, estimate_auc_by_grade, fit_baselines
from mttu.metrics.comparisons import adjust_holm
from mttu.metrics.delong import compare_auc, estimate_auc


def report_baselines(plan: EvaluationPlan, system: Predictions) -> dict[str, Any] | None:
    """Baselines fitted on train and val, scored on the evaluated cases; None without cases of known IDH status.

    Returns:
        `fitted_on`: number of training cases with known IDH status; `baselines`: for each its AUC with DeLong's
        interval, within low grade too, and the paired test of the network against it on the cases that both score,
        adjusted by Holm over the baselines; `within_grade`: the network's AUC within low and high grade.
    """
    cases = sorted(plan.with_idh(system), key=lambda case: case.case_id)
    if not cases:
        return None
    subjects = [describe_subject(case) for case in cases]
    training = plan.training()
    own = system.probabilities(cases)
    reports = [_report(baseline, subjects, own) for baseline in fit_baselines(training, subjects)]
    adjusted = adjust_holm([report["against_network"]["p"] for report in reports])
    for report, p in zip(reports, adjusted, strict=True):
        report["against_network"]["p_holm"] = p
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

"""What is known of the evaluated cases without their images: clinical facts, and the baselines' probabilities."""

from typing import Any

from mttu.data.labels import IDH_UNKNOWN
from mttu.metrics.clinical_baselines import fit_baselines
from mttu.report.plan import EvaluationPlan, describe_subject

Rows = list[dict[str, Any]]


def list_facts(plan: EvaluationPlan) -> Rows:
    """One row per case of the split, see `mttu.report.files.FACT_SCHEMA`."""
    names = ("case_id", "patient_id", "idh", "grade", "age", "sex", "site")
    return [{name: getattr(case, name) for name in names} for case in sorted(plan.cases, key=lambda case: case.case_id)]


def list_baselines(plan: EvaluationPlan) -> Rows:
    """One row per case and baseline that knows it, see `mttu.report.files.BASELINE_SCHEMA`.

    Cases of known IDH status; those that a system could not predict are among them.
    """
    if not plan.baselines:
        return []
    subjects = [describe_subject(case) for case in plan.cases if case.idh != IDH_UNKNOWN]
    return [
        {
            "case_id": case_id,
            "baseline": baseline.name,
            "after_surgery": baseline.post_operative,
            "mutant_probability": baseline.probabilities[case_id],
        }
        for baseline in fit_baselines(plan.training(), subjects)
        for case_id in sorted(baseline.probabilities)
    ]

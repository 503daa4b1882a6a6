"""From predictions and a manifest to scores: tables of cases, summary, baselines, and a comparison of systems."""

from mttu.report.evaluation import Evaluation, evaluate_cases
from mttu.report.files import write_evaluation
from mttu.report.other_tools import Source
from mttu.report.plan import EvaluationPlan, check_before_predicting, plan_evaluation

__all__ = [
    "Evaluation",
    "EvaluationPlan",
    "Source",
    "check_before_predicting",
    "evaluate_cases",
    "plan_evaluation",
    "write_evaluation",
]

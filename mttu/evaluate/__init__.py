"""From predictions and a manifest to scores: tables of cases, their summary, baselines, and a comparison of systems."""

from mttu.evaluate.files import write_evaluation
from mttu.evaluate.plan import EvaluationPlan, plan_evaluation
from mttu.evaluate.run import Evaluation, evaluate_cases

__all__ = ["Evaluation", "EvaluationPlan", "evaluate_cases", "plan_evaluation", "write_evaluation"]

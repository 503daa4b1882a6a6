"""Self-training with pseudo-labels (section IV, Algorithm 1): rounds of score, select, mix, train and evaluate."""

from mttu.self_training.inputs import check_self_training
from mttu.self_training.job import Callables, OnStep, Step
from mttu.self_training.run import cross_validate_self_training, run_self_training

__all__ = [
    "Callables",
    "OnStep",
    "Step",
    "check_self_training",
    "cross_validate_self_training",
    "run_self_training",
]

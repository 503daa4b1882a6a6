"""Self-training with pseudo-labels (section IV, Algorithm 1): rounds of score, select, mix and train."""

from mttu.self_training.algorithm import run_self_training, self_train
from mttu.self_training.cross_validation import cross_validate_self_training
from mttu.self_training.inputs import check_self_training
from mttu.self_training.job import Callables, OnStep, Step

__all__ = [
    "Callables",
    "OnStep",
    "Step",
    "check_self_training",
    "cross_validate_self_training",
    "run_self_training",
    "self_train",
]

"""Self-training with pseudo-labels (section IV, Algorithm 1): rounds of score, select, mix and train."""

from mttu.self_training.callables import Callables, OnStep, Step
from mttu.self_training.cross_validation import cross_validate_self_training
from mttu.self_training.inputs import check_self_training
from mttu.self_training.run import run_self_training, self_train

__all__ = [
    "Callables",
    "OnStep",
    "Step",
    "check_self_training",
    "cross_validate_self_training",
    "run_self_training",
    "self_train",
]

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from mttu.errors import InputError
from mttu.metrics.classification import choose_threshold, score_classification


def test_scores_by_hand() -> None:
    scores = score_classification([0.9, 0.4, 0.6, 0.2, 0.1], [1, 1, 0, 0, 0])
    assert (scores.num_cases, scores.num_mutant) == (5, 2)
    assert scores.auc == pytest.approx(5 / 6)  # of six pairs one is in the wrong order: 0.4 below 0.6
    assert scores.accuracy == pytest.approx(3 / 5)
    assert scores.sensitivity == pytest.approx(1 / 2)
    assert scores.specificity == pytest.approx(2 / 3)
    expected = -(math.log(0.9) + math.log(0.4) + math.log(0.4) + math.log(0.8) + math.log(0.9)) / 5
    assert scores.cross_entropy == pytest.approx(expected)
    assert scores.balanced_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores.f1 == pytest.approx(2 / (2 + 1 + 1))  # one hit, one false alarm, one missed
    assert scores.brier == pytest.approx((0.01 + 0.36 + 0.36 + 0.04 + 0.01) / 5)
    assert scores.threshold == 0.5


CASES = st.lists(st.tuples(st.sampled_from((0.0, 0.1, 0.3, 0.5, 0.8, 1.0)), st.integers(0, 1)), min_size=2, max_size=12)


@given(CASES, st.sampled_from((0.2, 0.5)))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_scores_are_those_of_scikit_learn(cases: list[tuple[float, int]], threshold: float) -> None:
    probability, status = (np.array(values) for values in zip(*cases, strict=True))
    scores = score_classification(probability, status, threshold)
    called = (probability >= threshold).astype(int)
    assert scores.accuracy == pytest.approx(reference.accuracy_score(status, called))
    assert scores.brier == pytest.approx(reference.brier_score_loss(status, probability, labels=[0, 1]))
    assert scores.cross_entropy == pytest.approx(reference.log_loss(status, probability, labels=[0, 1]))
    if called.any() or status.any():
        assert scores.f1 == pytest.approx(reference.f1_score(status, called))
    if 0 < status.sum() < len(status):
        assert scores.auc == pytest.approx(reference.roc_auc_score(status, probability))
        assert scores.balanced_accuracy == pytest.approx(reference.balanced_accuracy_score(status, called))


def test_ties_count_half_in_the_auc() -> None:
    assert score_classification([0.5, 0.5], [1, 0]).auc == 0.5


def test_unknown_status_is_left_out() -> None:
    with_unknown = score_classification([0.9, 0.99, 0.3], [1, -1, 0])
    assert with_unknown == score_classification([0.9, 0.3], [1, 0])
    assert with_unknown.num_cases == 2


def test_one_class_only_leaves_undefined_scores_none() -> None:
    mutants = score_classification([0.9, 0.2], [1, 1])
    assert (mutants.auc, mutants.specificity, mutants.balanced_accuracy) == (None, None, None)
    assert (mutants.accuracy, mutants.sensitivity) == (0.5, 0.5)
    wild = score_classification([0.9, 0.2], [0, 0])
    assert (wild.auc, wild.sensitivity) == (None, None)
    assert (wild.accuracy, wild.specificity) == (0.5, 0.5)
    assert score_classification([0.2], [0]).f1 is None  # nothing to find, and nothing found
    assert wild.cross_entropy == pytest.approx(-(math.log(0.1) + math.log(0.8)) / 2)


@pytest.mark.parametrize("idh", [[], [-1, -1]], ids=["no cases", "none known"])
def test_nothing_known_gives_nothing(idh: list[int]) -> None:
    scores = score_classification([0.5] * len(idh), idh)
    assert scores.num_cases == 0
    defined = {name: value for name, value in vars(scores).items() if value is not None}
    assert defined == {"num_cases": 0, "num_mutant": 0, "threshold": 0.5}


def test_certain_and_wrong_is_finite() -> None:
    scores = score_classification([1.0, 0.0], [0, 1])
    assert scores.cross_entropy == pytest.approx(-math.log(2.220446049250313e-16), rel=1e-6)


def test_threshold_belongs_to_mutant() -> None:
    assert score_classification([0.5], [1]).sensitivity == 1.0
    assert score_classification([0.5], [1], threshold=0.6).sensitivity == 0.0


@pytest.mark.parametrize(
    ("probabilities", "idh", "message"),
    [
        ([0.5], [1, 0], "one each per case"),
        ([0.5], [2], "allowed are 1"),
        ([1.5], [1], r"\[0, 1\]"),
        ([float("nan")], [1], r"\[0, 1\]"),
    ],
)
def test_what_is_not_a_score_is_refused(probabilities: list[float], idh: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_classification(probabilities, idh)


def test_the_threshold_has_the_largest_youden_index() -> None:
    # mutants 0.3 0.6 0.9, wild types 0.2 0.45: between 0.45 and 0.6 sensitivity 2/3 and specificity 1; between 0.2 and
    # 0.3 they are 1 and 1/2
    probability, status = [0.2, 0.3, 0.45, 0.6, 0.9], [0, 1, 0, 1, 1]
    assert choose_threshold(probability, status) == 0.5  # among the equally good ones of (0.45, 0.6) the default
    assert choose_threshold([value / 2 for value in probability], status) == pytest.approx((0.225 + 0.3) / 2)
    assert choose_threshold([0.1, 0.2, 0.8], [0, 1, 1]) == pytest.approx(0.15)


def test_equal_thresholds_are_settled_by_rule_not_by_order() -> None:
    # cutting at 0.25 or at 0.75 misses one case, and both lie as near to 0.5: the lower one is taken
    cases = [(0.125, 0), (0.375, 1), (0.625, 0), (0.875, 1)]
    for ordered in (cases, cases[::-1]):
        assert choose_threshold(*zip(*ordered, strict=True)) == 0.25


@pytest.mark.parametrize(
    ("probability", "idh"),
    [([0.1, 0.2], [1, 0]), ([0.3] * 4, [0, 0, 1, 1]), ([0.2, 0.2, 0.8, 0.8], [0, 1, 0, 1])],
)
def test_what_is_no_better_than_calling_all_alike_is_no_threshold(probability: list[float], idh: list[int]) -> None:
    assert choose_threshold(probability, idh) is None


def test_unknown_status_does_not_move_the_threshold() -> None:
    assert choose_threshold([0.1, 0.2, 0.8, 0.12], [0, 1, 1, -1]) == pytest.approx(0.15)


@pytest.mark.parametrize("idh", [[1, 1], [0, -1], [-1, -1]])
def test_a_threshold_needs_both_classes(idh: list[int]) -> None:
    with pytest.raises(InputError, match=r"both are needed to choose one; keep 0\.5"):
        choose_threshold([0.3, 0.6], idh)

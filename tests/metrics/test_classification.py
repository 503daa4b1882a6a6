import math

import pytest

from mttu.metrics.classification import score_classification


def test_scores_by_hand() -> None:
    scores = score_classification([0.9, 0.4, 0.6, 0.2, 0.1], [1, 1, 0, 0, 0])
    assert (scores.num_cases, scores.num_mutant) == (5, 2)
    assert scores.auc == pytest.approx(5 / 6)  # of six pairs one is in the wrong order: 0.4 below 0.6
    assert scores.accuracy == pytest.approx(3 / 5)
    assert scores.sensitivity == pytest.approx(1 / 2)
    assert scores.specificity == pytest.approx(2 / 3)
    expected = -(math.log(0.9) + math.log(0.4) + math.log(0.4) + math.log(0.8) + math.log(0.9)) / 5
    assert scores.cross_entropy == pytest.approx(expected)


def test_ties_count_half_in_the_auc() -> None:
    assert score_classification([0.5, 0.5], [1, 0]).auc == 0.5


def test_unknown_status_is_left_out() -> None:
    with_unknown = score_classification([0.9, 0.99, 0.3], [1, -1, 0])
    assert with_unknown == score_classification([0.9, 0.3], [1, 0])
    assert with_unknown.num_cases == 2


def test_one_class_only_leaves_undefined_scores_none() -> None:
    mutants = score_classification([0.9, 0.2], [1, 1])
    assert (mutants.auc, mutants.specificity) == (None, None)
    assert (mutants.accuracy, mutants.sensitivity) == (0.5, 0.5)
    wild = score_classification([0.9, 0.2], [0, 0])
    assert (wild.auc, wild.sensitivity) == (None, None)
    assert (wild.accuracy, wild.specificity) == (0.5, 0.5)
    assert wild.cross_entropy == pytest.approx(-(math.log(0.1) + math.log(0.8)) / 2)


@pytest.mark.parametrize("idh", [[], [-1, -1]], ids=["no cases", "none known"])
def test_nothing_known_gives_nothing(idh: list[int]) -> None:
    scores = score_classification([0.5] * len(idh), idh)
    assert scores.num_cases == 0
    assert {scores.auc, scores.accuracy, scores.sensitivity, scores.specificity, scores.cross_entropy} == {None}


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

"""Scores of the IDH classifier; mutant is the positive class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.errors import InputError
from mttu.metrics.delong import measure_auc

DEFAULT_THRESHOLD = 0.5
_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class ClassificationScores:
    """Scores of a set of cases; None where the set does not define one."""

    num_cases: int
    """Cases with a known IDH status; the others are left out of every score."""
    num_mutant: int
    auc: float | None
    """Area under the ROC curve; ties count half. None unless both classes occur."""
    accuracy: float | None
    """Share of right decisions. None without cases."""
    sensitivity: float | None
    """Share of mutants called mutant. None without mutants."""
    specificity: float | None
    """Share of wild types called wild type. None without wild types."""
    cross_entropy: float | None
    """Unweighted mean of -log(probability of the true class), in nats. None without cases."""
    balanced_accuracy: float | None
    """Mean of sensitivity and specificity. None unless both classes occur."""
    f1: float | None
    """2 TP / (2 TP + FP + FN). None if no case is mutant and none is called mutant."""
    brier: float | None
    """Mean squared difference of the mutant probability and the status, in [0, 1]. None without cases."""
    threshold: float
    """Smallest probability that is called mutant."""


def score_classification(
    mutant_probabilities: Sequence[float] | NDArray[np.float64],
    idh: Sequence[int] | NDArray[np.int64],
    threshold: float = DEFAULT_THRESHOLD,
) -> ClassificationScores:
    """Scores predicted probabilities against known IDH status.

    In the cross entropy, probabilities are clipped to the float64 machine epsilon and 1 minus it, so one case adds at
    most 36. The definitions are scikit-learn's, on plain arrays because a bootstrap calls this thousands of times. All
    probabilities must come from one network: those of several folds are on different scales.

    Args:
        mutant_probabilities: One per case.
        idh: 1 mutant, 0 wild type, -1 unknown; one per case.
        threshold: Smallest probability that is called mutant.

    Raises:
        ValueError: Lengths differ, a status is not one of 1, 0, -1, or a probability is outside of [0, 1].
    """
    probability, status = select_known(mutant_probabilities, idh)
    called, mutant = probability >= threshold, status == IDH_MUTANT
    num_cases, num_mutant = len(status), int(mutant.sum())
    num_wild = num_cases - num_mutant
    hits, false_alarms = int((called & mutant).sum()), int((called & ~mutant).sum())
    sensitivity = hits / num_mutant if num_mutant else None
    specificity = (num_wild - false_alarms) / num_wild if num_wild else None
    balanced_accuracy = None if sensitivity is None or specificity is None else (sensitivity + specificity) / 2
    positives = num_mutant + hits + false_alarms  # 2 TP + FP + FN
    clipped = np.clip(probability, _EPSILON, 1 - _EPSILON)
    true_class = np.where(mutant, clipped, 1 - clipped)
    return ClassificationScores(
        num_cases=num_cases,
        num_mutant=num_mutant,
        auc=measure_auc(probability, status),
        accuracy=(hits + num_wild - false_alarms) / num_cases if num_cases else None,
        sensitivity=sensitivity,
        specificity=specificity,
        cross_entropy=float(-np.mean(np.log(true_class))) if num_cases else None,
        balanced_accuracy=balanced_accuracy,
        f1=2 * hits / positives if positives else None,
        brier=float(np.mean((probability - mutant) ** 2)) if num_cases else None,
        threshold=threshold,
    )


def select_known(
    mutant_probabilities: Sequence[float] | NDArray[np.float64], idh: Sequence[int] | NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities and statuses of the cases whose status is known, checked.

    Raises:
        ValueError: See `score_classification`.
    """
    probability = np.asarray(mutant_probabilities, dtype=np.float64)
    status = np.asarray(idh, dtype=np.int64)
    if probability.shape != status.shape or probability.ndim != 1:
        raise ValueError(
            f"probabilities have shape {probability.shape}, idh {status.shape}; expected one each per case"
        )
    if not np.isin(status, (IDH_MUTANT, IDH_WILD, IDH_UNKNOWN)).all():
        held = sorted(set(status.tolist()))
        raise ValueError(f"idh holds {held}; allowed are 1 (mutant), 0 (wild type), -1 (unknown)")
    known = status != IDH_UNKNOWN
    probability, status = probability[known], status[known]
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("a mutant probability is not a number in [0, 1]")
    return probability, status


def choose_threshold(mutant_probabilities: Sequence[float], idh: Sequence[int]) -> float | None:
    """The threshold with the largest Youden index, sensitivity + specificity - 1 (W. Youden, Cancer 3 (1950) 32-35).

    Candidates lie half-way between neighbouring probabilities. Among equals the one nearest to 0.5 is taken, then the
    lower one, so the choice doesn't depend on the order of cases.

    Args:
        mutant_probabilities: Of the validation cases, never of those that are scored with the threshold.
        idh: 1 mutant, 0 wild type, -1 unknown.

    Returns:
        None if the largest index is not above 0: then no threshold is better than giving all cases one class.

    Raises:
        InputError: The cases lack a class.
        ValueError: See `score_classification`.
    """
    probability, status = select_known(mutant_probabilities, idh)
    num_mutant = int((status == IDH_MUTANT).sum())
    num_wild = len(status) - num_mutant
    if not (num_mutant and num_wild):
        raise InputError(
            f"threshold: the validation cases are {num_mutant} mutant and {num_wild} wild type; both are needed to "
            f"choose one; keep {DEFAULT_THRESHOLD}"
        )
    values = np.unique(probability)
    candidates = [DEFAULT_THRESHOLD, *((values[1:] + values[:-1]) / 2).tolist()]

    def rate(threshold: float) -> tuple[int, float, float]:
        called = probability >= threshold
        hits = int((called & (status == IDH_MUTANT)).sum())
        rejections = int((~called & (status == IDH_WILD)).sum())
        # integers, so that equal indices compare equal
        return hits * num_wild + rejections * num_mutant, -abs(threshold - DEFAULT_THRESHOLD), -threshold

    best = max(candidates, key=rate)
    return float(best) if rate(best)[0] > num_mutant * num_wild else None

"""Scores of the IDH classifier; mutant is the positive class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import accuracy_score, log_loss, recall_score, roc_auc_score

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD


@dataclass(frozen=True)
class ClassificationScores:
    """Scores of a set of cases; None where the set does not define one."""

    num_cases: int
    """Cases with a known IDH status; the others are left out of every score."""
    num_mutant: int
    """Mutants among them."""
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


def score_classification(
    mutant_probabilities: Sequence[float], idh: Sequence[int], threshold: float = 0.5
) -> ClassificationScores:
    """Scores predicted probabilities against known IDH status.

    A probability of exactly `threshold` is called mutant. A probability of exactly 0 or 1 is clipped by the float64
    machine epsilon in the cross entropy, so one case adds 36 at most.

    Args:
        mutant_probabilities: Probability of mutant, one per case.
        idh: 1 mutant, 0 wild type, -1 unknown; one per case.
        threshold: Least probability that is called mutant.

    Raises:
        ValueError: Lengths differ, a status is not one of 1, 0, -1, or a probability is outside of [0, 1].
    """
    probability = np.asarray(mutant_probabilities, dtype=np.float64)
    status = np.asarray(idh, dtype=np.int64)
    if probability.shape != status.shape or probability.ndim != 1:
        raise ValueError(
            f"probabilities have shape {probability.shape}, idh {status.shape}; expected one each per case"
        )
    if not np.isin(status, (IDH_MUTANT, IDH_WILD, IDH_UNKNOWN)).all():
        raise ValueError(
            f"idh holds {sorted(set(status.tolist()))}; allowed are 1 (mutant), 0 (wild type), -1 (unknown)"
        )
    known = status != IDH_UNKNOWN
    probability, status = probability[known], status[known]
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("a mutant probability is not a number in [0, 1]")
    num_cases, num_mutant = len(status), int(status.sum())
    called = (probability >= threshold).astype(np.int64)
    return ClassificationScores(
        num_cases=num_cases,
        num_mutant=num_mutant,
        auc=float(roc_auc_score(status, probability)) if 0 < num_mutant < num_cases else None,
        accuracy=float(accuracy_score(status, called)) if num_cases else None,
        sensitivity=float(recall_score(status, called, pos_label=IDH_MUTANT)) if num_mutant else None,
        specificity=float(recall_score(status, called, pos_label=IDH_WILD)) if num_mutant < num_cases else None,
        cross_entropy=float(log_loss(status, probability, labels=[IDH_WILD, IDH_MUTANT])) if num_cases else None,
    )

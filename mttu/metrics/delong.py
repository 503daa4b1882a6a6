"""Area under the ROC curve with DeLong's variance, and the paired test of two systems on the same cases.

E. DeLong, D. DeLong, D. Clarke-Pearson, Biometrics 44 (1988) 837-845, doi:10.2307/2531595; by midranks as in X. Sun and
W. Xu, IEEE Signal Processing Letters 21 (2014) 1389, doi:10.1109/LSP.2014.2337313. Scores need not be probabilities.
All scores of a ranking must come from one network: those of several folds are on different scales.
Cases must be independent: with several cases per patient use `mttu.metrics.intervals.bootstrap_over_patients`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from mttu.data.labels import IDH_MUTANT, IDH_WILD
from mttu.metrics.intervals import LEVEL

_Z = float(norm.ppf((1 + LEVEL) / 2))
"""Half of an interval, in standard errors."""


@dataclass(frozen=True)
class AucEstimate:
    """An AUC with its interval; None where the cases define none."""

    num_mutant: int
    num_wild: int
    auc: float | None = None
    """Ties count half. None unless both classes occur."""
    variance: float | None = None
    """DeLong's. None with fewer than two cases of a class."""
    low: float | None = None
    """None without a variance, or where it is 0: an AUC of exactly 0 or 1 says nothing about its own uncertainty."""
    high: float | None = None
    level: float = LEVEL


@dataclass(frozen=True)
class AucComparison:
    """Paired test of two systems' AUC."""

    num_mutant: int
    num_wild: int
    not_tested: str = ""
    """Why there is neither p nor interval; empty if there are."""
    first: float | None = None
    second: float | None = None
    difference: float | None = None
    """First minus second."""
    z: float | None = None
    p: float | None = None
    """Two-sided. 1 for systems that place all cases alike; None where it is not defined, see `not_tested`."""
    low: float | None = None
    """Interval of the difference."""
    high: float | None = None
    level: float = LEVEL


def measure_auc(scores: Sequence[float] | NDArray[np.float64], idh: Sequence[int] | NDArray[np.int64]) -> float | None:
    """Area under the ROC curve, mutant being the positive class; ties count half. None unless both classes occur."""
    placements = _place(scores, idh)
    return None if placements is None else fmean(placements[0].tolist())


def estimate_auc(scores: Sequence[float], idh: Sequence[int]) -> AucEstimate:
    """AUC with DeLong's variance, and an interval of z standard errors that is cut off at 0 and 1 (as in pROC).

    Args:
        scores: Larger for mutant; one per case.
        idh: 1 mutant, 0 wild type.

    Raises:
        ValueError: Lengths differ, or a status is neither 0 nor 1.
    """
    placements, counts = _place(scores, idh), _count_classes(idh)
    if placements is None:
        return AucEstimate(*counts)
    auc, variance = fmean(placements[0].tolist()), _variance(*placements)
    if not variance:
        return AucEstimate(*counts, auc, variance)
    half = _Z * math.sqrt(variance)
    return AucEstimate(*counts, auc, variance, max(0.0, auc - half), min(1.0, auc + half))


def compare_auc(first: Sequence[float], second: Sequence[float], idh: Sequence[int]) -> AucComparison:
    """DeLong's test of two systems on the same cases.

    An AUC of exactly 0 or 1, or of scores that are all equal, has a variance of 0, which says nothing about its own
    uncertainty. A test against it would be overconfident, so there is none.

    Args:
        first: Scores of one system, one per case.
        second: Of the other, in the same order of cases.
        idh: 1 mutant, 0 wild type.

    Raises:
        ValueError: Lengths differ, or a status is neither 0 nor 1.
    """
    own, other, counts = _place(first, idh), _place(second, idh), _count_classes(idh)
    if own is None or other is None:
        return AucComparison(*counts, "both classes are needed")
    aucs = fmean(own[0].tolist()), fmean(other[0].tolist())
    # the differences of placements case by case have the variance of the difference, covariance included, without
    # cancellation: systems with the same ranking give exactly 0
    mutants, wilds = own[0] - other[0], own[1] - other[1]
    difference, variance = fmean(mutants.tolist()), _variance(mutants, wilds)
    reason = ""
    if variance is None:
        reason = "fewer than two cases of a class"
    elif (variance or difference) and not (_variance(*own) and _variance(*other)):
        reason = "an AUC's own variance is 0"
    elif difference and not variance:
        reason = "the difference has no variance"
    if variance is None or reason:
        return AucComparison(*counts, reason, *aucs, difference)
    error = math.sqrt(variance)
    z = difference / error if error else 0.0
    p, half = 2 * float(norm.sf(abs(z))), _Z * error
    return AucComparison(*counts, "", *aucs, difference, z, p, difference - half, difference + half)


def _count_classes(idh: Sequence[int]) -> tuple[int, int]:
    num_mutant = sum(status == IDH_MUTANT for status in idh)
    return num_mutant, len(idh) - num_mutant


def _place(
    scores: Sequence[float] | NDArray[np.float64], idh: Sequence[int] | NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """For each mutant the share of wild types below it; for each wild type the share of mutants above it."""
    values, status = np.asarray(scores, np.float64), np.asarray(idh)
    if values.shape != status.shape or values.ndim != 1:
        raise ValueError(f"scores have shape {values.shape}, idh {status.shape}; expected one each per case")
    if not np.isin(status, (IDH_MUTANT, IDH_WILD)).all():
        raise ValueError(f"idh holds {sorted(set(status.tolist()))}; allowed are 1 (mutant), 0 (wild type)")
    if not np.isfinite(values).all():
        raise ValueError("a score is not finite")
    mutants, wilds = values[status == IDH_MUTANT], values[status == IDH_WILD]
    if not (len(mutants) and len(wilds)):
        return None
    ranks = rankdata(np.concatenate([mutants, wilds]))
    below = (ranks[: len(mutants)] - rankdata(mutants)) / len(wilds)
    above = 1 - (ranks[len(mutants) :] - rankdata(wilds)) / len(mutants)
    return below, above


def _variance(mutants: NDArray[np.float64], wilds: NDArray[np.float64]) -> float | None:
    if len(mutants) < 2 or len(wilds) < 2:
        return None
    return float(np.var(mutants, ddof=1) / len(mutants) + np.var(wilds, ddof=1) / len(wilds))

"""Area under the ROC curve with DeLong's variance, and the paired test of two systems on the same cases.

E. DeLong, D. DeLong, D. Clarke-Pearson, Biometrics 44 (1988) 837-845, doi:10.2307/2531595; by midranks as in X. Sun and
W. Xu, IEEE Signal Processing Letters 21 (2014) 1389, doi:10.1109/LSP.2014.2337313. Scores need not be probabilities.
Cases must be independent: with several cases per patient use `mttu.metrics.intervals.bootstrap_over_patients`.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from mttu.data.labels import IDH_MUTANT, IDH_WILD


@dataclass(frozen=True)
class AucEstimate:
    """An AUC and how sure it is; None where the cases define none."""

    auc: float | None
    """Ties count half. None unless both classes occur."""
    variance: float | None
    """DeLong's. None with fewer than two cases of a class."""
    low: float | None
    """None without a variance, or where it is 0: an AUC of exactly 0 or 1 says nothing about its own uncertainty."""
    high: float | None
    level: float
    num_mutant: int
    num_wild: int


@dataclass(frozen=True)
class AucComparison:
    """Paired test of two systems' AUC."""

    first: float | None
    second: float | None
    difference: float | None
    """First minus second."""
    z: float | None
    p: float | None
    """Two-sided. 1 for systems that place all cases alike; None where it is not defined, see `not_tested`."""
    low: float | None
    """Interval of the difference."""
    high: float | None
    level: float
    num_mutant: int
    num_wild: int
    not_tested: str = ""
    """Why there is neither p nor interval; empty if there are."""


def measure_auc(scores: Sequence[float] | NDArray[np.float64], idh: Sequence[int] | NDArray[np.int64]) -> float | None:
    """Area under the ROC curve, mutant being the positive class; ties count half. None unless both classes occur."""
    placements = _place(scores, idh)
    return None if placements is None else _mean(placements[0])


def estimate_auc(
    scores: Sequence[float], idh: Sequence[int], level: float = 0.95, method: Literal["clip", "logit"] = "clip"
) -> AucEstimate:
    """AUC with DeLong's variance and interval.

    Args:
        scores: Larger for mutant; one per case.
        idh: 1 mutant, 0 wild type.
        level: Coverage.
        method: clip: AUC plus and minus z standard errors, cut off at 0 and 1 (as pROC). logit: symmetric on the logit
            scale, which stays inside by itself and covers better near 1.

    Raises:
        ValueError: Lengths differ, or a status is neither 0 nor 1.
    """
    placements = _place(scores, idh)
    num_mutant = sum(status == IDH_MUTANT for status in idh)
    num_wild = len(idh) - num_mutant
    if placements is None:
        return AucEstimate(None, None, None, None, level, num_mutant, num_wild)
    auc, variance = _mean(placements[0]), _variance(*placements)
    if not variance:
        return AucEstimate(auc, variance, None, None, level, num_mutant, num_wild)
    reach = float(norm.ppf((1 + level) / 2)) * math.sqrt(variance)
    if method == "clip":
        low, high = max(0.0, auc - reach), min(1.0, auc + reach)
    else:
        centre, half = float(logit(auc)), reach / (auc * (1 - auc))
        low, high = float(expit(centre - half)), float(expit(centre + half))
    return AucEstimate(auc, variance, low, high, level, num_mutant, num_wild)


def compare_auc(
    first: Sequence[float], second: Sequence[float], idh: Sequence[int], level: float = 0.95
) -> AucComparison:
    """DeLong's test of two systems on the same cases.

    An AUC of exactly 0 or 1, or of scores that are all equal, has a variance of 0 and says nothing about its own
    uncertainty; a test against it would be too sure, so there is none.

    Args:
        first: Scores of one system, one per case.
        second: Of the other, in the same order of cases.
        idh: 1 mutant, 0 wild type.
        level: Coverage of the interval of the difference.

    Raises:
        ValueError: Lengths differ, or a status is neither 0 nor 1.
    """
    own, other = _place(first, idh), _place(second, idh)
    num_mutant = sum(status == IDH_MUTANT for status in idh)
    num_wild = len(idh) - num_mutant
    if own is None or other is None:
        reason = "both classes are needed"
        return AucComparison(None, None, None, None, None, None, None, level, num_mutant, num_wild, reason)
    aucs = _mean(own[0]), _mean(other[0])
    # the difference of placements case by case has the variance of the difference, covariance included, without
    # cancellation: systems that rank alike give exactly 0
    mutants, wilds = own[0] - other[0], own[1] - other[1]
    difference, variance = _mean(mutants), _variance(mutants, wilds)
    reason = ""
    if variance is None:
        reason = "fewer than two cases of a class"
    elif (variance or difference) and not (_variance(*own) and _variance(*other)):
        reason = "an AUC's own variance is 0"
    elif difference and not variance:
        reason = "the difference has no variance"
    if variance is None or reason:
        return AucComparison(*aucs, difference, None, None, None, None, level, num_mutant, num_wild, reason)
    error = math.sqrt(variance)
    z = difference / error if error else 0.0
    p, reach = 2 * float(norm.sf(abs(z))), float(norm.ppf((1 + level) / 2)) * error
    return AucComparison(*aucs, difference, z, p, difference - reach, difference + reach, level, num_mutant, num_wild)


def average_fold_aucs(
    scores: Sequence[float], idh: Sequence[int], folds: Sequence[Hashable], level: float = 0.95
) -> AucEstimate:
    """AUC over folds whose scores come from different networks.

    Scores of different networks have different scales, so they are never pooled into one ranking. A mutant is only
    compared with the wild types of its own fold: the AUC is the mean of the folds' AUCs weighted by their pairs of
    mutant and wild type, which is the share of such pairs in the right order. The variance adds up over folds. A fold
    without one of the classes has no pairs and drops out.

    Args:
        scores: Larger for mutant; one per case.
        idh: 1 mutant, 0 wild type.
        folds: Fold, or network, that scored the case.
        level: Coverage of the interval, cut off at 0 and 1.

    Returns:
        Counts are those of all cases. No variance if any fold with pairs has none.
    """
    parts = []
    for fold in dict.fromkeys(folds):
        rows = [row for row, own in enumerate(folds) if own == fold]
        parts.append(estimate_auc([scores[row] for row in rows], [idh[row] for row in rows], level))
    num_mutant, num_wild = sum(part.num_mutant for part in parts), sum(part.num_wild for part in parts)
    pairs = sum(part.num_mutant * part.num_wild for part in parts)
    if not pairs:
        return AucEstimate(None, None, None, None, level, num_mutant, num_wild)
    auc, variance = 0.0, 0.0
    for part in parts:
        weight = part.num_mutant * part.num_wild / pairs
        auc += weight * (part.auc or 0.0)
        variance += weight**2 * (math.nan if part.variance is None and weight else part.variance or 0.0)
    if math.isnan(variance) or variance == 0:
        return AucEstimate(auc, None if math.isnan(variance) else 0.0, None, None, level, num_mutant, num_wild)
    reach = float(norm.ppf((1 + level) / 2)) * math.sqrt(variance)
    return AucEstimate(auc, variance, max(0.0, auc - reach), min(1.0, auc + reach), level, num_mutant, num_wild)


def _place(
    scores: Sequence[float] | NDArray[np.float64], idh: Sequence[int] | NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """For each mutant the share of wild types below it, for each wild type the share of mutants above it."""
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


def _mean(values: NDArray[np.float64]) -> float:
    return math.fsum(values.tolist()) / len(values)


def _variance(mutants: NDArray[np.float64], wilds: NDArray[np.float64]) -> float | None:
    if len(mutants) < 2 or len(wilds) < 2:
        return None
    return float(np.var(mutants, ddof=1) / len(mutants) + np.var(wilds, ddof=1) / len(wilds))

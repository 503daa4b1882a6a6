"""How far a figure can be trusted: spread over cases, bootstrap over patients, Wilson interval of a share."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from mttu.metrics.comparisons import align_cases

Statistics = Callable[[NDArray[np.int64]], Mapping[str, float | None]]
"""From positions of cases, which may repeat, to named figures; None where the cases define none."""


@dataclass(frozen=True)
class Spread:
    """Mean and spread over the cases that have a value."""

    n: int
    mean: float | None
    """None without values."""
    std: float | None
    """Of the sample: ddof = 1. None with fewer than two values."""
    median: float | None
    lower_quartile: float | None
    upper_quartile: float | None


@dataclass(frozen=True)
class Interval:
    """A figure and its interval."""

    estimate: float | None
    """On the cases themselves."""
    low: float | None
    """None where no interval is defined."""
    high: float | None
    level: float
    """Coverage aimed at, e.g. 0.95."""
    num_resamples: int = 0
    """Resamples in which the figure was defined; 0 for an interval by formula."""
    num_undefined: int = 0
    """Resamples in which it was not, e.g. an AUC where one class was not drawn; they are left out."""


def describe(values: Sequence[float]) -> Spread:
    """Mean and standard deviation as the paper's tables print them, with median and quartiles beside them.

    The standard deviation is the sample's (ddof = 1), over cases. The result doesn't depend on the order.
    """
    if not values:
        return Spread(0, None, None, None, None, None)
    ordered = sorted(values)
    mean = math.fsum(ordered) / len(ordered)
    squares = math.fsum((value - mean) ** 2 for value in ordered)
    std = math.sqrt(squares / (len(ordered) - 1)) if len(ordered) > 1 else None
    quartiles = np.percentile(ordered, (50, 25, 75)).tolist()
    return Spread(len(ordered), mean, std, *quartiles)


def bootstrap_over_patients(
    statistics: Statistics, patients: Sequence[str], level: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> Mapping[str, Interval]:
    """Percentile bootstrap: patients are drawn with replacement, each with all of their cases.

    Several cases of a patient are not independent; drawn one by one they would make the interval too short.

    Args:
        statistics: Computes all figures at once.
        patients: Patient of each case.
        level: Coverage.
        num_resamples: How often patients are drawn.
        seed: Of the draws.

    Returns:
        Name to interval, for the names that `statistics` gives for all cases. No low and high with fewer than two
        patients.
    """
    everyone = statistics(np.arange(len(patients)))
    names = sorted(set(patients))
    own = [np.array([row for row, patient in enumerate(patients) if patient == name]) for name in names]
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in everyone}
    for _ in range(num_resamples if len(names) > 1 else 0):  # one patient says nothing about others
        rows = np.concatenate([own[index] for index in generator.integers(0, len(own), len(own))])
        for name, value in statistics(rows).items():
            if value is not None:
                drawn[name].append(value)
    return {name: _to_interval(everyone[name], drawn[name], level, num_resamples) for name in everyone}


def _to_interval(estimate: float | None, values: Sequence[float], level: float, num_resamples: int) -> Interval:
    if estimate is None or not values:
        return Interval(estimate, None, None, level)
    low, high = np.quantile(values, ((1 - level) / 2, (1 + level) / 2)).tolist()
    return Interval(estimate, low, high, level, len(values), num_resamples - len(values))


def bootstrap_mean(
    values: Sequence[float], patients: Sequence[str], level: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> Interval:
    """Interval of the mean over cases, see `bootstrap_over_patients`."""
    array = np.asarray(values, np.float64)

    def mean(rows: NDArray[np.int64]) -> Mapping[str, float | None]:
        return {"mean": float(array[rows].mean()) if len(rows) else None}

    return bootstrap_over_patients(mean, patients, level, num_resamples, seed)["mean"]


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson score interval of a share (doi:10.1080/01621459.1927.10502953), without continuity correction."""
    if trials == 0:
        return Interval(None, None, None, level)
    found = binomtest(successes, trials).proportion_ci(level, method="wilson")
    return Interval(successes / trials, float(found.low), float(found.high), level)


def average_over_seeds(tables: Mapping[str, Mapping[str, float | None]]) -> Mapping[str, float | None]:
    """Mean of each case over seeds, which comes before any statistic over cases: seeds are no patients.

    Args:
        tables: Seed or run to its table, case to score.

    Returns:
        Case to mean; None where any seed has none, for the mean of the others would flatter.

    Raises:
        InputError: The tables hold different cases.
    """
    means: dict[str, float | None] = {}
    for case_id in align_cases(tables):
        values = [table[case_id] for table in tables.values()]
        known = [value for value in values if value is not None]
        means[case_id] = math.fsum(known) / len(known) if len(known) == len(values) else None
    return means

"""Uncertainty of a score: spread over cases, bootstrap over patients, Wilson interval of a share."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

LEVEL = 0.95
"""Coverage of every interval."""
Statistics = Callable[[NDArray[np.int64]], Mapping[str, float | None]]
"""From positions of cases, which may repeat, to named scores; None where the cases define none."""


@dataclass(frozen=True)
class Spread:
    """Mean and spread over the cases that have a value."""

    n: int
    mean: float | None = None
    """None without values."""
    std: float | None = None
    """Of the sample: ddof = 1. None with fewer than two values."""
    median: float | None = None
    lower_quartile: float | None = None
    upper_quartile: float | None = None


@dataclass(frozen=True)
class Interval:
    """A score and its interval."""

    estimate: float | None
    """On the cases themselves."""
    low: float | None = None
    """None where no interval is defined."""
    high: float | None = None
    num_resamples: int = 0
    """Resamples in which the score was defined; 0 for an interval by formula."""
    num_undefined: int = 0
    """Resamples in which it was not, e.g. an AUC where one class was not drawn; they are left out."""
    level: float = LEVEL


def describe(values: Sequence[float]) -> Spread:
    """Mean and standard deviation, as in the paper's tables, with median and quartiles; in any order of values."""
    if not values:
        return Spread(0)
    ordered = sorted(values)
    mean = fmean(ordered)
    squares = math.fsum((value - mean) ** 2 for value in ordered)
    std = math.sqrt(squares / (len(ordered) - 1)) if len(ordered) > 1 else None
    quartiles = np.percentile(ordered, (50, 25, 75)).tolist()
    return Spread(len(ordered), mean, std, *quartiles)


def bootstrap_over_patients(
    statistics: Statistics, patients: Sequence[str], num_resamples: int = 2000
) -> Mapping[str, Interval]:
    """Percentile bootstrap: patients are drawn with replacement, each with all of their cases; always the same draws.

    Several cases of a patient are not independent; drawn one by one they would make the interval too short.

    Args:
        statistics: Computes all scores at once.
        patients: Patient of each case.
        num_resamples: How often patients are drawn.

    Returns:
        Name to interval, for the names that `statistics` gives for all cases. No low and high with fewer than two
        patients.
    """
    everyone = statistics(np.arange(len(patients)))
    names = sorted(set(patients))
    own = [np.array([row for row, patient in enumerate(patients) if patient == name]) for name in names]
    generator = np.random.default_rng(0)
    drawn: dict[str, list[float]] = {name: [] for name in everyone}
    for _ in range(num_resamples if len(names) > 1 else 0):
        rows = np.concatenate([own[index] for index in generator.integers(0, len(own), len(own))])
        for name, value in statistics(rows).items():
            if value is not None:
                drawn[name].append(value)
    return {name: _to_interval(everyone[name], drawn[name], num_resamples) for name in everyone}


def _to_interval(estimate: float | None, values: Sequence[float], num_resamples: int) -> Interval:
    if estimate is None or not values:
        return Interval(estimate)
    low, high = np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist()
    return Interval(estimate, low, high, len(values), num_resamples - len(values))


def bootstrap_mean(values: Sequence[float], patients: Sequence[str], num_resamples: int = 2000) -> Interval:
    """Interval of the mean over cases, see `bootstrap_over_patients`."""
    array = np.asarray(values, np.float64)

    def mean(rows: NDArray[np.int64]) -> Mapping[str, float | None]:
        return {"mean": float(array[rows].mean()) if len(rows) else None}

    return bootstrap_over_patients(mean, patients, num_resamples)["mean"]


def wilson_interval(successes: int, trials: int) -> Interval:
    """Wilson score interval of a share (doi:10.1080/01621459.1927.10502953), without continuity correction."""
    if trials == 0:
        return Interval(None)
    low, high = wilson_bounds(np.array([successes]), np.array([trials]))
    return Interval(successes / trials, float(low[0]), float(high[0]))


def wilson_bounds(
    successes: NDArray[np.int64], trials: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends of many `wilson_interval`s, in the shape of both arrays; NaN where there are no trials."""
    count = np.where(trials > 0, trials, np.nan)
    z = float(ndtri((1 + LEVEL) / 2))
    share = successes / count
    scale = 2 * (count + z**2)
    centre = (2 * count * share + z**2) / scale
    reach = z / scale * np.sqrt(4 * count * share * (1 - share) + z**2)
    low = np.where(successes == 0, 0.0 * count, centre - reach)  # exactly 0 and 1 at the ends, without rounding
    high = np.where(successes == trials, 0.0 * count + 1.0, centre + reach)
    return low, high

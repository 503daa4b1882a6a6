"""Values with their intervals, as in the tables that the figures are drawn from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; None or NaN where a value or an end of the interval is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


UNDEFINED = Estimate(None)


def to_number(value: float | None) -> float:
    """The value; NaN, which matplotlib leaves out of a plot, where it is None or not finite."""
    return value if value is not None and math.isfinite(value) else math.nan


def is_defined(value: float | None) -> bool:
    """Whether there is a finite value."""
    return math.isfinite(to_number(value))


def describe(estimate: Estimate, digits: int = 2) -> str:
    """`0.89 [0.80, 0.95]`, `0.89` without interval, or `not defined`."""
    if not is_defined(estimate.value):
        return "not defined"
    shown = f"{estimate.value:.{digits}f}"
    if not (is_defined(estimate.low) and is_defined(estimate.high)):
        return shown
    return f"{shown} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def to_values(estimates: Sequence[Estimate]) -> NDArray[np.float64]:
    """The values, (N,), NaN where not defined."""
    return np.array([to_number(estimate.value) for estimate in estimates], dtype=np.float64)


def to_error_bars(estimates: Sequence[Estimate]) -> NDArray[np.float64]:
    """Distances from the value down to `low` and up to `high`, (2, N), as matplotlib takes them.

    An interval with an undefined end is left out. A value outside its interval, which a percentile bootstrap can yield,
    has no bar on that side.
    """
    values = to_values(estimates)
    ends = [(to_number(estimate.low), to_number(estimate.high)) for estimate in estimates]
    low, high = np.array(ends, dtype=np.float64).reshape(-1, 2).T
    bars = np.stack([values - low, high - values])
    bars[:, np.isnan(bars).any(axis=0)] = np.nan
    lengths: NDArray[np.float64] = np.maximum(bars, 0.0)
    return lengths

"""Tests of one system against another on the same cases, and the adjustment for testing many."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import binomtest, ttest_ind, ttest_rel, wilcoxon

from mttu.errors import name_some, raise_if_any

_DECIMALS = 12
"""Values and differences are rounded to so many, so that equal systems do not differ by floating-point errors."""


@dataclass(frozen=True)
class Comparison:
    """Outcome of a two-sided test."""

    name: str
    n: int
    """Cases, or pairs of cases, that were used."""
    difference: float | None = None
    """Mean of the first minus mean of the second."""
    statistic: float | None = None
    p: float | None = None
    """None where the test is not defined: too few cases, or differences that all have one value other than 0."""


def check_same_cases(tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses systems that have scores for different cases.

    Args:
        tables: Name of a system to its table by case.

    Raises:
        InputError: Lists for each system the cases that it lacks.
    """
    union = sorted(set().union(*tables.values()))
    problems = []
    for name, table in tables.items():
        missing = [case_id for case_id in union if case_id not in table]
        if missing:
            others = ", ".join(other for other in tables if not set(missing).isdisjoint(tables[other]))
            problems.append(
                f"comparison: {name} has no score for {len(missing)} of {len(union)} cases: {name_some(missing)} "
                f"(only in {others}); compare systems on the same cases"
            )
    raise_if_any(problems)


def compare_paired_t(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Student's t-test of the differences case by case."""
    differences = _differences(first, second)
    if _is_trivial(differences):
        return _trivial("paired t", differences)
    found = ttest_rel(first, second)
    return Comparison("paired t", len(first), fmean(differences), float(found.statistic), float(found.pvalue))


def compare_wilcoxon(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Wilcoxon's signed-rank test of the differences case by case; differences of 0 are left out, ties share ranks.

    Exact for small samples, by normal approximation for others (scipy's choice).
    """
    differences, name = _differences(first, second), "Wilcoxon signed-rank"
    if len(differences) < 2 or not any(differences):
        return _trivial(name, differences)
    found = wilcoxon(differences)
    return Comparison(name, len(first), fmean(differences), float(found.statistic), float(found.pvalue))


def compare_two_samples_t(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Student's t-test of two independent samples, which the paper names (section V-B.3).

    Two systems on the same cases are not independent samples. This test ignores the pairing and is given only for
    comparison with the paper.
    """
    name, n = "two-sample t", len(first) + len(second)
    if len(first) < 2 or len(second) < 2:
        return Comparison(name, n)
    first, second = ([round(float(value), _DECIMALS) for value in values] for values in (first, second))
    difference = fmean(first) - fmean(second)
    if len(set(first)) == len(set(second)) == 1:
        return Comparison(name, n, difference, 0.0, 1.0) if difference == 0 else Comparison(name, n, difference)
    with warnings.catch_warnings():
        # one sample without spread is fine if the other has some
        warnings.filterwarnings("ignore", message="Precision loss occurred", category=RuntimeWarning)
        found = ttest_ind(first, second)
    return Comparison(name, n, difference, float(found.statistic), float(found.pvalue))


def compare_mcnemar(first_right: Sequence[bool], second_right: Sequence[bool]) -> Comparison:
    """McNemar's exact test of two systems' decisions on the same cases (doi:10.1007/BF02295996).

    Args:
        first_right: Whether the first system decided right, one per case.
        second_right: Same for the second.

    Returns:
        `statistic` is the number of cases that only the first decided right; `difference` is that of the accuracies.
        p is 1 if no case was decided right by only one of them.
    """
    pairs = list(zip(first_right, second_right, strict=True))
    if not pairs:
        return Comparison("McNemar exact", 0)
    only_first = sum(bool(one) and not other for one, other in pairs)
    only_second = sum(bool(other) and not one for one, other in pairs)
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    return Comparison("McNemar exact", len(pairs), (only_first - only_second) / len(pairs), float(only_first), p)


def _differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [round(float(one - other), _DECIMALS) for one, other in zip(first, second, strict=True)]


def _is_trivial(differences: Sequence[float]) -> bool:
    """Whether there is no spread to test against, apart from rounding."""
    return len(differences) < 2 or bool(np.ptp(differences) <= 1e-12 * max(1.0, float(np.abs(differences).max())))


def _trivial(name: str, differences: Sequence[float]) -> Comparison:
    if len(differences) > 1 and not any(differences):
        return Comparison(name, len(differences), fmean(differences), 0.0, 1.0)
    return Comparison(name, len(differences), fmean(differences) if differences else None)


def adjust_holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment: controls the chance of any false positive in a family of tests.

    S. Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.

    Args:
        p_values: One per test; None for a test that is not defined, which doesn't count in the family.
    """
    defined = sorted((value, index) for index, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (value, index) in enumerate(defined):
        largest = max(largest, min(1.0, (len(defined) - rank) * value))
        adjusted[index] = largest
    return adjusted

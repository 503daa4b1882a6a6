"""Tests of one system against another on the same cases, and the adjustment for testing many."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, ttest_ind, ttest_rel, wilcoxon

from mttu.errors import InputError, name_some

_DECIMALS = 12
"""Values and differences are rounded to so many, so that rounding makes no two systems differ."""


@dataclass(frozen=True)
class Comparison:
    """Outcome of a two-sided test."""

    name: str
    n: int
    """Cases, or pairs of cases, that were used."""
    difference: float | None
    """Mean of the first minus mean of the second."""
    statistic: float | None
    p: float | None
    """None where the test is not defined: too few cases, or differences that all have one value other than 0."""


def align_cases(tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The cases that tables share, sorted; refuses tables of different cases.

    Args:
        tables: Name of a system to its table by case.

    Raises:
        InputError: The tables hold different cases; lists for each the cases that it alone lacks or has.
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
    if problems:
        raise InputError(problems)
    return union


def compare_paired_t(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Student's t-test of the differences case by case."""
    differences = _differences(first, second)
    if _is_trivial(differences):
        return _trivial("paired t", differences)
    found = ttest_rel(first, second)
    return Comparison("paired t", len(first), _mean(differences), float(found.statistic), float(found.pvalue))


def compare_wilcoxon(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Wilcoxon's signed-rank test of the differences case by case; differences of 0 are left out, ties share ranks.

    Differences are rounded, so that rounding neither makes nor breaks ties. Exact for small samples, by
    normal approximation for others (scipy's choice).
    """
    differences = _differences(first, second)
    if len(differences) < 2 or not any(differences):
        return _trivial("Wilcoxon signed-rank", differences)
    found = wilcoxon(differences)
    return Comparison(
        "Wilcoxon signed-rank", len(first), _mean(differences), float(found.statistic), float(found.pvalue)
    )


def compare_two_samples_t(first: Sequence[float], second: Sequence[float], equal_variances: bool = True) -> Comparison:
    """Student's t-test of two independent samples, which the paper names (section V-B.3); Welch's if variances differ.

    Two systems on the same cases are no independent samples: this test throws the pairing away and is shown for
    comparison with the paper alone.
    """
    name = "two-sample t" if equal_variances else "two-sample t (Welch)"
    n = len(first) + len(second)
    if len(first) < 2 or len(second) < 2:
        return Comparison(name, n, None, None, None)
    first, second = ([round(float(value), _DECIMALS) for value in values] for values in (first, second))
    difference = _mean(first) - _mean(second)
    if len(set(first)) == len(set(second)) == 1:
        return (
            Comparison(name, n, difference, 0.0, 1.0)
            if difference == 0
            else Comparison(name, n, difference, None, None)
        )
    with warnings.catch_warnings():
        # one sample without spread is fine, as the other has one
        warnings.filterwarnings("ignore", message="Precision loss occurred", category=RuntimeWarning)
        found = ttest_ind(first, second, equal_var=equal_variances)
    return Comparison(name, n, difference, float(found.statistic), float(found.pvalue))


def compare_mcnemar(first_right: Sequence[bool], second_right: Sequence[bool]) -> Comparison:
    """McNemar's exact test of two systems' decisions on the same cases (doi:10.1007/BF02295996).

    Args:
        first_right: Whether the first system decided right, one per case.
        second_right: Same for the second.

    Returns:
        `statistic` is the number of cases that only the first decided right; `difference` that of the accuracies.
        Without a case that only one of them decided right, p is 1.
    """
    pairs = list(zip(first_right, second_right, strict=True))
    only_first = sum(bool(one) and not other for one, other in pairs)
    only_second = sum(bool(other) and not one for one, other in pairs)
    if not pairs:
        return Comparison("McNemar exact", 0, None, None, None)
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    return Comparison("McNemar exact", len(pairs), (only_first - only_second) / len(pairs), float(only_first), p)


def _differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [round(float(one - other), _DECIMALS) for one, other in zip(first, second, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _is_trivial(differences: Sequence[float]) -> bool:
    """Whether there is no spread to test against, apart from rounding."""
    if len(differences) < 2:
        return True
    return bool(np.ptp(differences) <= 1e-12 * max(1.0, float(np.abs(differences).max())))


def _trivial(name: str, differences: Sequence[float]) -> Comparison:
    if not differences:
        return Comparison(name, 0, None, None, None)
    same = len(differences) > 1 and not any(differences)
    return Comparison(name, len(differences), _mean(differences), 0.0 if same else None, 1.0 if same else None)


def adjust_holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment: controls the chance of any false finding in a family of tests.

    S. Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.

    Args:
        p_values: One per test; None for a test that is not defined, which doesn't count in the family.

    Returns:
        Adjusted values in the same order, at most 1.
    """
    defined = sorted((value, index) for index, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (value, index) in enumerate(defined):
        largest = max(largest, min(1.0, (len(defined) - rank) * value))
        adjusted[index] = largest
    return adjusted

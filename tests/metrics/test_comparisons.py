import numpy as np
import pytest
from scipy import stats

from mttu.errors import InputError
from mttu.metrics.comparisons import (
    adjust_holm,
    check_same_cases,
    compare_mcnemar,
    compare_paired_t,
    compare_two_samples_t,
    compare_wilcoxon,
)

FIRST = [0.91, 0.82, 0.75, 0.66, 0.94, 0.81]
SECOND = [0.88, 0.83, 0.70, 0.60, 0.90, 0.79]


def test_different_case_sets_are_refused_with_the_difference() -> None:
    with pytest.raises(InputError) as caught:
        check_same_cases({"new": {"a": 1, "b": 1, "x": 1}, "old": {"a": 1, "b": 1, "y": 1, "z": 1}})
    assert caught.value.problems == [
        "comparison: new has no score for 2 of 5 cases: y, z (only in old); compare systems on the same cases",
        "comparison: old has no score for 1 of 5 cases: x (only in new); compare systems on the same cases",
    ]
    check_same_cases({"new": {"b": 1, "a": 1}, "old": {"a": 1, "b": 1}})


def test_long_differences_are_cut() -> None:
    with pytest.raises(InputError, match=r"case 0, .* and 7 more \(only in new\)"):
        check_same_cases({"new": {f"case {index}": 1 for index in range(15)}, "old": {}})


def test_paired_t_by_hand() -> None:
    differences = np.array(FIRST) - SECOND
    t = differences.mean() / (differences.std(ddof=1) / np.sqrt(6))
    found = compare_paired_t(FIRST, SECOND)
    assert (found.n, found.difference) == (6, pytest.approx(0.19 / 6))
    assert found.statistic == pytest.approx(t)
    assert found.p == pytest.approx(2 * stats.t.sf(t, df=5))


def test_the_two_sample_test_ignores_the_pairing() -> None:
    found = compare_two_samples_t(FIRST, SECOND)
    variance = (np.var(FIRST, ddof=1) + np.var(SECOND, ddof=1)) / 2
    t = (np.mean(FIRST) - np.mean(SECOND)) / np.sqrt(variance * 2 / 6)
    assert (found.n, found.statistic) == (12, pytest.approx(t))
    assert found.p == pytest.approx(2 * stats.t.sf(t, df=10))
    assert compare_two_samples_t(FIRST, SECOND[::-1]).p == pytest.approx(found.p)
    assert found.p > 10 * compare_paired_t(FIRST, SECOND).p


def test_wilcoxon_by_hand() -> None:
    # differences 0.03 -0.01 0.05 0.06 0.04 0.02: the negative one has rank 1; of 2^6 signs 2 give a sum of at most 1
    found = compare_wilcoxon(FIRST, SECOND)
    assert (found.statistic, found.p) == (1.0, pytest.approx(2 * 2 / 64))


def test_rounding_makes_no_ties_and_breaks_none() -> None:
    assert 0.3 - 0.2 != 0.2 - 0.1
    found = compare_wilcoxon([0.3, 0.2, 0.5, 0.9], [0.2, 0.1, 0.7, 0.5])
    assert found.statistic == 3  # ranks 1.5, 1.5, 3 (negative), 4


def test_mcnemar_by_hand() -> None:
    first = [True] * 8 + [False] * 3 + [True] * 5
    second = [True] * 8 + [False] * 2 + [True] + [False] * 5
    found = compare_mcnemar(first, second)  # only the first: 5, only the second: 1
    assert (found.statistic, found.n, found.difference) == (5.0, 16, 4 / 16)
    assert found.p == pytest.approx(2 * (1 + 6) / 64)
    assert compare_mcnemar(first, first).p == 1.0
    assert compare_mcnemar([], []).p is None


@pytest.mark.parametrize("compare", [compare_paired_t, compare_wilcoxon, compare_two_samples_t])
def test_what_has_no_answer_has_none(compare) -> None:
    assert compare([], []).p is None
    assert compare([0.5], [0.4]).p is None
    assert compare(FIRST, FIRST).p == 1.0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("compare", [compare_paired_t, compare_wilcoxon, compare_two_samples_t])
@pytest.mark.parametrize("values", [FIRST, [0.3] * 6])
def test_systems_that_differ_by_rounding_alone_are_the_same(compare, values) -> None:
    rounded = [value * 3 / 3 * 0.1 / 0.1 + 1e-16 * place for place, value in enumerate(values)]
    shifted = [value + (0.1 + 0.2 - 0.3) for value in values]
    assert shifted != values
    for other in (rounded, shifted):
        found = compare(values, other)
        assert (found.difference, found.statistic, found.p) == (0.0, 0.0, 1.0)


@pytest.mark.filterwarnings("error")
def test_one_sample_without_spread_is_no_problem() -> None:
    assert compare_two_samples_t([1.0, 1.0, 1.0], [0.8, 0.9, 0.7]).p == pytest.approx(0.0257, abs=1e-4)


def test_differences_of_one_value_have_no_t() -> None:
    assert compare_paired_t([0.3, 0.5, 0.8], [0.2, 0.4, 0.7]).p is None
    assert compare_two_samples_t([1.0, 1.0], [2.0, 2.0]).p is None
    assert compare_two_samples_t([1.0, 1.0], [1.0, 1.0]).p == 1.0


def test_unequal_lengths_are_refused() -> None:
    for compare in (compare_paired_t, compare_wilcoxon, compare_mcnemar):
        with pytest.raises(ValueError, match="shorter"):
            compare(FIRST, SECOND[:5])


def test_holm_by_hand() -> None:
    assert adjust_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_holm([0.02, None, 0.6]) == [0.04, None, 0.6]
    assert adjust_holm([0.7, 0.8]) == [1.0, 1.0]
    assert adjust_holm([]) == []

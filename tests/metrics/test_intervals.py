import math
import statistics

import numpy as np
import pytest
from scipy.stats import binomtest

from mttu.metrics.intervals import bootstrap_mean, bootstrap_over_patients, describe, wilson_bounds, wilson_interval


def test_spread_by_hand() -> None:
    spread = describe([4.0, 1.0, 3.0, 2.0])
    assert (spread.n, spread.mean, spread.median) == (4, 2.5, 2.5)
    assert spread.std == pytest.approx(math.sqrt(5 / 3))  # ddof = 1; with ddof = 0 it would be sqrt(5 / 4)
    assert (spread.lower_quartile, spread.upper_quartile) == (1.75, 3.25)
    assert describe([0.1] * 3).mean == pytest.approx(0.1)
    assert (describe([2.0]).std, describe([]).mean) == (None, None)


def test_spread_does_not_depend_on_the_order() -> None:
    values = np.random.default_rng(0).random(1000).tolist()
    assert describe(values) == describe(values[::-1])
    assert describe(values).std == pytest.approx(statistics.stdev(values))


def test_the_bootstrap_of_a_mean_is_as_wide_as_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(size=200).tolist()
    found = bootstrap_mean(values, [str(index) for index in range(200)])
    error = statistics.stdev(values) / math.sqrt(200)
    assert found.estimate == pytest.approx(statistics.fmean(values))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.06)
    assert (found.num_resamples, found.num_undefined) == (2000, 0)


def test_cases_of_a_patient_are_drawn_together() -> None:
    """Each of 50 patients has the same value four times: 200 cases, but no more certainty than of 50."""
    values = np.random.default_rng(2).normal(size=50)
    own = bootstrap_mean(values.tolist(), [f"p{index}" for index in range(50)])
    repeated = bootstrap_mean(np.repeat(values, 4).tolist(), [f"p{index}" for index in range(50) for _ in range(4)])
    assert (repeated.low, repeated.high) == pytest.approx((own.low, own.high))
    apart = bootstrap_mean(np.repeat(values, 4).tolist(), [str(index) for index in range(200)])
    assert apart.high - apart.low == pytest.approx((own.high - own.low) / 2, rel=0.1)


def test_patients_keep_their_unequal_numbers_of_cases() -> None:
    seen = set()

    def count(rows):
        seen.add(tuple(sorted(rows.tolist())))
        return {"n": float(len(rows))}

    bootstrap_over_patients(count, ["b", "a", "b"], num_resamples=50)
    assert seen == {(0, 1, 2), (1, 1), (0, 0, 2, 2)}


def test_resamples_without_a_score_are_counted() -> None:
    def share_of_first(rows):
        return {"x": None if 0 not in rows else 1.0, "never": None}

    found = bootstrap_over_patients(share_of_first, ["a", "b", "c"], num_resamples=300)
    assert found["x"].num_resamples + found["x"].num_undefined == 300
    assert found["x"].num_undefined == pytest.approx(300 * (2 / 3) ** 3, abs=30)
    assert (found["never"].estimate, found["never"].low, found["never"].high) == (None, None, None)


def test_one_patient_gives_no_interval_and_none_no_score() -> None:
    one = bootstrap_mean([0.5, 0.7], ["a", "a"])
    assert (one.estimate, one.low, one.high) == (pytest.approx(0.6), None, None)
    assert bootstrap_mean([], []).estimate is None


def test_the_same_cases_give_the_same_bits() -> None:
    values, patients = [0.1, 0.9, 0.4, 0.3], ["a", "b", "c", "d"]
    assert bootstrap_mean(values, patients) == bootstrap_mean(values, patients)


def test_wilson_by_hand() -> None:
    # 8 of 10, z = 1.959964: centre (p + z^2 / 2n) / (1 + z^2 / n), half z / (1 + z^2 / n) sqrt(p q / n + z^2 / 4 n^2)
    z, n, p = 1.959963984540054, 10, 0.8
    centre, scale = p + z**2 / (2 * n), 1 + z**2 / n
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = wilson_interval(8, 10)
    assert (found.low, found.high) == pytest.approx(((centre - half) / scale, (centre + half) / scale))
    assert wilson_interval(5, 5).low == pytest.approx(0.5655, abs=1e-4)
    assert (wilson_interval(0, 0).estimate, wilson_interval(0, 0).low) == (None, None)


def test_wilson_is_that_of_scipy() -> None:
    counts = np.array([(successes, trials) for trials in (1, 2, 7, 60, 1000) for successes in range(trials + 1)])
    low, high = wilson_bounds(*counts.T)
    ends = [binomtest(*pair).proportion_ci(0.95, method="wilson") for pair in counts.tolist()[:80:3]]
    np.testing.assert_allclose(low[:80:3], [one.low for one in ends], rtol=1e-12)
    np.testing.assert_allclose(high[:80:3], [one.high for one in ends], rtol=1e-12)
    assert low[counts[:, 0] == 0].tolist() == [0.0] * 5
    assert high[counts[:, 0] == counts[:, 1]].tolist() == [1.0] * 5
    assert [bool(np.isnan(end[0])) for end in wilson_bounds(np.array([0, 1]), np.array([0, 2]))] == [True, True]

import math

import numpy as np
import pytest

from mttu.figures.estimates import Estimate, describe, to_error_bars, to_values


@pytest.mark.parametrize(
    ("estimate", "said"),
    [
        (Estimate(0.886, 0.801, 0.953), "0.89 [0.80, 0.95]"),
        (Estimate(0.886), "0.89"),
        (Estimate(0.886, 0.801, math.nan), "0.89"),
        (Estimate(None, 0.0, 1.0), "not defined"),
        (Estimate(math.nan), "not defined"),
        (Estimate(math.inf), "not defined"),
    ],
)
def test_an_estimate_in_words(estimate, said):
    assert describe(estimate) == said


def test_error_bars_reach_from_the_value_to_the_ends():
    estimates = [Estimate(0.5, 0.3, 0.9), Estimate(0.5, None, 0.9), Estimate(None, 0.1, 0.2), Estimate(0.5, 0.6, 0.7)]
    np.testing.assert_allclose(to_error_bars(estimates), [[0.2, np.nan, np.nan, 0.0], [0.4, np.nan, np.nan, 0.2]])
    np.testing.assert_allclose(to_values(estimates), [0.5, 0.5, np.nan, 0.5])

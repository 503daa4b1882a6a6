"""Post-hoc calibration of the IDH probability, fitted on validation: temperature, and temperature with bias.

C. Guo et al., On calibration of modern neural networks, ICML 2017 (the paper's [42]). With two classes, softmax of
(z_wild, z_mutant) / T is sigmoid of their difference / T, and that difference is the logit of the mutant probability p.
If p was averaged over windows, flips or passes, the logit of the average is used. The bias also shifts the decision,
for a cohort with another share of mutants. Neither changes the order of cases, so the AUC stays the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from mttu.data.labels import IDH_MUTANT
from mttu.errors import InputError
from mttu.metrics.classification import select_known

TEMPERATURE_RANGE = (0.05, 20.0)
BIAS_RANGE = (-10.0, 10.0)
LEAST_PROBABILITY = 1e-7
"""Probabilities are clipped to this distance from 0 and 1 before their logit is taken."""


@dataclass(frozen=True)
class Calibration:
    """Calibrated probability = sigmoid(logit(p) / temperature + bias)."""

    temperature: float
    """Above 1 for an overconfident network."""
    bias: float
    """Positive towards mutant; 0 for plain temperature scaling."""
    num_cases: int
    """Validation cases that it was fitted on."""
    determined: bool
    """False if the validation cases do not determine the values: if the network separates the two classes, no
    temperature is low enough; if it is no better than chance, none is high enough."""

    def apply(self, mutant_probabilities: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrated probabilities of mutant, in the same order."""
        return np.asarray(expit(_logit(mutant_probabilities) / self.temperature + self.bias))


def _logit(mutant_probabilities: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(np.asarray(mutant_probabilities, np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.asarray(logit(clipped))


def fit_calibration(mutant_probabilities: Sequence[float], idh: Sequence[int], with_bias: bool = False) -> Calibration:
    """Fits by the mean negative log-likelihood, which is convex in 1 / temperature and bias; deterministic.

    Args:
        mutant_probabilities: Of the validation cases, never of those that are scored afterwards.
        idh: 1 mutant, 0 wild type, -1 unknown: left out.
        with_bias: Whether to fit the bias too.

    Raises:
        InputError: The cases lack a class.
        ValueError: See `mttu.metrics.classification.score_classification`.
    """
    probability, status = select_known(mutant_probabilities, idh)
    num_mutant = int((status == IDH_MUTANT).sum())
    num_wild = len(status) - num_mutant
    if not (num_mutant and num_wild):
        raise InputError(
            f"calibration: the validation cases are {num_mutant} mutant and {num_wild} wild type; both are needed"
        )
    logits, signs = _logit(probability), np.where(status == IDH_MUTANT, 1.0, -1.0)

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Mean negative log-likelihood and its gradient, by inverse temperature and bias."""
        margins = signs * (values[0] * logits + values[1])
        slopes = -signs * expit(-margins)
        return float(np.logaddexp(0, -margins).mean()), np.array([(slopes * logits).mean(), slopes.mean()])

    coldest, hottest = TEMPERATURE_RANGE
    limits = [(1 / hottest, 1 / coldest), BIAS_RANGE if with_bias else (0.0, 0.0)]
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000}
    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=limits, options=options)
    inverse, bias = (float(value) for value in found.x)
    inside = limits[0][0] < inverse < limits[0][1] and (not with_bias or BIAS_RANGE[0] < bias < BIAS_RANGE[1])
    highest_wild = logits[signs < 0].max()
    border = highest_wild if with_bias else 0.0
    separable = logits[signs > 0].min() > border >= highest_wild  # then an ever lower temperature fits ever better
    return Calibration(1 / inverse, bias, len(status), bool(inside and not separable))

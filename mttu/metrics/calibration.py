"""Post-hoc calibration of the IDH probability, fitted on validation: temperature, and temperature with bias.

C. Guo et al., On calibration of modern neural networks, ICML 2017 (the paper's [42]). With two classes, softmax of
(z_wild, z_mutant) / T is sigmoid of their difference / T, so all that is needed is the mutant probability p: its logit
is that difference. For p that was averaged over windows, flips or passes the logit of the average takes its place. The
bias shifts the decision as well, for a cohort with another share of mutants. Neither changes the order of cases, so the
AUC stays as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.errors import InputError

TEMPERATURE_RANGE = (0.05, 20.0)
BIAS_RANGE = (-10.0, 10.0)
LEAST_PROBABILITY = 1e-7
"""Probabilities are clipped to this distance from 0 and 1 before their logit is taken."""


@dataclass(frozen=True)
class Calibration:
    """Calibrated probability = sigmoid(logit(p) / temperature + bias)."""

    temperature: float
    """Above 1 for a network that is too sure of itself."""
    bias: float
    """Positive moves towards mutant; 0 for plain temperature scaling."""
    num_cases: int
    """Validation cases that it was fitted on."""
    determined: bool
    """False if the validation cases do not determine the values: the network separates the two classes, so that no
    temperature is low enough, or it is no better than chance, so that none is high enough."""

    def apply(self, mutant_probabilities: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrated probabilities of mutant, in the same order."""
        return np.asarray(expit(_logit(mutant_probabilities) / self.temperature + self.bias))


def _logit(mutant_probabilities: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(np.asarray(mutant_probabilities, np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.asarray(logit(clipped))


def fit_calibration(mutant_probabilities: Sequence[float], idh: Sequence[int], with_bias: bool = False) -> Calibration:
    """Fits by the mean negative log-likelihood, which is convex in 1 / temperature and bias; deterministic.

    Args:
        mutant_probabilities: Of the validation cases, never of those that are to be scored.
        idh: 1 mutant, 0 wild type, -1 unknown: left out.
        with_bias: Whether to fit the bias too.

    Raises:
        InputError: The cases lack a class, or a probability is not a number in [0, 1].
        ValueError: Lengths differ.
    """
    probability, status = np.asarray(mutant_probabilities, np.float64), np.asarray(idh, np.int64)
    if probability.shape != status.shape or probability.ndim != 1:
        raise ValueError(f"probabilities have shape {probability.shape}, idh {status.shape}; one each per case")
    probability, status = probability[status != IDH_UNKNOWN], status[status != IDH_UNKNOWN]
    num_mutant, num_wild = int((status == IDH_MUTANT).sum()), int((status == IDH_WILD).sum())
    problems = []
    if not (num_mutant and num_wild):
        problems.append(
            f"calibration: the validation cases are {num_mutant} mutant and {num_wild} wild type; both are needed"
        )
    if not ((probability >= 0) & (probability <= 1)).all():
        problems.append("calibration: a mutant probability is not a number in [0, 1]")
    if problems:
        raise InputError(problems)
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
    determined = limits[0][0] < inverse < limits[0][1] and (not with_bias or BIAS_RANGE[0] < bias < BIAS_RANGE[1])
    return Calibration(1 / inverse, bias, len(status), determined and not _is_separable(logits, signs, with_bias))


def _is_separable(logits: NDArray[np.float64], signs: NDArray[np.float64], with_bias: bool) -> bool:
    """Whether all cases are on the right side, so that an ever lower temperature fits ever better."""
    border = logits[signs < 0].max() if with_bias else 0.0
    return bool(logits[signs > 0].min() > border >= logits[signs < 0].max())

"""Calibration of the IDH probability: expected calibration error, reliability, and correction after training.

Error and reliability are top-label, as in the paper's eq. (16) to (18) and in C. Guo et al., On calibration of modern
neural networks, ICML 2017 (the paper's [42]): the confidence of a case is the probability of the called class,
max(p, 1 - p), and its accuracy is whether that call is right. Other tools (e.g. torchmetrics for binary tasks) compare
the mutant probability with the share of mutants, which differs as soon as a call is wrong. The error is biased upwards
in small samples: 30 cases of a perfectly calibrated network have about 0.12 in ten bins. So it comes with n, an
interval, and the error that a perfectly calibrated network with the same confidences would have.

The correction is a temperature, or a temperature with a bias (Guo et al.). With two classes, softmax of
(z_wild, z_mutant) / T is sigmoid of their difference / T, and that difference is the logit of the mutant probability p.
If p was averaged over windows, flips or passes, the logit of the average is used. The bias also shifts the decision,
for a cohort with another share of mutants. Neither changes the order of cases, so the AUC stays the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from mttu.data.labels import IDH_MUTANT
from mttu.errors import InputError
from mttu.metrics.classification import DEFAULT_THRESHOLD, select_known
from mttu.metrics.intervals import Interval, bootstrap_over_patients, wilson_interval

Binning = Literal["equal-width", "adaptive"]
NUM_BINS = 10
"""L of eq. (16): not stated in the paper; chosen because it is the usual number for small cohorts."""
CASES_PER_BIN = 5
"""Minimum number of cases in an adaptive bin; with fewer, the error is mostly bias."""


@dataclass(frozen=True)
class CalibrationError:
    """Expected calibration error with what is needed to judge it."""

    ece: float | None
    """In [0, 1]. None without cases."""
    interval: Interval
    """Bootstrap over patients. Resampling adds to the upward bias, so it may lie above the estimate."""
    expected_when_calibrated: float | None
    """Mean error of a perfectly calibrated network with these confidences and this n."""
    num_cases: int
    num_bins: int
    binning: Binning


@dataclass(frozen=True)
class ReliabilityBin:
    """One bar of a reliability diagram; low < confidence <= high."""

    low: float
    high: float
    num_cases: int
    mean_confidence: float | None
    """None without cases."""
    accuracy: Interval
    """Share of right calls with its Wilson interval; no value without cases."""


def call_top_label(mutant_probabilities: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Confidence of the called class, and whether that is mutant: at a probability of 0.5 or more."""
    return np.maximum(mutant_probabilities, 1 - mutant_probabilities), mutant_probabilities >= DEFAULT_THRESHOLD


def _read_calls(
    mutant_probabilities: Sequence[float], idh: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Confidence of each case of known status, and whether its call is right."""
    probability, status = select_known(mutant_probabilities, idh)
    confidence, called_mutant = call_top_label(probability)
    return confidence, called_mutant == (status == IDH_MUTANT)


def measure_calibration_error(
    mutant_probabilities: Sequence[float],
    idh: Sequence[int],
    patients: Sequence[str],
    num_bins: int | None = None,
    binning: Binning = "equal-width",
    num_resamples: int = 2000,
) -> CalibrationError:
    """Top-label expected calibration error, eq. (16).

    Args:
        mutant_probabilities: Probability of mutant, one per case.
        idh: 1 mutant, 0 wild type, -1 unknown: left out.
        patients: Patient of each case; the bootstrap draws patients.
        num_bins: Bins over confidences from 0 to 1; those of two classes lie in the upper half. None: `NUM_BINS`, but
            with at least `CASES_PER_BIN` cases in each adaptive one.
        binning: equal-width, as in the paper, or adaptive: bins of about equal numbers of cases. Equal confidences
            share a bin.
        num_resamples: Resamples of the bootstrap, and draws for `expected_when_calibrated`.

    Raises:
        ValueError: See `mttu.metrics.classification.score_classification`; or no bins.
    """
    confidence, right = _read_calls(mutant_probabilities, idh)
    num_bins = _choose_num_bins(num_bins, binning, len(confidence))
    known = [patient for patient, own in zip(patients, idh, strict=True) if own >= 0]

    def statistics(rows: NDArray[np.int64]) -> Mapping[str, float | None]:
        if not len(rows):
            return {"ece": None}
        return {"ece": float(_measure(confidence[rows], right[rows][None], num_bins, binning)[0])}

    interval = bootstrap_over_patients(statistics, known, num_resamples)["ece"]
    expected = None
    if len(confidence):
        drawn = np.random.default_rng(0).random((num_resamples, len(confidence))) < confidence
        expected = float(_measure(confidence, drawn, num_bins, binning).mean())
    return CalibrationError(interval.estimate, interval, expected, len(confidence), num_bins, binning)


def _measure(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], num_bins: int, binning: Binning
) -> NDArray[np.float64]:
    """ECE of each row of outcomes, (R, n) -> (R,)."""
    bins = _assign(confidence, _edges(confidence, num_bins, binning))
    members = (np.arange(bins.max() + 1)[:, None] == bins).astype(np.float64)  # (bins, n)
    gaps = (right - confidence) @ members.T
    return np.asarray(np.abs(gaps).sum(axis=1) / len(confidence))


def _choose_num_bins(num_bins: int | None, binning: Binning, num_cases: int) -> int:
    if num_bins is None:
        return NUM_BINS if binning == "equal-width" else max(1, min(NUM_BINS, num_cases // CASES_PER_BIN))
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}; at least 1 is needed")
    return num_bins


def _edges(confidence: NDArray[np.float64], num_bins: int, binning: Binning) -> NDArray[np.float64]:
    if binning == "equal-width" or not len(confidence):
        return np.arange(num_bins + 1) / num_bins
    inner = np.quantile(confidence, np.arange(1, num_bins) / num_bins, method="inverted_cdf")
    return np.unique(np.concatenate([[0.0], inner[inner < confidence.max()], [1.0]]))


def _assign(confidence: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bin of each case; a bin includes its upper edge, not its lower one."""
    return np.asarray(np.digitize(confidence, edges[1:-1], right=True))


def tabulate_reliability(
    mutant_probabilities: Sequence[float],
    idh: Sequence[int],
    num_bins: int | None = None,
    binning: Binning = "equal-width",
) -> list[ReliabilityBin]:
    """The bins of the calibration error, see `measure_calibration_error`; those of equal width even without cases."""
    confidence, right = _read_calls(mutant_probabilities, idh)
    num_bins = _choose_num_bins(num_bins, binning, len(confidence))
    edges = _edges(confidence, num_bins, binning)
    bins = _assign(confidence, edges)
    table = []
    for index, (low, high) in enumerate(pairwise(edges.tolist())):
        inside = bins == index
        count = int(inside.sum())
        mean = float(confidence[inside].mean()) if count else None
        table.append(ReliabilityBin(low, high, count, mean, wilson_interval(int(right[inside].sum()), count)))
    return table


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
    temperature is low enough, unless smoothed targets ask for a lowest one; if it is no better than chance, none is
    high enough."""

    def apply(self, mutant_probabilities: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrated probabilities of mutant, in the same order."""
        return np.asarray(expit(to_logits(mutant_probabilities) / self.temperature + self.bias))


def to_logits(mutant_probabilities: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Log odds of mutant, finite, see `LEAST_PROBABILITY`."""
    clipped = np.clip(np.asarray(mutant_probabilities, np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.asarray(logit(clipped))


def fit_calibration(
    mutant_probabilities: Sequence[float], idh: Sequence[int], with_bias: bool = False, smooth: bool = False
) -> Calibration:
    """Fits by the mean negative log-likelihood, which is convex in 1 / temperature and bias; deterministic.

    Args:
        mutant_probabilities: Of the validation cases, never of those that are scored afterwards.
        idh: 1 mutant, 0 wild type, -1 unknown: left out.
        with_bias: Whether to fit the bias too.
        smooth: Fit to (N + 1) / (N + 2) and 1 / (N + 2) in place of 1 and 0, N the cases of the class (J. Platt,
            Probabilistic outputs for support vector machines, 1999). Then separated classes have a temperature, too.

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
    logits, signs = to_logits(probability), np.where(status == IDH_MUTANT, 1.0, -1.0)
    doubt = 1 / (np.where(status == IDH_MUTANT, num_mutant, num_wild) + 2) if smooth else 0.0

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Mean negative log-likelihood and its gradient, by inverse temperature and bias."""
        margins = signs * (values[0] * logits + values[1])
        losses = np.logaddexp(0, -margins) + doubt * margins  # doubt is the target's distance from 1 or 0
        slopes = signs * (doubt - expit(-margins))
        return float(losses.mean()), np.array([(slopes * logits).mean(), slopes.mean()])

    coldest, hottest = TEMPERATURE_RANGE
    limits = [(1 / hottest, 1 / coldest), BIAS_RANGE if with_bias else (0.0, 0.0)]
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000}
    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=limits, options=options)
    inverse, bias = (float(value) for value in found.x)
    bias_inside = not with_bias or BIAS_RANGE[0] < bias < BIAS_RANGE[1]
    inside = limits[0][0] < inverse < limits[0][1] and bias_inside
    highest_wild = logits[signs < 0].max()
    border = highest_wild if with_bias else 0.0
    separable = logits[signs > 0].min() > border >= highest_wild  # then an ever lower temperature fits ever better
    coldest_fits = smooth and separable and inverse == limits[0][1] and bias_inside  # as far as it goes
    return Calibration(1 / inverse, bias, len(status), bool(coldest_fits or (inside and (smooth or not separable))))

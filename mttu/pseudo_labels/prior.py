"""Calibrated probabilities of a pool, its share of mutants, and the probabilities moved to that share. Pure: no files.

The loss weights classes inversely (`mttu.losses.idh_class_weights`), so the prior in the network's output is that of
the weighted labels: one half after round 0, whatever the labelled cases are. A temperature and a bias, fitted on cases
that the network did not learn from, replace it by those cases' own share: at the optimum the mean calibrated
probability is the mean of the targets. So nothing has to be known of weights and earlier pseudo-labels. The bias is
needed: with a temperature alone the share of a pool is estimated poorly (A. Alexandari, A. Kundaje and A. Shrikumar,
Maximum likelihood with bias-corrected calibration is hard-to-beat at label shift adaptation, ICML 2020,
doi:10.48550/arXiv.1901.06852).

Moving assumes label shift: within a class, the pool's cases look like the labelled ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from mttu.config.scoring import Prior
from mttu.data.labels import CLASS_NAMES, IDH_MUTANT
from mttu.errors import InputError, raise_if_any
from mttu.metrics.calibration import BIAS_RANGE, TEMPERATURE_RANGE, Calibration, fit_calibration, to_logits
from mttu.metrics.intervals import LEVEL, Interval

LEAST_OF_A_CLASS = 5
"""Calibration cases of each class. Even where they are well apart, the odds of fewer are uncertain by a factor above
exp(1.96 sqrt(1/5 + 1/5)) = 3.5."""
NUM_RESAMPLES = 500

Floats = NDArray[np.float64]
Draw = tuple[float, float, float, float]
"""Temperature, bias, share of the calibrated probabilities and share that they are moved to."""


@dataclass(frozen=True)
class Correction:
    """How a pool's Monte Carlo probabilities of mutant are calibrated and moved."""

    calibration: Calibration
    num_mutant: int
    """Of the calibration cases."""
    source_share: float
    """Share of mutants that calibrated probabilities imply: their mean over the calibration cases."""
    pool_share: Interval
    """Estimated share of mutants in the pool; bootstrap over the cases of the pool and, within each class, over the
    calibration cases."""
    moved_to: float | None
    """Share of mutants that the probabilities are moved to; None: they are only calibrated."""
    draws: tuple[Draw, ...] = field(repr=False)
    """One per resample."""

    def calibrate(self, mutant_probability: float) -> float:
        """Calibrated probability of mutant."""
        return float(self.calibration.apply([mutant_probability])[0])

    def move(self, mutant_probability: float) -> float:
        """Calibrated probability of mutant, moved to the share of mutants in the pool."""
        target = self.source_share if self.moved_to is None else self.moved_to
        return float(move_share(self.calibrate(mutant_probability), self.source_share, target))


@dataclass(frozen=True)
class Estimates:
    """What a selection from calibrated probabilities was made with, and how many of its labels should be right."""

    temperature: float
    bias: float
    num_cases: int
    """Calibration cases."""
    num_mutant: int
    calibration_share: float
    """Share of mutants that the calibrated probabilities imply."""
    pool_share: Interval
    """Estimated share of mutants in the pool."""
    moved_to: float | None
    """See `Correction`."""
    precision: Mapping[str, Interval]
    """Estimated share of right labels, see `estimate_precision`."""

    def to_metrics(self) -> dict[str, float]:
        """As metrics of a round: `selected/pool_share`, `selected/estimated_precision_mutant` and so on."""
        intervals = {"pool_share": self.pool_share}
        intervals |= {f"estimated_precision_{name.split()[0]}": found for name, found in self.precision.items()}
        values = {"temperature": self.temperature, "bias": self.bias}
        values |= {} if self.moved_to is None else {"moved_to": self.moved_to}
        for name, found in intervals.items():
            values |= {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}  # type: ignore[dict-item]
        return {f"selected/{name}": value for name, value in values.items()}


def parse_estimates(content: Mapping[str, Any]) -> Estimates:
    """Reads what `dataclasses.asdict` gave of `Estimates`."""
    precision = {name: Interval(**found) for name, found in content["precision"].items()}
    return Estimates(**{**content, "pool_share": Interval(**content["pool_share"]), "precision": precision})


def move_share(probability: float | Floats, source: float | Floats, target: float | Floats) -> Floats:
    """Probabilities of mutant under another share of mutants, by Bayes' rule; shares are above 0 and below 1."""
    mutant = np.asarray(probability * target / source)
    return np.asarray(mutant / (mutant + (1 - probability) * (1 - target) / (1 - source)))


def estimate_share(calibrated: Floats, source: float | Floats) -> Floats:
    """Share of mutants of largest likelihood, which EM converges to.

    M. Saerens, P. Latinne and C. Decaestecker, Adjusting the outputs of a classifier to new a priori probabilities,
    Neural Computation 14 (2002) 21-41, doi:10.1162/089976602753284446. The log-likelihood is concave in the share, so
    its maximum is found by bisection of the slope, to the last bits; EM takes thousands of steps where classes overlap.
    At least half a case of each class is left, so that no probability is moved to 0 or 1.

    Args:
        calibrated: (..., n) probabilities of mutant of a pool's cases.
        source: (...) share of mutants that they imply.
    """
    given = np.asarray(source)[..., None]
    of_mutant, of_wild = calibrated / given, (1 - calibrated) / (1 - given)
    low = np.full(calibrated.shape[:-1], 0.5 / calibrated.shape[-1])
    high = 1 - low
    for _ in range(60):
        middle = (low + high) / 2
        slopes = (of_mutant - of_wild) / (of_wild + middle[..., None] * (of_mutant - of_wild))
        rises = slopes.mean(axis=-1) > 0
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    return np.asarray((low + high) / 2)


def correct(
    pool: Sequence[float],
    mutant_probabilities: Sequence[float],
    idh: Sequence[int],
    prior: Prior,
    num_resamples: int = NUM_RESAMPLES,
) -> Correction:
    """Fits temperature and bias, estimates the pool's share of mutants, and says how sure both are; deterministic.

    Args:
        pool: Probabilities of mutant of the pool's cases, at least one.
        mutant_probabilities: Of the calibration cases, which the network did not learn from.
        idh: Their classes, 1 mutant, 0 wild type.
        prior: Share of mutants to move to; `estimate`: as estimated here; `detect`: the same, where it `differs` from
            that of the calibration cases; `none`: not moved.
        num_resamples: Of the bootstrap.

    Raises:
        InputError: Too few calibration cases of a class, or the network tells the classes no better than chance.
    """
    status = np.asarray(idh)
    counts = {name: int((status == label).sum()) for label, name in CLASS_NAMES.items()}
    raise_if_any([f"calibration: {problem}" for problem in find_too_few(counts)])
    found = fit_calibration(mutant_probabilities, idh, with_bias=True, smooth=True)
    if not found.determined:
        raise InputError(
            f"calibration: the network tells the {len(idh)} calibration cases ({counts['mutant']} mutant) no better "
            "than chance, which determines no temperature"
        )
    source = float(found.apply(mutant_probabilities).mean())
    share = float(estimate_share(found.apply(pool), source))

    generator = np.random.default_rng(0)
    logits, of_class = to_logits(mutant_probabilities), [np.flatnonzero(status == label) for label in CLASS_NAMES]
    drawn = np.concatenate([rows[generator.integers(0, len(rows), (num_resamples, len(rows)))] for rows in of_class], 1)
    again = generator.integers(0, len(pool), (num_resamples, len(pool)))
    inverse, bias = _fit_many(logits[drawn], status[drawn] == IDH_MUTANT)
    sources = expit(logits[drawn] * inverse[:, None] + bias[:, None]).mean(axis=1)
    shares = estimate_share(expit(to_logits(pool)[again] * inverse[:, None] + bias[:, None]), sources)

    interval = to_interval(share, shares)
    moves = prior == "estimate" or (prior == "detect" and differs(source, interval))
    moved_to, targets = (share, shares) if moves else (None, sources)
    if isinstance(prior, float):
        moved_to, targets = prior, np.full(num_resamples, prior)
    draws = np.stack([1 / inverse, bias, sources, targets], axis=1).tolist()
    return Correction(
        found,
        counts["mutant"],
        source,
        interval,
        moved_to,
        tuple((one[0], one[1], one[2], one[3]) for one in draws),
    )


def differs(calibration_share: float, pool_share: Interval) -> bool:
    """Whether the estimated share of mutants in the pool leaves out that of the calibration cases."""
    low, high = pool_share.low, pool_share.high
    return low is not None and high is not None and not low <= calibration_share <= high


def find_too_few(counts: Mapping[str, int]) -> list[str]:
    """Says why so many calibration cases of each class, by name, are too few; nothing if they are enough."""
    if min(counts.values()) >= LEAST_OF_A_CLASS:
        return []
    told = " and ".join(f"{number} {name}" for name, number in counts.items())
    return [f"the calibration (val) cases are {told}; at least {LEAST_OF_A_CLASS} of each class are needed"]


def _fit_many(logits: Floats, mutant: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Inverse temperature and bias of each row, as `fit_calibration` with bias and smooth fits them.

    Newton's method on all rows at once, with sums that no threads share; (R, n) each -> (R,) each.
    """
    scale = max(float(logits.std()), 1e-12)
    scaled = logits / scale
    number = np.where(mutant, mutant.sum(axis=1, keepdims=True), (~mutant).sum(axis=1, keepdims=True))
    targets = np.where(mutant, 1 - 1 / (number + 2), 1 / (number + 2))
    lowest, highest = scale / TEMPERATURE_RANGE[1], scale / TEMPERATURE_RANGE[0]
    slope, bias = np.zeros(len(logits)), np.zeros(len(logits))
    for _ in range(50):
        called = expit(slope[:, None] * scaled + bias[:, None])
        weights = called * (1 - called) + 1e-12
        errors = called - targets
        one, two = (errors * scaled).sum(axis=1), errors.sum(axis=1)
        across, mixed, alone = (weights * scaled**2).sum(axis=1), (weights * scaled).sum(axis=1), weights.sum(axis=1)
        stuck = ((slope <= lowest) & (one > 0)) | ((slope >= highest) & (one < 0))  # then the bias alone moves
        determinant = np.maximum(across * alone - mixed**2, 1e-12)
        step = np.where(stuck, 0.0, (alone * one - mixed * two) / determinant)
        shift = np.where(stuck, two / alone, (across * two - mixed * one) / determinant)
        slope = np.clip(slope - np.clip(step, -1, 1), lowest, highest)  # a longer step may miss
        bias = np.clip(bias - np.clip(shift, -1, 1), *BIAS_RANGE)
        if max(np.abs(step).max(), np.abs(shift).max()) < 1e-9:
            break
    return slope / scale, bias


def to_interval(estimate: float, values: Floats) -> Interval:
    """The estimate with the percentile interval of its resamples."""
    low, high = np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist()
    return Interval(estimate, low, high, len(values))


def estimate_precision(
    mutant_probabilities: Sequence[float], labels: Sequence[int], correction: Correction
) -> dict[str, Interval]:
    """Estimated share of right pseudo-labels: of each class that has any, by name, and of `all`.

    The estimate is the mean moved probability of the labels. The interval is for the share among these very cases: in
    each resample the calibration and the pool's share are drawn, then whether each label is right.

    Args:
        mutant_probabilities: Monte Carlo means, neither calibrated nor moved.
        labels: Their pseudo-labels, 1 mutant, 0 wild type.
        correction: Of the pool.
    """
    called = np.asarray(labels) == IDH_MUTANT
    best = np.array([correction.move(value) for value in mutant_probabilities])
    temperature, bias, source, target = (np.array(column)[:, None] for column in zip(*correction.draws, strict=True))
    calibrated = expit(to_logits(mutant_probabilities) / temperature + bias)
    moved = move_share(calibrated, source, target)
    right = np.random.default_rng(1).random(moved.shape) < np.where(called, moved, 1 - moved)
    groups = {name: called == (label == IDH_MUTANT) for label, name in CLASS_NAMES.items()}
    groups["all"] = np.ones(len(called), bool)
    return {
        name: to_interval(float(np.where(called, best, 1 - best)[rows].mean()), right[:, rows].mean(axis=1))
        for name, rows in groups.items()
        if rows.any()
    }


def describe_correction(correction: Correction) -> list[str]:
    """What was fitted and estimated, as sentences for the user."""
    found, share = correction.calibration, correction.pool_share
    return [
        f"calibrated on {found.num_cases} cases ({correction.num_mutant} mutant): temperature {found.temperature:.3g}, "
        f"bias {found.bias:+.3g}",
        f"estimated share of mutants in the pool: {say_interval(share)}; {correction.source_share:.3f} among the "
        "calibration cases"
        + ("; probabilities are not moved" if correction.moved_to is None else f"; moved to {correction.moved_to:.3g}"),
    ]


def say_interval(found: Interval) -> str:
    """E.g. `0.050 [0.010, 0.110]`."""
    if found.estimate is None:
        return "-"
    return f"{found.estimate:.3f}" + ("" if found.low is None else f" [{found.low:.3f}, {found.high:.3f}]")

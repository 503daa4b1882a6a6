"""Whether a scan looks like those that a network was trained on: statistics of its training cases, kept beside it.

Each statistic of `mttu.inference.image_statistics` has the median and the spread of the training cases in
`distribution.json`: the spread is the larger distance of their 5th and 95th percentile from the median, divided by
1.645, the standard deviation if they were normal. (The median absolute deviation is too narrow for statistics that a
tumour decides, such as the highest values of T1ce.) A scan's distance is the largest of its robust z-scores, and beyond
`LIMIT` the scan is flagged with that figure. This tells scans of another kind apart: cut off, blurred, noisy, mixed up,
with skull. It does not tell whether a prediction is right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mttu.inference.image_statistics import find_least_spread, measure_image
from mttu.inference.kept import read_kept, write_kept
from mttu.networks.checkpoint import find_checkpoint

FORMAT_VERSION = 1
DISTRIBUTION = "distribution.json"
LIMIT = 5.0
"""Robust z beyond which a scan is flagged. The largest of some forty statistics counts, so it is above 3 for many a
scan of the same kind; of 82 phantoms beside the 38 that taught, the largest had 4.3."""
FEWEST_CASES = 10
"""Training cases that are needed: the spread of fewer is a guess, and their statistics are next to a patient's own."""

_TAIL = 1.6449
"""The 95th percentile of a normal distribution, in standard deviations."""
_MEND = "restore it from a copy, or remove it: then nobody knows whether a scan is like those of the training"


@dataclass(frozen=True)
class Usual:
    """A statistic over the training cases."""

    median: float
    spread: float
    """See the module docstring; at least `find_least_spread`."""


@dataclass(frozen=True)
class Distance:
    """How far a scan is from the training cases."""

    largest_z: float
    statistic: str
    """Which one is so far."""
    value: float
    median: float
    """Of the training cases."""

    @property
    def is_inside(self) -> bool:
        """Whether the scan is not flagged."""
        return self.largest_z <= LIMIT

    def describe(self) -> str:
        """One sentence without a full stop."""
        figure = f"{self.statistic} is {self.value:.4g}, {self.median:.4g} in the median training case"
        start = "in distribution" if self.is_inside else "OUT OF DISTRIBUTION"
        return f"{start} (farthest: {figure}; robust z {self.largest_z:.1f}, flagged above {LIMIT:g})"


@dataclass(frozen=True)
class KeptDistribution:
    """Statistics of the training cases; empty where there are too few, or where none were kept."""

    num_cases: int = 0
    usual: Mapping[str, Usual] = field(default_factory=dict)
    reason: str = ""
    """Why there are none; empty if there are."""

    def judge(self, image: NDArray[Any], modalities: Sequence[str], spacing_mm: Sequence[float]) -> Distance | None:
        """How far a prepared image (C, H, W, D) is from the training cases; None where that is not known."""
        if not self.usual:
            return None
        found = measure_image(image, modalities, spacing_mm)
        if found.keys() != self.usual.keys():
            return None
        return find_distance(found, self.usual)

    def describe(self) -> str:
        """One sentence for a person."""
        if not self.usual:
            return f"in distribution or not: not known ({self.reason})"
        return f"scans are compared with {self.num_cases} training cases by {len(self.usual)} statistics"


def find_distance(found: Mapping[str, float], usual: Mapping[str, Usual]) -> Distance:
    """The largest robust z of a scan's statistics, the first of equals."""
    scores = {name: abs(found[name] - one.median) / one.spread for name, one in usual.items()}
    worst = max(scores, key=scores.__getitem__)
    return Distance(scores[worst], worst, found[worst], usual[worst].median)


def summarise_cases(rows: Sequence[Mapping[str, float]]) -> KeptDistribution:
    """Median and spread of the statistics of training cases."""
    if len(rows) < FEWEST_CASES:
        reason = f"{len(rows)} training cases are too few to compare with; at least {FEWEST_CASES} are needed"
        return KeptDistribution(len(rows), reason=reason)
    usual = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows], np.float64)
        median = float(np.median(values))
        low, high = (float(value) for value in np.quantile(values, (0.05, 0.95)))
        spread = max(median - low, high - median) / _TAIL
        usual[name] = Usual(median, max(spread, find_least_spread(name, median)))
    return KeptDistribution(len(rows), usual)


def pool_distributions(kept: Sequence[KeptDistribution]) -> KeptDistribution:
    """What the members of an ensemble know together: mean of the medians; the widest spread, from there.

    `num_cases` is that of the largest member, as folds share most of their cases. Where a member knows nothing, or
    members have other statistics, nothing is known.
    """
    unknown = [one.reason for one in kept if not one.usual]
    if unknown or not kept:
        return KeptDistribution(reason=f"of a member of the ensemble: {unknown[0]}" if unknown else "no member")
    if any(one.usual.keys() != kept[0].usual.keys() for one in kept):
        return KeptDistribution(reason="members of the ensemble have other statistics")
    usual = {}
    for name in kept[0].usual:
        own = [one.usual[name] for one in kept]
        median = float(np.mean([one.median for one in own]))
        usual[name] = Usual(median, max(one.spread + abs(one.median - median) for one in own))
    return KeptDistribution(max(one.num_cases for one in kept), usual)


def pool_into(ensemble: Path, checkpoints: Sequence[Path]) -> None:
    """Writes what the checkpoints keep, pooled, into an ensemble of them, whose own rename makes it complete.

    Nothing is written where none of them keeps anything, as of earlier versions.

    Raises:
        InputError: See `read_distribution`.
    """
    if any((find_checkpoint(place) / DISTRIBUTION).exists() for place in checkpoints):
        write_distribution(ensemble, pool_distributions([read_distribution(place) for place in checkpoints]))


def write_distribution(folder: Path, kept: KeptDistribution) -> None:
    """Writes `distribution.json` into a checkpoint or ensemble folder, bound to the weights that it already holds."""
    content = {
        "num_cases": kept.num_cases,
        "reason": kept.reason,
        "statistics": {name: {"median": one.median, "spread": one.spread} for name, one in kept.usual.items()},
    }
    write_kept(folder, DISTRIBUTION, FORMAT_VERSION, content)


def read_distribution(checkpoint: Path) -> KeptDistribution:
    """Reads what a checkpoint or ensemble folder, or a run folder with either inside, keeps of its training cases.

    One that has none, e.g. of an earlier version, gives one that says so.

    Raises:
        InputError: `distribution.json` is damaged, of another format, or of other weights.
    """
    kept = read_kept(checkpoint, DISTRIBUTION, FORMAT_VERSION, _parse, "is of", _MEND)
    return kept or KeptDistribution(reason="no statistics of training cases are kept with this checkpoint")


def _parse(content: Mapping[str, Any]) -> KeptDistribution:
    usual = {
        str(name): Usual(float(one["median"]), float(one["spread"])) for name, one in content["statistics"].items()
    }
    if not all(isfinite(one.median) and isfinite(one.spread) and one.spread > 0 for one in usual.values()):
        raise ValueError("not finite")
    return KeptDistribution(int(content["num_cases"]), usual, str(content["reason"]))

"""Pointwise bands of ROC curves, by the bootstrap over patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from mttu.data.labels import IDH_MUTANT
from mttu.metrics.intervals import bootstrap_over_patients

GRID = np.linspace(0.0, 1.0, 101)
"""False-positive rates at which a band is measured."""


@dataclass(frozen=True)
class RocBand:
    """95 % intervals of the sensitivity; empty where they are not defined."""

    false_positive_rates: Sequence[float] = ()
    low: Sequence[float] = ()
    """Sensitivity, same length."""
    high: Sequence[float] = ()


def bootstrap_roc(
    scores: Sequence[float], idh: Sequence[int], patients: Sequence[str], num_resamples: int = 500
) -> RocBand:
    """The sensitivity's interval at each false-positive rate of `GRID`, each for itself.

    Args:
        scores: Larger for mutant; one per case.
        idh: 1 mutant, 0 wild type.
        patients: Patient of each case.
        num_resamples: How often patients are drawn; draws of one class are left out.
    """
    values, status = np.asarray(scores, np.float64), np.asarray(idh)

    def measure(rows: NDArray[np.int64]) -> Mapping[str, float | None]:
        if len(set(status[rows].tolist())) < 2:
            return dict.fromkeys(names)
        false_positives, true_positives, _ = roc_curve(status[rows], values[rows], pos_label=IDH_MUTANT)
        return dict(zip(names, np.interp(GRID, false_positives, true_positives).tolist(), strict=True))

    names = [str(place) for place in range(len(GRID))]
    found = list(bootstrap_over_patients(measure, patients, num_resamples).values())
    ends = [(one.low, one.high) for one in found]
    if not all(low is not None for low, _ in ends):
        return RocBand()
    low, high = ([float(end) for end in side if end is not None] for side in zip(*ends, strict=True))
    return RocBand(GRID.tolist(), low, high)

"""Calibration error over bins of uncertainty (section IV-B, Fig. 3a), from scores whose truth is known."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mttu.data.labels import IDH_UNKNOWN
from mttu.data.score_table import ScoreRow, ScoreTable
from mttu.figures.estimates import Estimate
from mttu.figures.uncertainty import UncertaintyBin, UncertaintyCurve
from mttu.metrics.reliability import CalibrationError, measure_calibration_error
from mttu.pseudo_labels.selection import read_figures

MOST_BINS = 5
LEAST_CASES = 5
"""Cases per bin; with fewer the error says nothing."""
INTERVAL = "95% bootstrap interval over cases"
"""What the intervals are: a table of scores names no patients, so several cases of one count as independent."""
_LEAST_WIDTH = 1e-6  # equal uncertainties still make a bar
_RESAMPLES = 500


def measure_by_uncertainty(table: ScoreTable, truth: Mapping[str, int], title: str) -> UncertaintyCurve:
    """ECE (eq. 16) of the cases of known truth, in bins of about equal numbers of cases by rising uncertainty.

    Args:
        table: Monte Carlo scores; rows with an error and cases without truth are left out.
        truth: Case to true class.
        title: Of the curve.
    """
    known = [row for row in table.rows if read_figures(row) and truth.get(row.case_id, IDH_UNKNOWN) != IDH_UNKNOWN]
    ordered = sorted(known, key=lambda row: (row.uncertainty, row.case_id))
    count = max(1, min(MOST_BINS, len(ordered) // LEAST_CASES))
    parts = [[ordered[index] for index in part] for part in np.array_split(np.arange(len(ordered)), count) if len(part)]
    bins = []
    for part in parts:
        low, high = float(part[0].uncertainty or 0.0), float(part[-1].uncertainty or 0.0)
        found = _measure(part, truth)
        wide = max(high, low + _LEAST_WIDTH)
        bins.append(UncertaintyBin(low, wide, len(part), _to_estimate(found), found.expected_when_calibrated))
    return UncertaintyCurve(title, bins, _to_estimate(_measure(ordered, truth)))


def _measure(rows: Sequence[ScoreRow], truth: Mapping[str, int]) -> CalibrationError:
    probabilities: list[Any] = [row.mean_probability for row in rows]
    names = [row.case_id for row in rows]
    return measure_calibration_error(probabilities, [truth[name] for name in names], names, num_resamples=_RESAMPLES)


def _to_estimate(found: CalibrationError) -> Estimate:
    return Estimate(found.ece, found.interval.low, found.interval.high)

"""Calibration error of the IDH classifier over the uncertainty of its predictions (section IV-B, Fig. 3a)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mttu.figures import style
from mttu.figures.estimates import UNDEFINED, Estimate, describe, is_defined, to_error_bars, to_number, to_values
from mttu.figures.reliability import BIAS_NOTE

_EXPECTED: Mapping[str, Any] = {"marker": "_", "markersize": 10, "markeredgewidth": 1.8, "linestyle": "", "alpha": 0.7}
"""Look of the ECE that a perfectly calibrated predictor would have."""


@dataclass(frozen=True)
class UncertaintyBin:
    """Predictions whose uncertainty lies in one interval of finite width."""

    low: float
    high: float
    num_cases: int
    ece: Estimate
    ece_if_calibrated: float | None = None
    """Mean ECE of a perfectly calibrated predictor with as many cases; None where not known."""


@dataclass(frozen=True)
class UncertaintyCurve:
    """ECE over bins of uncertainty, on one set of cases."""

    title: str
    bins: Sequence[UncertaintyBin]
    ece: Estimate = UNDEFINED
    """ECE of all cases together."""


def draw_ece_by_uncertainty(
    curves: Sequence[UncertaintyCurve], interval: str = "95% bootstrap interval over patients"
) -> Figure:
    """Fig. 3a: calibration error over bins of prediction uncertainty, with the number of cases in each bin.

    Args:
        curves: One per set of cases, e.g. validation and test; their bins may differ.
        interval: What the intervals of ECE are, for the small print.
    """
    if not any(curve.bins for curve in curves):
        return style.draw_nothing("no bins of uncertainty")
    figure = style.new_figure(style.PAGE_WIDTH_IN * 0.72, 4.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
    style.dress(upper, "Calibration error by uncertainty", "", "ECE (probability)")
    style.dress(lower, "", "uncertainty (standard deviation of probability)", "n per bin")
    for index, curve in enumerate(curves):
        shift = (index - (len(curves) - 1) / 2) / max(2, len(curves))
        _draw_curve(upper, curve, shift * 0.3, style.pick_series(index))
        _draw_bin_counts(lower, curve, shift, len(curves), style.pick_series(index))
    bins = [row for curve in curves for row in curve.bins]
    if any(is_defined(row.ece_if_calibrated) for row in bins):
        label = "expected of a perfectly calibrated predictor with this n"
        upper.plot([], [], color=style.DARK_GREY, label=label, **_EXPECTED)
    low, high = min(row.low for row in bins), max(row.high for row in bins)
    lower.set_xlim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    lower.set_ylim(0, max(row.num_cases for row in bins) * 1.35 or 1.0)
    upper.set_ylim(bottom=0.0)
    if any(row.num_cases and is_defined(row.ece.value) for row in bins):
        figure.legend(ncols=1, **style.LEGEND)
    else:
        style.say(upper, "no bin with a defined ECE")
    gaps = [f"{curve.title}: {listed}." for curve in curves if (listed := _list_gaps(curve))]
    style.add_note(figure, [f"Vertical bars: {interval}. Horizontal bars: width of the bin.", *gaps, BIAS_NOTE])
    return figure


def _draw_curve(axes: Axes, curve: UncertaintyCurve, shift: float, series: style.Series) -> None:
    num_cases = sum(row.num_cases for row in curve.bins)
    label = f"{curve.title}, n = {num_cases}: ECE of all {describe(curve.ece, 3)}"
    middles = [(row.low + row.high) / 2 + shift * (row.high - row.low) for row in curve.bins]
    estimates = [row.ece if row.num_cases > 0 else UNDEFINED for row in curve.bins]  # an empty bin breaks the line
    heights = to_values(estimates)
    axes.errorbar(
        middles, heights, to_error_bars(estimates), markersize=4.5, label=label, **series.line, **style.ERROR_BARS
    )
    for row, height in zip(curve.bins, heights, strict=True):
        axes.plot([row.low, row.high], [height, height], color=series.colour, linewidth=0.8, alpha=0.5)
    expected = [to_number(row.ece_if_calibrated if row.num_cases > 0 else None) for row in curve.bins]
    axes.plot(middles, expected, color=series.colour, **_EXPECTED)


def _draw_bin_counts(axes: Axes, curve: UncertaintyCurve, shift: float, num_curves: int, series: style.Series) -> None:
    for row in curve.bins:
        width = (row.high - row.low) / max(2, num_curves)
        middle = (row.low + row.high) / 2 + shift * (row.high - row.low)
        axes.bar(middle, row.num_cases, width * 0.9, color=series.colour, alpha=0.45)
        axes.text(middle, row.num_cases, str(row.num_cases), ha="center", va="bottom", fontsize=style.NOTE_SIZE)


def _list_gaps(curve: UncertaintyCurve) -> str:
    gaps = {"no cases": [row for row in curve.bins if row.num_cases == 0]}
    gaps["ECE not defined"] = [row for row in curve.bins if row.num_cases > 0 and not is_defined(row.ece.value)]
    ranges = {what: ", ".join(f"{row.low:g} to {row.high:g}" for row in rows) for what, rows in gaps.items() if rows}
    return "; ".join(f"{what} in {listed}" for what, listed in ranges.items())

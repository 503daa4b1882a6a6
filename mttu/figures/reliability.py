"""Calibration of the IDH probability, by confidence and by uncertainty (section IV-B, eq. 16-18, Fig. 3a).

Confidence is that of the predicted class (top label), so with two classes it is at least 0.5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mttu.figures import style
from mttu.figures.estimates import UNDEFINED, Estimate, describe, is_defined, to_error_bars, to_number, to_values

BIAS_NOTE = "ECE is biased upwards at small n: a perfectly calibrated predictor has about 0.12 at n = 30 with 10 bins."


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions whose confidence is in one interval."""

    low: float
    high: float
    num_cases: int
    mean_confidence: float | None
    """None in an empty bin."""
    accuracy: Estimate
    """Share of right predictions with its interval, e.g. Wilson's."""


@dataclass(frozen=True)
class Reliability:
    """Reliability of one predictor on one set of cases; `bins` of equal width or of equal counts."""

    title: str
    bins: Sequence[ReliabilityBin]
    ece: Estimate = UNDEFINED


def draw_reliability(diagrams: Sequence[Reliability]) -> Figure:
    """Accuracy over confidence with n per bin; one column per diagram, e.g. before and after calibration."""
    if not diagrams:
        return style.draw_nothing("no reliability table")
    columns = len(diagrams)
    figure = style.new_figure(min(style.PAGE_WIDTH_IN, 2.9 * columns + 0.4), 3.7)
    panels = figure.subplots(2, columns, squeeze=False, sharex="col", height_ratios=(3.2, 1))
    for column, diagram in enumerate(diagrams):
        _draw_accuracy(panels[0, column], diagram)
        _draw_counts(panels[1, column], diagram)
    intervals = "95% Wilson interval of accuracy, bootstrap interval of ECE"
    style.add_note(figure, [f"Confidence of the predicted class. {intervals}.", BIAS_NOTE])
    return figure


def _draw_accuracy(axes: Axes, diagram: Reliability) -> None:
    num_cases = sum(row.num_cases for row in diagram.bins)
    style.dress(axes, f"{diagram.title}, n = {num_cases}\nECE {describe(diagram.ece, 3)}", "", "accuracy (share right)")
    filled = [row for row in diagram.bins if row.num_cases > 0]
    start = 0.5 if all(row.high > 0.5 for row in filled) else 0.0
    axes.set_xlim(start, 1.0)
    axes.set_ylim(-0.03, 1.03)
    axes.plot([0, 1], [0, 1], label="perfectly calibrated", **style.GUIDE)
    if not filled:
        style.say(axes, "no predictions")
        return
    confidences = [to_number(row.mean_confidence) for row in filled]
    accuracies = [row.accuracy for row in filled]
    heights, bars = to_values(accuracies), to_error_bars(accuracies)
    line = style.pick_series(0).line
    axes.errorbar(confidences, heights, bars, markersize=4.5, label="observed", **line, **style.ERROR_BARS)
    axes.legend(frameon=False, fontsize=style.NOTE_SIZE, loc="lower right")


def _draw_counts(axes: Axes, diagram: Reliability) -> None:
    style.dress(axes, "", "confidence (probability)", "n")
    counts = [row.num_cases for row in diagram.bins]
    widths = [row.high - row.low for row in diagram.bins]
    middles = [(row.low + row.high) / 2 for row in diagram.bins]
    colour = style.pick_series(0).colour
    axes.bar(middles, counts, widths, color=colour, alpha=0.35, edgecolor=colour, linewidth=0.6)
    start = axes.get_xlim()[0]
    for middle, count in zip(middles, counts, strict=True):
        if middle > start:
            axes.text(middle, count, f" {count}", color=style.DARK_GREY, **style.ABOVE)
    axes.set_ylim(0, max(counts, default=0) * 1.4 or 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))


_EXPECTED: Mapping[str, Any] = {"marker": "_", "markersize": 10, "markeredgewidth": 1.8, "linestyle": "", "alpha": 0.7}
"""Look of the ECE that a perfectly calibrated predictor would have."""


@dataclass(frozen=True)
class UncertaintyBin:
    """Predictions whose uncertainty is in one interval of finite width."""

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
        interval: Kind of the intervals of ECE, for the small print.
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
    lower.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
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
        axes.text(middle, row.num_cases, str(row.num_cases), **style.ABOVE)


def _list_gaps(curve: UncertaintyCurve) -> str:
    gaps = {"no cases": [row for row in curve.bins if row.num_cases == 0]}
    gaps["ECE not defined"] = [row for row in curve.bins if row.num_cases > 0 and not is_defined(row.ece.value)]
    ranges = {what: ", ".join(f"{row.low:g} to {row.high:g}" for row in rows) for what, rows in gaps.items() if rows}
    return "; ".join(f"{what} in {listed}" for what, listed in ranges.items())

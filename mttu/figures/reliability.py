"""Reliability of the IDH classifier's probabilities (section IV-B, eq. 16-18).

Confidence is that of the predicted class (top label), so with two classes it is at least 0.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mttu.figures import style
from mttu.figures.estimates import UNDEFINED, Estimate, describe, to_error_bars, to_number, to_values

BIAS_NOTE = "ECE is biased upwards at small n: a perfectly calibrated predictor has about 0.12 at n = 30 with 10 bins."


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions whose confidence lies in one interval."""

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
    axes.errorbar(
        confidences, heights, bars, markersize=4.5, label="observed", **style.pick_series(0).line, **style.ERROR_BARS
    )
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
            axes.text(
                middle, count, f" {count}", ha="center", va="bottom", fontsize=style.NOTE_SIZE, color=style.DARK_GREY
            )
    axes.set_ylim(0, max(counts, default=0) * 1.4 or 1.0)

"""Self-training round by round (section VI, Fig. 6)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mttu.figures import style

_LEAST_SPAN = 0.1
_RIM = 0.02
"""Of the axis of a share: room for the mark of a 0 or a 1."""


@dataclass(frozen=True)
class RoundScore:
    """One metric of one method after one round of self-training."""

    method: str
    round: int
    """0 is the network before any pseudo-label."""
    metric: str
    """Label of the panel with its unit, e.g. "AUC", "accuracy (%)", "Dice WT"."""
    values: Sequence[float]
    """One per fold or seed; NaN where not defined."""


@dataclass(frozen=True)
class RoundSelection:
    """Pseudo-labels that one method trained with in one round."""

    method: str
    round: int
    num_mutant: int
    num_wild: int


def draw_rounds(
    scores: Sequence[RoundScore],
    selections: Sequence[RoundSelection] = (),
    chosen_rounds: Mapping[str, int] | None = None,
    remarks: Sequence[str] = (),
) -> Figure:
    """Fig. 6: metrics and counts of pseudo-labels per round of self-training, one line per method.

    Args:
        scores: Any order; one panel per metric, in order of first appearance.
        selections: One more panel per method that has any.
        chosen_rounds: Method to the round that validation chose, ringed.
        remarks: More sentences for the note, e.g. the convention for empty masks.
    """
    if not scores and not selections:
        return style.draw_nothing("no rounds")
    metrics = list(dict.fromkeys(row.metric for row in scores))
    methods = list(dict.fromkeys([*(row.method for row in scores), *(row.method for row in selections)]))
    counted = [method for method in methods if any(row.method == method for row in selections)]
    num_panels = len(metrics) + len(counted)
    columns = min(3, num_panels)
    rows = -(-num_panels // columns)
    figure = style.new_figure(style.PAGE_WIDTH_IN if columns > 1 else style.PAGE_WIDTH_IN / 2, 2.35 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    tallest = max((row.num_mutant + row.num_wild for row in selections), default=0)
    rounds = {row.round for row in scores} | {row.round for row in selections}
    notes = []
    for axes, metric in zip(panels, metrics, strict=False):
        style.dress(axes, "", "round", metric)
        notes += _draw_metric(axes, [row for row in scores if row.metric == metric], methods, chosen_rounds or {})
    for axes, method in zip(panels[len(metrics) :], counted, strict=False):
        style.dress(axes, f"Pseudo-labels, {method}", "round", "selected (cases)")
        axes.set_ylim(0, tallest * 1.15 or 1.0)
        _draw_selections(axes, [row for row in selections if row.method == method])
    for axes in panels[len(metrics) + len(counted) :]:
        axes.set_axis_off()
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(min(rounds) - 0.45, max(rounds) + 0.45)
    handles = list(panels[0].get_legend_handles_labels()[0]) if metrics else []
    figure.legend(handles=[*handles, *(style.make_class_patches() if counted else [])], ncols=5, **style.LEGEND)
    if any(np.isfinite(row.values).sum() > 1 for row in scores):
        notes.insert(0, "Mean and standard deviation over folds.")
    if chosen_rounds:
        notes.insert(0, "Ringed: the round chosen on validation.")
    style.add_note(figure, [*notes, *remarks])
    return figure


def _draw_metric(
    axes: Axes, rows: Sequence[RoundScore], methods: Sequence[str], chosen_rounds: Mapping[str, int]
) -> list[str]:
    notes = []
    drawn = [method for method in methods if any(row.method == method for row in rows)]
    for index, method in enumerate(methods):
        members = sorted((row for row in rows if row.method == method), key=lambda row: row.round)
        defined = [[value for value in row.values if np.isfinite(value)] for row in members]
        means = [float(np.mean(values)) if values else np.nan for values in defined]
        spreads = [float(np.std(values, ddof=1)) if len(values) > 1 else np.nan for values in defined]
        shift = 0.06 * (index - (len(methods) - 1) / 2) if len(drawn) > 1 else 0.0
        rounds = np.array([row.round for row in members], dtype=float)
        num_folds = max((len(row.values) for row in members), default=0)
        label = f"{method} ({num_folds} folds)" if num_folds > 1 else method
        line = style.pick_series(index).line
        axes.errorbar(rounds + shift, means, spreads, markersize=4, label=label, **line, **style.ERROR_BARS)
        missing = [str(row.round) for row, values in zip(members, defined, strict=True) if not values]
        if missing:
            notes.append(f"{method}: {rows[0].metric} is not defined in round {', '.join(missing)}.")
        for row, mean in zip(members, means, strict=True):
            if chosen_rounds.get(method) == row.round:
                ring: dict[str, Any] = {"markersize": 9, "markerfacecolor": "none", "zorder": 5}
                axes.plot(row.round + shift, mean, "o", color=style.BLACK, **ring)
    _limit_shares(axes, [value for row in rows for value in row.values if np.isfinite(value)])
    return notes


def _limit_shares(axes: Axes, values: Sequence[float]) -> None:
    """Shares get an axis that covers at least 0.1, so that noise looks like noise, and nothing outside of 0 to 1."""
    if not values or min(values) < 0.0 or max(values) > 1.0:
        return
    low, high = axes.get_ylim()
    widen = max(0.0, _LEAST_SPAN - (high - low)) / 2
    axes.set_ylim(max(low - widen, -_RIM), min(high + widen, 1.0 + _RIM))


def _draw_selections(axes: Axes, rows: Sequence[RoundSelection]) -> None:
    """Stacked bars, mutants below; both counts above."""
    for row in rows:
        axes.bar(row.round, row.num_mutant, 0.6, color=style.MUTANT_COLOUR, **style.BARS)
        axes.bar(row.round, row.num_wild, 0.6, bottom=row.num_mutant, color=style.WILD_COLOUR, **style.BARS)
        total = row.num_mutant + row.num_wild
        label = f"{row.num_mutant}/{row.num_wild}" if total else "none"
        axes.text(row.round, total, label, **style.ABOVE)

"""Pseudo-labels that each method selects (section V-F, Fig. 5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mttu.figures import style
from mttu.figures.estimates import UNDEFINED, Estimate, to_error_bars, to_number

_BAR_WIDTH = 0.36
_WRONG: Mapping[str, Any] = {**style.BARS, "hatch": "/////"}
"""Look of wrong pseudo-labels on a white bar."""


@dataclass(frozen=True)
class MethodSelection:
    """Pseudo-labels that one method selects from one set of cases."""

    method: str
    """E.g. PL, CPL, UPS, or "UPS τᵤ = 0.05" where methods differ in a threshold."""
    num_mutant: int
    """Selected as mutant."""
    num_wild: int
    """Selected as wild type."""
    num_right_mutant: int | None
    """Of those, truly mutant: the m of (m/n). None where the truth is unknown."""
    num_right_wild: int | None
    """Of those, truly wild type: the n of (m/n). None where the truth is unknown."""
    accuracy: Estimate = UNDEFINED
    """Interval of the accuracy, a share; its value is not read, the counts give it."""


def draw_pseudo_labels(tables: Mapping[str, Sequence[MethodSelection]], num_cases: Mapping[str, int]) -> Figure:
    """Fig. 5: how many pseudo-labels each method selects of each class, and how many of them are right.

    Args:
        tables: Title of a set of cases to one row per method; one column each.
        num_cases: The same titles to the number of cases that could have been selected.
    """
    if not any(tables.values()):
        return style.draw_nothing("no methods")
    columns = len(tables)
    figure = style.new_figure(min(style.PAGE_WIDTH_IN, 3.4 * columns + 0.6), 4.3)
    panels = figure.subplots(2, columns, squeeze=False, sharex="col", height_ratios=(1, 1.35))
    for column, (title, rows) in enumerate(tables.items()):
        style.dress(panels[0, column], f"{title}, n = {num_cases[title]}", "", "accuracy of selected (%)")
        style.dress(panels[1, column], "", "", "pseudo-labels selected (cases)")
        for axes in panels[:, column]:
            axes.grid(visible=False, axis="x")
        _draw_accuracy(panels[0, column], rows)
        _draw_counts(panels[1, column], rows)
    handles = [*style.make_class_patches(), Patch(facecolor="white", label="of these, wrong", **_WRONG)]
    figure.legend(handles=handles, ncols=3, **style.LEGEND)
    if any(_accuracy_percent(row) is not None for rows in tables.values() for row in rows):
        note = "(m/n): right among those called mutant / among those called wild type. 95% Wilson interval."
        style.add_note(figure, [note])
    return figure


def _accuracy_percent(row: MethodSelection) -> float | None:
    """None where the truth is unknown or nothing is selected."""
    selected = row.num_mutant + row.num_wild
    if row.num_right_mutant is None or row.num_right_wild is None or selected == 0:
        return None
    return 100 * (row.num_right_mutant + row.num_right_wild) / selected


def _draw_accuracy(axes: Axes, rows: Sequence[MethodSelection]) -> None:
    axes.set_ylim(0, 128)
    axes.set_yticks(range(0, 101, 25))
    axes.set_xlim(-0.6, len(rows) - 0.4)
    if not rows:
        style.say(axes, "no methods")
        return
    for place, row in enumerate(rows):
        percent = _accuracy_percent(row)
        if percent is None:
            selected = row.num_mutant + row.num_wild
            reason = "truth\nunknown" if selected else "nothing\nselected"
            axes.text(place, 50, reason, ha="center", va="center", fontsize=style.NOTE_SIZE, style="italic")
            continue
        low, high = 100 * to_number(row.accuracy.low), 100 * to_number(row.accuracy.high)
        bars = to_error_bars([Estimate(percent, low, high)])
        axes.errorbar(place, percent, yerr=bars, color=style.BLACK, marker="D", markersize=4.5, **style.ERROR_BARS)
        label = f"{percent:.1f}%\n({row.num_right_mutant}/{row.num_right_wild})"
        axes.text(place, 104, label, ha="center", va="bottom", fontsize=style.NOTE_SIZE)


def _draw_counts(axes: Axes, rows: Sequence[MethodSelection]) -> None:
    tallest = max((max(row.num_mutant, row.num_wild) for row in rows), default=0)
    axes.set_ylim(0, tallest * 1.15 or 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xticks(range(len(rows)), [row.method for row in rows], fontsize=style.LABEL_SIZE)
    for place, row in enumerate(rows):
        mutants = (-0.5, row.num_mutant, row.num_right_mutant, style.MUTANT_COLOUR)
        wilds = (0.5, row.num_wild, row.num_right_wild, style.WILD_COLOUR)
        for side, count, right, colour in (mutants, wilds):
            middle = place + side * _BAR_WIDTH
            axes.bar(middle, count, _BAR_WIDTH, color=colour, **style.BARS)
            if right is not None and right < count:
                axes.bar(middle, count - right, _BAR_WIDTH, bottom=right, color="white", **_WRONG)
            axes.text(middle, count, str(count), ha="center", va="bottom", fontsize=style.NOTE_SIZE)

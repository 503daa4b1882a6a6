"""Paired differences of the rows of a study to one of them, as a forest plot."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mttu.figures import style
from mttu.figures.estimates import Estimate, is_defined, to_error_bars, to_number

_MOST_COLUMNS = 3
_LABEL_LETTERS, _TITLE_LETTERS_PER_INCH = 22, 15
_DOTS_BELOW = 0.24
"""Distance of the single repeats below the interval, in rows."""


@dataclass(frozen=True)
class RowDifference:
    """One row minus the reference row, in one metric."""

    title: str
    difference: Estimate
    """Mean over the repeats that both rows have, with its interval."""
    repeats: Sequence[float] = ()
    """Difference of each of these repeats; n is their number."""
    is_significant: bool = False
    """Whether the mean differs from 0, after adjustment for the number of rows."""
    absence: str = "no data"
    """Why there is no difference, written in its place."""


@dataclass(frozen=True)
class DifferencePanel:
    """One metric of all rows but the reference."""

    metric: str
    """E.g. Dice, AUC."""
    unit: str
    """E.g. percentage points, mm; empty for none."""
    smaller_is_better: bool
    rows: Sequence[RowDifference]
    """From top to bottom; the same titles in every panel."""


def draw_differences(
    panels: Sequence[DifferencePanel],
    reference: str,
    title: str = "",
    remarks: Sequence[str] = (),
    tests: str = "paired t-test over repeats",
) -> Figure:
    """Forest plot: one panel per metric, one line per row, with mean, interval and every repeat.

    Args:
        panels: From left to right, at most three in a line.
        reference: Title of the row that was subtracted.
        title: Of the whole figure, e.g. the name of the study.
        remarks: More sentences for the note, e.g. what was measured, on which split.
        tests: What the rows were found to differ by.

    Raises:
        ValueError: The panels have different rows.
    """
    titles = [[row.title for row in panel.rows] for panel in panels]
    if any(one != titles[0] for one in titles):
        raise ValueError(f"panels have different rows: {titles}; give each the same, in the same order")
    if not panels or not titles[0]:
        return style.draw_nothing("no rows to compare")
    lines = -(-len(panels) // _MOST_COLUMNS)
    columns = -(-len(panels) // lines)
    labels = ["\n".join(wrap(one, _LABEL_LETTERS)) for one in titles[0]]
    height = 0.16 * sum(2 + label.count("\n") for label in labels) + 0.85
    width = style.PAGE_WIDTH_IN if columns > 1 else style.PAGE_WIDTH_IN * 0.62
    heading = wrap(title, int(width * _TITLE_LETTERS_PER_INCH))
    figure = style.new_figure(width, height * lines + 0.15 * len(heading))
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for place, (axes, panel) in enumerate(zip(grid, panels, strict=False)):
        unit = f" ({panel.unit})" if panel.unit else ""
        better = "left" if panel.smaller_is_better else "right"
        style.dress(axes, panel.metric, f"difference{unit}\n{better} is better")
        _draw_rows(axes, panel.rows)
        axes.set_yticks(range(len(labels)), labels if place % columns == 0 else [""] * len(labels))
        axes.tick_params(axis="y", labelsize=style.LABEL_SIZE, length=0)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    if heading:
        figure.suptitle("\n".join(heading), fontsize=style.TITLE_SIZE)
    rows = [row for panel in panels for row in panel.rows]
    style.add_note(figure, [*_explain(rows, reference, tests), *remarks])
    figure.set_figheight(figure.get_figheight() + 0.12 * len(figure.get_supxlabel().splitlines()) + 0.1)
    return figure


def _draw_rows(axes: Axes, rows: Sequence[RowDifference]) -> None:
    """Rows from top to bottom, n to the right of the panel."""
    axes.axvline(0, **style.GUIDE)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    look: dict[str, Any] = {"fontsize": style.NOTE_SIZE, "color": style.DARK_GREY}
    beside: dict[str, Any] = {**look, "va": "center", "transform": axes.get_yaxis_transform()}
    axes.text(1.02, 1.0, "n", ha="left", va="bottom", style="italic", transform=axes.transAxes, **look)
    for place, row in enumerate(rows):
        values = [value for value in row.repeats if is_defined(value)]
        axes.text(1.02, place, str(len(values)), ha="left", **beside)
        if not is_defined(row.difference.value):
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            axes.text(0.5, place, row.absence, ha="center", style="italic", bbox=box, zorder=4, **beside)
            continue
        axes.errorbar(
            to_number(row.difference.value),
            place,
            xerr=to_error_bars([row.difference]),
            color=style.BLUE,
            marker="D",
            markersize=4.5,
            markerfacecolor=style.BLUE if row.is_significant else "white",
            zorder=3,
            **style.ERROR_BARS,
        )
        axes.scatter(values, np.full(len(values), place + _DOTS_BELOW), s=7, color=style.GREY, linewidths=0, zorder=2)
    axes.margins(x=0.06)
    if not any(is_defined(row.difference.value) for row in rows):
        axes.set_xlim(-1, 1)
        axes.set_xticks([0])


def _explain(rows: Sequence[RowDifference], reference: str, tests: str) -> list[str]:
    found = [row for row in rows if is_defined(row.difference.value)]
    notes = [f"Paired difference to {reference} (dashed line at 0), on the repeats that both have; n: their number."]
    if found:
        notes.append(
            "Diamond: mean, with its 95% t-interval, not adjusted (none for one repeat); dots: the single repeats."
        )
    if any(row.is_significant for row in found):
        notes.append(f"Filled: differs from 0 ({tests}; p adjusted by Holm over the rows of a panel < 0.05).")
    return notes

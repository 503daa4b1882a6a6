"""Error and number of pseudo-labels over both thresholds (section IV-B, eq. 19): Fig. 3b and 3c."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mttu.figures import style

_TAU_C, _TAU_U = r"$\tau_c$", r"$\tau_u$"


@dataclass(frozen=True)
class SelectionRow:
    """What one pair of thresholds selects from a set of cases whose IDH status is known."""

    confidence_threshold: float
    """tau_c: smallest confidence that is selected."""
    uncertainty_threshold: float
    """tau_u: largest uncertainty that is selected."""
    num_selected: int
    num_wrong: int
    """Selected cases whose pseudo-label differs from the true class."""
    num_cases: int
    """Cases that could have been selected."""


def draw_selection_error(
    tables: Mapping[str, Sequence[SelectionRow]], chosen: tuple[float, float] | None = None
) -> Figure:
    """Fig. 3b and 3c: error of the selected pseudo-labels, and how many there are, over both thresholds.

    Where nothing is selected, the error is not defined: its line has a gap, and the note says where. The note also
    names lines that coincide.

    Args:
        tables: Title of a set of cases, e.g. "Validation", to its rows; one column each.
        chosen: Confidence and uncertainty threshold in use, marked.
    """
    if not any(tables.values()):
        return style.draw_nothing("no thresholds were tried")
    columns = len(tables)
    figure = style.new_figure(style.PAGE_WIDTH_IN if columns > 1 else style.PAGE_WIDTH_IN * 0.6, 4.6)
    panels = figure.subplots(2, columns, squeeze=False, sharex=True, sharey="row", height_ratios=(1.5, 1))
    levels = sorted({row.confidence_threshold for rows in tables.values() for row in rows})
    notes = [] if chosen is None else [f"In use, thick and dashed: {_TAU_C} = {chosen[0]:g}, {_TAU_U} = {chosen[1]:g}."]
    for column, (title, rows) in enumerate(tables.items()):
        _draw_column(panels[0, column], panels[1, column], title, rows, levels, chosen)
        notes += [*_list_overlaps(title, rows), *_list_unselected(title, rows)]
    panels[0, 0].set_ylim(bottom=-0.03 * panels[0, 0].get_ylim()[1])  # shared: only after every column is drawn
    panels[1, 0].set_ylim(-4, 104)
    for row, y_label in zip(panels, ("error of selected (%)", "selected (% of n)"), strict=True):
        row[0].set_ylabel(y_label, fontsize=style.LABEL_SIZE)
    handles = [
        Line2D([], [], **_look(index, len(levels), thick=False), label=f"{level:g}")
        for index, level in enumerate(levels)
    ]
    title = f"confidence threshold {_TAU_C}"
    figure.legend(
        handles=handles, title=title, title_fontsize=style.NOTE_SIZE, ncols=4 * min(2, columns), **style.LEGEND
    )
    style.add_note(figure, notes)
    return figure


def _look(index: int, num_levels: int, *, thick: bool) -> dict[str, Any]:
    """Colours from dark to light; later lines are thinner, so that they do not hide the earlier ones."""
    remaining = 1 - index / max(1, num_levels - 1)
    return {
        "color": colormaps["viridis"](0.88 * index / max(1, num_levels - 1)),
        "marker": style.pick_series(index).marker,
        "linestyle": style.pick_series(index).dashes,
        "markersize": 3.0 + 2.0 * remaining,
        "linewidth": 2.4 if thick else 0.9 + 0.6 * remaining,
    }


def _draw_column(
    upper: Axes,
    lower: Axes,
    title: str,
    rows: Sequence[SelectionRow],
    levels: Sequence[float],
    chosen: tuple[float, float] | None,
) -> None:
    sizes = sorted({row.num_cases for row in rows})
    style.dress(upper, f"{title}, n = {' or '.join(str(size) for size in sizes)}" if sizes else f"{title}: no rows")
    style.dress(lower, "", f"uncertainty threshold {_TAU_U} (standard deviation)")
    for index, level in enumerate(levels):
        members = _of_level(rows, level)
        look = _look(index, len(levels), thick=chosen is not None and chosen[0] == level)
        thresholds = [row.uncertainty_threshold for row in members]
        errors = [_percent(row.num_wrong, row.num_selected) for row in members]
        shares = [_percent(row.num_selected, row.num_cases) for row in members]
        upper.plot(thresholds, errors, label=f"{level:g}", **look)
        lower.plot(thresholds, shares, label=f"{level:g}", **look)
    if not any(row.num_selected for row in rows):
        style.say(upper, "nothing selected" if rows else "no thresholds were tried")
    if chosen is not None:
        for axes in (upper, lower):
            axes.axvline(chosen[1], **style.GUIDE)


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else math.nan


def _of_level(rows: Sequence[SelectionRow], level: float) -> list[SelectionRow]:
    """Rows of one confidence threshold by rising uncertainty threshold."""
    members = [row for row in rows if row.confidence_threshold == level]
    return sorted(members, key=lambda row: row.uncertainty_threshold)


def _list_overlaps(title: str, rows: Sequence[SelectionRow]) -> list[str]:
    """Names the confidence thresholds that select the same numbers everywhere, whose lines hide each other."""
    alike: dict[tuple[tuple[float, int, int], ...], list[str]] = {}
    for level in sorted({row.confidence_threshold for row in rows}):
        key = tuple((row.uncertainty_threshold, row.num_selected, row.num_wrong) for row in _of_level(rows, level))
        alike.setdefault(key, []).append(f"{level:g}")
    groups = [" and ".join(levels) for levels in alike.values() if len(levels) > 1]
    return [f"{title}: the lines of {_TAU_C} = {'; of '.join(groups)} coincide."] if groups else []


def _list_unselected(title: str, rows: Sequence[SelectionRow]) -> list[str]:
    """Names the thresholds that select nothing."""
    places = []
    for level in sorted({row.confidence_threshold for row in rows}):
        empty = [f"{row.uncertainty_threshold:g}" for row in _of_level(rows, level) if row.num_selected == 0]
        if empty:
            places.append(f"{_TAU_C} = {level:g} with {_TAU_U} = {', '.join(empty)}")
    return [f"{title}: nothing selected, no error defined, at {'; '.join(places)}."] if places else []

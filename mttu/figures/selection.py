"""Pseudo-labels that thresholds and methods select (section IV-B, eq. 19, and section V-F): Fig. 3b, 3c and 5."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN
from mttu.errors import say_count
from mttu.figures import style
from mttu.figures.estimates import UNDEFINED, Estimate, to_error_bars, to_number

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
    looks = [_look(index, len(levels), thick=False) for index in range(len(levels))]
    handles = [Line2D([], [], **look, label=f"{level:g}") for look, level in zip(looks, levels, strict=True)]
    heading: dict[str, Any] = {"title": f"confidence threshold {_TAU_C}", "title_fontsize": style.NOTE_SIZE}
    figure.legend(handles=handles, ncols=4 * min(2, columns), **heading, **style.LEGEND)
    style.add_note(figure, notes)
    return figure


def _look(index: int, num_levels: int, *, thick: bool) -> dict[str, Any]:
    """Colours from dark to light; later lines are thinner, so that they do not hide the earlier ones."""
    remaining = 1 - index / max(1, num_levels - 1)
    colour = colormaps["viridis"](0.88 * index / max(1, num_levels - 1))
    width = 2.4 if thick else 0.9 + 0.6 * remaining
    line = style.pick_series(index).line
    return {**line, "color": colour, "markersize": 3.0 + 2.0 * remaining, "linewidth": width}


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
        members = _group_by_level(rows).get(level, [])
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


def _group_by_level(rows: Sequence[SelectionRow]) -> dict[float, list[SelectionRow]]:
    """Confidence thresholds, rising, to their rows by rising uncertainty threshold."""
    levels: dict[float, list[SelectionRow]] = {}
    for row in sorted(rows, key=lambda row: (row.confidence_threshold, row.uncertainty_threshold)):
        levels.setdefault(row.confidence_threshold, []).append(row)
    return levels


def _list_overlaps(title: str, rows: Sequence[SelectionRow]) -> list[str]:
    """Names the confidence thresholds that select the same numbers everywhere, whose lines hide each other."""
    alike: dict[tuple[tuple[float, int, int], ...], list[str]] = {}
    for level, members in _group_by_level(rows).items():
        key = tuple((row.uncertainty_threshold, row.num_selected, row.num_wrong) for row in members)
        alike.setdefault(key, []).append(f"{level:g}")
    groups = [" and ".join(levels) for levels in alike.values() if len(levels) > 1]
    return [f"{title}: the lines of {_TAU_C} = {'; of '.join(groups)} coincide."] if groups else []


def _list_unselected(title: str, rows: Sequence[SelectionRow]) -> list[str]:
    """Names the thresholds that select nothing."""
    places = []
    for level, members in _group_by_level(rows).items():
        empty = [f"{row.uncertainty_threshold:g}" for row in members if row.num_selected == 0]
        if empty:
            places.append(f"{_TAU_C} = {level:g} with {_TAU_U} = {', '.join(empty)}")
    return [f"{title}: nothing selected, no error defined, at {'; '.join(places)}."] if places else []


@dataclass(frozen=True)
class Candidate:
    """One case with its pseudo-label."""

    case_id: str
    confidence: float
    """Mean probability of the predicted class over the Monte Carlo passes."""
    uncertainty: float
    """Standard deviation of that probability over the passes."""
    predicted: int
    """1 mutant, 0 wild type."""
    idh: int = IDH_UNKNOWN
    """True class; -1 unknown."""
    selected: bool = field(kw_only=True)
    """Whether its prediction becomes a pseudo-label: by thresholds, balance, or an earlier round."""


_VERDICTS = {
    "right": (style.RIGHT_COLOUR, False),
    "wrong": (style.WRONG_COLOUR, True),
    "truth unknown": (style.GREY, False),
}
"""Colour of a pseudo-label's marker, and whether it is filled."""


def draw_candidates(
    candidates: Sequence[Candidate],
    confidence_threshold: float | None,
    uncertainty_threshold: float | None,
    title: str = "",
    balanced: bool = False,
) -> Figure:
    """Confidence against uncertainty of every case, with the selected cases and the area that meets the thresholds.

    The selected cases are ringed if they are not exactly those in the area.

    Args:
        candidates: One per case; those with a confidence or uncertainty that is not finite are named, not drawn.
        confidence_threshold: tau_c, met at or above it; None where the method has none (PL).
        uncertainty_threshold: tau_u, met at or below it; None where the method has none (PL, CPL).
        title: E.g. the set of cases.
        balanced: Whether the selection was balanced.
    """
    if not candidates:
        return style.draw_nothing("no cases")
    figure = style.new_figure(style.PAGE_WIDTH_IN * 0.62, 4.4)
    axes = figure.add_subplot()
    drawn = [case for case in candidates if np.isfinite(case.confidence) and np.isfinite(case.uncertainty)]
    x_label, y_label = "uncertainty (standard deviation of probability)", "confidence (probability of predicted class)"
    style.dress(axes, f"{title}, n = {len(candidates)}".removeprefix(", "), x_label, y_label)
    largest = max([uncertainty_threshold or 0.0, *(case.uncertainty for case in drawn)])
    lowest = min([0.5, *(case.confidence for case in drawn)])
    if confidence_threshold is not None:
        lowest = min(lowest, confidence_threshold)
    axes.set_xlim(-0.005, largest * 1.05 + 0.005)
    axes.set_ylim(lowest - 0.005, 1.005)
    conditions = _shade_thresholds(axes, confidence_threshold, uncertainty_threshold)
    selected = [case for case in drawn if case.selected]
    meeting = [
        case
        for case in drawn
        if (confidence_threshold is None or case.confidence >= confidence_threshold)
        and (uncertainty_threshold is None or case.uncertainty <= uncertainty_threshold)
    ]
    for mutant in (True, False):
        for verdict, (colour, filled) in _VERDICTS.items():
            members = [case for case in drawn if (case.predicted == IDH_MUTANT) == mutant and _judge(case) == verdict]
            if not members:
                continue
            axes.scatter(
                [case.uncertainty for case in members],
                [case.confidence for case in members],
                marker="^" if mutant else "o",
                s=26 if len(drawn) <= 100 else 14,
                facecolors=colour if filled else "none",
                edgecolors=colour,
                linewidths=1.0,
                label=f"called {'mutant' if mutant else 'wild type'}, {verdict}: {len(members)}",
            )
    if selected and (conditions or not balanced) and selected != meeting:
        axes.scatter(
            [case.uncertainty for case in selected],
            [case.confidence for case in selected],
            marker="o",
            s=90,
            facecolors="none",
            edgecolors=style.DARK_GREY,
            linewidths=0.8,
            label=f"selected: {len(selected)}",
        )
    if drawn:
        figure.legend(ncols=2, **style.LEGEND)
    else:
        style.say(axes, "no case has finite values")
    notes = [f"Meets thresholds (shaded; {conditions}): {_describe(meeting)}."] if conditions else []
    notes.append(f"Selected{' after balance' if balanced else ''}: {_describe(selected)}.")
    lost = [case.case_id for case in candidates if case not in drawn]
    if lost:
        notes.append(f"Not drawn, values are not finite: {', '.join(lost)}.")
    style.add_note(figure, notes)
    return figure


def _shade_thresholds(axes: Axes, tau_c: float | None, tau_u: float | None) -> str:
    """Shades what meets the thresholds; returns them in words, nothing if there are none."""
    conditions = []
    if tau_c is not None:
        axes.axhline(tau_c, **style.GUIDE)
        conditions.append(f"confidence ≥ {tau_c:g}")
    if tau_u is not None:
        axes.axvline(tau_u, **style.GUIDE)
        conditions.append(f"uncertainty ≤ {tau_u:g}")
    if conditions:
        low, width = tau_c or 0.0, axes.get_xlim()[1] if tau_u is None else tau_u
        axes.add_patch(Rectangle((0, low), width, axes.get_ylim()[1] - low, color="#D6E8F5", zorder=0))
    return ", ".join(conditions)


def _judge(case: Candidate) -> str:
    if case.idh == IDH_UNKNOWN:
        return "truth unknown"
    return "right" if case.predicted == case.idh else "wrong"


def _describe(members: Sequence[Candidate]) -> str:
    if not members:
        return "nothing"
    verdicts = [_judge(case) for case in members]
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in _VERDICTS if verdict in verdicts]
    return f"{say_count(len(members), 'case', 'cases')}, {', '.join(counts)}"


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
    """Interval of the accuracy, a share; its value is not used, because the counts give it."""


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
        axes.text(place, 104, label, **style.ABOVE)


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
            axes.text(middle, count, str(count), **style.ABOVE)

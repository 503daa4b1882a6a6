"""Choice of the thresholds for pseudo-labels (section IV-B, eq. 19): Fig. 3b, 3c and the cases behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN
from mttu.figures.style import (
    GREY,
    GUIDE,
    LABEL_SIZE,
    NOTE_SIZE,
    PAGE_WIDTH_IN,
    RIGHT_COLOUR,
    WRONG_COLOUR,
    add_note,
    dress,
    new_figure,
    say,
    style_of,
)

_TAU_C, _TAU_U = r"$\tau_c$", r"$\tau_u$"


@dataclass(frozen=True)
class SelectionRow:
    """What one pair of thresholds selects from a set of cases whose IDH status is known."""

    confidence_threshold: float
    """tau_c: least confidence that is selected."""
    uncertainty_threshold: float
    """tau_u: largest uncertainty that is selected."""
    num_selected: int
    num_wrong: int
    """Selected cases whose pseudo-label differs from the true class."""
    num_cases: int
    """Cases that could have been selected."""


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


def draw_selection_error(
    tables: Mapping[str, Sequence[SelectionRow]], chosen: tuple[float, float] | None = None
) -> Figure:
    """Fig. 3b and 3c: error of the selected pseudo-labels, and how many there are, over both thresholds.

    Where nothing is selected the error is not defined: its line has a gap, and the note says where. The note also names
    lines that coincide.

    Args:
        tables: Title of a set of cases, e.g. "Validation", to its rows; one column each.
        chosen: Confidence and uncertainty threshold in use, marked.
    """
    columns = max(1, len(tables))
    figure = new_figure(PAGE_WIDTH_IN if columns > 1 else PAGE_WIDTH_IN * 0.6, 4.6)
    panels = figure.subplots(2, columns, squeeze=False, sharex=True, sharey="row", height_ratios=(1.5, 1))
    levels = sorted({row.confidence_threshold for rows in tables.values() for row in rows})
    notes = [] if chosen is None else [f"In use, thick and dashed: {_TAU_C} = {chosen[0]:g}, {_TAU_U} = {chosen[1]:g}."]
    for column, (title, rows) in enumerate(tables.items()):
        _draw_column(panels[0, column], panels[1, column], title, rows, levels, chosen)
        notes += [*_list_overlaps(title, rows), *_list_unselected(title, rows)]
    for row, y_label in zip(panels, ("error of selected (%)", "selected (% of n)"), strict=True):
        row[0].set_ylabel(y_label, fontsize=LABEL_SIZE)
    if levels:
        handles = [
            Line2D([], [], **_look(index, len(levels), thick=False), label=f"{level:g}")
            for index, level in enumerate(levels)
        ]
        legend = figure.legend(
            handles=handles,
            title=f"confidence threshold {_TAU_C}",
            loc="outside upper center",
            ncols=4 * min(2, columns),
            frameon=False,
            fontsize=NOTE_SIZE,
        )
        legend.get_title().set_fontsize(NOTE_SIZE)
    else:
        say(panels[0, 0], "no thresholds were tried")
    add_note(figure, notes)
    return figure


def _look(index: int, num_levels: int, *, thick: bool) -> dict[str, Any]:
    """Colours in order from dark to light; later lines are thinner, so that they do not hide what lies below."""
    remaining = 1 - index / max(1, num_levels - 1)
    return {
        "color": colormaps["viridis"](0.88 * index / max(1, num_levels - 1)),
        "marker": style_of(index).marker,
        "linestyle": style_of(index).dashes,
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
    dress(upper, f"{title}, n = {' or '.join(str(size) for size in sizes)}" if sizes else f"{title}: no rows")
    dress(lower, "", f"uncertainty threshold {_TAU_U} (standard deviation)")
    for index, level in enumerate(levels):
        members = _of_level(rows, level)
        look = _look(index, len(levels), thick=chosen is not None and chosen[0] == level)
        thresholds = [row.uncertainty_threshold for row in members]
        errors = [100 * row.num_wrong / row.num_selected if row.num_selected else np.nan for row in members]
        upper.plot(thresholds, errors, label=f"{level:g}", **look)
        lower.plot(thresholds, [100 * row.num_selected / row.num_cases for row in members], label=f"{level:g}", **look)
    if chosen is not None:
        for axes in (upper, lower):
            axes.axvline(chosen[1], **GUIDE)
    lower.set_ylim(-4, 104)
    upper.set_ylim(bottom=-1)


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
    places = []
    for level in sorted({row.confidence_threshold for row in rows}):
        empty = [f"{row.uncertainty_threshold:g}" for row in _of_level(rows, level) if row.num_selected == 0]
        if empty:
            places.append(f"{_TAU_C} = {level:g} with {_TAU_U} = {', '.join(empty)}")
    return [f"{title}: nothing selected, no error defined, at {'; '.join(places)}."] if places else []


def draw_candidates(
    candidates: Sequence[Candidate], confidence_threshold: float, uncertainty_threshold: float, title: str = ""
) -> Figure:
    """Confidence against uncertainty of every case, with the region that both thresholds select.

    Args:
        candidates: One per case; those with a confidence or uncertainty that is not finite are named, not drawn.
        confidence_threshold: tau_c, selected from there upwards.
        uncertainty_threshold: tau_u, selected up to there.
        title: E.g. the set of cases.
    """
    figure = new_figure(PAGE_WIDTH_IN * 0.62, 4.4)
    axes = figure.add_subplot()
    drawn = [case for case in candidates if np.isfinite(case.confidence) and np.isfinite(case.uncertainty)]
    selected = [
        case for case in drawn if case.confidence >= confidence_threshold and case.uncertainty <= uncertainty_threshold
    ]
    dress(
        axes,
        f"{title}, n = {len(candidates)}".removeprefix(", "),
        "uncertainty (standard deviation of probability)",
        "confidence (probability of predicted class)",
    )
    top = 1.005
    axes.add_patch(
        Rectangle(
            (0, confidence_threshold), uncertainty_threshold, top - confidence_threshold, color="#D6E8F5", zorder=0
        )
    )
    axes.axhline(confidence_threshold, **GUIDE)
    axes.axvline(uncertainty_threshold, **GUIDE)
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
    largest = max([case.uncertainty for case in drawn], default=0.0)
    lowest = min([case.confidence for case in drawn], default=0.5)
    axes.set_xlim(-0.005, max(largest, uncertainty_threshold) * 1.05 + 0.005)
    axes.set_ylim(min(0.495, lowest - 0.005, confidence_threshold - 0.005), top)
    if drawn:
        figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=NOTE_SIZE)
    else:
        say(axes, "no cases")
    notes = [
        f"Selected (shaded; confidence ≥ {confidence_threshold:g}, uncertainty ≤ {uncertainty_threshold:g}): "
        f"{_describe_selected(selected)}."
    ]
    lost = [case.case_id for case in candidates if case not in drawn]
    add_note(figure, [*notes, *([f"Not drawn, values are not finite: {', '.join(lost)}."] if lost else [])])
    return figure


_VERDICTS = {"right": (RIGHT_COLOUR, False), "wrong": (WRONG_COLOUR, True), "truth unknown": (GREY, False)}


def _judge(case: Candidate) -> str:
    if case.idh == IDH_UNKNOWN:
        return "truth unknown"
    return "right" if case.predicted == case.idh else "wrong"


def _describe_selected(selected: Sequence[Candidate]) -> str:
    if not selected:
        return "nothing"
    verdicts = [_judge(case) for case in selected]
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in _VERDICTS if verdict in verdicts]
    return f"{len(selected)} cases, {', '.join(counts)}"

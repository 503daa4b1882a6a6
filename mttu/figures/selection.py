"""Choice of the thresholds for pseudo-labels (section IV-B, eq. 19): Fig. 3b, 3c and the cases behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN
from mttu.figures.style import (
    GREY,
    GUIDE,
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

    Where nothing is selected the error is not defined: its line has a gap, and the note says where. Curves that agree
    everywhere are drawn as one and share an entry of the legend.

    Args:
        tables: Title of a set of cases, e.g. "Validation", to its rows; one column each.
        chosen: Confidence and uncertainty threshold in use, marked.
    """
    columns = max(1, len(tables))
    figure = new_figure(PAGE_WIDTH_IN if columns > 1 else PAGE_WIDTH_IN * 0.6, 4.4)
    panels = figure.subplots(2, columns, squeeze=False, sharex=True, sharey="row", height_ratios=(1.5, 1))
    notes = []
    for column, (title, rows) in enumerate(tables.items()):
        _draw_column(panels[0, column], panels[1, column], title, rows, chosen)
        notes += _list_unselected(title, rows)
    if not any(tables.values()):
        say(panels[0, 0], "no thresholds were tried")
    add_note(figure, notes)
    return figure


def _draw_column(
    upper: Axes, lower: Axes, title: str, rows: Sequence[SelectionRow], chosen: tuple[float, float] | None
) -> None:
    sizes = sorted({row.num_cases for row in rows})
    size = " to ".join(str(number) for number in {min(sizes), max(sizes)}) if sizes else "0"
    dress(upper, f"{title} (n = {size})", "", "error of selected (%)")
    dress(lower, "", "uncertainty threshold τᵤ (standard deviation)", "selected (% of n)")
    curves = _merge_curves(rows)
    colours = colormaps["viridis"](np.linspace(0.0, 0.88, max(1, len(curves))))
    for index, (levels, members) in enumerate(curves):
        look = {
            "color": colours[index],
            "marker": style_of(index).marker,
            "linestyle": style_of(index).dashes,
            "markersize": 3.5,
            "linewidth": 2.0 if chosen is not None and chosen[0] in levels else 1.1,
            "label": ", ".join(f"{level:g}" for level in levels),
        }
        thresholds = [row.uncertainty_threshold for row in members]
        errors = [100 * row.num_wrong / row.num_selected if row.num_selected else np.nan for row in members]
        upper.plot(thresholds, errors, **look)
        lower.plot(thresholds, [100 * row.num_selected / row.num_cases for row in members], **look)
    if chosen is not None:
        for axes in (upper, lower):
            axes.axvline(chosen[1], **GUIDE)
    if curves:
        legend = upper.legend(
            frameon=False, fontsize=NOTE_SIZE, loc="upper left", title="confidence threshold τ$_c$", ncols=2
        )
        legend.get_title().set_fontsize(NOTE_SIZE)
    lower.set_ylim(-4, 104)
    upper.set_ylim(bottom=-1)


def _merge_curves(rows: Sequence[SelectionRow]) -> list[tuple[list[float], list[SelectionRow]]]:
    """Confidence thresholds that select the same numbers everywhere, with their rows by rising tau_u."""
    merged: dict[tuple[tuple[float, int, int], ...], tuple[list[float], list[SelectionRow]]] = {}
    for level in sorted({row.confidence_threshold for row in rows}):
        members = sorted(
            (row for row in rows if row.confidence_threshold == level), key=lambda row: row.uncertainty_threshold
        )
        key = tuple((row.uncertainty_threshold, row.num_selected, row.num_wrong) for row in members)
        merged.setdefault(key, ([], members))[0].append(level)
    return list(merged.values())


def _list_unselected(title: str, rows: Sequence[SelectionRow]) -> list[str]:
    if not rows:
        return [f"{title}: no rows."]
    notes = []
    for level in sorted({row.confidence_threshold for row in rows}):
        empty = [
            row.uncertainty_threshold for row in rows if row.confidence_threshold == level and not row.num_selected
        ]
        if empty:
            notes.append(f"τ$_c$ = {level:g} up to τᵤ = {max(empty):g}")
    return [f"{title}: nothing is selected, so no error is defined, at {'; '.join(notes)}."] if notes else []


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
    figure = new_figure(PAGE_WIDTH_IN * 0.66, 3.9)
    axes = figure.add_subplot()
    drawn = [case for case in candidates if np.isfinite(case.confidence) and np.isfinite(case.uncertainty)]
    selected = [
        case for case in drawn if case.confidence >= confidence_threshold and case.uncertainty <= uncertainty_threshold
    ]
    dress(
        axes,
        f"{title} (n = {len(candidates)})".strip(),
        "uncertainty (standard deviation of probability)",
        "confidence (probability of predicted class)",
    )
    top = 1.005
    axes.add_patch(
        Rectangle(
            (0, confidence_threshold), uncertainty_threshold, top - confidence_threshold, color="#E8F1F8", zorder=0
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
                s=26,
                facecolors=colour if filled else "none",
                edgecolors=colour,
                linewidths=1.1,
                label=f"called {'mutant' if mutant else 'wild type'}, {verdict}: {len(members)}",
            )
    largest = max([case.uncertainty for case in drawn], default=0.0)
    lowest = min([case.confidence for case in drawn], default=0.5)
    axes.set_xlim(-0.005, max(largest, uncertainty_threshold) * 1.05 + 0.005)
    axes.set_ylim(min(0.495, lowest - 0.005, confidence_threshold - 0.005), top)
    if drawn:
        axes.legend(frameon=False, fontsize=NOTE_SIZE, loc="upper left", bbox_to_anchor=(1.0, 1.0))
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

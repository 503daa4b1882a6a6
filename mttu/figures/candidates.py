"""Every case's pseudo-label by confidence and uncertainty, with the thresholds that select (section IV-B, eq. 19)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN
from mttu.errors import say_count
from mttu.figures.style import (
    DARK_GREY,
    GREY,
    GUIDE,
    NOTE_SIZE,
    PAGE_WIDTH_IN,
    RIGHT_COLOUR,
    WRONG_COLOUR,
    add_note,
    draw_nothing,
    dress,
    new_figure,
    say,
)


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


def draw_candidates(
    candidates: Sequence[Candidate],
    confidence_threshold: float | None,
    uncertainty_threshold: float | None,
    title: str = "",
    balanced: bool = False,
) -> Figure:
    """Confidence against uncertainty of every case, with the region that meets the thresholds, and who is selected.

    Where the selected cases are not those of the region, they are ringed.

    Args:
        candidates: One per case; those with a confidence or uncertainty that is not finite are named, not drawn.
        confidence_threshold: tau_c, met from there upwards; None where the method has none (PL).
        uncertainty_threshold: tau_u, met up to there; None where the method has none (PL, CPL).
        title: E.g. the set of cases.
        balanced: Whether the selection was balanced.
    """
    if not candidates:
        return draw_nothing("no cases")
    figure = new_figure(PAGE_WIDTH_IN * 0.62, 4.4)
    axes = figure.add_subplot()
    drawn = [case for case in candidates if np.isfinite(case.confidence) and np.isfinite(case.uncertainty)]
    dress(
        axes,
        f"{title}, n = {len(candidates)}".removeprefix(", "),
        "uncertainty (standard deviation of probability)",
        "confidence (probability of predicted class)",
    )
    largest = max([case.uncertainty for case in drawn], default=0.0)
    lowest = min([case.confidence for case in drawn], default=0.5)
    right, top = max(largest, uncertainty_threshold or 0.0) * 1.05 + 0.005, 1.005
    axes.set_xlim(-0.005, right)
    axes.set_ylim(
        min(0.495, lowest - 0.005, (1.0 if confidence_threshold is None else confidence_threshold) - 0.005), top
    )
    conditions = _draw_region(axes, confidence_threshold, uncertainty_threshold, right, top)
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
    if selected and conditions and selected != meeting:
        axes.scatter(
            [case.uncertainty for case in selected],
            [case.confidence for case in selected],
            marker="o",
            s=90,
            facecolors="none",
            edgecolors=DARK_GREY,
            linewidths=0.8,
            label=f"selected: {len(selected)}",
        )
    if drawn:
        figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=NOTE_SIZE)
    else:
        say(axes, "no case has finite values")
    notes = [f"Meets thresholds (shaded; {conditions}): {_describe(meeting)}."] if conditions else []
    notes.append(f"Selected{' after balance' if balanced else ''}: {_describe(selected)}.")
    lost = [case.case_id for case in candidates if case not in drawn]
    add_note(figure, [*notes, *([f"Not drawn, values are not finite: {', '.join(lost)}."] if lost else [])])
    return figure


_VERDICTS = {"right": (RIGHT_COLOUR, False), "wrong": (WRONG_COLOUR, True), "truth unknown": (GREY, False)}


def _draw_region(axes: Axes, tau_c: float | None, tau_u: float | None, right: float, top: float) -> str:
    """Shades what meets the thresholds; returns them in words, nothing if there are none."""
    conditions = []
    if tau_c is not None:
        axes.axhline(tau_c, **GUIDE)
        conditions.append(f"confidence ≥ {tau_c:g}")
    if tau_u is not None:
        axes.axvline(tau_u, **GUIDE)
        conditions.append(f"uncertainty ≤ {tau_u:g}")
    if conditions:
        low, wide = tau_c or 0.0, right if tau_u is None else tau_u
        axes.add_patch(Rectangle((0, low), wide, top - low, color="#D6E8F5", zorder=0))
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

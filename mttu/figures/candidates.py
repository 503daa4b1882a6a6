"""Every case's pseudo-label by confidence and uncertainty, with the thresholds that select (section IV-B, eq. 19)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN
from mttu.errors import say_count
from mttu.figures import style


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

    The selected cases are ringed where they are not those of the area.

    Args:
        candidates: One per case; those with a confidence or uncertainty that is not finite are named, not drawn.
        confidence_threshold: tau_c, met from there upwards; None where the method has none (PL).
        uncertainty_threshold: tau_u, met up to there; None where the method has none (PL, CPL).
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
    if selected and conditions and selected != meeting:
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

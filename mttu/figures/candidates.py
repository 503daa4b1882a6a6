"""Every case's pseudo-label by confidence and uncertainty, with the thresholds that select (section IV-B, eq. 19)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
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
    if not candidates:
        return draw_nothing("no cases")
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
        say(axes, "no case has finite values")
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

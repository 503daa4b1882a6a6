"""Dice and HD95 of every case by region (section V-B.2), not only their means."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mttu.data.labels import REGIONS
from mttu.figures.estimates import is_defined
from mttu.figures.style import (
    BLACK,
    DARK_GREY,
    LABEL_SIZE,
    NOTE_SIZE,
    PAGE_WIDTH_IN,
    add_note,
    dress,
    new_figure,
    say,
    style_of,
)

_JITTER = 0.55
"""Share of a box's width over which its points are spread."""


@dataclass(frozen=True)
class CaseScore:
    """One region of one case, as one system segmented it."""

    case_id: str
    system: str
    region: str
    """wt, tc or et."""
    dice: float | None
    """In [0, 1]; None where not defined."""
    hd95_mm: float | None
    """None where not defined, e.g. an empty mask."""


def draw_case_scores(scores: Sequence[CaseScore], penalty_mm: float | None = None) -> Figure:
    """Boxes (quartiles, whiskers to 1.5 times their distance) and every case as a point, for Dice and HD95.

    Scores that are not defined are counted below the axis. Penalties for a missed or spurious region would squash the
    axis, so they are counted above it.

    Args:
        scores: One per case, system and region.
        penalty_mm: HD95 that stands for an empty mask, 373.12866 or 374 in the BraTS rules; None if there is none.
    """
    systems = list(dict.fromkeys(score.system for score in scores))
    figure = new_figure(PAGE_WIDTH_IN, 3.7)
    left, right = figure.subplots(1, 2)
    dress(left, "Overlap", "", "Dice")
    dress(right, "Distance", "", "HD95 (mm)")
    if not scores:
        say(left, "no cases")
        say(right, "no cases")
        return figure
    _draw_panel(left, scores, systems, [score.dice for score in scores], None)
    left.set_ylim(-0.03, 1.03)
    _draw_panel(right, scores, systems, [score.hd95_mm for score in scores], penalty_mm)
    right.set_ylim(bottom=-0.03 * right.get_ylim()[1])
    handles = [
        Patch(facecolor=(style_of(index).colour, 0.35), edgecolor=style_of(index).colour, label=system)
        for index, system in enumerate(systems)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=LABEL_SIZE)
    notes = ["Box: quartiles and median; whiskers: to 1.5 times the distance of the quartiles; diamond: mean."]
    if penalty_mm is not None:
        notes.append(f"HD95 of an empty mask is {penalty_mm:g} mm: such cases are counted on top, not in box or mean.")
    add_note(figure, notes)
    return figure


def _draw_panel(
    axes: Axes,
    scores: Sequence[CaseScore],
    systems: Sequence[str],
    values: Sequence[float | None],
    penalty_mm: float | None,
) -> None:
    width = 0.8 / len(systems)
    for place, region in enumerate(REGIONS):
        for index, system in enumerate(systems):
            members = [
                value
                for score, value in zip(scores, values, strict=True)
                if score.region == region and score.system == system
            ]
            middle = place + (index - (len(systems) - 1) / 2) * width
            _draw_box(axes, middle, width, members, style_of(index).colour, penalty_mm)
    axes.set_xticks(range(len(REGIONS)), [region.upper() for region in REGIONS], fontsize=LABEL_SIZE)
    axes.set_xlim(-0.55, len(REGIONS) - 0.45)


def _draw_box(
    axes: Axes, middle: float, width: float, members: Sequence[float | None], colour: str, penalty_mm: float | None
) -> None:
    defined = [value for value in members if value is not None and is_defined(value)]
    kept = np.array([value for value in defined if penalty_mm is None or not np.isclose(value, penalty_mm)])
    on_top = axes.get_xaxis_transform()
    said: dict[str, Any] = {"ha": "center", "fontsize": NOTE_SIZE - 1, "color": DARK_GREY, "transform": on_top}
    if len(kept):
        axes.boxplot(
            kept,
            positions=[middle],
            widths=width * 0.8,
            showfliers=False,
            showmeans=True,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": (colour, 0.35), "edgecolor": colour},
            medianprops={"color": BLACK, "linewidth": 1.2},
            meanprops={"marker": "D", "markersize": 3.5, "markerfacecolor": "white", "markeredgecolor": BLACK},
            whiskerprops={"color": colour},
            capprops={"color": colour},
        )
        spread = np.random.default_rng(0).uniform(-0.5, 0.5, len(kept)) * width * _JITTER
        axes.scatter(middle + spread, kept, s=5, color=colour, linewidths=0, alpha=0.7, zorder=3)
    else:
        axes.text(middle, 0.5, "none\ndefined" if members else "no\ncases", va="center", **said)
    lines = [f"n {len(kept)}"]
    if len(defined) > len(kept):
        lines.append(f"{len(defined) - len(kept)} empty")
    if len(members) > len(defined):
        lines.append(f"{len(members) - len(defined)} n.d.")
    axes.text(middle, 1.01, "\n".join(reversed(lines)), va="bottom", **said)

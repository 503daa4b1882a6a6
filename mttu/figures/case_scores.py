"""Dice and HD95 of every case by region (section V-B.2), not only their means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mttu.data.labels import REGIONS
from mttu.figures import style
from mttu.figures.estimates import is_defined, to_number


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


def draw_case_scores(
    scores: Sequence[CaseScore], penalty_mm: float | None = None, remarks: Sequence[str] = ()
) -> Figure:
    """Boxes (quartiles, whiskers to 1.5 times their distance) and every case as a point, for Dice and HD95.

    Scores that are not defined are left out and counted in the note. A penalty for an empty mask counts in n, box and
    mean, as in the tables; its points would squash the axis, so they are only counted in the note.

    Args:
        scores: One per case, system and region.
        penalty_mm: HD95 given to an empty mask, 373.12866 or 374 in the BraTS rules; None if there is none.
        remarks: More sentences for the note, e.g. the conventions for empty masks.
    """
    if not scores:
        return style.draw_nothing("no cases")
    systems = dict.fromkeys(score.system for score in scores)
    figure = style.new_figure(style.PAGE_WIDTH_IN, 5.6)
    upper, lower = figure.subplots(2, 1)
    style.dress(upper, "", "", "Dice")
    style.dress(lower, "", "region", "HD95 (mm)")
    notes = [
        "Number above: n. Box: quartiles, median; whiskers: to 1.5 quartile distances; diamond: mean; point: case.",
        *remarks,
    ]
    if penalty_mm is not None:
        notes.append(
            f"HD95 of {penalty_mm:.10g} mm stands for an empty mask: in n, box and mean; its points are not drawn."
        )
    colours = {system: style.pick_series(index).colour for index, system in enumerate(systems)}
    dices = [(score, score.dice) for score in scores]
    notes += _draw_panel(upper, "Dice", dices, colours, None)
    upper.set_ylim(-0.03, 1.03)
    distances = [(score, score.hd95_mm) for score in scores]
    notes += _draw_panel(lower, "HD95", distances, colours, penalty_mm)
    lower.set_ylim(bottom=-0.03 * lower.get_ylim()[1])
    handles = [Patch(facecolor=(colour, 0.35), edgecolor=colour, label=system) for system, colour in colours.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=5, frameon=False, fontsize=style.LABEL_SIZE)
    style.add_note(figure, notes)
    return figure


def _draw_panel(
    axes: Axes,
    metric: str,
    scores: Sequence[tuple[CaseScore, float | None]],
    colours: Mapping[str, str],
    penalty_mm: float | None,
) -> list[str]:
    """Draws one metric of all systems; returns what it leaves out, one sentence per region."""
    width = 0.8 / len(colours)
    notes, heights = [], []
    for place, region in enumerate(REGIONS):
        left_out, penalties = [], []
        for index, (system, colour) in enumerate(colours.items()):
            members = [to_number(value) for score, value in scores if (score.region, score.system) == (region, system)]
            defined = [value for value in members if is_defined(value)]
            shown = [value for value in defined if penalty_mm is None or not np.isclose(value, penalty_mm)]
            middle = place + (index - (len(colours) - 1) / 2) * width
            _draw_box(axes, middle, width, defined, shown, colour)
            heights += [*shown, float(np.mean(defined))] if defined else []
            if len(defined) < len(members):
                left_out.append(f"{system} {len(members) - len(defined)} not defined")
            if len(shown) < len(defined):
                penalties.append(f"{system} {len(defined) - len(shown)}")
        if left_out:
            notes.append(f"{metric} of {region.upper()} leaves out: {'; '.join(left_out)}.")
        if penalties:
            notes.append(f"{metric} of {region.upper()}, points not drawn: {'; '.join(penalties)}.")
    if penalty_mm is not None and heights:
        axes.set_ylim(top=1.08 * max(heights) or 1.0)
    axes.set_xticks(range(len(REGIONS)), [region.upper() for region in REGIONS], fontsize=style.LABEL_SIZE)
    axes.set_xlim(-0.5, len(REGIONS) - 0.5)
    axes.grid(visible=False, axis="x")
    return notes


def _draw_box(
    axes: Axes, middle: float, width: float, counted: Sequence[float], shown: Sequence[float], colour: str
) -> None:
    on_top: dict[str, Any] = {"ha": "center", "fontsize": style.NOTE_SIZE - 1, "transform": axes.get_xaxis_transform()}
    axes.text(middle, 1.01, str(len(counted)), va="bottom", color=style.DARK_GREY, **on_top)
    if not counted:
        axes.text(middle, 0.5, "none", va="center", color=style.DARK_GREY, style="italic", **on_top)
        return
    axes.boxplot(
        counted,
        positions=[middle],
        widths=width * 0.8,
        showfliers=False,
        showmeans=True,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": (colour, 0.35), "edgecolor": colour},
        medianprops={"color": style.BLACK, "linewidth": 1.2},
        meanprops={"marker": "D", "markersize": 3.5, "markerfacecolor": "white", "markeredgecolor": style.BLACK},
        whiskerprops={"color": colour},
        capprops={"color": colour},
    )
    spread = np.random.default_rng(0).uniform(-0.5, 0.5, len(shown)) * width * 0.55
    axes.scatter(middle + spread, shown, s=5, color=colour, linewidths=0, alpha=0.7, zorder=3)

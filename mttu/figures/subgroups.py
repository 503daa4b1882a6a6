"""Scores of several systems within subgroups of the cases, as a forest plot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mttu.figures import style
from mttu.figures.estimates import Estimate, is_defined, to_error_bars, to_number

_BEYOND = 0.03
"""How far an axis reaches beyond 0 and 1."""
_SPREAD = 0.6
"""Share of a line's height that its systems take."""


@dataclass(frozen=True)
class SubgroupLine:
    """One subgroup in one metric."""

    title: str
    estimates: Sequence[Estimate]
    """One per system."""
    count: str
    """Cases, written to the right of the panel."""
    starts: bool = False
    """Whether another kind of subgroup begins, after a gap."""


@dataclass(frozen=True)
class SubgroupPanel:
    """One metric, of values from 0 to 1."""

    title: str
    counted: str
    """What the counts are, e.g. n."""
    lines: Sequence[SubgroupLine]
    """From top to bottom; the same titles in every panel. The first is all cases, marked by a vertical line."""


def draw_subgroups(panels: Sequence[SubgroupPanel], systems: Sequence[str], remarks: Sequence[str] = ()) -> Figure:
    """Forest plot: a panel per metric, a line per subgroup, a marker with its interval per system.

    Args:
        panels: From left to right.
        systems: Names, in the order of the estimates.
        remarks: Sentences for the note.

    Raises:
        ValueError: The panels have different lines.
    """
    if not panels or not panels[0].lines:
        return style.draw_nothing("no subgroups")
    titles = [line.title for line in panels[0].lines]
    if any([line.title for line in panel.lines] != titles for panel in panels):
        raise ValueError("panels have different lines; give each the same, in the same order")
    places = _place(panels[0].lines)
    height = (0.14 + 0.075 * len(systems)) * (places[-1] + 1) + 1.1
    figure = style.new_figure(style.PAGE_WIDTH_IN * (1.0 if len(panels) > 1 else 0.62), height)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for number, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
        style.dress(axes, panel.title)
        _draw_lines(axes, panel, places, len(systems))
        axes.set_yticks(places, titles if number == 0 else [""] * len(titles))
        axes.tick_params(axis="y", labelsize=style.LABEL_SIZE, length=0)
    looks = [style.pick_series(index) for index in range(len(systems))]
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle="none", markersize=4.5, label=name)
        for look, name in zip(looks, systems, strict=True)
    ]
    figure.legend(handles=handles, ncols=min(4, len(handles)), **style.LEGEND)
    style.add_note(figure, ["Marker: score with its 95% interval; dashed lines: all cases.", *remarks])
    return figure


def _place(lines: Sequence[SubgroupLine]) -> list[float]:
    """Height of each line, with a gap where another kind begins."""
    places, place = [], -1.0
    for line in lines:
        place += 1.6 if line.starts else 1.0
        places.append(place)
    return places


def _draw_lines(axes: Axes, panel: SubgroupPanel, places: Sequence[float], num_systems: int) -> None:
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    look: dict[str, Any] = {"fontsize": style.NOTE_SIZE, "color": style.DARK_GREY}
    axes.text(1.02, 1.0, panel.counted, ha="left", va="bottom", style="italic", transform=axes.transAxes, **look)
    for place, line in zip(places, panel.lines, strict=True):
        axes.text(1.02, place, line.count, ha="left", va="center", transform=axes.get_yaxis_transform(), **look)
        defined = False
        for number, estimate in enumerate(line.estimates):
            if not is_defined(estimate.value):
                continue
            defined = True
            series = style.pick_series(number)
            if place == places[0]:
                axes.axvline(to_number(estimate.value), **{**style.GUIDE, "color": series.colour, "alpha": 0.6})
            axes.errorbar(
                to_number(estimate.value),
                place + _SPREAD * ((number + 0.5) / num_systems - 0.5),
                xerr=to_error_bars([estimate]),
                color=series.colour,
                marker=series.marker,
                markersize=3.5,
                zorder=3,
                **style.ERROR_BARS,
            )
        if not defined:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
            where: dict[str, Any] = {"ha": "center", "va": "center", "transform": axes.get_yaxis_transform()}
            axes.text(0.5, place, "not defined", style="italic", bbox=box, zorder=4, **where, **look)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -_BEYOND), min(high, 1 + _BEYOND))

"""Error against coverage of many pairs of thresholds for pseudo-labels (section IV-B, eq. 19), and their Pareto front.

The paper shows the error over both thresholds (Fig. 3b, 3c); this is the same, with what an error costs in coverage.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mttu.errors import say_count
from mttu.figures import style
from mttu.figures.estimates import Estimate, is_defined, to_error_bars, to_number

PAPER_PAIR = (0.9, 0.05)
"""tau_c and tau_u of the paper (section IV-B)."""
_TAU_C, _TAU_U = r"$\tau_c$", r"$\tau_u$"
_RING: dict[str, Any] = {"facecolors": "none", "linewidths": 1.3, "clip_on": False}


@dataclass(frozen=True)
class TradeOff:
    """What one pair of thresholds selects from cases whose IDH status is known."""

    confidence_threshold: float | None
    """tau_c; None if it is not applied."""
    uncertainty_threshold: float | None
    """tau_u; None if it is not applied."""
    num_selected: int
    num_cases: int
    """Cases that could have been selected."""
    error: Estimate
    """Share of the selected cases whose class is wrong, with its 95% Wilson interval."""
    on_front: bool
    """Whether no other pair has an error as small and a coverage as large, one of them better."""

    @property
    def spot(self) -> tuple[float, float]:
        """Coverage and error in percent."""
        return 100 * self.num_selected / self.num_cases, 100 * to_number(self.error.value)


def draw_pareto(
    points: Sequence[TradeOff], chosen: TradeOff | None, title: str = "", remarks: Sequence[str] = ()
) -> Figure:
    """Error over coverage of every pair of thresholds, with the Pareto front, the chosen pair and the paper's.

    The line of the front gives the lowest error at which at least that coverage is reached.
    Pairs that select nothing have no error; the note counts them.

    Args:
        points: One per pair, all of the same cases.
        chosen: The pair that the search settled on; None if none qualified.
        title: E.g. the set of cases.
        remarks: Sentences below the panel.
    """
    if not points:
        return style.draw_nothing("no thresholds were tried")
    figure = style.new_figure(style.PAGE_WIDTH_IN * 0.62, 4.2)
    axes = figure.add_subplot()
    heading = f"{title}, n = {points[0].num_cases}".removeprefix(", ")
    style.dress(axes, heading, "coverage: selected (% of n)", "error of selected (%)")
    drawn = [point for point in points if is_defined(point.error.value)]
    if drawn:
        _draw_points(axes, drawn)
    else:
        style.say(axes, "no pair of thresholds selects a case")
    notes = _draw_marks(axes, points, chosen)
    top = max([5.0, axes.get_ylim()[1] if drawn else 0.0])
    axes.set_xlim(-3, 103)
    axes.set_ylim(-0.04 * top, top)
    if drawn:
        figure.legend(ncols=2, labelspacing=0.8, **style.LEGEND)
        notes.append("Bars: 95% Wilson interval of each point on the front, which does not allow for the choice.")
    if len(drawn) < len(points):
        pairs = say_count(len(points) - len(drawn), "pair selects", "pairs select")
        notes.append(f"{pairs} nothing, no error defined.")
    style.add_note(figure, [*notes, *remarks])
    return figure


def _draw_points(axes: Axes, drawn: Sequence[TradeOff]) -> None:
    spots = sorted({point.spot for point in drawn})
    axes.plot(
        *zip(*spots, strict=True),
        linestyle="",
        marker="o",
        markersize=2.2,
        color=style.GREY,
        markeredgewidth=0,
        alpha=0.55,
        label=f"pairs of thresholds: {len(drawn)}",
    )
    front = list({point.spot: point for point in drawn if point.on_front}.values())
    if not front:
        return
    front.sort(key=lambda point: point.spot)
    x, y = zip(*(point.spot for point in front), strict=True)
    bars = 100 * to_error_bars([point.error for point in front])
    axes.errorbar(
        x, y, yerr=bars, fmt="none", ecolor=style.SKY_BLUE, elinewidth=0.6, capsize=1.2, capthick=0.6, zorder=2
    )
    axes.step(x, y, where="pre", color=style.BLUE, linewidth=1.2, marker="o", markersize=3.2, label="Pareto front")


def _draw_marks(axes: Axes, points: Sequence[TradeOff], chosen: TradeOff | None) -> list[str]:
    """Marks the chosen and the paper's pair; returns what cannot be marked."""
    papers = [point for point in points if (point.confidence_threshold, point.uncertainty_threshold) == PAPER_PAIR]
    marks = [("chosen", chosen, "D", 36, style.VERMILLION)] if chosen is not None else []
    marks += [("paper", point, "s", 80, style.BLACK) for point in papers[:1]]
    notes = [] if chosen is not None else ["No pair qualified, none is chosen."]
    for name, point, marker, size, colour in marks:
        if is_defined(point.error.value):
            label = f"{name}: {_name_thresholds(point)}"
            axes.scatter(*point.spot, marker=marker, s=size, edgecolors=colour, label=label, zorder=5, **_RING)
        else:
            notes.append(f"Not drawn, selects nothing: {name}, {_name_thresholds(point)}.")
    return notes


def _name_thresholds(point: TradeOff) -> str:
    tau_c, tau_u = point.confidence_threshold, point.uncertainty_threshold
    shown_c = f"no {_TAU_C}" if tau_c is None else f"{_TAU_C} = {tau_c:.3g}"
    shown_u = f"no {_TAU_U}" if tau_u is None else f"{_TAU_U} = {tau_u:.3g}"
    return f"{shown_c}, {shown_u}"

"""Pictures of a search: what each trial tried and reached, which settings mattered, the trials' curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mttu.errors import say_count
from mttu.figures import style

_MOST_NUMBERS = 8
"""Different numbers of a setting that are written at its axis; of more, the ends alone."""
_APART = 0.05
"""Of an axis' height, between two values that are written at it; one that is closer to another is not written."""
_LETTER_IN = 0.065
"""Width of a letter at an axis, in inches."""
_ABSENT = -0.12
"""Height of a trial that does not have a setting."""
_CUT_SHORT = ("stopped", "failed")


@dataclass(frozen=True)
class TriedTrial:
    """One trial."""

    name: str
    tried: Mapping[str, Any]
    """Setting to value; a setting with a condition that is not met is absent."""
    best: float | None
    """Best value of the metric; None if there is none."""
    curve: Sequence[tuple[int, float]]
    """Epoch or round, and value."""
    state: str
    """begun, finished, stopped or failed."""


def draw_parallel(trials: Sequence[TriedTrial], settings: Sequence[str], metric: str, maximise: bool) -> Figure:
    """Parallel coordinates: a line per trial through its values, coloured by the metric; the best one is thick.

    Values that are words stand in order of their name; numbers on a linear axis, or on a logarithmic one where they
    spread over more than a factor of 30. A setting that a trial does not have is at the bottom, below the axis.

    Args:
        trials: All trials.
        settings: Names of the axes in their order; one that no trial has is left out.
        metric: Name, for the last axis.
        maximise: Whether larger is better.
    """
    scored = [trial for trial in trials if trial.best is not None]
    names = [name for name in settings if any(name in trial.tried for trial in trials)]
    if not scored or not names:
        return style.draw_nothing("no trial with a value yet")
    figure = style.new_figure(style.PAGE_WIDTH_IN, 3.4)
    axes = figure.add_subplot()
    style.dress(axes)
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    places = [_Axis([trial.tried[name] for trial in trials if name in trial.tried]) for name in names]
    values = [trial.best for trial in scored if trial.best is not None]
    goal = _Axis(values, may_be_log=False)
    norm = Normalize(min(values), max(values) if max(values) > min(values) else min(values) + 1e-9)
    colours = colormaps["cividis"] if maximise else colormaps["cividis_r"]
    best = _choose_best(scored, maximise)
    for trial in [*(one for one in scored if one is not best), *([] if best is None else [best])]:
        heights = [
            axis.place(trial.tried[name]) if name in trial.tried else _ABSENT
            for name, axis in zip(names, places, strict=True)
        ]
        line = [*heights, goal.place(trial.best)]
        look: dict[str, Any] = {"linewidth": 2.4, "zorder": 4} if trial is best else {"linewidth": 1.0, "alpha": 0.8}
        dashes = (0, (3, 1.5)) if trial.state in _CUT_SHORT else "-"
        colour = style.VERMILLION if trial is best else colours(norm(trial.best or 0.0))
        axes.plot(range(len(line)), line, color=colour, linestyle=dashes, **look)
    letters = int(0.87 * style.PAGE_WIDTH_IN / (len(names) + 0.45) / _LETTER_IN) - 1  # as many as fit between two axes
    for place, axis in enumerate([*places, goal]):
        axes.axvline(place, color=style.BLACK, linewidth=0.7, zorder=1)
        for height, text in axis.ticks(letters):
            axes.text(place + 0.02, height, text, fontsize=style.NOTE_SIZE, va="center", zorder=6, bbox=_UNDER_TEXT)
    titles = [".\n".join(name.split(".")[-2:]).replace("_", "\n") for name in names]
    axes.set_xticks(range(len(names) + 1), [*titles, metric.replace("/", "/\n").replace("_", "\n")])
    axes.set_yticks([])
    axes.set_ylim(-0.18, 1.08)
    axes.set_xlim(-0.1, len(names) + 0.35)
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, pad=0.01, fraction=0.03)
    bar.ax.tick_params(labelsize=style.NOTE_SIZE)
    notes = [] if best is None else [f"Thick: the best trial, {best.name}."]
    if any(trial.state in _CUT_SHORT for trial in scored):
        notes.append("Dashed: stopped by the scheduler, or failed.")
    if any(name not in trial.tried for trial in scored for name in names):
        notes.append("Below an axis: the trial does not have this setting.")
    lost = len(trials) - len(scored)
    if lost:
        notes.append(f"{say_count(lost, 'trial', 'trials')} without a value left out.")
    style.add_note(figure, notes)
    return figure


def _choose_best(scored: Sequence[TriedTrial], maximise: bool) -> TriedTrial | None:
    """The best trial that was not cut short, the first of equals; None without one."""
    whole = [(trial.best, trial) for trial in scored if trial.state not in _CUT_SHORT]
    known = [(value if maximise else -value, trial) for value, trial in whole if value is not None]
    return max(known, key=lambda one: one[0])[1] if known else None


_UNDER_TEXT = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8}


class _Axis:
    """Heights from 0 to 1 of the values of a setting."""

    def __init__(self, values: Sequence[Any], may_be_log: bool = True) -> None:
        self.numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        self.distinct: list[Any] = sorted(set(values) if self.numbers else {_show(value) for value in values})
        spreads = self.numbers and self.distinct[0] > 0 and self.distinct[-1] / self.distinct[0] > 30
        self.log = bool(may_be_log and spreads)

    def place(self, value: Any) -> float:
        if not self.numbers:
            last = max(1, len(self.distinct) - 1)
            return self.distinct.index(_show(value)) / last if len(self.distinct) > 1 else 0.5
        low, high, at = (np.log(one) if self.log else one for one in (self.distinct[0], self.distinct[-1], value))
        return float((at - low) / (high - low)) if high > low else 0.5

    def ticks(self, letters: int) -> list[tuple[float, str]]:
        """Heights and texts, the lowest first: both ends, and what is far enough from them and from each other."""
        places = {value: self.place(value) for value in self.distinct}
        shown = list(dict.fromkeys([self.distinct[0], self.distinct[-1]]))
        many = self.numbers and len(self.distinct) > _MOST_NUMBERS
        for value in () if many else self.distinct[1:-1]:
            if all(abs(places[value] - places[other]) >= _APART for other in shown):
                shown.append(value)
        texts = {value: f"{value:.4g}" if self.numbers else _shorten(value, letters) for value in shown}
        return sorted((places[value], texts[value]) for value in shown)


def _show(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _shorten(text: str, letters: int) -> str:
    """A text that fits; what tells names apart is often at their end."""
    if len(text) <= letters:
        return text
    front = (letters - 1) // 3
    return f"{text[:front]}…{text[len(text) - (letters - 1 - front) :]}"


def draw_importance(importance: Mapping[str, tuple[float, int]], num_finished: int) -> Figure:
    """Bars of the share of the metric's variance that each setting explains.

    Args:
        importance: Setting to share, and the number of trials that it is measured over.
        num_finished: Finished trials; a share over fewer of them says so.
    """
    if not importance:
        return style.draw_nothing("too few finished trials to say which settings matter")
    names = sorted(importance, key=lambda name: (importance[name][1], importance[name][0]))
    figure = style.new_figure(style.PAGE_WIDTH_IN * 0.7, 0.9 + 0.28 * len(names))
    axes = figure.add_subplot()
    style.dress(axes, "Importance (fANOVA)", "share of the metric's variance over trials")
    shares = [importance[name][0] for name in names]
    colours = [style.BLUE if importance[name][1] == num_finished else style.GREY for name in names]
    axes.barh(names, shares, 0.6, color=colours, **style.BARS)
    for place, share in enumerate(shares):
        axes.text(share + 0.01, place, f"{share:.2f}", va="center", fontsize=style.NOTE_SIZE)
    axes.set_xlim(0, max(1.0, *shares) * 1.08)
    partial = [f"{name}: {importance[name][1]}" for name in names if importance[name][1] < num_finished]
    if partial:
        listed = ", ".join(partial)
        style.add_note(figure, [f"Grey: over those of the {num_finished} finished trials that have it ({listed})."])
    return figure


def draw_trial_curves(trials: Sequence[TriedTrial], metric: str, maximise: bool, step: str) -> Figure:
    """The metric of every trial over epochs or rounds; the best trial is thick, stopped ones end in a cross."""
    drawn = [trial for trial in trials if trial.curve]
    if not drawn:
        return style.draw_nothing("no trial with a value yet")
    figure = style.new_figure(style.PAGE_WIDTH_IN * 0.75, 3.0)
    axes = figure.add_subplot()
    style.dress(axes, "", step, metric)
    scored = [trial for trial in drawn if trial.best is not None]
    best = _choose_best(scored, maximise)
    for trial in drawn:
        steps, values = zip(*trial.curve, strict=True)
        colour = style.VERMILLION if trial is best else style.GREY
        width, order = (2.2, 4) if trial is best else (0.9, 2)
        axes.plot(steps, values, color=colour, linewidth=width, zorder=order, marker="o", markersize=2)
        if trial.state in _CUT_SHORT:
            axes.plot(steps[-1], values[-1], "x", color=style.BLACK, markersize=5, zorder=5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    first, last = (choose(place for trial in drawn for place, _ in trial.curve) for choose in (min, max))
    if first == last:
        axes.set_xlim(first - 0.5, last + 0.5)
    notes = [] if best is None else [f"Thick: the best trial, {best.name}."]
    if any(trial.state in _CUT_SHORT for trial in drawn):
        notes.append("Cross: stopped by the scheduler, or failed.")
    style.add_note(figure, notes)
    return figure

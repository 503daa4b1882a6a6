"""ROC curves of the IDH classifier; mutant is the positive class."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from mttu.figures import style
from mttu.figures.estimates import Estimate, describe, is_defined


@dataclass(frozen=True)
class RocCurve:
    """ROC curve of one predictor; empty with fewer than two classes."""

    title: str
    false_positive_rates: Sequence[float]
    """1 - specificity, rising from 0 to 1."""
    true_positive_rates: Sequence[float]
    """Sensitivity, same length."""
    auc: Estimate
    num_mutant: int
    num_wild: int
    band: tuple[Sequence[float], Sequence[float], Sequence[float]] = ((), (), ())
    """1 - specificity, and the ends of the sensitivity's 95 % interval there; empty where there is none."""


def draw_roc(curves: Sequence[RocCurve]) -> Figure:
    """ROC curves with their bands, AUC and its 95% interval by DeLong.

    The legend names a predictor whose cases are of one class.
    """
    if not curves:
        return style.draw_nothing("no curves")
    figure = style.new_figure(style.PAGE_WIDTH_IN * 0.56, style.PAGE_WIDTH_IN * 0.6)
    axes = figure.add_subplot()
    x_label, y_label = "1 - specificity (share of wild types called mutant)", "sensitivity (share of mutants found)"
    style.dress(axes, "IDH mutant against wild type", x_label, y_label)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    axes.plot([0, 1], [0, 1], **style.GUIDE)
    for index, curve in enumerate(curves):
        series = style.pick_series(index)
        counts = f"{curve.num_mutant} mutant, {curve.num_wild} wild type"
        if not (curve.num_mutant and curve.num_wild and len(curve.false_positive_rates)):
            axes.plot([], [], linestyle="none", label=f"{curve.title}: not defined, {counts}")
            continue
        label = f"{curve.title}: AUC {describe(curve.auc)}\n({counts})"
        rates = curve.false_positive_rates, curve.true_positive_rates
        axes.fill_between(*curve.band, color=series.colour, alpha=0.12, linewidth=0, zorder=1)
        axes.plot(*rates, color=series.colour, linestyle=series.dashes, linewidth=1.5, label=label)
    axes.legend(frameon=False, fontsize=style.NOTE_SIZE, loc="lower right", handlelength=2.8)
    if any(is_defined(curve.auc.low) for curve in curves):
        bands = ["Bands: 95% interval of the sensitivity at each point, bootstrap over patients."]
        has_bands = any(len(curve.band[0]) for curve in curves)
        style.add_note(figure, ["Brackets: 95% interval, DeLong.", *(bands if has_bands else [])])
    return figure

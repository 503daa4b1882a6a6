"""Learning curves of a training run."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mttu.figures import style
from mttu.figures.estimates import is_defined, to_number

SCORE = "val/score"
PANELS = (
    (
        "Training loss",
        "loss (dimensionless)",
        ("train/loss", "train/loss_segmentation", "train/loss_idh", "train/loss_teacher"),
    ),
    ("Validation Dice", "Dice", ("val/dice_wt", "val/dice_tc", "val/dice_et")),
    ("Validation IDH", "share", ("val/idh_auc", "val/idh_accuracy")),
    ("Validation IDH cross entropy", "cross entropy (nats)", ("val/idh_ce",)),
    ("Task uncertainty", "sigma (dimensionless)", ("train/sigma_segmentation", "train/sigma_idh")),
    ("Validation score", "score, larger is better", (SCORE,)),
)
"""Title of each panel, label of its values, and its metrics."""
_NAMES = {
    "loss": "total, weighted",
    "loss_segmentation": "segmentation",
    "loss_idh": "IDH",
    "loss_teacher": "teacher",
    "dice_wt": "WT",
    "dice_tc": "TC",
    "dice_et": "ET",
    "idh_auc": "AUC",
    "idh_accuracy": "accuracy",
    "idh_ce": "IDH",
    "sigma_segmentation": "segmentation",
    "sigma_idh": "IDH",
    "score": "score",
}


def draw_curves(history: Sequence[Mapping[str, float]], remarks: Sequence[str] = ()) -> Figure:
    """Losses, validation metrics and sigmas over epochs; panels without data are left out.

    The epoch of the largest validation score, the one a run keeps, is marked. Values that are not finite leave a gap,
    and the note counts them.

    Args:
        history: One row per epoch with `epoch` and any of the metrics.
        remarks: More sentences for the note, e.g. the convention for empty masks.
    """
    panels = [panel for panel in PANELS if any(name in row for row in history for name in panel[2])]
    if not panels:
        return style.draw_nothing("no metrics")
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = style.new_figure(
        style.PAGE_WIDTH_IN if columns == 3 else style.PAGE_WIDTH_IN * columns / 2.5, 2.15 * rows + 0.3
    )
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    scored = [row for row in history if is_defined(row.get(SCORE))]
    best = max(scored, key=lambda row: row[SCORE])["epoch"] if scored else None
    for axes, (title, y_label, names) in zip(grid, panels, strict=False):
        style.dress(axes, title, "epoch", y_label)
        _draw_panel(axes, history, names, best)
        if y_label in ("Dice", "share"):
            axes.set_ylim(-0.03, 1.03)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    notes = [] if best is None else [f"Dashed: epoch {best:g}, of the largest validation score."]
    notes += remarks
    lost = sum(name in row and not is_defined(row[name]) for row in history for panel in panels for name in panel[2])
    if lost:
        notes.append(f"{lost} values are not finite; they leave gaps.")
    style.add_note(figure, notes)
    return figure


def _draw_panel(axes: Axes, history: Sequence[Mapping[str, float]], names: Sequence[str], best: float | None) -> None:
    for index, name in enumerate(names):
        rows = [(row["epoch"], to_number(row[name])) for row in history if name in row]
        if not rows:
            continue
        epochs, values = zip(*rows, strict=True)
        size = 3 if len(rows) <= 40 else 0
        axes.plot(epochs, values, markersize=size, label=_NAMES[name.split("/")[1]], **style.pick_series(index).line)
        if not np.isfinite(values).any():
            style.say(axes, "no finite value")
    if best is not None:
        axes.axvline(best, **style.GUIDE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if len(names) > 1:
        axes.legend(frameon=False, fontsize=style.NOTE_SIZE)

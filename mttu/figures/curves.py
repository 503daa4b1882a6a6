"""Learning curves of a training run."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

PANELS = (
    ("Training loss", ("train/loss", "train/loss_segmentation", "train/loss_idh")),
    ("Validation Dice", ("val/dice_wt", "val/dice_tc", "val/dice_et")),
    ("Validation IDH", ("val/idh_ce", "val/idh_auc", "val/idh_accuracy")),
    ("Task uncertainty", ("train/sigma_segmentation", "train/sigma_idh")),
)
COLOURS = ("#0072B2", "#D55E00", "#009E73")
MARKERS = ("o", "s", "^")


def draw_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Losses, validation metrics and sigmas over epochs; panels without data are left out.

    Args:
        history: One row per epoch with `epoch` and any of the metrics.
    """
    panels = [(title, names) for title, names in PANELS if any(name in row for row in history for name in names)]
    figure = Figure(figsize=(4.6 * max(1, len(panels)), 3.6), layout="constrained")
    for index, (title, names) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), index)
        _draw_panel(axes, history, names)
        axes.set_title(title)
    return figure


def _draw_panel(axes: Axes, history: Sequence[Mapping[str, float]], names: Sequence[str]) -> None:
    for name, colour, marker in zip(names, COLOURS, MARKERS, strict=False):
        rows = [(row["epoch"], row[name]) for row in history if name in row]
        if not rows:
            continue
        epochs, values = zip(*rows, strict=True)
        label = name.split("/")[1].removeprefix("loss_").replace("_", " ")
        few = len(rows) <= 40
        axes.plot(
            epochs, values, color=colour, marker=marker if few else None, markersize=4, linewidth=1.5, label=label
        )
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)

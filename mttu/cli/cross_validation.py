"""Cross-validation with progress, and what it came to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from mttu.cli.calibration import print_calibration, print_start
from mttu.cli.settings import tell_accumulation, tell_tracking
from mttu.config import Config
from mttu.display import console, show_progress, summarise_epoch, tell, tell_absences

if TYPE_CHECKING:
    from mttu.training.fold_results import FoldsRow

_FIGURES = {"dice": "Dice", "idh_auc": "AUC", "idh_accuracy": "acc", "idh_ce": "CE"}
_PARTS = {"val": "each fold's val cases", "test": "the test cases"}


def cross_validate_shown(settings: Config, folds: int, seed: int, fresh: bool = False) -> Path:
    """Trains once per fold with progress and shows the table over folds; returns the run folder."""
    from mttu.cluster.train import launch_on_ray
    from mttu.training.cross_validation import cross_validate

    epochs = settings.train.epochs
    tell_accumulation(settings)
    tell_tracking(settings, fresh)

    def show(fold: int, epoch: int, metrics: Mapping[str, float]) -> None:
        advance((fold - 1) * epochs + epoch, f"fold {fold}/{folds}  {summarise_epoch(metrics)}")
        tell_absences(metrics, settings, f"fold {fold}/{folds}: ")

    print_start(settings)
    with show_progress("train", folds * epochs) as advance:
        folder = cross_validate(settings, launch_on_ray, folds, seed, fresh, show, tell)
    print_folds(folder)
    return folder


def print_folds(folder: Path) -> None:
    """Prints mean and deviation over folds, and where the ensemble is."""
    from mttu.training.fold_results import CSV, read_empty_dice, read_folds_table
    from mttu.training.folds import ENSEMBLE_FOLDER

    rows, empty_dice = read_folds_table(folder), read_empty_dice(folder)
    for part in _PARTS:
        if any(row.metric.startswith(f"{part}/") for row in rows):
            console.print(tabulate_folds(rows, part, empty_dice))
    console.print(f"every figure of every fold: {folder / CSV}", markup=False)
    console.print(f"ensemble of the folds: {folder / ENSEMBLE_FOLDER}", markup=False)
    if (folder / ENSEMBLE_FOLDER).is_dir():  # else it was taken away after the end
        print_calibration(folder / ENSEMBLE_FOLDER)


def tabulate_folds(rows: "Sequence[FoldsRow]", part: str, empty_dice: str = "brats") -> Table:
    """One row per network: mean and standard deviation over folds of what is looked at most.

    Where fewer folds define a figure, their number stands behind it.

    Args:
        rows: The table over folds.
        part: val or test.
        empty_dice: Convention for empty masks that Dice was counted by.
    """
    known = {(row.network, row.metric): row for row in rows}
    folds = max((len(row.values) for row in rows), default=0)
    title = f"mean and standard deviation over {folds} folds, on {_PARTS[part]}"
    has_dice = any(row.metric == f"{part}/dice" and row.mean is not None for row in rows)
    caption = f"Dice of empty masks: {empty_dice}" if has_dice else None
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("network", no_wrap=True)
    for name in _FIGURES.values():
        table.add_column(name, justify="right", no_wrap=True)
    for network in dict.fromkeys(row.network for row in rows):
        table.add_row(network, *(_show(known.get((network, f"{part}/{name}")), folds) for name in _FIGURES))
    return table


def _show(row: "FoldsRow | None", folds: int) -> str:
    if row is None or row.mean is None:
        return "-"
    spread = "" if row.std is None else f" ± {row.std:.3f}"
    return f"{row.mean:.3f}{spread}" + (f" ({row.num_folds})" if row.num_folds < folds else "")

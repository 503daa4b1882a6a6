"""Cross-validation of plain training."""

from collections.abc import Callable, Mapping
from pathlib import Path

from mttu.atomic import read_json, write_json
from mttu.config import Config
from mttu.data.absent_classes import without_absences
from mttu.data.folds import draw_folds
from mttu.lock import lock_folder
from mttu.networks.checkpoint import find_checkpoint
from mttu.tracking import Tracker, follow_moved_folder, open_tracker
from mttu.training.fold_results import CSV, FoldsRow, Results
from mttu.training.folds import check_each, fold_settings, run_folds
from mttu.training.inputs import check_inputs
from mttu.training.run import FINISHED, Launch, Tell, closing, name_missing, run_training
from mttu.training.run_folder import begin_or_continue

NETWORK = "best"
"""Name of a fold's network in the table."""
OnFoldEpoch = Callable[[int, int, Mapping[str, float]], None]
"""Told the fold, its newest epoch and that epoch's metrics."""


def cross_validate(
    config: Config,
    launch: Launch,
    folds: int,
    seed: int = 0,
    fresh: bool = False,
    show: OnFoldEpoch | None = None,
    tell: Tell | None = None,
) -> Path:
    """Trains once per fold, tracked in MLflow as runs below one, and makes an ensemble of the folds.

    The epoch of a fold's checkpoint is chosen on its val cases, and its metrics are of those, too: they are a little
    too good, the more so the fewer cases there are.

    Args:
        config: All settings; train and val cases of the manifest are drawn anew.
        launch: How workers are launched.
        folds: Number of folds k.
        seed: Of the draw, see `mttu.data.folds.draw_folds`; the training has its own.
        fresh: Start anew; an older run of the same name is kept aside.
        show: Called with each finished epoch.
        tell: Called with what will be missing, before anything is trained.

    Returns:
        The run folder, with `ensemble/` and `folds.csv` in it.

    Raises:
        InputError: Something is refused; nothing was started.
        RunError: Training stopped; the same command goes on from there.
    """
    inputs = check_inputs(config)
    drawn = draw_folds(inputs.manifest, folds, seed)
    checked = check_each(drawn, lambda manifest: check_inputs(config, manifest=manifest))
    folder = (config.output.folder / config.output.name).resolve()
    with lock_folder(folder):
        begin_or_continue(folder, config, inputs.fingerprint, fresh, extra={"folds": folds, "fold seed": seed})
        if (folder / FINISHED).exists():
            follow_moved_folder(config, folder)
            return folder
        if tell is not None:
            for note in dict.fromkeys(note for one in (inputs, *checked) for note in one.notes):
                tell(note)
        about = (inputs.manifest.fingerprint, inputs.manifest.synthetic)
        tracker = open_tracker(config, folder, *about, tags=name_missing(inputs.missing))

        def run_fold(number: int, manifest: Path, place: Path) -> Results:
            def on_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
                if show is not None:
                    show(number, epoch, metrics)

            settings = fold_settings(config, number, manifest, folder, inputs.cache_dir)
            run_training(settings, launch, show=on_epoch, parent=tracker)
            content = read_json(find_checkpoint(place) / "checkpoint.json")
            return {NETWORK: without_absences(content["metrics"])}

        with closing(tracker):
            log_folds(tracker, run_folds(drawn, folder, run_fold, config.metrics), folder, {NETWORK: 0})
        write_json(folder / FINISHED, {"format_version": 1})
    return folder


def log_folds(tracker: Tracker, rows: list[FoldsRow], folder: Path, steps: Mapping[str, int]) -> None:
    """Logs means over folds under the metrics' own names, deviations as `NAME_std`, and the table.

    Args:
        tracker: Of the whole.
        rows: The table over folds.
        folder: Where its file is.
        steps: Networks of the table that are logged, and MLflow's step of each.
    """
    for network, step in steps.items():
        known = [row for row in rows if row.network == network]
        means = {row.metric: row.mean for row in known if row.mean is not None}
        deviations = {f"{row.metric}_std": row.std for row in known if row.std is not None}
        tracker.log_step(step, means | deviations)
    tracker.log_table(folder / CSV)

"""One training from check to finished run folder; how the workers are launched is the caller's choice."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mttu.atomic import atomic_folder, write_json
from mttu.config import Config
from mttu.data.cohort import read_manifest
from mttu.figures.saving import save_figure
from mttu.lock import lock_folder
from mttu.tracking import Tracker, follow_moved_folder, open_tracker
from mttu.training.epoch_log import EpochLog
from mttu.training.held_out import calibrate_training, copy_held_out, read_held_out
from mttu.training.inputs import Inputs, check_inputs, resolve_paths
from mttu.training.loop import fit
from mttu.training.pictures import LEARNING_CURVES, draw_results
from mttu.training.run_folder import begin_or_continue
from mttu.training.runtime import LocalRuntime
from mttu.training.state import BEST
from mttu.training.task import Task

FINISHED = "finished.json"
OnEpoch = Callable[[int, Mapping[str, float]], None]
Tell = Callable[[str], None]
"""Told a sentence that the user should read before training starts."""
History = list[dict[str, float]]
OnStart = Callable[[str, int], None]
"""Told what a training runs on, once that is decided: `gpu` or `cpu`, and the number of workers."""
Launch = Callable[[Config, Path, OnEpoch, OnStart], History]
"""Trains to the last epoch or goes on, calls back for each finished epoch, leaves `best/` in the run folder."""


def task_of(config: Config) -> Task:
    """What a worker trains, read from the manifest that the settings name."""
    path, cache_dir = resolve_paths(config)
    manifest = read_manifest(path)
    return Task(config, manifest.split("train"), manifest.split("val"), cache_dir)


def name_missing(missing: Mapping[str, str]) -> dict[str, str]:
    """Tags of a run that say why there is no answer to a task, such as `missing.idh`."""
    return {f"missing.{task}": reason for task, reason in missing.items()}


def keep_best(checkpoint: Path, folder: Path) -> None:
    """Copies the best weights out of a training checkpoint into the run folder, whole or not at all.

    With them goes a calibration that is fitted on what they say of the val cases; `held_out.json` has that itself.
    """
    held_out = read_held_out(checkpoint)
    copy_held_out(checkpoint, folder)  # first: weights without it would look like those of an older version
    with atomic_folder(folder / BEST) as partial:
        shutil.copytree(checkpoint / BEST, partial, dirs_exist_ok=True)
        if held_out is not None:
            calibrate_training(partial, held_out)


def launch_locally(config: Config, folder: Path, on_epoch: OnEpoch, on_start: OnStart) -> History:
    """A `Launch` in this process, on the CPU, without Ray."""
    on_start("cpu", 1)
    runtime = LocalRuntime(folder / "train", on_report=on_epoch)
    state = fit(task_of(config), runtime)
    with runtime.resume() as checkpoint:
        if checkpoint is not None:
            keep_best(checkpoint, folder)
    return state.history


@contextmanager
def closing(tracker: Tracker) -> Iterator[None]:
    """Closes the run at the end of the body, as finished or as what stopped it."""
    try:
        yield
    except BaseException as error:
        with suppress(Exception):  # the first error is the one to tell
            tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.finish("FINISHED")


def run_training(
    config: Config,
    launch: Launch,
    fresh: bool = False,
    show: OnEpoch | None = None,
    parent: Tracker | None = None,
    tell: Tell | None = None,
) -> Path:
    """Checks everything, then trains or goes on, tracked in MLflow.

    Args:
        config: All settings.
        launch: How workers are launched.
        fresh: Start anew; an older run of the same name is kept aside.
        show: Called with each finished epoch and its metrics, in order.
        parent: Of a cross-validation, whose fold this is; None: a training of its own.
        tell: Called with what will be missing, before anything is trained.

    Returns:
        The run folder, with `best/` in it.

    Raises:
        InputError: Something is refused; nothing was started.
        RunError: Training stopped; the same command goes on from the last checkpoint.
    """
    inputs = check_inputs(config)
    folder = (config.output.folder / config.output.name).resolve()
    with lock_folder(folder):
        begin_or_continue(folder, config, inputs.fingerprint, fresh)
        if (folder / FINISHED).exists():
            follow_moved_folder(config, folder)
            return folder
        if tell is not None:
            for note in inputs.notes:
                tell(note)
        about = (inputs.manifest.fingerprint, inputs.manifest.synthetic)
        tracker = open_tracker(config, folder, *about, parent, tags=name_missing(inputs.missing))
        with closing(tracker):
            history = _train_and_log(config, inputs, folder, launch, tracker, show)
        write_json(folder / FINISHED, {"format_version": 1, "history": history})
    return folder


def _train_and_log(
    config: Config, inputs: Inputs, folder: Path, launch: Launch, tracker: Tracker, show: OnEpoch | None
) -> History:
    epochs = EpochLog(tracker)

    def on_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
        epochs.log(epoch, metrics)
        if show is not None:
            show(epoch, metrics)

    history = launch(config, folder, on_epoch, epochs.start)
    epochs.complete(history)
    tracker.log_checkpoint(folder / BEST)
    val = inputs.manifest.split("val")
    for name, figure in draw_results(folder / BEST, history, val, inputs.cache_dir, tracker.allows_pictures):
        (path,) = save_figure(figure, folder / name, ("png",))
        if name == LEARNING_CURVES:
            tracker.log_figure(path)
        else:
            tracker.log_picture(path)
    return history

"""One training, from checking its inputs to a finished run folder; the caller chooses how workers are launched."""

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mttu.config import Config, flatten
from mttu.config.changeable import list_changeable
from mttu.config.earlier import complete
from mttu.data.cache import open_cached
from mttu.data.manifest import Case, read_manifest
from mttu.errors import InputError
from mttu.figures.style import save_figure
from mttu.files import PREFIX, atomic_folder, lock_folder, read_json, write_json
from mttu.inference.distribution import FEWEST_CASES, KeptDistribution, summarise_cases, write_distribution
from mttu.inference.image_statistics import measure_image
from mttu.tracking import Tracker, follow_moved_folder, open_tracker
from mttu.training.epoch_log import EpochLog
from mttu.training.held_out import calibrate_training, copy_held_out, read_held_out
from mttu.training.inputs import Inputs, TrainingTask, check_inputs, resolve_paths
from mttu.training.loop import fit
from mttu.training.pictures import LEARNING_CURVES, draw_results
from mttu.training.runtime import LocalRuntime
from mttu.training.start import identify_start
from mttu.training.state import BEST

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
"""2: `train.global_batch` and `train.batch_per_worker` in place of `train.batch_size`."""
MARK = "run.json"
MOST_MEASURED = 100
"""Training cases whose images are measured when a training ends: enough for a median and the 5th and 95th percentile. A
case of four modalities and 140 x 172 x 140 voxels takes 1.5 s of one core."""
CHANGEABLE = list_changeable()
"""Prefixes of the settings that may change while a training is stopped."""


def identify(config: Config, fingerprint: str, changeable: tuple[str, ...] = CHANGEABLE) -> dict[str, Any]:
    """What must stay the same for a run to go on: settings, the weights that it started from, and the data.

    `fingerprint` is that of manifest and prepared cases; `changeable` are prefixes of the settings that may change.
    """
    flat = flatten(config.model_dump(mode="json"))
    settings = {name: value for name, value in flat.items() if not name.startswith(changeable)}
    if not config.data.folds:
        settings["data.fold_seed"] = 0  # it decides nothing
    settings["train.start_from"] = identify_start(config)
    return {"format_version": FORMAT_VERSION, "data": fingerprint, "settings": settings}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], earlier_fingerprint: str = "") -> list[str]:
    """Each difference of two identities as `name: old -> new`.

    `earlier_fingerprint` stands for the new one's data too, see `mttu.training.inputs.Inputs`. A setting that the
    old one lacks counts as the value that its version used, see `mttu.config.earlier`.
    """
    found = []
    if old.get("format_version") not in range(1, new["format_version"] + 1):
        found.append(f"format_version: {old.get('format_version')} -> {new['format_version']}")
    if old.get("data") not in (new["data"], earlier_fingerprint or new["data"]):
        found.append(f"manifest or prepared cases: {_shorten(old.get('data'))} -> {_shorten(new['data'])}")
    stored, after = old.get("settings", {}), new["settings"]
    # a setting that is newer than the old run and may change is in neither
    before = {name: value for name, value in complete(stored).items() if name in stored or name in after}
    names = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    return [*found, *(f"{name}: {before.get(name)} -> {after.get(name)}" for name in names)]


def _shorten(fingerprint: object) -> str:
    """Its first characters, after what it is of (`of a search: `) where it says that."""
    what, mark, digest = str(fingerprint).rpartition(": ")
    return f"{what}{mark}{digest[:12]}"


def read_format(folder: Path) -> int | None:
    """Format version of the run in a folder; None where there is none, or none that can be read."""
    try:
        found = read_json(folder / MARK)["format_version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, int) else None


def begin_or_continue(
    folder: Path,
    config: Config,
    fingerprint: str,
    fresh: bool,
    changeable: tuple[str, ...] = CHANGEABLE,
    earlier_fingerprint: str = "",
) -> None:
    """Records in a folder, locked by the caller, what its run is started with, or checks that this has not changed.

    See `identify` for config, fingerprint and `changeable`, and `differences` for `earlier_fingerprint`. With `fresh`
    an older run in this folder is moved aside, and a new one is begun.

    Raises:
        InputError: The folder holds a run of other settings or data; lists each difference.
    """
    mark, identity = folder / MARK, identify(config, fingerprint, changeable)
    if fresh or not mark.exists():
        move_aside(folder)
        write_json(mark, identity)
        return
    try:
        old = dict(read_json(mark))
    except (ValueError, TypeError):
        raise InputError(f"run {folder}: run.json is damaged; start anew with --fresh") from None
    found = differences(old, identity, earlier_fingerprint)
    if found:
        changes = "; ".join(found)
        raise InputError(
            f"run {folder}: was started with other settings or data ({changes}); "
            "undo the change, set another output.name, or start anew with --fresh (the old run is kept aside)"
        )


def move_aside(folder: Path) -> None:
    """Moves everything in a run folder but its lock into the next free `replaced-N` inside it; nothing is deleted.

    A kill halfway leaves the rest without its mark; the next start moves that aside as well.
    """
    stays = (".lock", "replaced-", PREFIX)  # the last: half-written files belong to no run
    content = [item for item in folder.iterdir() if not item.name.startswith(stays)]
    if not content:
        return
    number = 1 + max((int(item.name.split("-")[1]) for item in folder.glob("replaced-[0-9]*")), default=0)
    aside = folder / f"replaced-{number}"
    aside.mkdir()
    for item in sorted(content, key=lambda item: item.name != MARK):  # the mark first: without it nothing is resumed
        item.rename(aside / item.name)


FINISHED = "finished.json"
OnEpoch = Callable[[int, Mapping[str, float]], None]
Tell = Callable[[str], None]
"""Called with a sentence that the user should read before training starts."""
History = list[dict[str, float]]
OnStart = Callable[[str, int], None]
"""Called with what a training runs on, once that is decided: `gpu` or `cpu`, and the number of workers."""
Launch = Callable[[Config, Path, OnEpoch, OnStart], History]
"""Trains, or continues, to the last epoch; calls back for each finished epoch and leaves `best/` in the run folder."""


def task_of(config: Config) -> TrainingTask:
    """The task of a worker, read from the manifest that the settings name."""
    path, cache_dir = resolve_paths(config)
    manifest = read_manifest(path)
    return TrainingTask(config, manifest.split("train"), manifest.split("val"), cache_dir)


def name_missing(missing: Mapping[str, str]) -> dict[str, str]:
    """Tags of a run that say why there is no answer to a task, such as `missing.idh`."""
    return {f"missing.{task}": reason for task, reason in missing.items()}


def measure_training_cases(config: Config) -> KeptDistribution:
    """What the prepared images of a training look like, for scans to be compared with later.

    Of more than `MOST_MEASURED` cases as many are measured, at even distances in the order of the manifest. Where one
    cannot be measured, it says so: the training is finished and lasts.
    """
    task = task_of(config)
    modalities = config.data.modalities

    def measure(case: Case) -> dict[str, float]:
        cached = open_cached(task.cache_dir, case.case_id)
        cached.will_need()
        image = np.asarray(cached.image)[cached.channels(modalities)]
        try:
            return measure_image(image, modalities, cached.geometry.spacing_mm)
        except ValueError as error:  # e.g. an image of zeros alone
            logger.warning("case %s: its prepared image cannot be measured (%s); prepare it again", case.case_id, error)
            raise

    if len(task.train) < FEWEST_CASES:
        return summarise_cases([{} for _ in task.train])
    try:
        return summarise_cases([measure(case) for case in _spread(task.train, MOST_MEASURED)])
    except (InputError, OSError):
        return KeptDistribution(reason="the prepared training cases could not be read when the training ended")
    except ValueError:  # the reason goes into the checkpoint, so it names no case
        return KeptDistribution(reason="a prepared training case was damaged when the training ended")


def _spread(cases: Sequence[Case], most: int) -> list[Case]:
    """At most so many of the cases, at even distances."""
    count = min(len(cases), most)
    return [cases[number * len(cases) // count] for number in range(count)]


def keep_best(checkpoint: Path, folder: Path, distribution: KeptDistribution | None = None) -> None:
    """Copies the best weights out of a training checkpoint into the run folder, whole or not at all.

    With them go their predictions for the val cases, a calibration that is fitted on these, and the `distribution` of
    the training cases.
    """
    held_out = read_held_out(checkpoint)
    copy_held_out(checkpoint, folder)  # first: weights without it would look like those of an older version
    with atomic_folder(folder / BEST) as partial:
        shutil.copytree(checkpoint / BEST, partial, dirs_exist_ok=True)
        if held_out is not None:
            calibrate_training(partial, held_out)
        if distribution is not None:
            write_distribution(partial, distribution)


def launch_locally(
    config: Config, folder: Path, on_epoch: OnEpoch, on_start: OnStart, device: torch.device | None = None
) -> History:
    """A `Launch` in this process without Ray, on the CPU if no device is given, whatever `workers.device` says."""
    device = device or torch.device("cpu")
    on_start("gpu" if device.type == "cuda" else "cpu", 1)
    runtime = LocalRuntime(folder / "train", device, on_report=on_epoch)
    state = fit(task_of(config), runtime)
    with runtime.resume() as checkpoint:
        if checkpoint is not None:
            keep_best(checkpoint, folder, measure_training_cases(config))
    return state.history


@contextmanager
def closing(tracker: Tracker) -> Iterator[None]:
    """Closes the run after the body: as finished, failed or killed."""
    try:
        yield
    except BaseException as error:
        with suppress(Exception):  # the first error is the one to report
            tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.finish("FINISHED")


@dataclass
class Run:
    """A run folder that this process holds."""

    folder: Path
    tracker: Tracker | None
    """None for a run that was finished before: there is nothing left to do."""
    result: dict[str, Any] = field(default_factory=dict)
    """Content of `finished.json`; JSON values."""


@contextmanager
def open_run(
    config: Config,
    inputs: Inputs,
    fresh: bool,
    changeable: tuple[str, ...] = CHANGEABLE,
    check: Callable[[Path], None] | None = None,
    parent: Tracker | None = None,
    tell: Tell | None = None,
    notes: Iterable[str] = (),
    labels: Mapping[str, object] | None = None,
) -> Iterator[Run]:
    """Holds a run folder while the body runs: locked, begun or found to be the same run, tracked, marked as finished.

    Args:
        config: All settings.
        inputs: What `check_inputs` returned.
        fresh: See `begin_or_continue`.
        changeable: Prefixes of the settings that may change while the run is stopped.
        check: Called with the locked folder; raises if the run may not go on.
        parent: Run that this one belongs to in MLflow.
        tell: Called with each of `notes`, unless the run was finished before.
        notes: Sentences for the user, such as what will be missing.
        labels: Parameters that tell runs apart in MLflow, such as the table of an ablation study.

    Raises:
        InputError: Something is refused; nothing was started.
    """
    folder, manifest = config.output.place, inputs.manifest
    with lock_folder(folder):
        begin_or_continue(folder, config, inputs.fingerprint, fresh, changeable, inputs.earlier_fingerprint)
        if check is not None:
            check(folder)
        if (folder / FINISHED).exists():
            follow_moved_folder(config, folder)
            yield Run(folder, None)
            return
        if tell is not None:
            for note in notes:
                tell(note)
        tags = name_missing(inputs.missing)
        tracker = open_tracker(
            config, folder, manifest.fingerprint, manifest.synthetic, parent, labels=labels, tags=tags
        )
        run = Run(folder, tracker)
        with closing(tracker):
            yield run
        write_json(folder / FINISHED, {"format_version": 1, **run.result})


def run_training(
    config: Config,
    launch: Launch,
    fresh: bool = False,
    show: OnEpoch | None = None,
    parent: Tracker | None = None,
    tell: Tell | None = None,
) -> Path:
    """Checks everything, then trains, or continues, tracked in MLflow.

    Args:
        config: All settings.
        launch: How workers are launched.
        fresh: Start anew; an older run of the same name is kept aside.
        show: Called with each finished epoch and its metrics, in order.
        parent: The cross-validation whose fold this is; None: a training of its own.
        tell: Called with what will be missing, before anything is trained.

    Returns:
        The run folder, with `best/` in it.

    Raises:
        InputError: Something is refused; nothing was started.
        RunError: Training stopped; the same command goes on from the last checkpoint.
    """
    if config.data.folds:
        raise InputError("data.folds: this runs one training; see cross_validate")
    inputs = check_inputs(config)
    with open_run(config, inputs, fresh, parent=parent, tell=tell, notes=inputs.notes) as run:
        if run.tracker is not None:
            run.result["history"] = _train_and_log(config, inputs, run.folder, launch, run.tracker, show)
    return run.folder


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
        log = tracker.log_figure if name == LEARNING_CURVES else tracker.log_picture
        log(path)
    return history

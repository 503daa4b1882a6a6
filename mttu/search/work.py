"""What a trial does: a training or a self-training in its own run folder, reported epoch by epoch or round by round."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mttu.config import Config, override
from mttu.data.manifest import read_manifest
from mttu.errors import InputError, RunError
from mttu.files import lock_folder, read_json
from mttu.search.spaces import Run
from mttu.search.trials import STEP, Report
from mttu.self_training import Callables, Step, run_self_training
from mttu.self_training.evaluation import write_rows
from mttu.self_training.round_folder import count_finished, read_record, round_folder
from mttu.self_training.run import is_full_disk
from mttu.training.evaluation import SECONDS
from mttu.training.inputs import resolve_paths
from mttu.training.run import FINISHED, run_training
from mttu.training.state import BEST

CASES = "cases.parquet"
"""In a trial's folder: scores of each case of the split that the trial is evaluated on."""
VOLUME_SECONDS = "seconds_per_volume"
"""In the metadata of `CASES`: median over the cases of the time that a prediction took."""


@dataclass(frozen=True)
class Job:
    """A trial, as it is sent to the process that does its work. JSON values, no password."""

    settings: dict[str, Any]
    run: Run
    split: str | None = None
    """Split whose cases are scored by the best weights afterwards."""

    @property
    def config(self) -> Config:
        """All settings of the trial."""
        return Config.model_validate(self.settings)


def refuse_ensemble(config: Config) -> None:
    """Raises an InputError if an ensemble is to teach: many trainings would share what it knows of their val cases."""
    if config.self_training.teacher == "ensemble":
        raise InputError(
            "self_training.teacher: an ensemble teaches a single self-training; its networks know val cases, by which "
            "trials and folds are compared: choose last or best"
        )


def with_absolute_paths(config: Config) -> Config:
    """The settings for processes that have other working folders."""
    manifest, cache_dir = resolve_paths(config)
    changes: dict[str, Any] = {"data.manifest": str(manifest), "data.cache_dir": str(cache_dir)}
    paths = {
        "train.start_from": config.train.start_from,
        "self_training.start": config.self_training.start,
        "self_training.ensemble": config.self_training.ensemble,
        "self_training.truth": config.self_training.truth,
    }
    return override(config, changes | {name: str(path.resolve()) for name, path in paths.items() if path is not None})


@dataclass(frozen=True)
class Ending:
    """How the work of a trial ended; it is finished if both are empty."""

    failed: str = ""
    """Why the trial failed by itself: a row of the search, whose other trials go on."""
    broken: str = ""
    """What kept it from ending that is not its fault: it stays begun, and the same command goes on with it."""


_WAIT_SECONDS = 30.0


def try_trial(
    job: Job,
    make_callables: Callable[[Config], Callables],
    report: Callable[[Report], None],
    check_place: Callable[[Config], object] = lambda config: None,
    faults: tuple[type[Exception], ...] = (),
) -> Ending:
    """Does the trial's work, whatever may happen to it.

    Args:
        job: The work.
        make_callables: How it is done, from the trial's settings.
        report: See `do_trial`.
        check_place: See `find_obstacle_of_trial`.
        faults: Exceptions that are not the trial's fault, beside a full disk.
    """
    try:
        obstacle = find_obstacle_of_trial(job, check_place)
        if obstacle:
            return Ending(broken=obstacle)
        do_trial(job, make_callables(job.config), report)
    except Exception as error:
        told = str(error) if isinstance(error, InputError | RunError) else f"{type(error).__name__}: {error}"
        if isinstance(error, faults) or is_full_disk(error, job.config.output.place):
            return Ending(broken=told)
        return Ending(failed=told)
    return Ending()


def find_obstacle_of_trial(job: Job, check_place: Callable[[Config], object]) -> str:
    """What keeps a trial from starting that is not its fault; empty if nothing does.

    That is a process of an earlier start that still holds its run folder, or a place in the cluster that is gone, which
    `check_place` says.
    """
    config = job.config
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            with lock_folder(config.output.place):
                break
        except InputError as error:
            if time.monotonic() > deadline:
                return str(error)
            time.sleep(1)
    try:
        check_place(config)
    except InputError as error:
        return str(error)
    return ""


def do_trial(job: Job, callables: Callables, report: Callable[[Report], None]) -> None:
    """Does the trial's work, or goes on with it.

    `report` gets a row for each epoch or round that is new in this start, and at the end all that were not reported,
    such as those between the newest checkpoint and a kill.

    Raises:
        InputError: The settings are refused.
        RunError: Training stopped, e.g. because the loss is not finite or memory is exhausted.
    """
    config = job.config
    for row in (_self_train if job.run == "self-train" else _train)(config, callables, report):
        report(row)
    if job.split is not None:
        _evaluate(config, callables, job.split)


def _train(config: Config, callables: Callables, report: Callable[[Report], None]) -> list[dict[str, float]]:
    def show(epoch: int, metrics: Mapping[str, float]) -> None:
        report({STEP: epoch, **metrics})

    folder = run_training(config, callables.train, show=show)
    history: list[dict[str, float]] = read_json(folder / FINISHED)["history"]
    return history


def _self_train(config: Config, callables: Callables, report: Callable[[Report], None]) -> list[dict[str, float]]:
    folder = config.output.place
    first = 0 if config.self_training.start is None else 1  # a shared round 0 says nothing of a trial
    reported = first

    def show(step: Step) -> None:
        nonlocal reported
        while reported < step.round:  # the rounds before it are finished
            report(_read_round(folder, reported))
            reported += 1

    run_self_training(config, callables, show=show)
    rounds = range(count_finished(folder))
    return [_read_round(folder, number) for number in rounds[first:] or rounds]


def _read_round(folder: Path, number: int) -> dict[str, float]:
    record = read_record(round_folder(folder, number))
    counts = {"selected/mutant": record.num_mutant, "selected/wild": record.num_wild}
    return {STEP: number, **counts, **record.metrics}


def _evaluate(config: Config, callables: Callables, split: str) -> None:
    """Scores the cases of a split, once, by the best weights."""
    target = config.output.folder / CASES
    if target.exists():
        return
    if config.data.manifest is None:
        raise ValueError("a trial has a manifest")
    cases = read_manifest(config.data.manifest).split(split)
    rows = callables.evaluate(Path(config.output.place / BEST), cases, config, lambda done, row: None)
    about = {"split": split, "empty_dice": config.metrics.empty_dice}
    seconds = [row[SECONDS] for row in rows if SECONDS in row]
    if seconds:
        about[VOLUME_SECONDS] = f"{median(seconds):.6g}"
    write_rows(rows, target, about)

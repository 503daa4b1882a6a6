"""What a trial does: a training or a self-training in its own run folder, reported epoch by epoch or round by round."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mttu.config import Config
from mttu.data.manifest import read_manifest
from mttu.errors import InputError
from mttu.files import lock_folder, read_json
from mttu.search.spaces import Run
from mttu.search.trials import STEP, Report
from mttu.self_training import Callables, run_self_training
from mttu.self_training.evaluation import read_summary, write_rows
from mttu.training.run import FINISHED, run_training
from mttu.training.state import BEST

CASES = "cases.parquet"
"""In a trial's folder: scores of each case of the split that the trial is evaluated on."""


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


_WAIT_SECONDS = 30.0


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
    del report  # rounds are known at the end
    summary = read_summary(run_self_training(config, callables)) or {}
    first = 1 if config.self_training.start is not None and len(summary["rounds"]) > 1 else 0
    return [
        {
            STEP: row["round"],
            "selected/mutant": row["num_mutant"],
            "selected/wild": row["num_wild"],
            **row["metrics"],
        }
        for row in summary["rounds"][first:]  # a shared round 0 says nothing of a trial
    ]


def _evaluate(config: Config, callables: Callables, split: str) -> None:
    """Scores the cases of a split, once, by the best weights."""
    target = config.output.folder / CASES
    if target.exists():
        return
    if config.data.manifest is None:
        raise ValueError("a trial has a manifest")
    cases = read_manifest(config.data.manifest).split(split)
    rows = callables.evaluate(Path(config.output.place / BEST), cases, config, lambda done, row: None)
    write_rows(rows, target, {"split": split, "empty_dice": config.metrics.empty_dice})

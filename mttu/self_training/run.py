"""A self-training from check to finished run folder: once, or once for each fold of a cross-validation."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mttu.cohort.splits import draw_folds
from mttu.config import Config, override
from mttu.config.changeable import list_changeable
from mttu.errors import InputError, RunError, raise_if_any
from mttu.self_training.algorithm import self_train
from mttu.self_training.evaluation import is_tested, read_summary
from mttu.self_training.inputs import check_self_training, check_shared_start, check_teacher
from mttu.self_training.job import Callables, Checked, OnStep, Step, last_round, make_job
from mttu.self_training.round_folder import UNCHANGED, count_finished, is_finished
from mttu.self_training.tracking import read_test
from mttu.tracking import open_tracker
from mttu.training.folds import Results, check_each, fold_settings, log_folds, run_folds
from mttu.training.run import FINISHED, closing, open_run

CHANGEABLE = list_changeable(in_rounds=True)
"""Settings that may change while a self-training is stopped, because finished rounds do not depend on them."""
CHOSEN = "chosen round"
"""Name, in the table over folds, of the round that a fold's val cases chose; the others are `round 0` and so on."""
_WAYS = "set it back, set another output.name, or start anew with --fresh (the old run is kept aside)"
_LEAST_ROOM = 2**20
"""Bytes; a checkpoint needs more."""


def run_self_training(
    config: Config,
    callables: Callables,
    fresh: bool = False,
    show: OnStep | None = None,
    checked: Checked | None = None,
) -> Path:
    """Checks everything, then runs all rounds or goes on, tracked in MLflow.

    Args:
        config: All settings.
        callables: How to train, score and evaluate.
        fresh: Start anew; an older run of the same name is kept aside.
        show: Called with each `Step`.
        checked: What `check_self_training` found of these settings, if it was called before.

    Returns:
        The run folder: the rounds, `best/` of the round that validation chose, `test.json` and `summary.json`.

    Raises:
        InputError: Something is refused; nothing was started.
        UnmeasuredError: All is trained, and test cases cannot be used; the same command goes on with their evaluation.
        RunError: It stopped; the same command goes on from there.
    """
    if config.data.folds:
        raise InputError("data.folds: this runs one self-training; see cross_validate_self_training")
    checked = checked or check_self_training(config)
    if fresh or not is_finished(config.output.place, 0):
        raise_if_any(check_shared_start(config, checked.inputs))
    if fresh and is_finished(config.output.place, 1):  # else it was checked with the rest
        raise_if_any(check_teacher(config, checked.inputs.manifest))

    def check(folder: Path) -> None:
        _check_rounds(config, folder, (folder / FINISHED).exists())

    with naming_full_disk(config.output.place), open_run(config, checked.inputs, fresh, CHANGEABLE, check=check) as run:
        if run.tracker is not None:
            self_train(make_job(config, checked, run.folder, callables, run.tracker, show))
    return run.folder


def cross_validate_self_training(
    config: Config,
    callables: Callables,
    fresh: bool = False,
    show: OnStep | None = None,
    whole: Checked | None = None,
) -> Path:
    """Self-trains once per fold (`data.folds`), tracked in MLflow: folds below the whole, rounds below folds.

    Train and val cases are drawn anew. Thresholds, checkpoints and the round are chosen in each fold on its own val
    cases. The pool is the same for all folds, except for patients who validate. See `run_self_training` for arguments
    and errors.

    Returns:
        The run folder: `fold_1` and so on, each a whole self-training, `ensemble/` of their chosen rounds, `folds.csv`.
    """
    if config.self_training.start is not None:
        raise InputError("self_training.start: one round 0 cannot be that of every fold; leave it out")
    inputs = (whole or check_self_training(config)).inputs
    drawn = draw_folds(inputs.manifest, config.data.folds, config.data.fold_seed)
    checked = check_each(drawn, lambda manifest: check_self_training(config, manifest))

    def check_folds(folder: Path) -> None:
        for number in range(1, len(drawn) + 1):
            place = folder / f"fold_{number}"
            _check_rounds(config, place, place.with_suffix(".json").exists())

    with naming_full_disk(config.output.place), open_run(config, inputs, fresh, CHANGEABLE, check=check_folds) as run:
        tracker, folder = run.tracker, run.folder
        if tracker is None:
            return folder

        def run_fold(number: int, manifest_path: Path, place: Path) -> Results:
            def show_fold(step: Step) -> None:
                if show is not None:
                    show(replace(step, fold=number, folds=len(drawn)))

            own = fold_settings(config, number, manifest_path, folder, inputs.cache_dir)
            model = config.tracking.model or config.output.name
            own = override(own, {"tracking.model": f"{model}-{own.output.name}"})  # each has its own best round
            manifest = drawn[number - 1]
            below = open_tracker(
                own, place, manifest.fingerprint, manifest.synthetic, tracker, own.output.name, {"fold": number}
            )
            with closing(below):
                self_train(make_job(own, checked[number - 1], place, callables, below, show_fold))
            return _read_results(place)

        rows = run_folds(drawn, folder, run_fold, config.metrics)
        steps = {f"round {number}": number for number in range(last_round(config) + 1)}
        renamed = [replace(row, metric=row.metric.replace("val/", "best/", 1)) for row in rows]  # as rounds do
        log_folds(tracker, renamed, folder, steps)
    return folder


def _read_results(folder: Path) -> Results:
    """Metrics of a finished self-training: of the chosen round, and of each round."""
    summary = read_summary(folder)
    if summary is None:
        raise InputError(f"{folder}: is not finished; run the same command again")
    rounds: dict[str, dict[str, float]] = {}
    for row in summary["rounds"]:
        counts = {"selected/mutant": row["num_mutant"], "selected/wild": row["num_wild"]}
        accuracy = {} if row["accuracy"] is None else {"selected/accuracy": row["accuracy"]}
        rounds[f"round {row['round']}"] = {**row["metrics"], **counts, **accuracy, **row.get("estimates", {})}
    return {CHOSEN: rounds[f"round {summary['chosen_round']}"], **rounds}


def _check_rounds(config: Config, folder: Path, finished: bool) -> None:
    """Refuses rounds beyond the number that is set, and training after the test cases were looked at."""
    wanted, summary, rounds = last_round(config), read_summary(folder), count_finished(folder)
    if summary is not None and summary["rounds_wanted"] != wanted:
        raise InputError(
            f"self_training.rounds: {wanted}, but this run was finished with {summary['rounds_wanted']}, and its test "
            f"cases have been looked at; {_WAYS}"
        )
    if finished:
        return
    if len(read_test(folder) or {}) > rounds:
        raise InputError(
            f"{folder}: round {rounds} is missing, and the test cases have been looked at; restore it from a copy, "
            "or start anew with --fresh (the old run is kept aside)"
        )
    if is_tested(folder) and rounds <= wanted and not (folder / UNCHANGED).exists():
        raise InputError(
            f"self_training.rounds: {wanted}, but the test cases have been looked at after round {rounds - 1}; {_WAYS}"
        )
    if rounds > wanted + 1:
        raise InputError(f"self_training.rounds: {wanted}, but round {rounds - 1} is there already; {_WAYS}")


@contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Turns a full disk into a message that says how to go on."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not is_full_disk(error, folder):
            raise
        raise RunError(
            f"{folder}: the disk is full; nothing that was finished is lost. Make room and run the same command again: "
            "it goes on from the last finished step (self_training.keep=best needs least room)"
        ) from error


def is_full_disk(error: Exception, folder: Path) -> bool:
    """By the error, or by the room that is left: not every library names the cause."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    named = any(words in str(error) for words in ("No space left on device", "Disk quota exceeded", "disk is full"))
    return named or (folder.exists() and shutil.disk_usage(folder).free < _LEAST_ROOM)

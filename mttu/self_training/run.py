"""Self-training from check to finished run folder (Algorithm 1); how the work is done is the caller's choice."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mttu.atomic import write_json
from mttu.config import Config, override
from mttu.config.sharing import FREE_TO_CHANGE
from mttu.errors import InputError, RunError, raise_if_any
from mttu.lock import lock_folder
from mttu.self_training.callables import Callables, OnStep, Step
from mttu.self_training.finishing import finish, is_tested, read_summary
from mttu.self_training.inputs import Checked, check_self_training, check_shared_start
from mttu.self_training.job import Job, last_round
from mttu.self_training.round_folder import UNCHANGED, count_finished, is_finished, prune
from mttu.self_training.rounds import run_round
from mttu.self_training.summary import read_test
from mttu.tracking import Tracker, follow_moved_folder, open_tracker
from mttu.training.run import FINISHED, closing, name_missing
from mttu.training.run_folder import begin_or_continue

CHANGES_ROUNDS = ("mc.", "selection.", "self_training.")
FREE = tuple(name for name in FREE_TO_CHANGE if not name.startswith(CHANGES_ROUNDS)) + tuple(
    f"self_training.{name}" for name in ("rounds", "stop_when_unchanged", "keep", "start", "truth")
)
"""Settings that may change while a self-training is stopped: none of them makes the rounds so far untrue."""
_LEAST_ROOM = 2**20
"""Bytes; a checkpoint needs more."""


def run_self_training(config: Config, callables: Callables, fresh: bool = False, show: OnStep | None = None) -> Path:
    """Checks everything, then runs all rounds or goes on, tracked in MLflow.

    Args:
        config: All settings.
        callables: How to train, score and evaluate.
        fresh: Start anew; an older run of the same name is kept aside.
        show: Called with each sign of life.

    Returns:
        The run folder: the rounds, `best/` of the round that validation chose, `test.json` and `summary.json`.

    Raises:
        InputError: Something is refused; nothing was started.
        RunError: It stopped; the same command goes on from there.
    """
    if config.self_training.folds:
        raise InputError("self_training.folds: this runs one self-training; see cross_validate_self_training")
    checked = check_self_training(config)
    folder = (config.output.folder / config.output.name).resolve()
    if fresh or not is_finished(folder, 0):
        raise_if_any(check_shared_start(config, checked.inputs.fingerprint, checked.inputs.manifest))
    with lock_folder(folder), naming_full_disk(folder):
        begin_or_continue(folder, config, checked.inputs.fingerprint, fresh, FREE)
        check_rounds_wanted(config, folder)
        if (folder / FINISHED).exists():
            follow_moved_folder(config, folder)
            return folder  # its tracked runs stay as they are, too
        check_rounds(config, folder)
        manifest = checked.inputs.manifest
        tags = name_missing(checked.inputs.missing)
        tracker = open_tracker(config, folder, manifest.fingerprint, manifest.synthetic, tags=tags)
        with closing(tracker):
            self_train(config, checked, folder, callables, tracker, show)
        write_json(folder / FINISHED, {"format_version": 1})
    return folder


def self_train(
    config: Config, checked: Checked, folder: Path, callables: Callables, tracker: Tracker, show: OnStep | None = None
) -> None:
    """Runs one whole self-training on one manifest in one folder, or goes on with it; a fold calls it for itself.

    Args:
        config: All settings; `data.manifest` names the manifest.
        checked: What `check_self_training` said of these settings.
        folder: Where the rounds go; the caller holds it, and knows that it is of these settings.
        callables: How to train, score and evaluate.
        tracker: Of this self-training; each round is a run below it.
        show: Called with each sign of life.

    Raises:
        RunError: It stopped; another call goes on from there.
    """
    job = _make_job(config, checked, folder, callables, tracker, show)
    folder.mkdir(parents=True, exist_ok=True)
    number = count_finished(folder)
    while number <= last_round(config) and not (folder / UNCHANGED).exists():
        if run_round(job, number):
            number += 1
    finish(job)
    if config.self_training.keep == "best":
        prune(folder, keep_newest=False)


def _make_job(
    config: Config, checked: Checked, folder: Path, callables: Callables, tracker: Tracker, show: OnStep | None
) -> Job:
    def ignore(step: Step) -> None:
        pass

    inputs = checked.inputs
    if config.data.manifest is None:
        raise InputError("data.manifest: not set")
    manifest_path = config.data.manifest.resolve()
    absolute = override(config, {"data.manifest": str(manifest_path), "data.cache_dir": str(inputs.cache_dir)})
    return Job(
        config=absolute,
        manifest_path=manifest_path,
        manifest=inputs.manifest,
        fingerprint=inputs.fingerprint,
        cache_dir=inputs.cache_dir,
        folder=folder,
        callables=callables,
        tracker=tracker,
        truth=checked.truth,
        on_step=show or ignore,
    )


_WAYS = "set it back, set another output.name, or start anew with --fresh (the old run is kept aside)"


def check_rounds_wanted(config: Config, folder: Path) -> None:
    """Refuses another number of rounds than a finished self-training had: its test cases have been looked at."""
    wanted, summary = last_round(config), read_summary(folder)
    if summary is not None and summary["rounds_wanted"] != wanted:
        raise InputError(
            f"self_training.rounds: {wanted}, but this run was finished with {summary['rounds_wanted']}, and its test "
            f"cases have been looked at; {_WAYS}"
        )


def check_rounds(config: Config, folder: Path) -> None:
    """Refuses to go on where rounds would be trained after a look at the test cases, or are there beyond the number."""
    wanted, finished = last_round(config), count_finished(folder)
    if len(read_test(folder) or {}) > finished:
        raise InputError(
            f"{folder}: round {finished} is missing, and the test cases have been looked at; restore it from a copy, "
            "or start anew with --fresh (the old run is kept aside)"
        )
    if is_tested(folder) and finished <= wanted and not (folder / UNCHANGED).exists():
        raise InputError(
            f"self_training.rounds: {wanted}, but the test cases have been looked at after round {finished - 1}; "
            f"{_WAYS}"
        )
    if finished > wanted + 1:
        raise InputError(f"self_training.rounds: {wanted}, but round {finished - 1} is there already; {_WAYS}")


@contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Turns a full disk into a message that says how to go on."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not _is_full_disk(error, folder):
            raise
        raise RunError(
            f"{folder}: the disk is full; nothing that was finished is lost. Make room and run the same command again: "
            "it goes on from the last finished step (self_training.keep=best needs least room)"
        ) from error


def _is_full_disk(error: Exception, folder: Path) -> bool:
    """Not every library says so: what fails while there is no room fails for want of it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    said = any(words in str(error) for words in ("No space left on device", "Disk quota exceeded", "disk is full"))
    return said or shutil.disk_usage(folder).free < _LEAST_ROOM

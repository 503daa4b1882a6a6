"""Self-training (section IV, Algorithm 1) from check to finished run folder; how work is done is the caller's choice.

Every phase writes its result whole or not at all and is skipped where that is there, so that a round that was stopped
anywhere goes on from there.
"""

import errno
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mttu.config import Config, override
from mttu.config.sharing import list_free
from mttu.data.labels import IDH_MUTANT, IDH_WILD
from mttu.data.manifest import read_manifest, write_manifest
from mttu.errors import InputError, RunError, raise_if_any, say_count
from mttu.files import atomic_folder, drop_link, read_json
from mttu.self_training.evaluation import finish, is_tested, measure, read_summary, write_rows
from mttu.self_training.inputs import Checked, check_self_training, check_shared_start
from mttu.self_training.job import Callables, CaseRow, Job, OnStep, Step, last_round, round_config
from mttu.self_training.mixture import Mixture, Selected, first_mixture, mix, read_pseudo_labels, select_for_round
from mttu.self_training.round_folder import (
    MANIFEST,
    TRAIN,
    UNCHANGED,
    VAL,
    RoundRecord,
    complete,
    count_finished,
    is_finished,
    prune,
    read_history,
    read_metrics,
    round_folder,
    set_aside_unchanged,
    working_folder,
    write_history,
    write_metrics,
    write_record,
)
from mttu.self_training.tracking import log_round, open_round, read_test
from mttu.tracking import Tracker
from mttu.training.epoch_log import EpochLog
from mttu.training.held_out import copy_held_out
from mttu.training.run import FINISHED, History, closing, identify, open_run
from mttu.training.start import check_start, digest_weights
from mttu.training.state import BEST


def run_round(job: Job, number: int) -> bool:
    """Builds a round, or goes on with it.

    Args:
        job: See `Job`; all earlier rounds are finished.
        number: 0, or more.

    Returns:
        Whether the round is there now; False if its pseudo-labels are those of the round before, so that the rounds end
        here.

    Raises:
        RunError: The work of a phase stopped itself.
    """
    folder = working_folder(job.folder, number)
    drop_link(folder)
    folder.mkdir(exist_ok=True)
    selected = select_for_round(job, number, folder) if number else None
    if selected is not None and selected.unchanged:
        set_aside_unchanged(job.folder, number)
        return False
    mixture = _mix(job, folder, selected)
    config = round_config(job.config, number, folder, round_folder(job.folder, number - 1) if number else None)
    raise_if_any(check_start(config))
    tracker = open_round(job, config, number, folder, mixture.manifest)
    with closing(tracker):
        history = _train(job, number, folder, config, tracker)
        metrics = _evaluate(job, number, folder)
        record = _make_record(job, number, folder, config, mixture, selected, metrics)
        log_round(job, tracker, folder, record, history, selected)
    write_record(record, folder)
    complete(job.folder, number)
    if job.config.self_training.keep == "best":
        prune(job.folder, keep_newest=job.config.self_training.optimiser == "kept")
    return True


def _mix(job: Job, folder: Path, selected: Selected | None) -> Mixture:
    """The round's manifest; in round 0 it is the cohort's own, unless the training is direct."""
    if selected is None:
        mixture = first_mixture(job.manifest, job.config.selection.method)
    else:
        mixture = mix(job.manifest, selected.selection.pseudo_labels)
    if not (folder / TRAIN).exists() and read_history(folder) is None:
        write_manifest(mixture.manifest, folder / MANIFEST)
    elif read_manifest(folder / MANIFEST).fingerprint != mixture.manifest.fingerprint:
        raise InputError(
            f"{folder}: was begun with other pseudo-labels than its scores give now; restore its files from a copy, or "
            "remove this folder and run the same command again"
        )
    return mixture


def _train(job: Job, number: int, folder: Path, config: Config, tracker: Tracker) -> History:
    found = read_history(folder)
    if found is not None:
        return found

    epochs = EpochLog(tracker)

    def on_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
        epochs.log(epoch, metrics)
        job.show_epoch(number, epoch, config.train.epochs, metrics)

    start = job.config.self_training.start
    if number == 0 and start is not None:
        history = _copy_start(job, start, folder)
    else:
        history = job.callables.train(config, folder, on_epoch, epochs.start)
    write_history(history, folder)
    return history


def _copy_start(job: Job, start: Path, folder: Path) -> History:
    """Takes the training of another self-training's round 0 over, once it is sure that it is the same."""
    raise_if_any(check_shared_start(job.config, job.fingerprint, job.manifest))
    copy_held_out(start, folder)
    for name in (BEST, *([TRAIN] if job.config.self_training.optimiser == "kept" else [])):
        with atomic_folder(folder / name) as partial:
            shutil.copytree(start / name, partial, dirs_exist_ok=True)
    return read_history(start) or []


def _evaluate(job: Job, number: int, folder: Path) -> dict[str, float]:
    found = read_metrics(folder)
    if found is not None:
        return found
    cases = job.manifest.split("val")
    metrics: dict[str, float] = {}
    if cases:

        def on_case(done: int, row: CaseRow) -> None:
            job.show_case(number, "evaluate", done, len(cases), str(row["case_id"]))

        rows = job.callables.evaluate(folder / BEST, cases, job.config, on_case)
        about = {"weights_sha256": digest_weights(folder), "empty_dice": job.config.metrics.empty_dice}
        write_rows(rows, folder / VAL, about)
        metrics = measure(rows, "val", job.config.train.validation_metric)
    write_metrics(metrics, folder, job.config.metrics.empty_dice)
    return metrics


def _make_record(
    job: Job,
    number: int,
    folder: Path,
    config: Config,
    mixture: Mixture,
    selected: Selected | None,
    metrics: Mapping[str, float],
) -> RoundRecord:
    labels = list(read_pseudo_labels(mixture.manifest).values())
    best = read_json(folder / BEST / "checkpoint.json")["metrics"]
    start = config.train.start_from
    return RoundRecord(
        round=number,
        identity=identify(config, job.fingerprint),
        manifest_fingerprint=mixture.manifest.fingerprint,
        weights_sha256=digest_weights(folder),
        started_from=None if start is None else digest_weights(start),
        scores_sha256=None if selected is None else selected.scores.digest,
        epochs=config.train.epochs,
        best_epoch=int(best["epoch"]),
        num_pool=len(job.manifest.split("unlabelled")),
        num_mutant=labels.count(IDH_MUTANT),
        num_wild=labels.count(IDH_WILD),
        confidence_threshold=None if selected is None else selected.settings.confidence_threshold,
        uncertainty_threshold=None if selected is None else selected.settings.uncertainty_threshold,
        metrics=metrics,
        notes=_describe(job, mixture) if selected is None else selected.selection.notes,
        left_out=mixture.left_out,
    )


def _describe(job: Job, mixture: Mixture) -> tuple[str, ...]:
    if job.config.selection.method != "direct":
        return ()
    left_out = len(mixture.left_out)
    masked = say_count(len(job.manifest.split("unlabelled")) - left_out, "case", "cases")
    bare = f"; {say_count(left_out, 'case', 'cases')} without a mask left out" if left_out else ""
    return (
        f"selection.method is direct: one training on the labelled cases and the masks of {masked} of the pool{bare}; "
        "self_training.rounds has no effect",
    )


FREE = list_free(in_rounds=True)
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
    inputs = checked.inputs
    if fresh or not is_finished(config.output.place, 0):
        raise_if_any(check_shared_start(config, inputs.fingerprint, inputs.manifest))

    def check(folder: Path) -> None:
        check_rounds_wanted(config, folder)
        if not (folder / FINISHED).exists():
            check_rounds(config, folder)

    with naming_full_disk(config.output.place), open_run(config, inputs, fresh, FREE, check=check) as run:
        if run.tracker is not None:
            self_train(config, checked, run.folder, callables, run.tracker, show)
    return run.folder


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

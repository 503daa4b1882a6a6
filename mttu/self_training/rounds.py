"""One round from scores to finished folder (Algorithm 1, lines 3 to 8).

Every phase writes its result whole or not at all and is skipped where that is there, so that a round that was stopped
anywhere goes on from there.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from mttu.atomic import atomic_folder, drop_link, read_json
from mttu.config import Config
from mttu.data.labels import IDH_MUTANT, IDH_WILD
from mttu.data.manifest import read_manifest, write_manifest
from mttu.errors import InputError, raise_if_any, say_count
from mttu.self_training.callables import CaseRow
from mttu.self_training.evaluation import measure, write_rows
from mttu.self_training.inputs import check_shared_start
from mttu.self_training.job import Job, round_config
from mttu.self_training.mixing import Mixture, first_mixture, mix, read_pseudo_labels
from mttu.self_training.round_folder import (
    MANIFEST,
    TRAIN,
    VAL,
    RoundRecord,
    complete,
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
from mttu.self_training.selecting import Selected, select_for_round
from mttu.self_training.tracking import log_round, open_round
from mttu.tracking import Tracker
from mttu.training.epoch_log import EpochLog
from mttu.training.held_out import copy_held_out
from mttu.training.run import History, closing
from mttu.training.run_folder import identify
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

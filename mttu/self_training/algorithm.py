"""Algorithm 1 of the paper (section IV): rounds of score, select, mix, train and evaluate.

`self_train` is the algorithm. Below it are its phases: each writes its result atomically, and reads it back if it
already exists, so a stopped round continues after its last finished phase.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from mttu.config import Config, SelectionSettings
from mttu.config.earlier import complete_section
from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.data.manifest import read_manifest, write_manifest
from mttu.data.quotas import describe_quotas
from mttu.errors import InputError, RunError, raise_if_any, say_count
from mttu.files import atomic_folder, drop_link, move_into_place, read_json
from mttu.pseudo_labels.advice import advise
from mttu.pseudo_labels.reports import read_selection, write_selection_table
from mttu.pseudo_labels.score_table import ScoreRow, ScoreTable, complete_about, read_scores, write_scores
from mttu.pseudo_labels.scoring import ScoringPlan, plan_scoring
from mttu.pseudo_labels.selection import Selection
from mttu.self_training.evaluation import evaluate_cases, finish, measure, write_rows
from mttu.self_training.fold_teacher import (
    describe_teaching,
    join_held_out,
    list_held_out,
    plan_held_out,
    scoring_changes,
)
from mttu.self_training.inputs import check_shared_start
from mttu.self_training.job import Job, Round, calibrates, last_round, round_config, searches_thresholds
from mttu.self_training.mixture import (
    Mixture,
    RoundLabels,
    calibrate_scores,
    choose_labels,
    doubt_estimates,
    first_mixture,
    grow_share,
    keep_prior,
    mix,
    read_pseudo_labels,
    search_settings,
)
from mttu.self_training.round_folder import (
    MANIFEST,
    SCORES,
    SELECTION,
    TRAIN,
    UNCHANGED,
    VAL,
    VAL_SCORES,
    RoundRecord,
    count_finished,
    prune,
    read_history,
    read_metrics,
    read_record,
    round_folder,
    write_history,
    write_metrics,
    write_record,
)
from mttu.self_training.soft_labels import SoftLabel, find_soft_labels, read_soft_labels
from mttu.self_training.tracking import log_round, open_round
from mttu.tracking import Tracker
from mttu.training.epoch_log import EpochLog
from mttu.training.held_out import copy_held_out
from mttu.training.inputs import describe_soft_labels, describe_taught, resolve_paths
from mttu.training.run import History, closing, identify
from mttu.training.start import check_start, digest_weights
from mttu.training.state import BEST


def self_train(job: Job) -> None:
    """Trains on the labelled cases (round 0, line 1), then in rounds with pseudo-labels; the test cases come last.

    Args:
        job: The caller holds the lock on its folder and has checked that it belongs to these settings.

    Raises:
        UnmeasuredError: All rounds are trained, and test cases cannot be used.
        RunError: Something failed; calling again continues from there.
    """
    for current in _rounds_to_come(job):
        labels = None
        if current.number > 0:
            scores = _score_pool(current)  # line 3: Monte Carlo dropout with the previous round's network
            labels = _select(current, scores)  # line 4: PL, CPL or UPS (eq. 19)
            if labels.unchanged:
                move_into_place(current.folder, job.folder / UNCHANGED)
                break
        mixture = _mix(current, labels)  # line 5
        config = _configure(current)
        tracker = open_round(job, config, current.number, current.folder, mixture.manifest)
        with closing(tracker):
            history = _train(current, config, tracker)  # lines 6 and 7: from the weights of the round before
            metrics = _evaluate(current)
            record = _make_record(current, config, mixture, labels, metrics)
            log_round(job, tracker, current.folder, record, history, labels)
        _complete(current, record)
    finish(job)
    if job.config.self_training.keep == "best":
        prune(job.folder, keep_newest=False)


def _rounds_to_come(job: Job) -> Iterator[Round]:
    """The unfinished rounds; none if the next one was already found to change nothing."""
    job.folder.mkdir(parents=True, exist_ok=True)
    if (job.folder / UNCHANGED).exists():
        return
    for number in range(count_finished(job.folder), last_round(job.config) + 1):
        current = Round(job, number)
        drop_link(current.folder)
        current.folder.mkdir(exist_ok=True)
        yield current


def _score_pool(current: Round) -> ScoreTable:
    if current.job.config.selection.method == "none":  # scores would not be used, and cost many passes per case
        return ScoreTable(tuple(ScoreRow(case.case_id, 0.0) for case in current.job.manifest.split("unlabelled")))
    return _score(current, _plan(current, "unlabelled"), current.folder / SCORES)


def _score_held_out(current: Round, pool: ScoreTable) -> tuple[ScoreTable, dict[str, int]]:
    """Scores of labelled cases that the pool's teacher did not learn from, and their classes."""
    job = current.job
    if not current.has_ensemble:
        truth = {case.case_id: case.idh for case in job.manifest.split("val") if case.idh != IDH_UNKNOWN}
        return _score(current, _plan(current, "val"), current.folder / VAL_SCORES), truth
    truth = {case.case_id: case.idh for case in list_held_out(job.config, job.manifest)}
    plans = plan_held_out(job.config, resolve_paths(job.config)[1])
    tables = [
        _score(current, plan, current.folder / f"fold_{number}_{VAL_SCORES}") for number, plan in enumerate(plans, 1)
    ]
    return join_held_out(tables, pool), truth


def _plan(current: Round, split: str) -> ScoringPlan:
    """How the round's teacher scores a split."""
    job = current.job
    manifest, cache_dir = resolve_paths(job.config)
    of_folds = job.config.self_training.ensemble if current.has_ensemble else None
    teacher = of_folds or round_folder(job.folder, current.teacher)
    return plan_scoring(teacher, manifest, split, scoring_changes(job.config), cache_dir)


def _score(current: Round, plan: ScoringPlan, target: Path) -> ScoreTable:
    """Scores of a plan's cases; reuses those in `target` if weights, settings and cases are the same.

    Raises:
        RunError: No case could be scored.
    """
    job = current.job
    found = _read_scores_of(plan, target)
    if found is not None:
        return found

    def on_row(done: int, row: ScoreRow) -> None:
        job.show(current.number, "score", done, len(plan.cases), row.case_id)

    table = job.callables.score(plan, on_row)
    if all(row.error for row in table.rows):
        reason = table.rows[0].error
        raise RunError(
            f"round {current.number}: no {plan.about['split']} case could be scored; the first reason: {reason}"
        )
    write_scores(table, target)
    return table


def _read_scores_of(plan: ScoringPlan, path: Path) -> ScoreTable | None:
    if not path.exists():
        return None
    try:
        table = read_scores(path)
    except InputError:
        return None  # damaged, or another version: score again
    wanted = {name: value for name, value in plan.about.items() if name != "mttu_version"}
    found = {name: complete_about(name, table.about.get(name)) for name in wanted}
    same_cases = [row.case_id for row in table.rows] == sorted(case.case_id for case in plan.cases)
    return table if found == wanted and same_cases else None


def _select(current: Round, scores: ScoreTable) -> RoundLabels:
    """The round's pseudo-labels, by thresholds or a rule that are fixed, searched or calibrated on validation cases."""
    job = current.job
    settings, rounds = grow_share(job.config.selection, current.number), job.config.self_training
    before = read_manifest(current.previous_folder / MANIFEST)
    earlier = read_pseudo_labels(before)
    notes = describe_teaching(job.config, job.manifest) if current.has_ensemble else []
    correction, validation_digest = None, None
    if (searches_thresholds(job.config) or calibrates(job.config)) and scores.rows:
        validation, truth = _score_held_out(current, scores)
        if calibrates(job.config):
            first = read_record(round_folder(job.folder, 1)).estimates if current.number > 1 else {}
            settings = keep_prior(settings, first)
            correction, told = calibrate_scores(scores, validation, truth, settings)
            notes += told
            teacher = round_folder(job.folder, current.teacher) / MANIFEST
            if correction is not None and not current.has_ensemble and read_pseudo_labels(read_manifest(teacher)):
                notes.append(doubt_estimates(settings))
            validation_digest = validation.digest
        else:
            settings, notes = search_settings(validation, truth, settings, rounds.min_coverage)
    selection = _read_selection_of(scores, validation_digest, settings, current.folder / SELECTION)
    if selection is None:
        selection = choose_labels(scores, settings, {} if rounds.relabel else earlier, correction)
        asked = settings.model_copy(update={"prior": job.config.selection.prior})  # not what round 1 made of it
        advice = advise(selection, asked, current.number == 1, searches_thresholds(job.config))
        selection = replace(selection, notes=(*notes, *selection.notes, *advice))
        write_selection_table(current.folder, scores, selection, settings, validation_digest)
    if settings.method != "none":
        job.tell_selection(current.number, selection)  # before hours are spent on it
    stops = rounds.stop_when_unchanged and current.number > 1 and settings.method != "none"
    soft: dict[str, SoftLabel] = {}
    if rounds.labels == "soft":
        soft = find_soft_labels(selection, {} if rounds.relabel else read_soft_labels(before))
    unchanged = stops and selection.pseudo_labels == earlier and soft == read_soft_labels(before)
    return RoundLabels(scores, selection, settings, unchanged, soft, correction)


def _read_selection_of(
    scores: ScoreTable, calibrated_on: str | None, settings: SelectionSettings, path: Path
) -> Selection | None:
    if not path.exists():
        return None
    selection, about = read_selection(path)
    section = complete_section("selection.", about["selection"])
    made_of = (about["scores_sha256"], about.get("calibrated_on"), section)
    return selection if made_of == (scores.digest, calibrated_on, settings.model_dump(mode="json")) else None


def _mix(current: Round, labels: RoundLabels | None) -> Mixture:
    """The cases the round trains on: in round 0 the cohort's own, unless the method is direct.

    Raises:
        InputError: Its training was begun with other cases.
    """
    job, folder = current.job, current.folder
    has_teacher = job.config.teacher.masks
    if labels is None:
        mixture = first_mixture(job.manifest, job.config.selection.method, has_teacher)
    else:
        mixture = mix(job.manifest, labels.selection.pseudo_labels, labels.soft_labels, has_teacher)
    if not (folder / TRAIN).exists() and read_history(folder) is None:
        write_manifest(mixture.manifest, folder / MANIFEST)
    elif read_manifest(folder / MANIFEST).fingerprint != mixture.manifest.fingerprint:
        raise InputError(
            f"{folder}: was begun with other pseudo-labels than its scores give now; restore its files from a copy, or "
            "remove this folder and run the same command again"
        )
    return mixture


def _configure(current: Round) -> Config:
    config = round_config(current.job.config, current.number, current.folder)
    raise_if_any(check_start(config))
    return config


def _train(current: Round, config: Config, tracker: Tracker) -> History:
    job = current.job
    found = read_history(current.folder)
    if found is not None:
        return found
    epochs = EpochLog(tracker)

    def on_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
        epochs.log(epoch, metrics)
        job.show(current.number, "train", epoch, config.train.epochs, metrics=metrics)

    start = job.config.self_training.start
    if current.number == 0 and start is not None:
        history = _copy_start(job, start, current.folder)
    else:
        history = job.callables.train(config, current.folder, on_epoch, epochs.start)
    write_history(history, current.folder)
    return history


def _copy_start(job: Job, start: Path, folder: Path) -> History:
    """Copies the training of another self-training's round 0, after checking that it is the same."""
    raise_if_any(check_shared_start(job.config, job.inputs))
    copy_held_out(start, folder)
    for name in (BEST, *([TRAIN] if job.config.self_training.optimiser == "kept" else [])):
        with atomic_folder(folder / name) as partial:
            shutil.copytree(start / name, partial, dirs_exist_ok=True)
    return read_history(start) or []


def _evaluate(current: Round) -> dict[str, float]:
    """Metrics of the best weights on the validation cases."""
    job, folder = current.job, current.folder
    found = read_metrics(folder)
    if found is not None:
        return found
    metrics: dict[str, float] = {}
    if job.manifest.split("val"):
        rows = evaluate_cases(job, current.number, "val", folder / BEST)
        about = {"weights_sha256": digest_weights(folder), "empty_dice": job.config.metrics.empty_dice}
        write_rows(rows, folder / VAL, about)
        metrics = measure(rows, "val", job.config.train.validation_metric)
    write_metrics(metrics, folder, job.config.metrics.empty_dice)
    return metrics


def _make_record(
    current: Round, config: Config, mixture: Mixture, labels: RoundLabels | None, metrics: Mapping[str, float]
) -> RoundRecord:
    job, folder = current.job, current.folder
    classes = list(read_pseudo_labels(mixture.manifest).values())
    best = read_json(folder / BEST / "checkpoint.json")["metrics"]
    start = config.train.start_from
    estimates = None if labels is None else labels.selection.estimates
    thresholds = labels.settings if labels is not None and labels.settings.rule == "thresholds" else None
    return RoundRecord(
        round=current.number,
        identity=identify(config, job.inputs.fingerprint),
        manifest_fingerprint=mixture.manifest.fingerprint,
        weights_sha256=digest_weights(folder),
        started_from=None if start is None else digest_weights(start),
        scores_sha256=None if labels is None else labels.scores.digest,
        epochs=config.train.epochs,
        best_epoch=int(best["epoch"]),
        num_pool=len(job.manifest.split("unlabelled")),
        num_mutant=classes.count(IDH_MUTANT),
        num_wild=classes.count(IDH_WILD),
        confidence_threshold=None if thresholds is None else thresholds.confidence_threshold,
        uncertainty_threshold=None if thresholds is None else thresholds.uncertainty_threshold,
        metrics=metrics,
        notes=(
            *(_describe_direct(job, mixture) if labels is None else labels.selection.notes),
            *describe_quotas(mixture.manifest.split("train"), config),
            *describe_soft_labels(config, mixture.manifest.split("train")),
            *([] if labels is None else describe_taught(config, mixture.manifest.split("train"))),
        ),
        left_out=mixture.left_out,
        estimates={} if estimates is None else estimates.to_metrics(),
        teacher=None if labels is None or labels.settings.method == "none" else _name_teacher(current),
    )


def _name_teacher(current: Round) -> int | str | None:
    """Who scored the pool, where settings let that be another than the round before."""
    if current.has_ensemble:
        return "ensemble"
    return current.teacher if current.job.config.self_training.teacher == "best" else None


def _describe_direct(job: Job, mixture: Mixture) -> tuple[str, ...]:
    """What is special about the direct training."""
    if job.config.selection.method != "direct":
        return ()
    pool = job.manifest.split("unlabelled")
    without = sum(case.seg is None for case in pool)
    masked = say_count(len(pool) - without, "case", "cases")
    fate = "left out" if mixture.left_out else "with a teacher's"
    bare = f"; {say_count(without, 'case', 'cases')} without a mask {fate}" if without else ""
    return (
        f"selection.method is direct: one training on the labelled cases and the masks of {masked} of the pool{bare}; "
        "self_training.rounds has no effect",
    )


def _complete(current: Round, record: RoundRecord) -> None:
    folder, settings = current.job.folder, current.job.config.self_training
    write_record(record, current.folder)
    move_into_place(current.folder, round_folder(folder, current.number))
    if settings.keep == "best":
        prune(folder, keep_newest=settings.optimiser == "kept")

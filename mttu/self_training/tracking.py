"""What tracking is told of a self-training: a run for each round below that of the whole, the same names in each.

In a round's run the curves `train/...` and `val/...` are over epochs, as in any training. `best/...` (validation by the
best weights), `selected/...` and `test/...` are one figure per round; the run of the whole has them as curves over
rounds. All calls may be repeated, so a resume completes what a kill cut off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mttu.config import Config
from mttu.data.manifest import Manifest, read_manifest
from mttu.figures.saving import save_figure
from mttu.networks.learned import explain_unlearned
from mttu.self_training.job import Job, round_config
from mttu.self_training.pictures import draw_round, draw_summary
from mttu.self_training.round_folder import MANIFEST, SELECTION, RoundRecord, read_record, round_folder
from mttu.self_training.selecting import Selected
from mttu.self_training.summary import RoundSummary
from mttu.tracking import Tracker, open_tracker
from mttu.training.pictures import LEARNING_CURVES, draw_results
from mttu.training.run import History, closing, name_missing
from mttu.training.start import find_learned_tasks
from mttu.training.state import BEST


def open_round(job: Job, config: Config, number: int, folder: Path, manifest: Manifest) -> Tracker:
    """The tracker of a round: a run below that of the whole, found again on resume."""
    labels = {"round": number, "method": job.config.selection.method}
    name = f"round_{number}"
    learned = find_learned_tasks(config, manifest.split("train"))
    tags = name_missing(explain_unlearned(config.network.tasks, learned))
    about = (manifest.fingerprint, manifest.synthetic)
    return open_tracker(config, folder, *about, job.tracker, name, labels, tags=tags)


def log_round(
    job: Job, tracker: Tracker, folder: Path, record: RoundRecord, history: History, selected: Selected | None
) -> None:
    """Draws a round, and logs what is known of it before the test.

    Args:
        job: See `Job`.
        tracker: Of the round.
        folder: Where the round is built.
        record: What will be its `round.json`.
        history: Metrics of its epochs.
        selected: What it selected; None for round 0.
    """
    for row in history:  # what a kill kept from the tracker
        tracker.log_epoch(int(row["epoch"]), {name: value for name, value in row.items() if name != "epoch"})
    figures = {} if selected is None else dict(draw_round(selected, job.truth, record.round))
    val = job.manifest.split("val")
    for name, figure in draw_results(folder / BEST, history, val, job.cache_dir, tracker.allows_pictures):
        if name == LEARNING_CURVES:
            figures[name] = figure
        else:
            tracker.log_picture(*save_figure(figure, folder / name, ("png",)))
    for name, figure in figures.items():
        tracker.log_figure(*save_figure(figure, folder / name, ("png",)))
    if selected is not None:
        tracker.log_table((folder / SELECTION).with_suffix(".csv"))
    if selected is not None or job.config.selection.method == "direct":
        pool = replace(job.manifest, cases=job.manifest.split("unlabelled"))
        tracker.log_dataset("unlabelled", pool.fingerprint, "unlabelled")
    figures_of_round = _figures_of(record, job.truth, folder)
    tracker.log_step(record.round, figures_of_round)
    job.tracker.log_step(record.round, figures_of_round)
    tags = {"round": record.round, "method": job.config.selection.method, **record.metrics}
    tracker.register(_model_name(job), folder / BEST, tags)


def _figures_of(record: RoundRecord, truth: Mapping[str, int], folder: Path) -> dict[str, float]:
    figures = {name.replace("val/", "best/", 1): value for name, value in record.metrics.items()}
    figures |= {"selected/mutant": float(record.num_mutant), "selected/wild": float(record.num_wild)}
    labels = {case.case_id: case.idh for case in read_manifest(folder / MANIFEST).cases if case.pseudo_label}
    known = [truth[case_id] == label for case_id, label in labels.items() if case_id in truth]
    if known:
        figures["selected/accuracy"] = sum(known) / len(known)
    return figures


def _model_name(job: Job) -> str:
    return job.config.tracking.model or job.config.output.name


def log_finish(job: Job, rounds: Sequence[RoundSummary], chosen: int) -> None:
    """Draws all rounds, adds the test figures to each, and points the alias `best` to the chosen one."""
    for row in rounds:
        folder = round_folder(job.folder, row.round)
        before = round_folder(job.folder, row.round - 1) if row.round else None
        config = round_config(job.config, row.round, folder, before)
        tracker = open_round(job, config, row.round, folder, read_manifest(folder / MANIFEST))
        figures = {name: value for name, value in row.metrics.items() if name.startswith("test/")}
        figures |= _figures_of(read_record(folder), job.truth, folder)  # new to a run that was not there in its round
        with closing(tracker):
            tracker.log_step(row.round, figures)
            job.tracker.log_step(row.round, figures)
            if row.round == chosen:
                version = tracker.register(_model_name(job), folder / BEST, {"chosen_on_validation": True})
                job.tracker.set_alias(_model_name(job), version, "best")
                job.tracker.log_checkpoint(folder / BEST)
    figure = draw_summary(rounds, job.config.selection.method, chosen, job.config.metrics)
    job.tracker.log_figure(*save_figure(figure, job.folder / "rounds", ("png",)))

"""Reports of a self-training: a summary of its rounds, their figures, and an MLflow run for each.

In a round's run the curves `train/...` and `val/...` are over epochs, as in any training. `best/...` (validation by the
best weights), `selected/...` and `test/...` are one value per round; the run of the whole has them as curves over
rounds. All calls may be repeated, so a resume completes what a kill interrupted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from matplotlib.figure import Figure

from mttu.config import Config, MetricSettings
from mttu.data.labels import CLASS_NAMES
from mttu.data.manifest import Manifest, read_manifest
from mttu.figures.rounds import RoundScore, RoundSelection, draw_rounds
from mttu.figures.style import save_figure
from mttu.files import read_versioned
from mttu.metrics.empty_masks import explain_dice
from mttu.networks.learned import explain_unlearned
from mttu.pseudo_labels.reports import draw_selection
from mttu.self_training.job import Job, round_config
from mttu.self_training.mixture import RoundLabels, read_pseudo_labels
from mttu.self_training.round_folder import MANIFEST, SELECTION, RoundRecord, count_finished, read_record, round_folder
from mttu.tracking import Tracker, open_tracker
from mttu.training.epoch_log import EpochLog
from mttu.training.pictures import LEARNING_CURVES, draw_results
from mttu.training.run import History, closing, name_missing
from mttu.training.start import find_learned_tasks
from mttu.training.state import BEST

FORMAT_VERSION = 1
MEND = "remove it and run the same command again, which writes it anew"
TEST = "test.json"


@dataclass(frozen=True)
class RoundSummary:
    """One line of the table at the end."""

    round: int
    num_pool: int
    num_mutant: int
    """Pseudo-labels that the round trained with."""
    num_wild: int
    num_known: int
    """Of these, cases whose true class is known."""
    num_right: int
    """Of these, cases whose pseudo-label is right."""
    metrics: Mapping[str, float]
    """On validation and, once it is finished, on test."""
    notes: tuple[str, ...] = ()
    estimates: Mapping[str, float] = field(default_factory=dict)
    """See `RoundRecord.estimates`; with the true share of right labels of each class, where it is known."""

    @property
    def accuracy(self) -> float | None:
        """Share of right pseudo-labels among those whose truth is known; None without any."""
        return self.num_right / self.num_known if self.num_known else None


def summarise_rounds(folder: Path, truth: Mapping[str, int]) -> list[RoundSummary]:
    """The finished rounds of a run folder; `truth`, case to class, is used for `num_known` and `num_right` alone."""
    test = read_test(folder) or {}
    places = [round_folder(folder, number) for number in range(count_finished(folder))]
    return [_summarise(place, read_record(place), truth, test.get(number, {})) for number, place in enumerate(places)]


def _summarise(place: Path, record: RoundRecord, truth: Mapping[str, int], test: Mapping[str, float]) -> RoundSummary:
    labels = read_pseudo_labels(read_manifest(place / MANIFEST))
    known = [truth[case_id] == label for case_id, label in labels.items() if case_id in truth]
    return RoundSummary(
        round=record.round,
        num_pool=record.num_pool,
        num_mutant=record.num_mutant,
        num_wild=record.num_wild,
        num_known=len(known),
        num_right=sum(known),
        metrics={**record.metrics, **test},
        notes=record.notes,
        estimates={**record.estimates, **_measure_precision(labels, truth)} if record.estimates else {},
    )


def _measure_precision(labels: Mapping[str, int], truth: Mapping[str, int]) -> dict[str, float]:
    """True share of right labels of each class that has any of known truth."""
    known = {
        name: [truth[one] == own for one, own in labels.items() if own == label and one in truth]
        for label, name in CLASS_NAMES.items()
    }
    return {f"selected/precision_{name.split()[0]}": sum(right) / len(right) for name, right in known.items() if right}


def read_test(folder: Path) -> dict[int, dict[str, float]] | None:
    """Round to its metrics on the test cases; None before the test.

    Raises:
        InputError: See `mttu.files.read_versioned`.
    """
    path = folder / TEST
    if not path.exists():
        return None
    return {int(number): found for number, found in read_versioned(path, FORMAT_VERSION, MEND)["rounds"].items()}


PANELS = {"dice": "Dice", "idh_auc": "IDH AUC", "idh_accuracy": "IDH accuracy", "idh_ece": "IDH ECE"}
"""Metrics that are drawn over rounds, and the titles of their panels."""


def draw_round(labels: RoundLabels, truth: Mapping[str, int], number: int) -> dict[str, Figure]:
    """Figures of what a round selected, by name; none shows a case's image."""
    if all(row.confidence is None for row in labels.scores.rows):
        return {}
    title = f"unlabelled, round {number}"
    return draw_selection(labels.scores, labels.selection, labels.settings, truth, title, labels.correction)


def draw_summary(rounds: Sequence[RoundSummary], method: str, chosen: int, metrics: MetricSettings) -> Figure:
    """Metrics and selected cases over rounds, on validation and test (section VI, Fig. 6)."""
    scores = [
        RoundScore(method, row.round, f"{title}, {part}", [row.metrics[f"{part}/{name}"]])
        for part in ("val", "test")
        for name, title in PANELS.items()
        for row in rounds
        if f"{part}/{name}" in row.metrics
    ]
    selections = [RoundSelection(method, row.round, row.num_mutant, row.num_wild) for row in rounds if row.round]
    return draw_rounds(scores, selections, {method: chosen}, remarks=[explain_dice(metrics)])


def open_round(job: Job, config: Config, number: int, folder: Path, manifest: Manifest) -> Tracker:
    """The tracker of a round: an MLflow run below that of the whole, found again on resume."""
    labels = {"round": number, "method": job.config.selection.method}
    name = f"round_{number}"
    learned = find_learned_tasks(config, manifest.split("train"))
    tags = name_missing(explain_unlearned(config.network.tasks, learned))
    about = (manifest.fingerprint, manifest.synthetic)
    return open_tracker(config, folder, *about, job.tracker, name, labels, tags=tags)


def log_round(
    job: Job, tracker: Tracker, folder: Path, record: RoundRecord, history: History, labels: RoundLabels | None
) -> None:
    """Draws a round into its folder, and logs what is known of it before the test; `tracker` is that of the round."""
    EpochLog(tracker).complete(history)  # a kill may have kept some from the tracker
    figures = {} if labels is None else draw_round(labels, job.truth, record.round)
    val = job.manifest.split("val")
    for name, figure in draw_results(folder / BEST, history, val, job.inputs.cache_dir, tracker.allows_pictures):
        if name == LEARNING_CURVES:
            figures[name] = figure
        else:
            tracker.log_picture(*save_figure(figure, folder / name, ("png",)))
    for name, figure in figures.items():
        tracker.log_figure(*save_figure(figure, folder / name, ("png",)))
    if labels is not None:
        tracker.log_table((folder / SELECTION).with_suffix(".csv"))
    if labels is not None or job.config.selection.method == "direct":
        pool = replace(job.manifest, cases=job.manifest.split("unlabelled"))
        tracker.log_dataset("unlabelled", pool.fingerprint, "unlabelled")
    _log_values(job, tracker, _summarise(folder, record, job.truth, {}))
    tags = {"round": record.round, "method": job.config.selection.method, **record.metrics}
    tracker.register(_model_name(job), folder / BEST, tags)


def _log_values(job: Job, tracker: Tracker, row: RoundSummary) -> None:
    """Logs a round's values to its own run and to that of the whole."""
    values = {name.replace("val/", "best/", 1): value for name, value in row.metrics.items()}
    values |= {"selected/mutant": float(row.num_mutant), "selected/wild": float(row.num_wild)}
    if row.accuracy is not None:
        values["selected/accuracy"] = row.accuracy
    values |= row.estimates
    tracker.log_step(row.round, values)
    job.tracker.log_step(row.round, values)


def _model_name(job: Job) -> str:
    return job.config.tracking.model or job.config.output.name


def log_finish(job: Job, rounds: Sequence[RoundSummary], chosen: int) -> None:
    """Draws all rounds, adds the values on test to each, and sets the alias `best` to the chosen one."""
    for row in rounds:
        folder = round_folder(job.folder, row.round)
        config = round_config(job.config, row.round, folder)
        tracker = open_round(job, config, row.round, folder, read_manifest(folder / MANIFEST))
        with closing(tracker):
            _log_values(job, tracker, row)  # all of them: the MLflow run may be newer than the round
            if row.round == chosen:
                version = tracker.register(_model_name(job), folder / BEST, {"chosen_on_validation": True})
                job.tracker.set_alias(_model_name(job), version, "best")
                job.tracker.log_checkpoint(folder / BEST)
    figure = draw_summary(rounds, job.config.selection.method, chosen, job.config.metrics)
    job.tracker.log_figure(*save_figure(figure, job.folder / "rounds", ("png",)))

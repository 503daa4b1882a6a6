"""Scores of the pool by the round before, and the pseudo-labels selected by them (Algorithm 1, lines 3 and 4)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mttu.config import SelectionSettings
from mttu.config.earlier import complete_section
from mttu.data.labels import IDH_UNKNOWN
from mttu.data.manifest import read_manifest
from mttu.data.score_table import ScoreRow, ScoreTable, complete_about, read_scores, write_scores
from mttu.errors import InputError, RunError
from mttu.pseudo_labels import Selection
from mttu.scoring.plan import ScoringPlan, plan_scoring
from mttu.scoring.reports import read_selection, write_selection_table
from mttu.self_training.choosing import choose_labels, is_unchanged, search_settings
from mttu.self_training.job import Job
from mttu.self_training.mixing import read_pseudo_labels
from mttu.self_training.round_folder import MANIFEST, SCORES, SELECTION, VAL_SCORES, round_folder


@dataclass(frozen=True)
class Selected:
    """The pseudo-labels of a round, and what they were selected from."""

    scores: ScoreTable
    selection: Selection
    settings: SelectionSettings
    """With the thresholds in use."""
    unchanged: bool
    """Whether the round would be the same as the one before, and is not to be trained."""


def select_for_round(job: Job, number: int, folder: Path) -> Selected:
    """Scores the pool and selects, or reads what is there already.

    Args:
        job: See `Job`.
        number: 1 or more; the round before is finished.
        folder: Where the round is built.

    Raises:
        RunError: No case could be scored.
    """
    before = round_folder(job.folder, number - 1)
    settings, rounds = job.config.selection, job.config.self_training
    earlier = read_pseudo_labels(read_manifest(before / MANIFEST))
    scores = _score_pool(job, number, before, folder / SCORES)
    notes: list[str] = []
    if rounds.thresholds == "search" and settings.method in ("CPL", "UPS") and scores.rows:
        validation = _score(job, number, before, "val", folder / VAL_SCORES)
        truth = {case.case_id: case.idh for case in job.manifest.split("val") if case.idh != IDH_UNKNOWN}
        settings, _, notes = search_settings(validation, truth, settings, rounds.min_coverage)
    selection = _read_true(folder / SELECTION, scores, settings)
    if selection is None:
        selection = choose_labels(scores, settings, {} if rounds.relabel else earlier)
        selection = _with_notes(selection, notes)
        write_selection_table(folder, scores, selection, settings)
    stops = rounds.stop_when_unchanged and number > 1 and settings.method != "none"
    unchanged = stops and is_unchanged(selection.pseudo_labels, earlier)
    return Selected(scores, selection, settings, unchanged)


def _with_notes(selection: Selection, notes: list[str]) -> Selection:
    return Selection(selection.cases, selection.balanced, selection.wild_per_mutant, (*notes, *selection.notes))


def _read_true(path: Path, scores: ScoreTable, settings: SelectionSettings) -> Selection | None:
    """The selection that is there, if it was made of these scores by these settings."""
    if not path.exists():
        return None
    selection, about = read_selection(path)
    made_of = (about["scores_sha256"], complete_section("selection.", about["selection"]))
    return selection if made_of == (scores.digest, settings.model_dump(mode="json")) else None


def _score_pool(job: Job, number: int, checkpoint: Path, target: Path) -> ScoreTable:
    pool = job.manifest.split("unlabelled")
    if job.config.selection.method == "none":  # nobody asks for the scores, and they cost many passes per case
        return ScoreTable(tuple(ScoreRow(case.case_id, 0.0) for case in pool))
    return _score(job, number, checkpoint, "unlabelled", target)


def _score(job: Job, number: int, checkpoint: Path, split: str, target: Path) -> ScoreTable:
    """Scores of a split by a checkpoint, from the table that is there if it is of these very weights and settings."""
    mc = job.config.mc.model_dump(mode="json")
    changes = {f"mc.{name}": value for name, value in mc.items()}
    plan = plan_scoring(checkpoint, job.manifest_path, split, changes, job.cache_dir)
    found = _read_true_scores(target, plan)
    if found is not None:
        return found

    def on_row(done: int, row: ScoreRow) -> None:
        job.show_case(number, "score", done, len(plan.cases), row.case_id)

    table = job.callables.score(plan, on_row)
    if all(row.error for row in table.rows):
        raise RunError(f"round {number}: no {split} case could be scored; the first reason: {table.rows[0].error}")
    write_scores(table, target)
    return table


def _read_true_scores(path: Path, plan: ScoringPlan) -> ScoreTable | None:
    if not path.exists():
        return None
    try:
        table = read_scores(path)
    except InputError:
        return None  # not of this version, or damaged: it is made again
    wanted = {name: value for name, value in plan.about.items() if name != "mttu_version"}
    says: Mapping[str, object] = {name: complete_about(name, table.about.get(name)) for name in wanted}
    same_cases = [row.case_id for row in table.rows] == sorted(case.case_id for case in plan.cases)
    return table if says == wanted and same_cases else None

"""What a round trains on: the pool's scores, the pseudo-labels selected by them, and the mixed cases (Algorithm 1)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mttu.config import SelectionSettings
from mttu.config.earlier import complete_section
from mttu.config.scoring import Method
from mttu.data.labels import IDH_UNKNOWN
from mttu.data.manifest import Case, Manifest, read_manifest
from mttu.errors import InputError, RunError
from mttu.pseudo_labels import (
    SelectedCase,
    Selection,
    ThresholdRow,
    pool_scores,
    search_thresholds,
    select,
    suggest_thresholds,
)
from mttu.pseudo_labels.reports import read_selection, write_selection_table
from mttu.pseudo_labels.score_table import ScoreRow, ScoreTable, complete_about, read_scores, write_scores
from mttu.pseudo_labels.scoring import ScoringPlan, plan_scoring
from mttu.self_training.job import Job
from mttu.self_training.round_folder import MANIFEST, SCORES, SELECTION, VAL_SCORES, round_folder

KEPT = "kept from an earlier round"


def choose_labels(table: ScoreTable, settings: SelectionSettings, earlier: Mapping[str, int]) -> Selection:
    """Selects pseudo-labels; those that are to stay are not asked again.

    Args:
        table: Monte Carlo scores of the pool.
        settings: Method, thresholds, balance.
        earlier: Pseudo-labels that stay whatever the scores say, case to class. The others are selected, and balanced,
            among themselves.

    Raises:
        InputError: See `mttu.pseudo_labels.select`.
    """
    open_rows = tuple(row for row in table.rows if row.case_id not in earlier)
    chosen = select(replace(table, rows=open_rows), settings)
    if not earlier:
        return chosen
    stay = [
        SelectedCase(row.case_id, earlier[row.case_id], row.confidence, row.uncertainty, False, True, KEPT)
        for row in table.rows
        if row.case_id in earlier
    ]
    notes = (f"{len(stay)} pseudo-labels are kept from earlier rounds", *chosen.notes)
    return replace(chosen, cases=tuple(sorted([*chosen.cases, *stay], key=lambda case: case.case_id)), notes=notes)


def search_settings(
    validation: ScoreTable, truth: Mapping[str, int], settings: SelectionSettings, min_coverage: float
) -> tuple[SelectionSettings, list[ThresholdRow], list[str]]:
    """Thresholds of lowest error on the validation cases (section IV-B, Fig. 3b).

    Args:
        validation: Monte Carlo scores of the validation cases by the network that scored the pool.
        truth: True class of the validation cases.
        settings: What else is set stays; the thresholds too, where no pair selects enough, or where the table does not
            say that the network did not learn from these cases.
        min_coverage: Least share of the validation cases that a pair has to select.

    Returns:
        Settings with the thresholds found, the pairs that were tried, and sentences on what is special.

    Raises:
        InputError: No validation case has both a score and a class.
    """
    if validation.about.get("learned_from") is None:
        note = (
            "the weights that training started from do not say whom they learned from, so no thresholds were searched"
        )
        return settings, [], [f"{note} on the validation cases: as set in `selection`"]
    scores, notes = pool_scores({"of the validation cases": validation}, truth)
    rows = search_thresholds(scores)
    found = suggest_thresholds(rows, min_coverage)
    if found is None:
        notes.append(f"no pair of thresholds selects {min_coverage:.0%} of the validation cases: as set in `selection`")
        return settings, rows, notes
    changes = {
        "confidence_threshold": found.confidence_threshold,
        "uncertainty_threshold": found.uncertainty_threshold,
    }
    return settings.model_copy(update=changes), rows, notes


def is_unchanged(now: Mapping[str, int], before: Mapping[str, int] | None) -> bool:
    """Whether a round would train with the very pseudo-labels of the round before; False for the first such round."""
    return before is not None and dict(now) == dict(before)


@dataclass(frozen=True)
class Mixture:
    """What a round trains on."""

    manifest: Manifest
    left_out: tuple[str, ...]
    """Pool cases that nothing could be learned from: neither selected nor with a mask."""


def mix(manifest: Manifest, pseudo_labels: Mapping[str, int]) -> Mixture:
    """Puts the pool into training (Algorithm 1, line 5; sections IV-A and V-E).

    Selected cases train with their pseudo-label. The other cases of the pool train the decoder by their masks, with
    IDH unknown, which has no loss (eq. 20, g = 0); those without a mask are left out. Train, val and test stay.

    Args:
        manifest: The cohort, its pool in split unlabelled.
        pseudo_labels: Selected cases of the pool to class, 1 mutant, 0 wild type.
    """
    mixed, left_out = [], []
    for case in manifest.cases:
        if case.split != "unlabelled":
            mixed.append(case)
        elif case.case_id in pseudo_labels:
            mixed.append(replace(case, split="train", idh=pseudo_labels[case.case_id], pseudo_label=True))
        elif case.seg is not None:
            mixed.append(replace(case, split="train", idh=IDH_UNKNOWN))
        else:
            left_out.append(case.case_id)
    return Mixture(replace(manifest, cases=tuple(mixed)), tuple(left_out))


def first_mixture(manifest: Manifest, method: Method) -> Mixture:
    """What round 0 trains on: the labelled cases, and in the direct training (section V-E) the masks of the pool, too.

    Args:
        manifest: The cohort.
        method: Of the selection.
    """
    return mix(manifest, {}) if method == "direct" else Mixture(manifest, ())


def read_pseudo_labels(manifest: Manifest) -> dict[str, int]:
    """The pseudo-labels that a mixed manifest trains with, case to class."""
    return {case.case_id: case.idh for case in manifest.cases if case.pseudo_label}


def find_pool_leaks(manifest: Manifest) -> list[Case]:
    """Pool cases of a patient who also validates or tests: training on them would give the answer away."""
    held_out = {case.patient_id for case in manifest.cases if case.split in ("val", "test")}
    return [case for case in manifest.split("unlabelled") if case.patient_id in held_out]


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

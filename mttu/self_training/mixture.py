"""What a round trains on: pseudo-labels selected by thresholds, and the mixed cases (Algorithm 1). Pure: no files."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mttu.config import SelectionSettings
from mttu.config.scoring import Method
from mttu.data.labels import IDH_UNKNOWN
from mttu.data.manifest import Case, Manifest
from mttu.errors import InputError
from mttu.pseudo_labels.certainty import Certainty, read_certainty
from mttu.pseudo_labels.correction import fit_correction
from mttu.pseudo_labels.prior import Correction
from mttu.pseudo_labels.score_table import ScoreRow, ScoreTable
from mttu.pseudo_labels.selection import SelectedCase, Selection, add_estimates, select
from mttu.pseudo_labels.thresholds import pool_scores, search_thresholds, suggest_thresholds
from mttu.self_training.soft_labels import SoftLabel

KEPT = "kept from an earlier round"


def choose_labels(
    table: ScoreTable,
    settings: SelectionSettings,
    earlier: Mapping[str, int],
    correction: Correction | None = None,
) -> Selection:
    """Selects pseudo-labels among the pool's cases that have none from an earlier round, see `select`.

    Labels in `earlier` (case to class) are kept whatever their scores, and do not count in balancing or a rule. The
    correction is of the whole pool.
    """
    open_rows = tuple(row for row in table.rows if row.case_id not in earlier)
    chosen = select(replace(table, rows=open_rows), settings, correction)
    if not earlier:
        return add_estimates(chosen, table, correction)
    stay = []
    for row in (row for row in table.rows if row.case_id in earlier):
        found = None if correction is None else read_certainty(row, correction)
        stay.append(
            SelectedCase(
                row.case_id,
                earlier[row.case_id],
                _confidence_of(earlier[row.case_id], row, found),
                row.uncertainty,
                meets_thresholds=False,
                selected=True,
                reason=KEPT,
                calibrated_probability=None if found is None else found.calibrated,
                moved_probability=None if found is None else found.mutant_probability,
            )
        )
    notes = (f"{len(stay)} pseudo-labels are kept from earlier rounds", *chosen.notes)
    cases = tuple(sorted([*chosen.cases, *stay], key=lambda case: case.case_id))
    return add_estimates(replace(chosen, cases=cases, notes=notes), table, correction)


def _confidence_of(label: int, row: ScoreRow, found: Certainty | None) -> float | None:
    """Probability of a kept label, which the network may not predict any more."""
    confidence, predicted = (
        (row.confidence, row.predicted_class) if found is None else (found.confidence, found.predicted_class)
    )
    return confidence if confidence is None or predicted == label else 1 - confidence


def grow_share(settings: SelectionSettings, number: int) -> SelectionSettings:
    """The settings with the share that `selection.rule=rank` takes in a round (from 1)."""
    if settings.rule != "rank":
        return settings
    return settings.model_copy(
        update={"rank_share": min(1.0, settings.rank_share + settings.rank_growth * (number - 1))}
    )


def keep_prior(settings: SelectionSettings, first: Mapping[str, float]) -> SelectionSettings:
    """The settings with what round 1 estimated of the share of mutants, if that was to be estimated.

    `first` are the estimates of round 1 (`RoundRecord.estimates`); empty in round 1, or where it could make none.

    The pool is the same in all rounds. Its share is estimated by the one network that has not learned from labels of
    its own: any later one repeats the share that it was given, and more surely so in every round.
    """
    if settings.prior not in ("estimate", "detect") or not first:
        return settings
    unmoved = first["selected/pool_share"] if settings.prior == "estimate" else "none"  # not recorded before `detect`
    return settings.model_copy(update={"prior": first.get("selected/moved_to", unmoved)})


def doubt_estimates(settings: SelectionSettings) -> str:
    """What to think of estimates by a network that has learned from pseudo-labels; `settings` are those in use."""
    of_share = " and the estimated share of mutants" if settings.prior in ("estimate", "detect") else ""
    return (
        f"the network that scored the pool has learned from its own labels of it, so the estimated shares of right "
        f"labels{of_share} are optimistic, more so than in round 1"
    )


def calibrate_scores(
    pool: ScoreTable, validation: ScoreTable, truth: Mapping[str, int], settings: SelectionSettings
) -> tuple[Correction | None, list[str]]:
    """Calibration and prior of the pool's scores from those of the validation cases, and notes.

    None, with the reason as a note, where the validation cases determine none, see `fit_correction`: a round goes on
    with the probabilities as they are, and `selection.rule=precision` then selects nothing.
    """
    try:
        return fit_correction(pool, {"of the validation cases": validation}, truth, settings)
    except InputError as error:
        return None, [f"probabilities are taken as they are: {problem}" for problem in error.problems]


def search_settings(
    validation: ScoreTable, truth: Mapping[str, int], settings: SelectionSettings, min_coverage: float
) -> tuple[SelectionSettings, list[str]]:
    """The settings with the thresholds of lowest error on the validation cases (section IV-B, Fig. 3b), and notes.

    The thresholds stay as set if no pair selects `min_coverage` of the validation cases, or if the table does not
    record which patients the network was trained on.

    Args:
        validation: Scores by the network that scored the pool.
        truth: True classes of the validation cases.
        settings: Settings of the selection.
        min_coverage: Least share of the cases to select.

    Raises:
        InputError: No validation case has both a score and a class.
    """
    if validation.about.get("learned_from") is None:
        return settings, [
            "the weights that training started from do not say whom they learned from, so no thresholds were searched "
            "on the validation cases: as set in `selection`"
        ]
    scores, notes = pool_scores({"of the validation cases": validation}, truth)
    found = suggest_thresholds(search_thresholds(scores), min_coverage)
    if found is None:
        notes.append(f"no pair of thresholds selects {min_coverage:.0%} of the validation cases: as set in `selection`")
        return settings, notes
    changes = {
        "confidence_threshold": found.confidence_threshold,
        "uncertainty_threshold": found.uncertainty_threshold,
    }
    return settings.model_copy(update=changes), notes


@dataclass(frozen=True)
class Mixture:
    """What a round trains on."""

    manifest: Manifest
    left_out: tuple[str, ...]
    """Pool cases with nothing to learn from: not selected, and without a mask or a teacher."""


def mix(
    manifest: Manifest,
    pseudo_labels: Mapping[str, int],
    soft_labels: Mapping[str, SoftLabel] | None = None,
    has_teacher: bool = False,
) -> Mixture:
    """Moves the pool into training (Algorithm 1, line 5; sections IV-A and V-E).

    Selected cases train with their pseudo-label. The other cases of the pool train the decoder by their masks, with
    IDH unknown, which has no loss (eq. 20, g = 0); those without a mask are left out, unless there is a teacher for
    them (`teacher.masks`), whose masks are not written into the manifest: it marks the training cases that are taught
    by them. Train, val and test stay.

    Args:
        manifest: The cohort, its pool in split unlabelled.
        pseudo_labels: Selected cases of the pool to class, 1 mutant, 0 wild type.
        soft_labels: Selected cases to what they train the IDH head with in place of the class.
        has_teacher: Whether cases without a mask train the decoder, too.
    """
    soft_labels = soft_labels or {}
    mixed, left_out = [], []
    for case in manifest.cases:
        if case.split != "unlabelled":
            mixed.append(case)
        elif case.case_id in pseudo_labels:
            selected = replace(case, split="train", idh=pseudo_labels[case.case_id], pseudo_label=True)
            soft = soft_labels.get(case.case_id)
            mixed.append(soft.attach_to(selected) if soft else selected)
        elif case.seg is not None or has_teacher:
            mixed.append(replace(case, split="train", idh=IDH_UNKNOWN))
        else:
            left_out.append(case.case_id)
    if has_teacher:
        mixed = [replace(case, teacher_mask=case.split == "train" and case.seg is None) for case in mixed]
    return Mixture(replace(manifest, cases=tuple(mixed)), tuple(left_out))


def first_mixture(manifest: Manifest, method: Method, has_teacher: bool = False) -> Mixture:
    """What round 0 trains on: the labelled cases; in the direct training (section V-E) the masks of the pool too.

    `has_teacher` is that of `mix`, and counts in the direct training alone.
    """
    return mix(manifest, {}, has_teacher=has_teacher) if method == "direct" else Mixture(manifest, ())


def read_pseudo_labels(manifest: Manifest) -> dict[str, int]:
    """The pseudo-labels that a mixed manifest trains with, case to class."""
    return {case.case_id: case.idh for case in manifest.cases if case.pseudo_label}


def find_pool_leaks(manifest: Manifest) -> list[Case]:
    """Pool cases of patients who also have val or test cases: training on them would leak into the evaluation."""
    held_out = {case.patient_id for case in manifest.cases if case.split in ("val", "test")}
    return [case for case in manifest.split("unlabelled") if case.patient_id in held_out]


@dataclass(frozen=True)
class RoundLabels:
    """The pseudo-labels of a round, and what they were selected from."""

    scores: ScoreTable
    selection: Selection
    settings: SelectionSettings
    """The settings, with the thresholds or the share in use."""
    unchanged: bool
    """Whether these are the pseudo-labels of the round before, so that training again would change nothing."""
    soft_labels: Mapping[str, SoftLabel] = field(default_factory=dict)
    """Selected cases to soft label; empty where labels are hard."""
    correction: Correction | None = None
    """How the pool's probabilities were calibrated and moved."""

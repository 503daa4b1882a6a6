"""Selection of pseudo-labels: PL, CPL and UPS (sections IV-B and V-F, eq. 19), and their class balance (section VI)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mttu.config import SelectionSettings
from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.errors import InputError, say_count
from mttu.pseudo_labels.score_table import ScoreRow, ScoreTable

ROUNDING = 1e-9
"""So that 1.6 x 5 is 8."""
CLASS_NAMES = {IDH_MUTANT: "mutant", IDH_WILD: "wild type"}


@dataclass(frozen=True)
class SelectedCase:
    """One case and whether its prediction becomes a pseudo-label."""

    case_id: str
    pseudo_label: int
    """1 mutant, 0 wild type; -1 where there is no score."""
    confidence: float | None
    uncertainty: float | None
    meets_thresholds: bool
    """g of eq. (19); for PL and CPL without the terms that they lack."""
    selected: bool
    """After balancing."""
    reason: str
    """Why it is not selected; empty if it is."""


@dataclass(frozen=True)
class Selection:
    """What was selected, and what the user has to be told of it."""

    cases: tuple[SelectedCase, ...]
    """Every case of the table, by id."""
    balanced: bool
    """Whether balancing was on."""
    wild_per_mutant: float | None
    """Class ratio that was balanced to; None if balancing was off."""
    notes: tuple[str, ...]
    """Sentences about what is special: first of all that nothing is selected, then errors, one class only, everything
    selected, balance."""

    @property
    def pseudo_labels(self) -> dict[str, int]:
        """Selected case to class."""
        return {case.case_id: case.pseudo_label for case in self.cases if case.selected}


@dataclass(frozen=True)
class SelectionCounts:
    """Selected cases by class, and how many of those whose truth is known are right."""

    num_mutant: int
    num_wild: int
    num_known: int
    """Selected cases whose true class is known."""
    num_right_mutant: int
    """Selected as mutant, and known to be."""
    num_right_wild: int
    """Selected as wild type, and known to be."""

    @property
    def accuracy(self) -> float | None:
        """Share of right pseudo-labels among those with a known truth; None if there are none."""
        return (self.num_right_mutant + self.num_right_wild) / self.num_known if self.num_known else None


@dataclass(frozen=True)
class Certainty:
    """What a case is selected by; all finite."""

    confidence: float
    uncertainty: float
    predicted_class: int


def read_certainty(row: ScoreRow) -> Certainty | None:
    """What a row is selected by; None if it has an error, or any of it is missing or not finite."""
    if row.error or row.confidence is None or row.uncertainty is None or row.predicted_class is None:
        return None
    if not (math.isfinite(row.confidence) and math.isfinite(row.uncertainty)):
        return None
    return Certainty(row.confidence, row.uncertainty, row.predicted_class)


def is_confident(confidence: float, threshold: float) -> bool:
    """Second factor of eq. (19): p >= tau_c."""
    return confidence >= threshold


def is_certain(uncertainty: float, threshold: float) -> bool:
    """First factor of eq. (19): mu(p) <= tau_u."""
    return uncertainty <= threshold


def select(table: ScoreTable, settings: SelectionSettings) -> Selection:
    """Chooses the predictions that become pseudo-labels.

    Cases with an error, or with a figure that is missing or not finite, are never selected. Balancing cuts the one
    class that exceeds the ratio, most uncertain cases first, ties by case id from the end. The class that the ratio
    makes the larger one is rounded down and never exceeds it, the smaller one is rounded up: 2 mutants and 3 wild types
    are 1:1.6 as nearly as can be. If all cases that meet the thresholds are of one class there is nothing to balance
    with, and none is kept.

    The methods none and direct select nothing, and need neither thresholds nor a ratio.

    Args:
        table: Monte Carlo scores; where balancing is on and `wild_per_mutant` is not set, its `about` says how many
            cases of each class the network learned from.
        settings: Method, thresholds, balance.

    Raises:
        InputError: Balancing is on and neither settings nor table give a class ratio.
    """
    if settings.method in ("none", "direct"):
        return _select_none(table, settings.method)
    balanced = settings.balance if settings.balance is not None else settings.method != "PL"
    ratio = _find_ratio(table, settings) if balanced else None
    rows = sorted(table.rows, key=lambda row: row.case_id)
    cases = [_judge(row, settings) for row in rows]
    kept = cases if ratio is None else _balance(cases, ratio)
    return Selection(tuple(kept), balanced, ratio, tuple(_find_notes(rows, cases, kept, settings, ratio)))


def _select_none(table: ScoreTable, method: str) -> Selection:
    reason = f"selection.method is {method}"
    rows = sorted(table.rows, key=lambda row: row.case_id)
    cases = [
        SelectedCase(row.case_id, IDH_UNKNOWN, row.confidence, row.uncertainty, False, False, reason) for row in rows
    ]
    return Selection(tuple(cases), False, None, (f"{reason}: no pseudo-labels",))


def _find_ratio(table: ScoreTable, settings: SelectionSettings) -> float:
    if settings.wild_per_mutant is not None:
        return settings.wild_per_mutant
    labelled = table.about.get("labelled") or {}
    mutant, wild = labelled.get("mutant", 0), labelled.get("wild", 0)
    if not (mutant and wild):
        raise InputError(
            f"selection.wild_per_mutant: not set, and the scores name {mutant} mutants and {wild} wild types among the "
            "labelled cases; set it (1.6 in the paper), or selection.balance=false"
        )
    return float(wild / mutant)


def _judge(row: ScoreRow, settings: SelectionSettings) -> SelectedCase:
    certainty = read_certainty(row)
    if certainty is None:
        # the error itself may name folders, and this table goes to MLflow
        reason = "has an error, see the scores" if row.error else "confidence or uncertainty is missing or not finite"
        return SelectedCase(row.case_id, IDH_UNKNOWN, row.confidence, row.uncertainty, False, False, reason)
    reasons = []
    if settings.method != "PL" and not is_confident(certainty.confidence, settings.confidence_threshold):
        reasons.append(f"confidence {certainty.confidence:.4f} < {settings.confidence_threshold:g}")
    if settings.method == "UPS" and not is_certain(certainty.uncertainty, settings.uncertainty_threshold):
        reasons.append(f"uncertainty {certainty.uncertainty:.4f} > {settings.uncertainty_threshold:g}")
    meets = not reasons
    return SelectedCase(
        case_id=row.case_id,
        pseudo_label=certainty.predicted_class,
        confidence=certainty.confidence,
        uncertainty=certainty.uncertainty,
        meets_thresholds=meets,
        selected=meets,
        reason="; ".join(reasons),
    )


def _balance(cases: Sequence[SelectedCase], ratio: float) -> list[SelectedCase]:
    """Cuts the surplus class; the others stay."""
    of_class = {
        label: [case for case in cases if case.selected and case.pseudo_label == label] for label in CLASS_NAMES
    }
    major, minor = (IDH_WILD, IDH_MUTANT) if ratio >= 1 else (IDH_MUTANT, IDH_WILD)
    majors, minors, share = len(of_class[major]), len(of_class[minor]), max(ratio, 1 / ratio)
    if majors > (most := math.floor(share * minors + ROUNDING)):
        surplus, room = major, most
    else:
        surplus, room = minor, math.ceil(majors / share - ROUNDING)
    ranked = sorted(of_class[surplus], key=lambda case: (case.uncertainty or 0.0, case.case_id))
    dropped = {case.case_id for case in ranked[room:]}
    reason = f"balance: {CLASS_NAMES[surplus]}s beyond 1:{ratio:.3g} (mutant:wild), the most uncertain first"
    return [replace(case, selected=False, reason=reason) if case.case_id in dropped else case for case in cases]


def _find_notes(
    rows: Sequence[ScoreRow],
    cases: Sequence[SelectedCase],
    kept: Sequence[SelectedCase],
    settings: SelectionSettings,
    ratio: float | None,
) -> list[str]:
    notes = []
    scored = [certainty for row in rows if (certainty := read_certainty(row)) is not None]
    failed = [row.case_id for row in rows if row.error]
    unusable = [row.case_id for row in rows if not row.error and read_certainty(row) is None]
    if failed:
        subject = say_count(len(failed), "case has", "cases have")
        notes.append(f"{subject} an error and cannot be selected: {', '.join(failed)}")
    if unusable:
        subject = say_count(len(unusable), "case has", "cases have")
        notes.append(f"{subject} scores that are missing or not finite: {', '.join(unusable)}")
    if not scored:
        return ["nothing is selected: no case has a score", *notes]
    meeting = [case for case in cases if case.meets_thresholds]
    if not meeting:
        best, least = max(one.confidence for one in scored), min(one.uncertainty for one in scored)
        nothing = f"nothing is selected: the highest confidence is {best:.4f} (threshold "
        nothing += f"{settings.confidence_threshold:g})"
        if settings.method == "UPS":
            nothing += f", the lowest uncertainty {least:.4f} (threshold {settings.uncertainty_threshold:g})"
        return [nothing, *notes]
    if len(meeting) == len(scored) and settings.method != "PL":
        notes.append("every case with a score meets the thresholds: they sort nothing out")
    labels = {case.pseudo_label for case in meeting}
    if len(labels) == 1:
        name = CLASS_NAMES[labels.pop()]
        one_class = f"every case that meets the thresholds ({len(meeting)}) is called {name}"
        if ratio is None:
            notes.append(one_class)
        else:
            ending = "with balancing on none is kept (selection.balance=false keeps them)"
            notes.insert(0, f"nothing is selected: {one_class}; {ending}")
    elif ratio is not None and (lost := len(meeting) - sum(case.selected for case in kept)):
        notes.append(f"balancing to 1:{ratio:.3g} (mutant:wild type) drops {lost} of {len(meeting)} cases")
    return notes


def count_selected(
    selection: Selection, truth: Mapping[str, int] | None = None, stage: Literal["thresholds", "balance"] = "balance"
) -> SelectionCounts:
    """Counts the selected cases.

    Args:
        selection: From `select`.
        truth: Case to true class, 1 mutant, 0 wild type; cases that are not in it count as unknown.
        stage: After the thresholds alone, or after balancing too.
    """
    chosen = [case for case in selection.cases if (case.selected if stage == "balance" else case.meets_thresholds)]
    known = truth or {}
    right = [case for case in chosen if known.get(case.case_id) == case.pseudo_label]
    return SelectionCounts(
        num_mutant=sum(case.pseudo_label == IDH_MUTANT for case in chosen),
        num_wild=sum(case.pseudo_label == IDH_WILD for case in chosen),
        num_known=sum(known.get(case.case_id) in CLASS_NAMES for case in chosen),
        num_right_mutant=sum(case.pseudo_label == IDH_MUTANT for case in right),
        num_right_wild=sum(case.pseudo_label == IDH_WILD for case in right),
    )

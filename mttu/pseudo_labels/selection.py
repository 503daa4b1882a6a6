"""Selection of pseudo-labels: PL, CPL and UPS (sections IV-B and V-F, eq. 19), and their class balance (section VI)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mttu.config import SelectionSettings
from mttu.data.labels import CLASS_NAMES, IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.errors import InputError, say_count
from mttu.pseudo_labels.score_table import ScoreRow, ScoreTable

_ROUNDING = 1e-9
"""Tolerance, so that 1.6 * 5 counts as 8."""


@dataclass(frozen=True)
class SelectedCase:
    """One case and whether its prediction becomes a pseudo-label."""

    case_id: str
    pseudo_label: int
    """1 mutant, 0 wild type; -1 where there is no score."""
    confidence: float | None
    uncertainty: float | None
    meets_thresholds: bool
    """g of eq. (19); for PL and CPL, without the terms they do not use."""
    selected: bool
    """After balancing."""
    reason: str
    """Why it is not selected; empty if it is."""


@dataclass(frozen=True)
class Selection:
    """What was selected, and notes for the user."""

    cases: tuple[SelectedCase, ...]
    """Every case of the table, by id."""
    balanced: bool
    """Whether balancing was on."""
    wild_per_mutant: float | None
    """Class ratio that balancing aimed at; None if it was off."""
    notes: tuple[str, ...]
    """Sentences for the user, in this order: nothing selected, errors, everything selected, a single class,
    balancing."""

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


@dataclass(frozen=True)
class Certainty:
    """The scores that a case is selected by; finite."""

    confidence: float
    uncertainty: float
    predicted_class: int


def read_certainty(row: ScoreRow) -> Certainty | None:
    """The scores of a row; None if it has an error, or if any of them is missing or not finite."""
    if row.error or row.confidence is None or row.uncertainty is None or row.predicted_class is None:
        return None
    if not (math.isfinite(row.confidence) and math.isfinite(row.uncertainty)):
        return None
    return Certainty(row.confidence, row.uncertainty, row.predicted_class)


def select(table: ScoreTable, settings: SelectionSettings) -> Selection:
    """Selects the predictions that become pseudo-labels.

    UPS keeps a case where its confidence p >= tau_c and its uncertainty mu(p) <= tau_u (eq. 19), CPL by its confidence
    alone, PL every case; none and direct select nothing. Cases with an error, or with a score that is missing or not
    finite, are never selected.

    Balancing drops cases of the class that exceeds the ratio, the most uncertain first; of equals, the last case id
    first. The class that the ratio favours is rounded down, the other up: 2 mutants and 3 wild types are as near to
    1:1.6 as possible. If all cases that meet the thresholds are of one class, none is kept.

    Args:
        table: Monte Carlo scores; where balancing is on and `wild_per_mutant` is not set, its `about` says how many
            cases of each class the network learned from.
        settings: Method, thresholds, balance.

    Raises:
        InputError: Balancing is on and neither settings nor table give a class ratio.
    """
    rows = sorted(table.rows, key=lambda row: row.case_id)
    if settings.method in ("none", "direct"):
        reason = f"selection.method is {settings.method}"
        unselected = tuple(_leave_out(row, reason) for row in rows)
        notes = (f"{reason}: no pseudo-labels",)
        return Selection(unselected, balanced=False, wild_per_mutant=None, notes=notes)
    balanced = settings.balance if settings.balance is not None else settings.method != "PL"
    ratio = _find_ratio(table, settings) if balanced else None
    cases = [_judge(row, settings) for row in rows]
    kept = cases if ratio is None else _balance(cases, ratio)
    return Selection(tuple(kept), balanced, ratio, tuple(_find_notes(rows, cases, kept, settings, ratio)))


def _leave_out(row: ScoreRow, reason: str) -> SelectedCase:
    return SelectedCase(
        row.case_id,
        IDH_UNKNOWN,
        row.confidence,
        row.uncertainty,
        meets_thresholds=False,
        selected=False,
        reason=reason,
    )


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
        return _leave_out(row, reason)
    confidence, uncertainty = certainty.confidence, certainty.uncertainty
    confident = settings.method == "PL" or confidence >= settings.confidence_threshold
    certain = settings.method != "UPS" or uncertainty <= settings.uncertainty_threshold
    selected = confident and certain  # g of eq. (19)
    reasons = []
    if not confident:
        reasons.append(f"confidence {confidence:.4f} < {settings.confidence_threshold:g}")
    if not certain:
        reasons.append(f"uncertainty {uncertainty:.4f} > {settings.uncertainty_threshold:g}")
    return SelectedCase(
        row.case_id,
        certainty.predicted_class,
        confidence,
        uncertainty,
        meets_thresholds=selected,
        selected=selected,
        reason="; ".join(reasons),
    )


def _balance(cases: Sequence[SelectedCase], ratio: float) -> list[SelectedCase]:
    """Drops the surplus of one class; the other cases stay."""
    of_class = {
        label: [case for case in cases if case.selected and case.pseudo_label == label] for label in CLASS_NAMES
    }
    major, minor = (IDH_WILD, IDH_MUTANT) if ratio >= 1 else (IDH_MUTANT, IDH_WILD)
    majors, minors = len(of_class[major]), len(of_class[minor])
    share = max(ratio, 1 / ratio)
    most = math.floor(share * minors + _ROUNDING)
    if majors > most:
        surplus, room = major, most
    else:
        surplus, room = minor, math.ceil(majors / share - _ROUNDING)
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
        threshold = f"{settings.confidence_threshold:g}"
        nothing = f"nothing is selected: the highest confidence is {best:.4f} (threshold {threshold})"
        if settings.method == "UPS":
            nothing += f", the lowest uncertainty {least:.4f} (threshold {settings.uncertainty_threshold:g})"
        return [nothing, *notes]
    if len(meeting) == len(scored) and settings.method != "PL":
        notes.append("every case with a score meets the thresholds: they exclude nothing")
    classes = {case.pseudo_label for case in meeting}
    if len(classes) == 1:
        name = CLASS_NAMES[classes.pop()]
        one_class = f"every case that meets the thresholds ({len(meeting)}) is called {name}"
        if ratio is None:
            notes.append(one_class)
        else:
            ending = "with balancing on none is kept (selection.balance=false keeps them)"
            notes.insert(0, f"nothing is selected: {one_class}; {ending}")
    elif ratio is not None and (lost := len(meeting) - sum(case.selected for case in kept)):
        notes.append(f"balancing to 1:{ratio:.3g} (mutant:wild type) drops {lost} of {len(meeting)} cases")
    return notes


def count_selected(selection: Selection, truth: Mapping[str, int] | None = None) -> SelectionCounts:
    """Counts the selected cases; those that `truth` (case to 1 mutant, 0 wild type) lacks are not known."""
    known, classes = truth or {}, selection.pseudo_labels
    right = [idh for case_id, idh in classes.items() if known.get(case_id) == idh]
    return SelectionCounts(
        num_mutant=list(classes.values()).count(IDH_MUTANT),
        num_wild=list(classes.values()).count(IDH_WILD),
        num_known=sum(known.get(case_id) in CLASS_NAMES for case_id in classes),
        num_right_mutant=right.count(IDH_MUTANT),
        num_right_wild=right.count(IDH_WILD),
    )

"""Selection of pseudo-labels: PL, CPL and UPS (sections IV-B and V-F, eq. 19), and their class balance (section VI)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mttu.config import SelectionSettings
from mttu.data.labels import CLASS_NAMES, IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.errors import InputError, say_count
from mttu.pseudo_labels.certainty import ROUNDING, Certainty, choose_by_rule, order_key, read_certainty
from mttu.pseudo_labels.prior import Correction, Estimates, describe_correction, estimate_precision, say_interval
from mttu.pseudo_labels.score_table import ScoreRow, ScoreTable


@dataclass(frozen=True)
class SelectedCase:
    """One case and whether its prediction becomes a pseudo-label."""

    case_id: str
    pseudo_label: int
    """1 mutant, 0 wild type; -1 where there is no score."""
    confidence: float | None
    """Probability of the pseudo-label, see `Certainty`."""
    uncertainty: float | None
    """Standard deviation over the passes, as scored."""
    meets_thresholds: bool
    """g of eq. (19); for PL and CPL, without the terms they do not use. With another rule, whether that chose it."""
    selected: bool
    """After balancing."""
    reason: str
    """Why it is not selected; empty if it is."""
    calibrated_probability: float | None = None
    """Of mutant; None without calibration."""
    moved_probability: float | None = None
    """The same, moved to the share of mutants in the pool."""


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
    estimates: Estimates | None = None
    """Where probabilities were calibrated, and `add_estimates` was asked."""

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


def select(table: ScoreTable, settings: SelectionSettings, correction: Correction | None = None) -> Selection:
    """Selects the predictions that become pseudo-labels.

    By thresholds UPS keeps a case where its confidence p >= tau_c and its uncertainty mu(p) <= tau_u (eq. 19), CPL by
    its confidence alone, PL every case; none and direct select nothing. By rank or precision UPS and CPL keep the most
    certain cases of each predicted class, see `selection.rule`. Cases with an error, or with a score that is missing or
    not finite, are never selected.

    Balancing drops cases of the class that exceeds the ratio, the most uncertain first; of equals, the last case id
    first. The class that the ratio favours is rounded down, the other up: 2 mutants and 3 wild types are as near to
    1:1.6 as possible. If all cases that meet the thresholds are of one class, none is kept. By rank and precision
    nothing is balanced unless asked for: the classes are chosen in the pool's own ratio, which balancing would undo.

    Args:
        table: Monte Carlo scores; where balancing is on and `wild_per_mutant` is not set, its `about` says how many
            cases of each class the network learned from.
        settings: Method, rule, thresholds, balance.
        correction: Calibration and prior of the probabilities, see `mttu.pseudo_labels.correction`; None: they are
            taken as they are, and precision selects nothing.

    Raises:
        InputError: Balancing is on and neither settings nor table give a class ratio.
    """
    rows = sorted(table.rows, key=lambda row: row.case_id)
    if settings.method in ("none", "direct"):
        reason = f"selection.method is {settings.method}"
        unselected = tuple(_leave_out(row, reason) for row in rows)
        nothing = (f"{reason}: no pseudo-labels",)
        return Selection(unselected, balanced=False, wild_per_mutant=None, notes=nothing)
    by_rule = settings.method != "PL" and settings.rule != "thresholds"
    balanced = settings.balance if settings.balance is not None else settings.method != "PL" and not by_rule
    ratio = _find_ratio(table, settings) if balanced else None
    found = {row.case_id: certainty for row in rows if (certainty := read_certainty(row, correction)) is not None}
    reasons, told = choose_by_rule(found, settings, correction is not None) if by_rule else (None, [])
    cases = [_judge(row, found.get(row.case_id), settings, reasons) for row in rows]
    kept = cases if ratio is None else _balance(cases, ratio, found, settings if by_rule else None)
    notes = tuple(_find_notes(rows, found, cases, kept, settings, ratio, told if by_rule else None))
    return Selection(tuple(kept), balanced, ratio, notes)


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


def _judge(
    row: ScoreRow, certainty: Certainty | None, settings: SelectionSettings, reasons: Mapping[str, str] | None
) -> SelectedCase:
    """A case and whether it is selected: by the reasons that a rule gave, or else by the thresholds."""
    if certainty is None:
        # the error itself may name folders, and this table goes to MLflow
        reason = "has an error, see the scores" if row.error else "confidence or uncertainty is missing or not finite"
        return _leave_out(row, reason)
    reason = _compare(certainty, settings) if reasons is None else reasons[row.case_id]
    return SelectedCase(
        row.case_id,
        certainty.predicted_class,
        certainty.confidence,
        certainty.uncertainty,
        meets_thresholds=not reason,
        selected=not reason,
        reason=reason,
        calibrated_probability=certainty.calibrated,
        moved_probability=None if certainty.calibrated is None else certainty.mutant_probability,
    )


def _compare(certainty: Certainty, settings: SelectionSettings) -> str:
    """Why g of eq. (19) is 0; empty if it is 1."""
    confidence, uncertainty = certainty.confidence, certainty.uncertainty
    reasons = []
    if settings.method != "PL" and not confidence >= settings.confidence_threshold:
        reasons.append(f"confidence {confidence:.4f} < {settings.confidence_threshold:g}")
    if settings.method == "UPS" and not uncertainty <= settings.uncertainty_threshold:
        reasons.append(f"uncertainty {uncertainty:.4f} > {settings.uncertainty_threshold:g}")
    return "; ".join(reasons)


def _balance(
    cases: Sequence[SelectedCase],
    ratio: float,
    found: Mapping[str, Certainty],
    by_certainty: SelectionSettings | None,
) -> list[SelectedCase]:
    """Drops the surplus of one class, by uncertainty or in the order of a rule; the other cases stay."""
    of_class = {
        label: [case for case in cases if case.selected and case.pseudo_label == label] for label in CLASS_NAMES
    }
    major, minor = (IDH_WILD, IDH_MUTANT) if ratio >= 1 else (IDH_MUTANT, IDH_WILD)
    majors, minors = len(of_class[major]), len(of_class[minor])
    share = max(ratio, 1 / ratio)
    most = math.floor(share * minors + ROUNDING)
    if majors > most:
        surplus, room = major, most
    else:
        surplus, room = minor, math.ceil(majors / share - ROUNDING)

    def place(case: SelectedCase) -> tuple[float, str]:
        certainty = found[case.case_id]
        if by_certainty is None:
            return certainty.uncertainty, case.case_id
        return order_key(certainty, case.case_id, by_certainty)

    ranked = sorted(of_class[surplus], key=place)
    dropped = {case.case_id for case in ranked[room:]}
    reason = f"balance: {CLASS_NAMES[surplus]}s beyond 1:{ratio:.3g} (mutant:wild), the most uncertain first"
    return [replace(case, selected=False, reason=reason) if case.case_id in dropped else case for case in cases]


def _find_notes(
    rows: Sequence[ScoreRow],
    found: Mapping[str, Certainty],
    cases: Sequence[SelectedCase],
    kept: Sequence[SelectedCase],
    settings: SelectionSettings,
    ratio: float | None,
    of_rule: Sequence[str] | None,
) -> list[str]:
    """Notes on a selection; `of_rule` are those of the rule, None for thresholds."""
    notes = []
    scored = list(found.values())
    failed = [row.case_id for row in rows if row.error]
    unusable = [row.case_id for row in rows if not row.error and row.case_id not in found]
    if failed:
        subject = say_count(len(failed), "case has", "cases have")
        notes.append(f"{subject} an error and cannot be selected: {', '.join(failed)}")
    if unusable:
        subject = say_count(len(unusable), "case has", "cases have")
        notes.append(f"{subject} scores that are missing or not finite: {', '.join(unusable)}")
    if not scored:
        return ["nothing is selected: no case has a score", *notes]
    meeting = [case for case in cases if case.meets_thresholds]
    if not meeting and of_rule is not None:
        return [*of_rule, *notes]
    if not meeting:
        best, least = max(one.confidence for one in scored), min(one.uncertainty for one in scored)
        threshold = f"{settings.confidence_threshold:g}"
        nothing = f"nothing is selected: the highest confidence is {best:.4f} (threshold {threshold})"
        if settings.method == "UPS":
            nothing += f", the lowest uncertainty {least:.4f} (threshold {settings.uncertainty_threshold:g})"
        return [nothing, *notes]
    if len(meeting) == len(scored) and settings.method != "PL" and of_rule is None:
        notes.append("every case with a score meets the thresholds: they exclude nothing")
    classes = {case.pseudo_label for case in meeting}
    if len(classes) == 1:
        name = CLASS_NAMES[classes.pop()]
        chosen = "meets the thresholds" if of_rule is None else f"{settings.rule} chooses"
        one_class = f"every case that {chosen} ({len(meeting)}) is called {name}"
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


def add_estimates(selection: Selection, table: ScoreTable, correction: Correction | None) -> Selection:
    """The selection with what its labels were calibrated with, how many should be right, and a note on that."""
    if correction is None:
        return selection
    labels = selection.pseudo_labels
    found = {row.case_id: one for row in table.rows if (one := read_certainty(row)) is not None}
    names = sorted(name for name in labels if name in found)  # one that is kept may have no score now
    probabilities = [found[name].mutant_probability for name in names]
    precision = estimate_precision(probabilities, [labels[name] for name in names], correction) if names else {}
    estimates = Estimates(
        correction.calibration.temperature,
        correction.calibration.bias,
        correction.calibration.num_cases,
        correction.num_mutant,
        correction.source_share,
        correction.pool_share,
        correction.moved_to,
        precision,
    )
    notes = [*selection.notes, *describe_correction(correction)]
    if precision:
        counts = {name: sum(label == number for label in labels.values()) for number, name in CLASS_NAMES.items()}
        told = [f"{name} {say_interval(precision[name])} of {counts[name]}" for name in counts if name in precision]
        notes.append(f"estimated share of right labels: {', '.join(told)}")
    return replace(selection, estimates=estimates, notes=tuple(notes))

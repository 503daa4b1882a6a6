"""Cases and the rows of clinical tables, joined by id."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from mttu.data.clinical import ClinicalRow, site_of_row
from mttu.data.clinical_rows import find_contradictions, merge_rows
from mttu.data.clinical_values import site_of_barcode
from mttu.data.findings import Finding, to_findings
from mttu.data.labels import IDH_UNKNOWN
from mttu.data.leakage import CrosswalkRow, OtherNames
from mttu.data.manifest import Case, is_safe_name
from mttu.data.names import NameIndex
from mttu.errors import say_count

UNSAFE = "this id is no safe file name; use letters, digits, '.', '_' and '-', at most 128, no '..'"

_MOST_NAMED = 5


@dataclass(frozen=True)
class Joined:
    """Cases with their clinical facts."""

    cases: tuple[tuple[Case, str | None], ...]
    """Each with the split that its row names, if any."""
    findings: tuple[Finding, ...]
    row_of: Mapping[str, int]
    """Case id to the number of its row among all; of the cases that have one."""
    other_names: tuple[OtherNames, ...]
    """What files and tables call each case."""


def join_clinical(
    cases: Sequence[Case],
    rows: Sequence[ClinicalRow],
    crosswalk: Sequence[CrosswalkRow],
    present: Collection[str],
    told: Mapping[str, ClinicalRow] | None = None,
) -> Joined:
    """Gives every case what its row says.

    A row belongs to a case by the case's id, else by its patient's, else by another name of one of them. Where none is
    spelt so, upper and lower case and leading zeros do not count, unless the row may be another's then. The patient id
    of a row holds for all cases that are one patient by their file names.

    Args:
        cases: With the patient that the file names tell.
        rows: Of all clinical tables.
        crosswalk: Patients under several names.
        present: Ids of all cases that were found, those that cannot be used included.
        told: Case id to what its line in a table of paths says, which a clinical row may add to but not contradict.
    """
    told = told or {}
    by_name = NameIndex((name, index) for index, row in enumerate(rows) for name in sorted(row.ids))
    synonyms = NameIndex((name, named) for named in crosswalk for name in named.names)
    others = set(present) - {case.case_id for case in cases}
    owners = NameIndex(
        [(name, case.patient_id) for case in cases for name in (case.case_id, case.patient_id)]
        + [(name, name) for name in sorted(others)]
    )
    problems: list[str] = []
    row_of: dict[str, int] = {}
    for case in cases:
        own, doubts = _rows_of(case, rows, by_name, synonyms, owners)
        problems += [f"case {case.case_id}: clinical table {doubt}" for doubt in doubts]
        if len(own) > 1:
            lines = ", ".join(str(rows[index].line) for index in own)
            tables = ", ".join(sorted({rows[index].source for index in own}))
            problems.append(f"case {case.case_id}: clinical table {tables} has several rows (lines {lines}); keep one")
        row_of.update((case.case_id, index) for index in own[:1])
    patients, refused = _find_patients(cases, {name: rows[index] for name, index in row_of.items()})
    problems += refused
    joined: list[tuple[Case, str | None]] = []
    notes: list[str] = []
    warnings: list[str] = []
    other_names: list[OtherNames] = []
    for case in cases:
        row = rows[row_of[case.case_id]] if case.case_id in row_of else None
        if row:
            problems += [f"case {case.case_id}: {problem}" for problem in row.problems]
        if case.case_id in told:
            row, contradictions = _add_told(told[case.case_id], row)
            problems += [f"case {case.case_id}: {problem}" for problem in contradictions]
        if row:
            warnings += [f"case {case.case_id}: {warning}" for warning in row.warnings]
        other_names.append(_name_others(case, row))
        patient_id = patients[case.case_id]
        if patient_id != case.patient_id and not is_safe_name(patient_id):
            problems.append(f"case {case.case_id}: patient {patient_id!r}: {UNSAFE}")
        site = (row.site if row else None) or case.site or site_of_barcode(patient_id)
        case = replace(case, patient_id=patient_id, site=site)
        if row:
            case = replace(case, idh=row.idh, grade=row.grade, age=row.age, sex=row.sex)
        joined.append((case, row.split if row else None))
    used = set(row_of.values())
    here = NameIndex((name, name) for name in present)
    unused = [row for index, row in enumerate(rows) if index not in used and not any(map(here.find, row.ids))]
    if rows and len(unused) == len(rows):
        first = [name for row in rows[:_MOST_NAMED] for name in sorted(row.ids)][:3]
        problems.append(
            f"clinical table {', '.join(sorted({row.source for row in rows}))}: none of its ids is a case "
            f"({', '.join(first)}, ...; cases are {', '.join(sorted(present)[:3])}, ...); "
            "one id column must hold the folder names"
        )
    elif rows:
        without = [case.case_id for case in cases if case.case_id not in row_of]
        without = [name for name in without if name not in told or told[name].idh == IDH_UNKNOWN]
        warnings += [f"clinical table {problem} (no case here)" for row in unused for problem in row.problems]
        if unused:
            ids = _name([min(row.ids, default="?") for row in unused])
            notes.append(f"{say_count(len(unused), 'clinical row has', 'clinical rows have')} no case here ({ids})")
        if without:
            count = say_count(len(without), "case has", "cases have")
            notes.append(f"{count} no clinical row: IDH status unknown ({_name(without)})")
    findings = (*to_findings("error", problems), *to_findings("warning", warnings), *to_findings("note", notes))
    return Joined(tuple(joined), findings, row_of, tuple(other_names))


def _add_told(told: ClinicalRow, row: ClinicalRow | None) -> tuple[ClinicalRow, list[str]]:
    """What a line of a table of paths and a clinical row say together, and where they contradict each other."""
    if row is None:
        return told, []
    written = replace(row, site=None) if row.site == site_of_row(row) else row  # a barcode's site is a guess
    contradictions = find_contradictions([told, replace(written, patient_id=None)])
    whole = merge_rows([told, row])
    return replace(whole, ids=row.ids, patient_id=row.patient_id, line=row.line, source=row.source), contradictions


def _rows_of(
    case: Case,
    rows: Sequence[ClinicalRow],
    by_name: NameIndex[int],
    synonyms: NameIndex[CrosswalkRow],
    owners: NameIndex[str],
) -> tuple[list[int], list[str]]:
    """Numbers of the rows, and a sentence for each that may be another patient's."""
    names = (case.case_id, case.patient_id)
    for name in names:
        if own := by_name.find_exact(name):
            return sorted(own), []
    for name in names:
        own, doubts = set(), []
        for index in by_name.find(name):
            row = rows[index]
            patients = {patient for spelt in row.ids for patient in owners.find(spelt)}
            if patients == {case.patient_id}:
                own.add(index)
            elif not any(map(owners.find_exact, row.ids)):
                listed = " or ".join(sorted(patients))
                doubts.append(f"{row.place}: {min(row.ids)!r} may be {listed}; write the one you mean")
        if own or doubts:
            return sorted(own), sorted(doubts)
    named = synonyms.find(case.case_id) | synonyms.find(case.patient_id)
    return sorted({index for row in named for name in row.names for index in by_name.find(name)}), []


def _find_patients(cases: Sequence[Case], row_of: Mapping[str, ClinicalRow]) -> tuple[dict[str, str], list[str]]:
    """Case id to the patient id that a row of this patient's says, else the file names; and what rows say twice."""
    told: dict[str, dict[str, str]] = {}  # patient in the file names to patient in the tables to the first such case
    for case in cases:
        row = row_of.get(case.case_id)
        if row is not None and row.patient_id:
            told.setdefault(case.patient_id, {}).setdefault(row.patient_id, case.case_id)
    problems = []
    for case in cases:
        known = told.get(case.patient_id, {})
        if len(known) > 1:
            listed = " and ".join(f"{patient!r} ({name}, {row_of[name].place})" for patient, name in known.items())
            problems.append(
                f"case {case.case_id}: its files name patient {case.patient_id!r}, who is {listed} in the clinical "
                "tables; correct one of the rows"
            )
    return {case.case_id: next(iter(told.get(case.patient_id, {})), case.patient_id) for case in cases}, problems


def _name_others(case: Case, row: ClinicalRow | None) -> OtherNames:
    if row is None:
        return OtherNames(case.case_id, case.patient_id)
    return OtherNames(case.case_id, case.patient_id, row.ids, row.aliases, row.line)


def _name(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")

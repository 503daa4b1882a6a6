"""Cases and the rows of clinical tables, joined by id."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from mttu.data.clinical import ClinicalRow
from mttu.data.clinical_values import site_of_barcode
from mttu.data.findings import Finding, to_findings
from mttu.data.leakage import CrosswalkRow
from mttu.data.manifest import Case, is_safe_name

UNSAFE = "this id is no safe file name; use letters, digits, '.', '_' and '-', at most 128, no '..'"

_MOST_NAMED = 5


@dataclass(frozen=True)
class Joined:
    """Cases with their clinical facts."""

    cases: tuple[tuple[Case, str | None], ...]
    """Each with the split that its row names, if any."""
    findings: tuple[Finding, ...]
    matched: frozenset[str]
    """Ids of the cases that have a row."""
    also_named: tuple[CrosswalkRow, ...]
    """Cases with the names that their rows give them in other data sets."""


def join_clinical(
    cases: Sequence[Case],
    rows: Sequence[ClinicalRow],
    crosswalk: Sequence[CrosswalkRow],
    present: Collection[str],
) -> Joined:
    """Gives every case what its row says.

    A row belongs to a case by the case's id, else by its patient's, else by another name of one of them.

    Args:
        cases: With the patient that the file names tell.
        rows: Of all clinical tables.
        crosswalk: Patients under several names.
        present: Ids of all cases that were found, those that cannot be used included.
    """
    by_id: dict[str, list[ClinicalRow]] = {}
    for row in rows:
        for name in row.ids:
            by_id.setdefault(name, []).append(row)
    synonyms: dict[str, set[str]] = {}
    for named in crosswalk:
        for name in named.names:
            synonyms.setdefault(name, set()).update(named.names)
    joined: list[tuple[Case, str | None]] = []
    problems: list[str] = []
    notes: list[str] = []
    used: set[int] = set()
    matched: set[str] = set()
    also_named: list[CrosswalkRow] = []
    for case in cases:
        own = _rows_of(case, by_id, synonyms)
        if len(own) > 1:
            lines = ", ".join(str(row.line) for row in own)
            tables = ", ".join(sorted({row.source for row in own}))
            problems.append(f"case {case.case_id}: clinical table {tables} has several rows (lines {lines}); keep one")
        for row in own[:1]:
            used.add(id(row))
            matched.add(case.case_id)
            if row.aliases:
                also_named.append(CrosswalkRow(row.line, (case.case_id, *sorted(row.aliases))))
            patient_id = row.patient_id or case.patient_id
            if not is_safe_name(patient_id):
                problems.append(f"case {case.case_id}: patient {patient_id!r}: {UNSAFE}")
            site = row.site or case.site or site_of_barcode(patient_id)
            case = replace(
                case, patient_id=patient_id, idh=row.idh, grade=row.grade, age=row.age, sex=row.sex, site=site
            )
        if not own:
            case = replace(case, site=case.site or site_of_barcode(case.patient_id))
        joined.append((case, own[0].split if own else None))
    unused = [row for row in rows if id(row) not in used and not row.ids & set(present)]
    if rows and len(unused) == len(rows):
        first = [name for row in rows[:_MOST_NAMED] for name in sorted(row.ids)][:3]
        problems.append(
            f"clinical table {', '.join(sorted({row.source for row in rows}))}: none of its ids is a case "
            f"({', '.join(first)}, ...; cases are {', '.join(sorted(present)[:3])}, ...); "
            "one id column must hold the folder names"
        )
    elif rows:
        without = [case.case_id for case in cases if case.case_id not in matched]
        if unused:
            ids = _name([min(row.ids, default="?") for row in unused])
            notes.append(f"{len(unused)} clinical rows have no case here ({ids})")
        if without:
            notes.append(f"{len(without)} cases have no clinical row: IDH status unknown ({_name(without)})")
    findings = (*to_findings("error", problems), *to_findings("note", notes))
    return Joined(tuple(joined), findings, frozenset(matched), tuple(also_named))


def _rows_of(
    case: Case, by_id: Mapping[str, Sequence[ClinicalRow]], synonyms: Mapping[str, set[str]]
) -> list[ClinicalRow]:
    for names in (
        {case.case_id},
        {case.patient_id},
        synonyms.get(case.case_id, set()) | synonyms.get(case.patient_id, set()),
    ):
        own = {id(row): row for name in sorted(names) for row in by_id.get(name, [])}
        if own:
            return list(own.values())
    return []


def _name(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")

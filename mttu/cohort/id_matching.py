"""Cases and the rows of clinical tables, joined by id."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from mttu.cohort.clinical import UnusedColumn, site_of_row
from mttu.cohort.clinical_rows import ClinicalRow, find_contradictions, merge_rows, site_of_barcode
from mttu.cohort.leakage import CrosswalkRow, OtherNames, known_patients
from mttu.data.findings import Finding, to_findings
from mttu.data.labels import IDH_UNKNOWN
from mttu.data.manifest import Case, is_safe_name
from mttu.data.names import NameIndex
from mttu.errors import name_some, say_count

UNSAFE = "this id is no safe file name; use letters, digits, '.', '_' and '-', at most 128, no '..'"

_MOST_NAMED = 5
_FEWEST_NAMES = 2
"""A single name may match by chance, such as a site that is called like a case."""


@dataclass(frozen=True)
class Joined:
    """Cases with their clinical facts."""

    cases: tuple[Case, ...]
    """Each with the split that its row names, or an empty one."""
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
    brats_numbers: bool = True,
    unused: Sequence[UnusedColumn] = (),
) -> Joined:
    """Gives every case what its rows say.

    A row belongs to a case by the case's id, else by its patient's, else by another name of one of them. If no row has
    exactly this name, upper and lower case and leading zeros are ignored, unless the row might then be another case's.
    The patient id of a row applies to all cases that are one patient by their file names.

    Rows that name the case, its patient or its own row in a column of ids or of other names (`other_name`, see
    `mttu.cohort.clinical_tables.EVERYWHERE`), or by a name that is known to be the same patient's
    (`mttu.cohort.leakage`), fill in what its own row does not say, and are its rows if it has none of its own.
    They may not contradict each other in IDH status, grade, sex or split; the age is that of the own row.

    Args:
        cases: Cases with the patient that their file names give, and an empty split.
        rows: Rows of all clinical tables.
        crosswalk: Patients under several names.
        present: Ids of all cases that were found, including those that cannot be used.
        told: Case id to what its line in a table of paths says, which a clinical row may add to but not contradict.
        brats_numbers: See `mttu.cohort.leakage.known_patients`.
        unused: Columns that are not read. No row is joined by them, since they may name a control, a relative or
            another scan; but a column that names cases without a row is reported.
    """
    told = told or {}
    others = set(present) - {case.case_id for case in cases}
    owners = NameIndex(
        [(name, case.patient_id) for case in cases for name in (case.case_id, case.patient_id)]
        + [(name, name) for name in sorted(others)]
    )
    index = _RowIndex(rows, crosswalk, owners, brats_numbers)
    problems: list[str] = []
    row_of: dict[str, int] = {}
    whole_of: dict[str, ClinicalRow] = {}
    used: set[int] = set()
    for case in cases:
        aliases = told[case.case_id].aliases if case.case_id in told else ()
        own, beside, doubts = index.find(case, sorted(aliases))
        problems += [f"case {case.case_id}: clinical table {doubt}" for doubt in doubts]
        if len(own) > 1:
            lines = ", ".join(str(rows[number].line) for number in own)
            tables = ", ".join(sorted({rows[number].source for number in own}))
            problems.append(f"case {case.case_id}: clinical table {tables} has several rows (lines {lines}); keep one")
        numbers = [*own[:1], *beside]
        if numbers:
            group = [rows[number] for number in numbers]
            problems += [f"case {case.case_id}: {problem}" for problem in _find_differences(group)]
            row_of[case.case_id], whole_of[case.case_id] = numbers[0], merge_rows(group)
            used.update(numbers)
    patients, refused = _find_patients(cases, whole_of)
    problems += refused
    joined: list[Case] = []
    notes: list[str] = []
    warnings: list[str] = []
    other_names: list[OtherNames] = []
    for case in cases:
        row = whole_of.get(case.case_id)
        if row:
            problems += [f"case {case.case_id}: {problem}" for problem in row.problems]
        if case.case_id in told:
            row, contradictions = _add_told(told[case.case_id], row)
            problems += [f"case {case.case_id}: {problem}" for problem in contradictions]
        names = OtherNames(case.case_id, case.patient_id)
        if row:
            warnings += [f"case {case.case_id}: {warning}" for warning in row.warnings]
            names = replace(names, row_ids=row.ids, aliases=row.aliases, line=row.line)
        other_names.append(names)
        patient_id = patients[case.case_id]
        if patient_id != case.patient_id and not is_safe_name(patient_id):
            problems.append(f"case {case.case_id}: patient {patient_id!r}: {UNSAFE}")
        site = (row.site if row else None) or case.site or site_of_barcode(patient_id)
        case = replace(case, patient_id=patient_id, site=site)
        if row:
            case = replace(case, idh=row.idh, grade=row.grade, age=row.age, sex=row.sex, split=row.split or "")
        joined.append(case)
    here = NameIndex((name, name) for name in present)
    nowhere = [
        row for number, row in enumerate(rows) if number not in used and not any(map(here.find, row.ids | row.aliases))
    ]
    lacking = [case for case in cases if case.case_id not in row_of]
    columns = _find_names(unused, {name for case in lacking for name in (case.case_id, case.patient_id)})
    if rows and len(nowhere) == len(rows):
        first = [name for row in rows[:_MOST_NAMED] for name in sorted(row.ids)][:3]
        problems.append(
            f"clinical table {', '.join(sorted({row.source for row in rows}))}: none of its ids is a case "
            f"({', '.join(first)}, ...; cases are {', '.join(sorted(present)[:3])}, ...); "
            + ("; ".join(text for _, text in columns) or "one id column must hold the folder names")
        )
    elif rows:
        warnings += [f"clinical table {problem} (no case here)" for row in nowhere for problem in row.problems]
        warnings += [f"clinical table {source}: {text}" for source, text in columns]
        if nowhere:
            ids = name_some([min(row.ids, default="?") for row in nowhere], _MOST_NAMED)
            notes.append(f"{say_count(len(nowhere), 'clinical row has', 'clinical rows have')} no case here ({ids})")
        lacking_ids = [case.case_id for case in lacking]
        without = [name for name in lacking_ids if name not in told or told[name].idh == IDH_UNKNOWN]
        if without:
            count = say_count(len(without), "case has", "cases have")
            notes.append(f"{count} no clinical row: IDH status unknown ({name_some(without, _MOST_NAMED)})")
    findings = (*to_findings("error", problems), *to_findings("warning", warnings), *to_findings("note", notes))
    return Joined(tuple(joined), findings, row_of, tuple(other_names))


def _find_names(unused: Sequence[UnusedColumn], lacking: Collection[str]) -> list[tuple[str, str]]:
    """Tables with columns that are not read and hold names of cases or patients without a row, and the cure."""
    names = {name for name in lacking if len(name) > 1 and any(map(str.isalpha, name))}  # a number may be anything
    found = [(column, held) for column in unused if (held := sorted(names & column.cells))]
    return [
        (
            column.source,
            f"column {column.name} is not used, but holds {say_count(len(held), 'name', 'names')} of cases without a "
            f"row ({name_some(held, _MOST_NAMED)}); call it other_name to join them",
        )
        for column, held in found
        if len(held) >= min(_FEWEST_NAMES, len(lacking))
    ]


def _add_told(told: ClinicalRow, row: ClinicalRow | None) -> tuple[ClinicalRow, list[str]]:
    """What a line of a table of paths and a clinical row say together, and where they contradict each other."""
    if row is None:
        return told, []
    written = replace(row, site=None) if row.site == site_of_row(row) else row  # the site of a barcode is a guess
    contradictions = find_contradictions([told, replace(written, patient_id=None)])
    whole = merge_rows([told, row])
    return replace(whole, ids=row.ids, patient_id=row.patient_id, line=row.line, source=row.source), contradictions


def _find_differences(group: Sequence[ClinicalRow]) -> list[str]:
    """Contradictions that rows of one patient must not have; within one table, the patient id counts too."""
    compared = {"IDH", "grade", "sex", "split"}
    if len({row.source for row in group}) < len(group):
        compared.add("patient")
    return find_contradictions(group, compared)


class _RowIndex:
    """Rows by all of their names.

    Args:
        rows: Rows of all clinical tables.
        crosswalk: Patients under several names.
        owners: Patients by the names of cases.
        brats_numbers: See `known_patients`.
    """

    def __init__(
        self,
        rows: Sequence[ClinicalRow],
        crosswalk: Sequence[CrosswalkRow],
        owners: NameIndex[str],
        brats_numbers: bool,
    ) -> None:
        self._rows, self._owners, self._brats_numbers = rows, owners, brats_numbers
        self._by_id = NameIndex((name, number) for number, row in enumerate(rows) for name in sorted(row.ids))
        self._by_alias = NameIndex((name, number) for number, row in enumerate(rows) for name in sorted(row.aliases))
        self._synonyms = NameIndex((name, named) for named in crosswalk for name in named.names)
        self._by_patient: dict[str, set[int]] = {}
        for number, row in enumerate(rows):
            for patient in known_patients(row.ids | row.aliases, brats_numbers):
                self._by_patient.setdefault(patient, set()).add(number)

    def find(self, case: Case, aliases: Sequence[str]) -> tuple[list[int], list[int], list[str]]:
        """Numbers of the rows of a case, which a table of paths may call by aliases, too.

        Returns:
            Rows found by its id, its patient's, or a crosswalk's names of them; rows of other tables found by any
            other name; and a sentence for each row that may be another patient's.
        """
        names = list(dict.fromkeys((case.case_id, case.patient_id, *aliases)))
        own, doubts = self._find_own(case, names)
        others, more_doubts = self._find_loose(self._by_alias, case, names) if not own else (set(), [])
        crossed = {name for known in names[:2] for named in self._synonyms.find(known) for name in named.names}
        if not own and not doubts:
            own = sorted({number for name in crossed for number in self._by_id.find(name)})
        beside = self._spread({*own, *others}, {*names, *crossed}) - set(own)
        own_tables = {self._rows[number].source for number in own}
        beside = {number for number in beside if self._rows[number].source not in own_tables}
        return own, sorted(beside), sorted({*doubts, *more_doubts})

    def _find_own(self, case: Case, names: Sequence[str]) -> tuple[list[int], list[str]]:
        for name in names:
            if own := self._by_id.find_exact(name):
                return sorted(own), []
        for name in names:
            own, doubts = self._find_loose(self._by_id, case, [name])
            if own or doubts:
                return sorted(own), doubts
        return [], []

    def _find_loose(self, index: NameIndex[int], case: Case, names: Sequence[str]) -> tuple[set[int], list[str]]:
        """Rows whose name differs only in case or leading zeros, and doubts about those that may be another's."""
        own, doubts = set(), []
        for name in names:
            exact = index.find_exact(name)
            own |= exact
            for number in index.find(name) - exact:
                row = self._rows[number]
                spelt = row.ids if index is self._by_id else row.aliases
                patients = {patient for one in spelt for patient in self._owners.find(one)}
                if patients == {case.patient_id}:
                    own.add(number)
                elif not any(map(self._owners.find_exact, spelt)):
                    listed = " or ".join(sorted(patients))
                    doubts.append(f"{row.place}: {min(spelt)!r} may be {listed}; write the one you mean")
        return own, doubts

    def _spread(self, start: set[int], names: set[str]) -> set[int]:
        """The rows, those that a name leads to, and those that their names lead to in turn."""
        found, pending = set(start), set(start)
        while True:
            names = names | {name for number in pending for name in self._rows[number].ids | self._rows[number].aliases}
            reached = {
                number for name in names for index in (self._by_id, self._by_alias) for number in index.find_exact(name)
            }
            for patient in known_patients(names, self._brats_numbers):
                reached |= self._by_patient.get(patient, set())
            pending = reached - found
            if not pending:
                return found
            found |= pending


def _find_patients(cases: Sequence[Case], row_of: Mapping[str, ClinicalRow]) -> tuple[dict[str, str], list[str]]:
    """Case id to the patient id that rows give its patient, else that of the file names; and where rows disagree."""
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

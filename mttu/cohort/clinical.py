"""The clinical tables: one row per case, from one or several files of known data sets or made by the user."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mttu.cohort.clinical_rows import FIELDS, ClinicalRow, join_rows, known_id, site_of_barcode
from mttu.cohort.clinical_tables import (
    LOOKS,
    ROLES,
    ClinicalTable,
    describe_unused,
    find_column_problems,
    find_table,
    gene_of,
    normalise_column,
)
from mttu.cohort.table_files import TextTable, read_text_table
from mttu.data.findings import Finding, to_findings
from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.errors import InputError, collecting, raise_if_any

_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class _Column:
    index: int
    name: str
    """Normalised."""
    spelled: str


class LineReader:
    """Reads the lines of one file.

    Args:
        text: The file.
        table: What kind of table it is.
        path: Its path, for messages.
    """

    def __init__(self, text: TextTable, table: ClinicalTable, path: Path) -> None:
        self._text, self._table, self._path = text, table, path
        columns = [_Column(index, normalise_column(name), name) for index, name in enumerate(text.header)]
        found = {column.name: column for column in columns}
        self._columns: Mapping[str, Sequence[_Column]] = {
            role: [found[name] for name in table.columns(role) if name in found] for role in ROLES
        }

    @property
    def used(self) -> dict[str, str]:
        """Normalised names of the columns that are read, with what each says."""
        return {column.name: role for role, columns in self._columns.items() for column in columns}

    @property
    def roles(self) -> set[str]:
        """What its columns say."""
        return {role for role, columns in self._columns.items() if columns}

    def read(self, line: int, cells: Sequence[str]) -> tuple[ClinicalRow, list[str]]:
        """The row of a line, and what is wrong with it.

        From a line with too many or too few values only the names are used, so that its case can be found.
        """
        problems: list[str] = []
        ids, patients, aliases = (self._names(role, line, cells, problems) for role in ("ids", "patient", "aliases"))
        if not ids:
            problems.append("names no case; fill in an id or take the line out")
        derived = [name for own in ids if (name := self._table.patient_of(own))]
        row = ClinicalRow(
            line=line,
            ids=frozenset(name for own in ids for name in self._table.spell(own)),
            patient_id=next(iter([*patients, *derived]), None),
            idh=IDH_UNKNOWN,
            grade=None,
            age=None,
            sex=None,
            split=None,
            site=None,
            aliases=frozenset(aliases),
            source=str(self._path),
        )
        if line in self._text.crooked:
            return row, [*problems, f"has not {len(self._text.header)} values as the header"]
        idh, warnings = self._read_idh(line, cells, problems)
        facts: dict[str, Any] = {
            role: self._read(role, columns[0], line, cells, problems) if columns else None
            for role, columns in self._columns.items()
            if role in FIELDS and role != "idh"  # a table has one column for each but IDH
        }
        return replace(row, idh=idh, warnings=tuple(warnings), **facts), problems

    def _names(self, role: str, line: int, cells: Sequence[str], problems: list[str]) -> list[str]:
        sound = [column for column in self._columns[role] if self._is_sound(column, line, problems)]
        return [name for column in sound if (name := known_id(cells[column.index]))]

    def _is_sound(self, column: _Column, line: int, problems: list[str]) -> bool:
        flaw = self._text.find_flaw(line, column.index)
        if flaw:
            problems.append(f"{column.spelled} holds {flaw}{self._text.name_cell(line, column.index)}")
        return flaw is None

    def _read(self, role: str, column: _Column, line: int, cells: Sequence[str], problems: list[str]) -> Any:
        if not self._is_sound(column, line, problems):
            return None
        try:
            return FIELDS[role].parse(cells[column.index])
        except ValueError as error:
            reason = f" ({error})" if str(error) else ""
            value, where = cells[column.index][:_LONGEST_SHOWN], self._text.name_cell(line, column.index)
            problems.append(f"{column.spelled} is {value!r}; expected {FIELDS[role].allowed}{reason}{where}")
        return None

    def _read_idh(self, line: int, cells: Sequence[str], problems: list[str]) -> tuple[int, list[str]]:
        """Mutant if any column says so; wild type if the status or IDH1 is, because IDH2 alone leaves IDH1 open."""
        said: dict[str, dict[int, _Column]] = {"IDH": {}, "IDH1": {}, "IDH2": {}}
        for column in self._columns["idh"]:
            value = self._read("idh", column, line, cells, problems)
            if value in (IDH_WILD, IDH_MUTANT):
                said[gene_of(column.name)].setdefault(value, column)

        def quote(*columns: _Column) -> str:
            return " and ".join(f"{column.spelled} {cells[column.index]!r}" for column in columns)

        for values in said.values():
            if len(values) > 1:
                names = " and ".join(column.spelled for column in values.values())
                problems.append(
                    f"columns {names} say the same thing differently: {quote(*values.values())}; correct one"
                )
        status, genes = said["IDH"], [said["IDH1"], said["IDH2"]]
        mutant = [values[IDH_MUTANT] for values in genes if IDH_MUTANT in values]
        wild = [values[IDH_WILD] for values in genes if IDH_WILD in values]
        if IDH_MUTANT in status and not mutant and len(wild) == 2:
            problems.append(f"{quote(status[IDH_MUTANT], *wild)}: mutant, but both genes are wild type; correct one")
        doubt = None
        if mutant and IDH_WILD in status and IDH_MUTANT not in status:
            doubt = f"{quote(status[IDH_WILD], *mutant)}: taken as IDH mutant, because any mutation counts"
        elif IDH_MUTANT in status and len(wild) == 1 and IDH_WILD in said["IDH1"] and not mutant:
            doubt = f"{quote(status[IDH_MUTANT], *wild)}: taken as IDH mutant, because IDH2 may be"
        warnings = [f"{self._path} line {line}: {doubt}; check the row"] if doubt else []
        if mutant or IDH_MUTANT in status:
            return IDH_MUTANT, warnings
        return (IDH_WILD if status or said["IDH1"] else IDH_UNKNOWN), warnings


@dataclass(frozen=True)
class UnusedColumn:
    """A column that is not read, although its cells may be names."""

    source: str
    """Its table."""
    name: str
    """As spelled."""
    cells: frozenset[str]


@dataclass(frozen=True)
class ClinicalTables:
    """All tables of a cohort."""

    rows: list[ClinicalRow]
    findings: list[Finding]
    """Columns, sheets and rows that are not what they seem, or not used."""
    unused: Sequence[UnusedColumn] = ()


def read_clinical_tables(
    paths: Path | Sequence[Path], table: str | None = None, keep_bad: bool = False
) -> ClinicalTables:
    """Reads clinical tables and joins rows of different files that share an id.

    Each file is recognised by its columns (`mttu.cohort.clinical_tables.CLINICAL_TABLES`). Upper and lower case in
    column names are not distinguished. Any table may have an id (`case_id`), and any of patient_id, grade, age, sex or
    gender, site, split, and columns of IDH, which are read together: mutant if any is. Other columns are named in a
    note. For the values that cells may have see `mttu.cohort.clinical_rows`.

    Args:
        paths: Files as `mttu.cohort.table_files` reads them.
        table: Name in `CLINICAL_TABLES`, for all files; None: each is recognised.
        keep_bad: Keep what is wrong with a row in `ClinicalRow.problems`; rows that name no case become warnings.

    Raises:
        InputError: Lists every refused cell with its file, line, column, value and what is allowed, or, once every cell
            is right, what two tables say differently. Two rows for one case in one table are refused here where another
            table has a row for this case, and by `mttu.cohort.id_matching` otherwise.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    if table is not None:
        find_table((), table)  # the name is checked once, before any file is read
    tables, findings, unused = [], [], []
    problems: list[str] = []
    for path in files:
        with collecting(problems):
            rows, found, others = _read_file(path, table, alone=len(files) == 1, keep_bad=keep_bad)
            tables.append(rows)
            findings += found
            unused += others
    raise_if_any(problems)
    joined = join_rows(tables, keep_bad)
    return ClinicalTables([replace(row, site=row.site or site_of_row(row)) for row in joined], findings, unused)


def site_of_row(row: ClinicalRow) -> str | None:
    """Site code of the TCGA barcode that a row has among its names."""
    return next(filter(None, map(site_of_barcode, (row.patient_id, *sorted(row.ids)))), None)


def _read_file(
    path: Path, chosen: str | None, alone: bool, keep_bad: bool
) -> tuple[list[ClinicalRow], list[Finding], list[UnusedColumn]]:
    where = f"clinical table {path}"
    text = read_text_table(path)
    names = [normalise_column(name) for name in text.header]
    try:
        table = find_table(names, chosen)
        raise_if_any(find_column_problems(names, table, alone))
    except InputError as error:
        raise InputError([f"{where}: {problem}" for problem in error.problems]) from None
    reader = LineReader(text, table, path)
    rows, problems, findings = [], [], describe_table(text, reader.used, where)
    for line, cells in text.rows:
        row, refused = reader.read(line, cells)
        of_line = [problem for problem in refused if problem.startswith("has not ")]
        problems += [f"{where}: line {line} {problem}" for problem in of_line]
        problems += [f"{where}: line {line}: {problem}" for problem in refused if problem not in of_line]
        if row.ids:
            rows.append(replace(row, problems=tuple(f"{path} line {line}: {problem}" for problem in refused)))
        else:
            findings += to_findings("warning", [f"{where}: line {line}: {problem}" for problem in refused])
    if not keep_bad:
        raise_if_any(problems)
    unused = [
        UnusedColumn(str(path), spelled, frozenset(cells[index] for _, cells in text.rows))
        for index, (name, spelled) in enumerate(zip(names, text.header, strict=True))
        if spelled and name not in reader.used
    ]
    return rows, findings, unused


def describe_table(
    text: TextTable, used: Mapping[str, str], where: str, looks: Mapping[str, re.Pattern[str]] = LOOKS
) -> list[Finding]:
    """Columns that are not used, or used though they are hidden, and what its workbook hides.

    Args:
        text: The table.
        used: Normalised names of the columns that are used, with what each says.
        where: The file, for messages.
        looks: See `mttu.cohort.clinical_tables.describe_unused`.
    """
    notes = [*text.notes, *describe_unused(text.header, used, looks)]
    notes += [
        f"column {name} is hidden and counts like the others"
        for index, name in enumerate(text.header)
        if normalise_column(name) in used and text.is_hidden(index)
    ]
    return [
        *to_findings("warning", [f"{where}: {warning}" for warning in text.warnings]),
        *to_findings("note", [f"{where}: {note}" for note in notes]),
    ]

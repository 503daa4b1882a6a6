"""One line of a table as a clinical row: every cell of a known column read or refused with its place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mttu.data.clinical_files import TextTable
from mttu.data.clinical_rows import ClinicalRow
from mttu.data.clinical_tables import ROLES, ClinicalTable, gene_of, normalise_column
from mttu.data.clinical_values import FIELDS, known_id
from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD

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
        path: For messages.
    """

    def __init__(self, text: TextTable, table: ClinicalTable, path: Path) -> None:
        self._text, self._table, self._path = text, table, path
        found = {
            normalise_column(name): _Column(index, normalise_column(name), name)
            for index, name in enumerate(text.header)
        }
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

        Of a line with too many or too few values only the names are believed, so that its case can be found.

        Args:
            line: In the file.
            cells: One per column.
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
        facts = {role: self._read_first(role, line, cells, problems) for role in FIELDS if role != "idh"}
        return replace(row, idh=idh, warnings=tuple(warnings), **facts), problems

    def _names(self, role: str, line: int, cells: Sequence[str], problems: list[str]) -> list[str]:
        sound = [column for column in self._columns[role] if self._is_sound(column, line, problems)]
        return [name for column in sound if (name := known_id(cells[column.index]))]

    def _is_sound(self, column: _Column, line: int, problems: list[str]) -> bool:
        flaw = self._text.find_flaw(line, column.index)
        if flaw:
            problems.append(f"{column.spelled} holds {flaw}{self._text.name_cell(line, column.index)}")
        return flaw is None

    def _read_first(self, role: str, line: int, cells: Sequence[str], problems: list[str]) -> Any:
        columns = self._columns[role][:1]  # a table has one for each but IDH
        return next((self._read(role, column, line, cells, problems) for column in columns), None)

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
        """Mutant if any column says so; wild type if the status or IDH1 is, for IDH2 alone leaves IDH1 open."""
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
        genes = [said["IDH1"], said["IDH2"]]
        mutant = [values[IDH_MUTANT] for values in genes if IDH_MUTANT in values]
        wild = [values[IDH_WILD] for values in genes if IDH_WILD in values]
        if IDH_MUTANT in said["IDH"] and not mutant and len(wild) == 2:
            problems.append(
                f"{quote(said['IDH'][IDH_MUTANT], *wild)}: mutant, but both genes are wild type; correct one"
            )
        if mutant and IDH_WILD in said["IDH"] and IDH_MUTANT not in said["IDH"]:
            text = (
                f"{quote(said['IDH'][IDH_WILD], *mutant)}: taken as IDH mutant, for any mutation counts; check the row"
            )
            return IDH_MUTANT, [f"{self._path} line {line}: {text}"]
        if IDH_MUTANT in said["IDH"] and len(wild) == 1 and IDH_WILD in said["IDH1"] and not mutant:
            text = f"{quote(said['IDH'][IDH_MUTANT], *wild)}: taken as IDH mutant, for IDH2 may be; check the row"
            return IDH_MUTANT, [f"{self._path} line {line}: {text}"]
        if mutant or IDH_MUTANT in said["IDH"]:
            return IDH_MUTANT, []
        return (IDH_WILD if said["IDH"] or said["IDH1"] else IDH_UNKNOWN), []

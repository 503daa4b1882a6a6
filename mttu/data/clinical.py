"""The clinical tables: one row per case, from one or several files of known data sets or of one's own making."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mttu.data.clinical_files import read_text_table
from mttu.data.clinical_rows import ClinicalRow, join_rows
from mttu.data.clinical_tables import (
    CLINICAL_TABLES,
    ROLES,
    ClinicalTable,
    find_column_problems,
    find_table,
    normalise_column,
)
from mttu.data.clinical_values import FIELDS, is_low_grade, known_id, site_of_barcode
from mttu.data.labels import IDH_UNKNOWN
from mttu.errors import InputError, raise_if_any

__all__ = ["CLINICAL_TABLES", "ClinicalRow", "ClinicalTable", "is_low_grade", "read_clinical"]

_LONGEST_SHOWN = 60


def read_clinical(paths: Path | Sequence[Path], table: str | None = None) -> list[ClinicalRow]:
    """Reads clinical tables and joins rows of different files that share an id.

    Each file is recognised by its columns (`mttu.data.clinical_tables.CLINICAL_TABLES`). Column names count without
    regard to case. Any table may have an id (`case_id`), and any of patient_id, idh or IDH_status, grade, age, sex or
    gender, site, split. Other columns are left alone. What cells may say stands in `mttu.data.clinical_values`.

    Args:
        paths: Files as `mttu.data.clinical_files` reads them.
        table: Name in `CLINICAL_TABLES`, for all files; None recognises each.

    Raises:
        InputError: Lists every refused cell with its file, line, column, value and what is allowed, or, once every cell
            is right, what two tables say differently. Two rows for one case in one table are refused where another
            table says something of this case; else by who finds the case.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    if table is not None:
        find_table((), table)
    tables, problems = [], []
    for path in files:
        try:
            tables.append(_read_file(path, table, alone=len(files) == 1))
        except InputError as error:
            problems += error.problems
    raise_if_any(problems)
    return [replace(row, site=row.site or _site_of(row)) for row in join_rows(tables)]


def _site_of(row: ClinicalRow) -> str | None:
    return next(filter(None, map(site_of_barcode, (row.patient_id, *sorted(row.ids)))), None)


def _read_file(path: Path, chosen: str | None, alone: bool) -> list[ClinicalRow]:
    text = read_text_table(path)
    names = [normalise_column(name) for name in text.header]
    try:
        table = find_table(names, chosen)
        raise_if_any(find_column_problems(names, table, alone))
    except InputError as error:
        raise InputError([f"clinical table {path}: {problem}" for problem in error.problems]) from None
    spelled = dict(zip(names, text.header, strict=True))
    columns = {role: [name for name in table.columns(role) if name in spelled] for role in ROLES}
    rows, problems = [], list(text.problems)
    for line, cells in text.rows:
        row, refused = _parse(dict(zip(names, cells, strict=True)), table, columns, spelled)
        problems += [f"line {line}: {problem}" for problem in refused]
        rows.append(replace(row, line=line, source=str(path)))
    raise_if_any([f"clinical table {path}: {problem}" for problem in problems])
    return rows


def _parse(
    cells: Mapping[str, str], table: ClinicalTable, columns: Mapping[str, Sequence[str]], spelled: Mapping[str, str]
) -> tuple[ClinicalRow, list[str]]:
    problems: list[str] = []

    def read(role: str) -> Any:
        for column in columns[role]:
            try:
                return FIELDS[role].parse(cells[column])
            except ValueError as error:
                reason = f" ({error})" if str(error) else ""
                value = cells[column][:_LONGEST_SHOWN]
                problems.append(f"{spelled[column]} is {value!r}; expected {FIELDS[role].allowed}{reason}")
        return None

    def names(role: str) -> list[str]:
        return [name for column in columns[role] if (name := known_id(cells[column]))]

    ids, idh = names("ids"), read("idh")
    if not ids:
        problems.append("names no case; fill in an id or take the line out")
    derived = [name for own in ids if (name := table.patient_of(own))]
    row = ClinicalRow(
        line=0,
        ids=frozenset(name for own in ids for name in table.spell(own)),
        patient_id=next(iter([*names("patient"), *derived]), None),
        idh=IDH_UNKNOWN if idh is None else idh,
        grade=read("grade"),
        age=read("age"),
        sex=read("sex"),
        split=read("split"),
        site=read("site"),
        aliases=frozenset(names("aliases")),
        source="",
    )
    return row, problems

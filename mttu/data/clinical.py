"""The clinical tables: one row per case, from one or several files of known data sets or of one's own making."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mttu.data.clinical_files import TextTable, read_text_table
from mttu.data.clinical_lines import LineReader
from mttu.data.clinical_rows import ClinicalRow, join_rows
from mttu.data.clinical_tables import (
    CLINICAL_TABLES,
    LOOKS,
    ClinicalTable,
    describe_unused,
    find_column_problems,
    find_table,
    normalise_column,
)
from mttu.data.clinical_values import is_low_grade, site_of_barcode
from mttu.data.findings import Finding
from mttu.errors import InputError, raise_if_any

__all__ = [
    "CLINICAL_TABLES",
    "ClinicalRow",
    "ClinicalTable",
    "ClinicalTables",
    "UnusedColumn",
    "is_low_grade",
    "read_clinical",
    "read_clinical_tables",
    "site_of_row",
]


@dataclass(frozen=True)
class UnusedColumn:
    """A column that is not read, whose cells may be names all the same."""

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


def read_clinical(paths: Path | Sequence[Path], table: str | None = None) -> list[ClinicalRow]:
    """The rows of `read_clinical_tables`, which must all be right.

    Raises:
        InputError: See there.
    """
    return read_clinical_tables(paths, table).rows


def read_clinical_tables(
    paths: Path | Sequence[Path], table: str | None = None, keep_bad: bool = False
) -> ClinicalTables:
    """Reads clinical tables and joins rows of different files that share an id.

    Each file is recognised by its columns (`mttu.data.clinical_tables.CLINICAL_TABLES`). Column names count without
    regard to case. Any table may have an id (`case_id`), and any of patient_id, grade, age, sex or gender, site, split,
    and columns of IDH, which are read together: mutant if any is. Other columns are named in a note. What cells may say
    stands in `mttu.data.clinical_values`.

    Args:
        paths: Files as `mttu.data.clinical_files` reads them.
        table: Name in `CLINICAL_TABLES`, for all files; None recognises each.
        keep_bad: Keep what is wrong with a row in `ClinicalRow.problems`; rows that name no case become warnings.

    Raises:
        InputError: Lists every refused cell with its file, line, column, value and what is allowed, or, once every cell
            is right, what two tables say differently. Two rows for one case in one table are refused where another
            table says something of this case; else by who finds the case.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    if table is not None:
        find_table((), table)
    tables, findings, unused, problems = [], [], [], []
    for path in files:
        try:
            rows, found, others = _read_file(path, table, alone=len(files) == 1, keep_bad=keep_bad)
            tables.append(rows)
            findings += found
            unused += others
        except InputError as error:
            problems += error.problems
    raise_if_any(problems)
    joined = join_rows(tables, keep_bad)
    return ClinicalTables([replace(row, site=row.site or site_of_row(row)) for row in joined], findings, unused)


def site_of_row(row: ClinicalRow) -> str | None:
    """Site code of the TCGA barcode that a row has among its names."""
    return next(filter(None, map(site_of_barcode, (row.patient_id, *sorted(row.ids)))), None)


def _read_file(
    path: Path, chosen: str | None, alone: bool, keep_bad: bool
) -> tuple[list[ClinicalRow], list[Finding], list[UnusedColumn]]:
    text = read_text_table(path)
    names = [normalise_column(name) for name in text.header]
    try:
        table = find_table(names, chosen)
        raise_if_any(find_column_problems(names, table, alone))
    except InputError as error:
        raise InputError([f"clinical table {path}: {problem}" for problem in error.problems]) from None
    reader = LineReader(text, table, path)
    rows, problems, findings = [], [], describe_table(text, reader.used, f"clinical table {path}")
    for line, cells in text.rows:
        row, refused = reader.read(line, cells)
        problems += [f"clinical table {path}: line {line} {problem}" for problem in refused if _is_of_line(problem)]
        problems += [
            f"clinical table {path}: line {line}: {problem}" for problem in refused if not _is_of_line(problem)
        ]
        if row.ids:
            rows.append(replace(row, problems=tuple(f"{path} line {line}: {problem}" for problem in refused)))
        else:
            findings += [Finding("warning", "", f"clinical table {path}: line {line}: {text}") for text in refused]
    if not keep_bad:
        raise_if_any(problems)
    unused = [
        UnusedColumn(str(path), name, frozenset(cells[index] for _, cells in text.rows))
        for index, name in enumerate(text.header)
        if name and normalise_column(name) not in reader.used
    ]
    return rows, findings, unused


def _is_of_line(problem: str) -> bool:
    return problem.startswith("has not ")


def describe_table(
    text: TextTable, used: Mapping[str, str], where: str, looks: Mapping[str, re.Pattern[str]] = LOOKS
) -> list[Finding]:
    """Columns that are not used, or used though they are hidden, and what its workbook hides.

    Args:
        text: The table.
        used: Normalised names of the columns that are, with what each says.
        where: File, for messages.
        looks: See `mttu.data.clinical_tables.describe_unused`.
    """
    hidden = [
        name for index, name in enumerate(text.header) if normalise_column(name) in used and text.is_hidden(index)
    ]
    notes = [*text.notes, *describe_unused(text.header, used, looks)]
    notes += [f"column {name} is hidden and counts like the others" for name in hidden]
    return [
        *(Finding("warning", "", f"{where}: {warning}") for warning in text.warnings),
        *(Finding("note", "", f"{where}: {note}") for note in notes),
    ]

"""The cells of a clinical table as text: .csv with comma, semicolon or tab, .tsv, the first sheet shown of an .xlsx."""

import csv
import io
import itertools
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import iterparse

import openpyxl
from openpyxl.utils import get_column_letter, range_boundaries

from mttu.data.file_kinds import LOOKED_AT_BYTES, explain_no_table, explain_refusal
from mttu.errors import InputError, name_some, raise_if_any, say_count

_ROWS_LOOKED_AT = 100
"""Rows of unread sheets that are looked at, to tell whether they contain anything."""
_LAST_COLUMN = 16384
"""Last column of any sheet (XFD)."""
MOST_MERGED = 500_000
"""Cells under all merged ranges of a sheet, within what it holds: a damaged file may name a range many times."""
_TRUE = ("1", "true")
"""Values of an attribute that is set."""
_ERROR_TEXTS = re.compile(r"#(?:REF!|VALUE!|DIV/0!|NAME\?|NUM!|NULL!|SPILL!|CALC!)")


@dataclass
class Sheet:
    """A sheet; lines and columns are counted from 1."""

    title: str
    flaws: dict[tuple[int, int], str] = field(default_factory=dict)
    """Line and column of cells whose value is not in the file, and why."""
    hidden_lines: list[int] = field(default_factory=list)
    hidden_columns: set[int] = field(default_factory=set)
    others: list[str] = field(default_factory=list)
    """Sheets that are not read although they hold something."""

    def name_cell(self, line: int, column: int) -> str:
        """As a spreadsheet program names it: `IDH!B7`."""
        return f"{self.title}!{get_column_letter(column)}{line}"


def _open_sheet(data: Any) -> tuple[Sheet, Iterator[tuple[int, Sequence[str]]]]:
    """The first visible sheet of a file that is open for reading bytes, and its rows by line.

    Cells are text as the file holds them: whole numbers without a point, with the leading zeros that their format
    gives them; shares with a percent sign; dates as 2024-01-31.

    Raises:
        InputError: All sheets are hidden. A damaged file may raise anything.
    """
    workbook = openpyxl.load_workbook(data, read_only=True, data_only=True, keep_links=False)
    shown = [sheet for sheet in workbook.worksheets if sheet.sheet_state == "visible"]
    if not shown:
        raise InputError("all its sheets are hidden; unhide the one that counts")
    first = shown[0]
    found = Sheet(str(first.title))
    with first._get_source() as source:
        _look_beneath(source, found)
    for other in workbook.worksheets:
        if other is not first and _holds_anything(other):
            hidden = "" if other.sheet_state == "visible" else " (hidden)"
            found.others.append(f"{other.title}{hidden}")
    first.reset_dimensions()  # each row would be padded to the width that the file claims
    return found, _read_rows(first, found)


def _read_rows(sheet: Any, found: Sheet) -> Iterator[tuple[int, Sequence[str]]]:
    for line, cells in enumerate(sheet.iter_rows(), start=1):
        found.flaws.update(
            {
                (line, column): f"the error {cell.value}; mend it"
                for column, cell in enumerate(cells, start=1)
                if cell.data_type == "e" and _ERROR_TEXTS.fullmatch(str(cell.value))
            }
        )
        yield line, [_to_text(cell) for cell in cells]


def _to_text(cell: Any) -> str:
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, datetime) and value.time() == datetime.min.time():
        value = value.date()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    written = cell.number_format or ""
    if "%" in written:
        return f"{value * 100:g}%"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, int) and re.fullmatch("0{2,}", written):
        return str(value).zfill(len(written))
    return str(value)


def _holds_anything(sheet: Any) -> bool:
    rows = itertools.islice(sheet.iter_rows(values_only=True), _ROWS_LOOKED_AT)
    return any(value is not None for row in rows for value in row)


def _look_beneath(source: Any, found: Sheet) -> None:
    """Finds what openpyxl hides when it reads row by row: formulas without value, hidden and merged cells."""
    line = column = last_line = width = num_hidden = 0
    merged: list[str] = []
    for event, element in iterparse(source, events=("start", "end")):
        name = element.tag.rpartition("}")[2]
        if event == "start" and name == "row":
            line, column = int(element.get("r", line + 1)), 0
            if element.get("hidden") in _TRUE:
                found.hidden_lines.append(line)
        elif event == "start" and name == "col" and element.get("hidden") in _TRUE:
            first, last = int(element.get("min", 1)), int(element.get("max", 1))
            num_hidden += max(1, last - first + 1)
            if first < 1 or last > _LAST_COLUMN or num_hidden > _LAST_COLUMN:
                raise InputError(
                    f"hides columns {first} to {last}, {num_hidden} with those before; a sheet has {_LAST_COLUMN}; "
                    "save it again, or as .csv (UTF-8)"
                )
            found.hidden_columns.update(range(first, last + 1))
        elif event == "end" and name == "c":
            column = range_boundaries(element.get("r"))[0] if element.get("r") else column + 1
            width = max(width, column)
            if _lacks_value(element):
                found.flaws[line, column] = "a formula whose value is not in the file; open it and save it again"
            element.clear()
        elif event == "end" and name == "mergeCell":
            merged.append(element.get("ref", "A1"))
        elif event == "end" and name == "row":
            last_line = max(last_line, line)
            element.clear()
    _mark_merged(merged, last_line, width, found)


def _mark_merged(ranges: Sequence[str], last_line: int, last_column: int, found: Sheet) -> None:
    """Adds the flaws of merged cells, except those beyond the last cell of the sheet."""
    num_merged = 0
    for text in ranges:
        left, top, right, bottom = range_boundaries(text)
        lines, columns = range(top, min(bottom, last_line) + 1), range(left, min(right, last_column) + 1)
        num_merged += max(1, len(lines) * len(columns))
        if num_merged > MOST_MERGED:
            raise InputError(f"merges more than {MOST_MERGED} cells; unmerge them, or save it as .csv (UTF-8)")
        why = f"nothing of its own: it is merged with others ({text}); unmerge them"
        for place in itertools.product(lines, columns):
            if place != (top, left):  # it holds the value of all
                found.flaws.setdefault(place, why)


def _lacks_value(cell: Any) -> bool:
    """Whether a cell holds a formula without its value; an empty text is a value."""
    parts = {part.tag.rpartition("}")[2]: part for part in cell}
    value = parts.get("v")
    return "f" in parts and (value is None or (not value.text and cell.get("t") != "str"))


LARGEST_BYTES = 32 * 2**20
MOST_CELLS = 2_000_000
"""With `LARGEST_BYTES`, keeps a file that is not a clinical table from filling the memory."""

_GIVE = "give a .csv, .tsv or .xlsx file"
_WORKBOOKS = (".xlsx", ".xlsm")
_FOREIGN = {".xls", ".xlsb", ".ods", ".numbers", ".parquet", ".json", ".pdf", ".sav"}


@dataclass(frozen=True)
class TextTable:
    """A table as text; every row has a cell for each column."""

    header: tuple[str, ...]
    """As spelled in the file, trimmed."""
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    """Line in the file, counted from 1, and trimmed cells; empty rows are left out."""
    crooked: frozenset[int] = frozenset()
    """Lines that have more or fewer values than the header."""
    sheet: Sheet | None = None
    """None for a text file."""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def find_flaw(self, line: int, index: int) -> str | None:
        """Why the value of a cell is not in the file, None if it is. Columns are counted from 0."""
        return None if self.sheet is None else self.sheet.flaws.get((line, index + 1))

    def name_cell(self, line: int, index: int) -> str:
        """`; cell IDH!B7` of a workbook, for messages; nothing for a text file."""
        return "" if self.sheet is None else f"; cell {self.sheet.name_cell(line, index + 1)}"

    def is_hidden(self, index: int) -> bool:
        """Whether a column is hidden in the workbook."""
        return self.sheet is not None and index + 1 in self.sheet.hidden_columns


def read_text_table(path: Path, what: str = "clinical table") -> TextTable:
    """Reads a table whose first row that isn't empty names the columns; of a workbook the first visible sheet.

    Text must be UTF-8, or UTF-16 with its mark. Latin-1 is refused: any bytes can be read as Latin-1, so a wrong guess
    would change ids without notice.

    Args:
        path: The file.
        what: What the table is, for messages.

    Raises:
        InputError: No such file, too large, damaged, of another kind or encoding.
    """
    ending = path.suffix.lower()
    if ending in _FOREIGN:
        raise InputError(f"{what} {path}: {ending} cannot be read; save it as .csv (UTF-8) or .xlsx")
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{what} {path}: cannot be read (no file); {_GIVE}")
        if path.stat().st_size > LARGEST_BYTES:
            raise InputError(f"{what} {path}: larger than {LARGEST_BYTES >> 20} MiB; give a {what}")
        data = path.read_bytes()
    except InputError:
        raise
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"{what} {path}: cannot be read ({error}); {_GIVE}") from None
    except OSError as error:
        raise InputError(f"{what} {path}: {explain_refusal(error)}") from None
    disguise = _find_disguise(data, ending in _WORKBOOKS)
    if disguise:
        raise InputError(f"{what} {path}: {disguise}")
    try:
        if ending not in _WORKBOOKS:
            return _to_table(_read_text(data, tabs=ending == ".tsv"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl warns of styles and validation rules, which are not read here
            return _read_workbook(data)
    except InputError as error:
        raise InputError([f"{what} {path}: {problem}" for problem in error.problems]) from None


def _find_disguise(data: bytes, is_workbook: bool) -> str | None:
    """What a file really is if its content does not match its ending, and the cure; None if they match."""
    if data.startswith(b"PK\x03\x04"):
        archive = "is a workbook or an archive by its content; if it is a workbook, name it .xlsx, else unpack it"
        return None if is_workbook else archive
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        return "is a workbook of the old kind (.xls), or one with a password; save it as .csv (UTF-8) or .xlsx"
    kind = explain_no_table(data[:LOOKED_AT_BYTES], _GIVE)
    if kind is not None:
        return "; ".join(kind).removeprefix("it ")
    if data.startswith(b"\x1f\x8b"):
        return "is compressed by gzip; unpack it"
    if is_workbook and data and b"\0" not in data[:1000]:
        return "cannot be read as .xlsx (it is a text); name it .csv if it is a table"
    zeros = data[:1000].count(0)
    if not is_workbook and not data.startswith((b"\xff\xfe", b"\xfe\xff")) and zeros > len(data[:1000]) / 4:
        return "holds zero bytes, as UTF-16 without its mark does; save it as CSV in UTF-8"
    return None


def _read_text(data: bytes, tabs: bool) -> Iterator[tuple[int, Sequence[str]]]:
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"cannot be read: byte 0x{data[error.start]:02x} in line {line} is not UTF-8; save it as CSV in UTF-8"
        ) from None
    first = re.sub(r'"[^"]*"', "", next(filter(str.strip, text[:100_000].splitlines()), ""))
    separator = "\t" if tabs else max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise InputError(f"line {reader.line_num}: cannot be read ({error}); mend the quotes in this line") from None


def _read_workbook(data: bytes) -> TextTable:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > LARGEST_BYTES:
            raise InputError(f"unpacks to more than {LARGEST_BYTES >> 20} MiB; give a clinical table")
        sheet, lines = _open_sheet(io.BytesIO(data))
        table = _to_table(lines, pad=True)
        there = {line for line, _ in table.rows}
        raise_if_any(
            [
                f"cell {sheet.name_cell(line, column)} holds {flaw}"
                for (line, column), flaw in sheet.flaws.items()
                if line not in there and flaw.startswith("a formula")  # in the header, or alone in its row
            ]
        )
    except InputError:
        raise
    except Exception as error:  # openpyxl documents no errors: a damaged part may raise anything
        reason = type(error).__name__ if isinstance(error, KeyError | IndexError) else error
        raise InputError(f"cannot be read as .xlsx ({reason}); save it again, or as .csv (UTF-8)") from None
    hidden = [str(line) for line in sheet.hidden_lines if line in there]
    count = say_count(len(hidden), "row is hidden and counts", "rows are hidden and count")
    found = (f"{count} like the others: {name_some(hidden)}; delete what should not count",) if hidden else ()
    notes = (f"only sheet {sheet.title} is read, not {', '.join(sheet.others)}",) if sheet.others else ()
    return replace(table, sheet=sheet, warnings=found, notes=notes)


def _to_table(lines: Iterator[tuple[int, Sequence[str]]], pad: bool = False) -> TextTable:
    """Checks that rows are as wide as the header; with `pad` short ones may be, since workbooks omit empty cells."""
    header: tuple[str, ...] = ()
    rows, crooked, cells_read = [], set(), 0
    for line, written in lines:
        cells_read += len(written) + 1
        if cells_read > MOST_CELLS:
            raise InputError(f"more than {MOST_CELLS} cells; give a clinical table with one row per case")
        cells = tuple(cell.strip() for cell in written)
        filled = max((index for index, cell in enumerate(cells, start=1) if cell), default=0)
        if not header:
            header = cells[:filled]  # spreadsheet programs add empty columns and rows
        elif filled:
            rows.append((line, (*cells, *[""] * len(header))[: len(header)]))
            if filled > len(header) or (len(cells) < len(header) and not pad):
                crooked.add(line)
    return TextTable(header, tuple(rows), frozenset(crooked))

"""The first sheet of a workbook that is shown, as text, and what a person cannot see of it or it does not hold."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from xml.etree.ElementTree import iterparse

import openpyxl
from openpyxl.utils import get_column_letter, range_boundaries

from mttu.errors import InputError, name_some, say_count

_ROWS_LOOKED_AT = 100
"""Of the other sheets, to tell whether they hold anything."""
_LAST_COLUMN = 16384
"""That a sheet can have (XFD)."""
MOST_MERGED = 500_000
"""Cells under all merged ranges of a sheet, inside of what it holds: a range may be named again and again."""
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


def open_sheet(data: Any) -> tuple[Sheet, Iterator[tuple[int, Sequence[str]]]]:
    """The first sheet that is not hidden, and its rows by line.

    Cells are text as the file holds them: whole numbers without a point, with the leading zeros that their format
    gives them; shares with a percent sign; dates as 2024-01-31.

    Args:
        data: The file, open for reading bytes.

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
    first.reset_dimensions()  # what the file claims to hold: each row would be filled up to it
    return found, _read_rows(first, found)


def describe_sheet(sheet: Sheet, lines: Sequence[int]) -> tuple[list[str], list[str]]:
    """Warnings on hidden rows among the lines that hold data, and notes on sheets that are not read."""
    there = set(lines)
    hidden = [str(line) for line in sheet.hidden_lines if line in there]
    count = say_count(len(hidden), "row is hidden and counts", "rows are hidden and count")
    warnings = [f"{count} like the others: {name_some(hidden)}; delete what should not count"] if hidden else []
    others = ", ".join(sheet.others)
    return warnings, [f"only sheet {sheet.title} is read, not {others}"] if sheet.others else []


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
    """What openpyxl does not say when it reads rows one by one: formulas without value, hidden and merged cells."""
    line = column = last_line = width = num_hidden = 0
    merged: list[str] = []
    for event, element in iterparse(source, events=("start", "end")):
        name = element.tag.rpartition("}")[2]
        if event == "start" and name == "row":
            line, column = int(element.get("r", line + 1)), 0
            if _is_on(element.attrib, "hidden"):
                found.hidden_lines.append(line)
        elif event == "start" and name == "col" and _is_on(element.attrib, "hidden"):
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
    """Adds the flaws of merged cells, those beyond the last cell of the sheet aside."""
    num_merged = 0
    for text in ranges:
        left, top, right, bottom = range_boundaries(text)
        lines, columns = range(top, min(bottom, last_line) + 1), range(left, min(right, last_column) + 1)
        num_merged += max(1, len(lines) * len(columns))
        if num_merged > MOST_MERGED:
            raise InputError(f"merges more than {MOST_MERGED} cells; unmerge them, or save it as .csv (UTF-8)")
        why = f"nothing of its own: it is merged with others ({text}); unmerge them"
        for place in itertools.product(lines, columns):
            if place != (top, left):  # the value of all is there
                found.flaws.setdefault(place, why)


def _lacks_value(cell: Any) -> bool:
    """An empty text is a value."""
    parts = {part.tag.rpartition("}")[2]: part for part in cell}
    value = parts.get("v")
    return "f" in parts and (value is None or (not value.text and cell.get("t") != "str"))


def _is_on(attributes: Mapping[str, str], name: str) -> bool:
    return attributes.get(name) in ("1", "true")

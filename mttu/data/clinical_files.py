"""The cells of a clinical table as text: .csv with comma, semicolon or tab, .tsv, .xlsx. `NA` stays `NA`."""

import csv
import io
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openpyxl

from mttu.errors import InputError

LARGEST_BYTES = 32 * 2**20
MOST_CELLS = 2_000_000
"""With `LARGEST_BYTES`, keeps a file that is no clinical table from filling the memory."""

_WORKBOOKS = (".xlsx", ".xlsm")
_FOREIGN = {".xls", ".xlsb", ".ods", ".numbers", ".parquet", ".json", ".pdf", ".sav", ".zip", ".gz"}


@dataclass(frozen=True)
class TextTable:
    """A table as text; every row has a cell for each column."""

    header: tuple[str, ...]
    """As spelled in the file, trimmed."""
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    """Line in the file, counted from 1, and trimmed cells; empty rows are left out."""
    problems: tuple[str, ...]
    """Rows that don't fit the header, by line."""


def read_text_table(path: Path) -> TextTable:
    """Reads a table whose first row that isn't empty names the columns; of a workbook the first sheet.

    Text must be UTF-8, or UTF-16 with its mark. Latin-1 is refused: any bytes at all can be read as Latin-1, so that a
    wrong guess would change ids without a word.

    Raises:
        InputError: No such file, too large, damaged, of another kind or encoding.
    """
    ending = path.suffix.lower()
    if ending in _FOREIGN:
        raise InputError(f"clinical table {path}: {ending} cannot be read; save it as .csv (UTF-8) or .xlsx")
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"clinical table {path}: cannot be read (no file); give a .csv, .tsv or .xlsx file")
        if path.stat().st_size > LARGEST_BYTES:
            raise InputError(f"clinical table {path}: larger than {LARGEST_BYTES >> 20} MiB; give a clinical table")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"clinical table {path}: cannot be read ({error}); give a .csv, .tsv or .xlsx file") from None
    try:
        if ending not in _WORKBOOKS:
            return _to_table(_read_text(data, tabs=ending == ".tsv"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and validation rules, which are not read here
            return _to_table(_read_workbook(data), pad=True)
    except InputError as error:
        raise InputError([f"clinical table {path}: {problem}" for problem in error.problems]) from None


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


def _read_workbook(data: bytes) -> Iterator[tuple[int, Sequence[str]]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > LARGEST_BYTES:
            raise InputError(f"unpacks to more than {LARGEST_BYTES >> 20} MiB; give a clinical table")
        workbook = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
        sheet = workbook.worksheets[0]
        sheet.reset_dimensions()  # what the file claims to hold: each row would be filled up to it
        for line, values in enumerate(sheet.iter_rows(values_only=True), start=1):
            yield line, [_to_text(value) for value in values]
    except InputError:
        raise
    except Exception as error:  # a damaged part may raise anything: openpyxl promises no kind of error
        reason = type(error).__name__ if isinstance(error, KeyError | IndexError) else error
        raise InputError(f"cannot be read as .xlsx ({reason}); save it again, or as .csv (UTF-8)") from None


def _to_text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return "" if value is None else str(value)


def _to_table(lines: Iterator[tuple[int, Sequence[str]]], pad: bool = False) -> TextTable:
    """Checks that rows are as wide as the header; `pad` fills short ones, for workbooks leave out empty cells."""
    header: tuple[str, ...] = ()
    rows, problems, cells_read = [], [], 0
    for line, written in lines:
        cells_read += len(written) + 1
        if cells_read > MOST_CELLS:
            raise InputError(f"more than {MOST_CELLS} cells; give a clinical table with one row per case")
        cells = tuple(cell.strip() for cell in written)
        filled = max((index for index, cell in enumerate(cells, start=1) if cell), default=0)
        if not header:
            header = cells[:filled]  # spreadsheets like to add empty columns at the end, and empty rows
        elif filled > len(header) or (filled > 0 and len(cells) < len(header) and not pad):
            problems.append(f"line {line} has not {len(header)} values as the header")
        elif filled:
            rows.append((line, (*cells, *[""] * len(header))[: len(header)]))
    return TextTable(header, tuple(rows), tuple(problems))

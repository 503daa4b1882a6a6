"""The cells of a table as text: .csv with comma, semicolon or tab, .tsv, .xlsx. `NA` stays `NA`."""

import csv
import io
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mttu.data.file_kinds import LOOKED_AT_BYTES, explain_no_table, explain_refusal
from mttu.data.workbooks import Sheet, describe_sheet, open_sheet
from mttu.errors import InputError, raise_if_any

LARGEST_BYTES = 32 * 2**20
MOST_CELLS = 2_000_000
"""With `LARGEST_BYTES`, keeps a file that is no clinical table from filling the memory."""

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
    """Of a workbook."""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def find_flaw(self, line: int, index: int) -> str | None:
        """Why the value of a cell is not in the file, None if it is; columns are counted from 0 here."""
        return None if self.sheet is None else self.sheet.flaws.get((line, index + 1))

    def name_cell(self, line: int, index: int) -> str:
        """`; cell IDH!B7` of a workbook, for messages; nothing of a text."""
        return "" if self.sheet is None else f"; cell {self.sheet.name_cell(line, index + 1)}"

    def is_hidden(self, index: int) -> bool:
        """Whether a column is hidden in the workbook."""
        return self.sheet is not None and index + 1 in self.sheet.hidden_columns


def read_text_table(path: Path, what: str = "clinical table") -> TextTable:
    """Reads a table whose first row that isn't empty names the columns; of a workbook the first sheet that is shown.

    Text must be UTF-8, or UTF-16 with its mark. Latin-1 is refused: any bytes at all can be read as Latin-1, so that a
    wrong guess would change ids without a word.

    Args:
        path: The file.
        what: What it is, for messages.

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
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise InputError(f"{what} {path}: {explain_refusal(error)}") from None
        raise InputError(f"{what} {path}: cannot be read ({error}); {_GIVE}") from None
    disguise = _find_disguise(data, ending in _WORKBOOKS)
    if disguise:
        raise InputError(f"{what} {path}: {disguise}")
    try:
        if ending not in _WORKBOOKS:
            return _to_table(_read_text(data, tabs=ending == ".tsv"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and validation rules, which are not read here
            return _read_workbook(data)
    except InputError as error:
        raise InputError([f"{what} {path}: {problem}" for problem in error.problems]) from None


def _find_disguise(data: bytes, is_workbook: bool) -> str | None:
    """What a table is whose content is not what its ending says, and the cure; None if it is."""
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
        sheet, lines = open_sheet(io.BytesIO(data))
        table = _to_table(lines, pad=True)
        there = {line for line, _ in table.rows}
        raise_if_any(
            [
                f"cell {sheet.name_cell(line, column)} holds {flaw}"
                for (line, column), flaw in sheet.flaws.items()
                if line not in there and flaw.startswith("a formula")  # of the header, or of a row of nothing else
            ]
        )
    except InputError:
        raise
    except Exception as error:  # a damaged part may raise anything: openpyxl promises no kind of error
        reason = type(error).__name__ if isinstance(error, KeyError | IndexError) else error
        raise InputError(f"cannot be read as .xlsx ({reason}); save it again, or as .csv (UTF-8)") from None
    found, notes = describe_sheet(sheet, [line for line, _ in table.rows])
    return replace(table, sheet=sheet, warnings=tuple(found), notes=tuple(notes))


def _to_table(lines: Iterator[tuple[int, Sequence[str]]], pad: bool = False) -> TextTable:
    """Checks that rows are as wide as the header; `pad` fills short ones, for workbooks leave out empty cells."""
    header: tuple[str, ...] = ()
    rows, crooked, cells_read = [], set(), 0
    for line, written in lines:
        cells_read += len(written) + 1
        if cells_read > MOST_CELLS:
            raise InputError(f"more than {MOST_CELLS} cells; give a clinical table with one row per case")
        cells = tuple(cell.strip() for cell in written)
        filled = max((index for index, cell in enumerate(cells, start=1) if cell), default=0)
        if not header:
            header = cells[:filled]  # spreadsheets like to add empty columns at the end, and empty rows
        elif filled:
            rows.append((line, (*cells, *[""] * len(header))[: len(header)]))
            if filled > len(header) or (len(cells) < len(header) and not pad):
                crooked.add(line)
    return TextTable(header, tuple(rows), frozenset(crooked))

"""Tables on disk: Parquet that is measured before it is unpacked, CSV that no spreadsheet takes for formulas."""

import csv
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

MOST_VALUES = 2**23
"""Of all columns: 100,000 cases with 50 Monte Carlo passes are 6 million."""
MOST_TEXT_BYTES = 2**28
_CODECS = {"UNCOMPRESSED", "SNAPPY"}
"""What mttu writes. Others shrink a page of zeros ten thousand times."""
_ENCODINGS = {"PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY", "BIT_PACKED"}
"""What mttu writes. Others write a text as what it shares with the one before it."""
_BREAK = re.compile(r"([;\t\r\n])")
"""Where a program that splits at other signs, or takes no quotes, would begin a cell or a row."""
_FORMULA = re.compile(
    r"'*[\x00-\x20\x7f-\xa0\xad\u200b-\u200f\u2028\u2029\u2060\ufeff]*"
    r"[=+\-@\u2212\ufe62\ufe63\ufe66\ufe6b\uff0b\uff0d\uff1d\uff20]"
)
"""Start of a text that a spreadsheet program runs or hides, the wide and the small signs and those behind what is not
seen, too; the apostrophes keep the change one to one."""
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")


def read_parquet(path: Path, lists: Collection[str] = ()) -> Any:
    """Reads a Parquet file that mttu wrote, once its footer says that this needs little memory.

    A column of one value per row cannot have more of them than the footer says. How long lists are, only their pages
    tell; the footer is believed.

    Args:
        path: To read.
        lists: Names of columns that may hold lists of numbers.

    Raises:
        OSError: Not there, or not to be read.
        pyarrow.ArrowException: No Parquet file, one that would take more than `MOST_VALUES` values or
            `MOST_TEXT_BYTES` of text, or a column that is neither text nor numbers.
    """
    file = pq.ParquetFile(path)
    wanted = file.schema_arrow
    _check_types(wanted, lists)
    _check_size(file.metadata)
    texts = [field.name for field in wanted if _is_text(field.type)]
    table = pq.ParquetFile(path, read_dictionary=texts).read()  # each text once, however often it is there
    size = sum(_count_text(column) for column in table.columns if pa.types.is_dictionary(column.type))
    if size > MOST_TEXT_BYTES:
        raise pa.ArrowInvalid(f"holds {size} bytes of text; at most {MOST_TEXT_BYTES} are read")
    return table.cast(wanted)


def _check_types(schema: Any, lists: Collection[str]) -> None:
    """By the types that the columns would be read as: what is stored alike may be bytes, decimals or fields."""
    for field in schema:
        kind = field.type
        if pa.types.is_list(kind):
            if field.name not in lists:
                raise pa.ArrowInvalid(f"column {field.name} holds lists")
            kind = kind.value_type
            is_plain = _is_number(kind)
        else:
            is_plain = _is_number(kind) or _is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)
        if not is_plain:
            raise pa.ArrowInvalid(f"column {field.name} is neither text nor numbers, but {field.type}")


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _check_size(metadata: Any) -> None:
    """By what the footer says of each column, before anything else is read."""
    _check_sign(metadata.num_rows)
    values = 0
    for group in (metadata.row_group(number) for number in range(metadata.num_row_groups)):
        _check_sign(group.num_rows)
        for column in (group.column(number) for number in range(group.num_columns)):
            _check_sign(column.num_values)
            _check_sign(column.total_uncompressed_size)
            values += max(column.num_values, group.num_rows)
            if column.compression not in _CODECS:
                raise pa.ArrowInvalid(f"compressed with {column.compression}; mttu writes and reads SNAPPY")
            foreign = sorted(set(column.encodings) - _ENCODINGS)
            if foreign:
                raise pa.ArrowInvalid(f"encoded with {', '.join(foreign)}, which mttu neither writes nor reads")
            if column.total_uncompressed_size > MOST_TEXT_BYTES:
                raise pa.ArrowInvalid(
                    f"unpacks to {column.total_uncompressed_size} bytes; at most {MOST_TEXT_BYTES} are read"
                )
    if max(values, metadata.num_rows * metadata.num_columns) > MOST_VALUES:
        raise pa.ArrowInvalid(f"unpacks to {values} values; at most {MOST_VALUES} are read")


def _check_sign(count: int) -> None:
    """A footer may hold any number; one below 0 would make room for others where they are added up."""
    if count < 0:
        raise pa.ArrowInvalid(f"its footer counts {count} of something; restore the file from a copy")


def _count_text(column: Any) -> int:
    sizes = (pc.sum(pc.take(pc.binary_length(chunk.dictionary), chunk.indices)) for chunk in column.chunks)
    return sum(size.as_py() or 0 for size in sizes)


def write_csv(table: Any, path: Path) -> None:
    """Writes an Arrow table; texts and names of columns as `neutralise` gives them, numbers as they are."""
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            texts = [None if text is None else neutralise(text) for text in table.column(place).to_pylist()]
            table = table.set_column(place, field, pa.array(texts, field.type))
    pyarrow.csv.write_csv(table.rename_columns([neutralise(name) for name in table.column_names]), path)


def write_csv_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes rows of values; texts and names of columns as `neutralise` gives them."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        for row in (columns, *rows):
            table.writerow([neutralise(value) if isinstance(value, str) else value for value in row])


def neutralise(text: str) -> str:
    """A text as it may stand in a CSV cell: with an apostrophe in front where a spreadsheet would run it (OWASP).

    So is what follows a semicolon, a tab or a line break in it, for a program that splits there. A number stays one,
    whatever its sign.
    """
    parts = _BREAK.split(text)
    return "".join(f"'{part}" if _is_run(parts, place) else part for place, part in enumerate(parts))


def restore(cell: str) -> str:
    """The text that `neutralise` was given."""
    parts = _BREAK.split(cell)
    for place, part in enumerate(parts):
        if part.startswith("'"):
            parts[place] = part[1:]
            if not _is_run(parts, place):
                parts[place] = part
    return "".join(parts)


def _is_run(parts: Sequence[str], place: int) -> bool:
    """Whether a part of a text, of which every second one is what parts the others, needs an apostrophe."""
    part = parts[place]
    if place % 2:
        return False
    if place == 0 and len(parts) > 1 and parts[1] != ";" and not part.strip("'"):
        return True  # a tab or a line break at the start
    return _FORMULA.match(part) is not None and not _NUMBER.fullmatch(part.strip())

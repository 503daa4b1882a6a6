"""Tables on disk: Parquet that is measured before it is unpacked, CSV that no spreadsheet takes for formulas."""

import csv
import re
from collections.abc import Iterable, Sequence
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
_NUMBERS = {"BOOLEAN", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE"}
_BREAK = re.compile(r"([;\t\r\n])")
"""Where a program that splits at other signs, or takes no quotes, would begin a cell or a row."""
_FORMULA = re.compile(
    r"'*[\x00-\x20\x7f-\xa0\xad\u200b-\u200f\u2028\u2029\u2060\ufeff]*"
    r"[=+\-@\u2212\ufe62\ufe63\ufe66\ufe6b\uff0b\uff0d\uff1d\uff20]"
)
"""Start of a text that a spreadsheet program runs or hides, the wide and the small signs and those behind what is not
seen, too; the apostrophes keep the change one to one."""
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")


def read_parquet(path: Path) -> Any:
    """Reads a Parquet file that mttu wrote, once its footer says that this needs little memory.

    Raises:
        OSError: Not there, or not to be read.
        pyarrow.ArrowException: No Parquet file, or one that would take more than `MOST_VALUES` values or
            `MOST_TEXT_BYTES` of text.
    """
    file = pq.ParquetFile(path)
    _check_size(file.metadata)
    wanted = file.schema_arrow
    texts = [field.name for field in wanted if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    table = pq.ParquetFile(path, read_dictionary=texts).read()  # each text once, however often it is there
    size = sum(_count_text(column) for column in table.columns if pa.types.is_dictionary(column.type))
    if size > MOST_TEXT_BYTES:
        raise pa.ArrowInvalid(f"holds {size} bytes of text; at most {MOST_TEXT_BYTES} are read")
    return table.cast(wanted)


def _check_size(metadata: Any) -> None:
    """By what the footer says of each column, before anything else is read."""
    values = 0
    for group in (metadata.row_group(number) for number in range(metadata.num_row_groups)):
        for column in (group.column(number) for number in range(group.num_columns)):
            values += max(column.num_values, group.num_rows)
            if column.compression not in _CODECS:
                raise pa.ArrowInvalid(f"compressed with {column.compression}; mttu writes and reads SNAPPY")
            is_text = column.physical_type == "BYTE_ARRAY" and "." not in column.path_in_schema
            if not is_text and column.physical_type not in _NUMBERS:
                raise pa.ArrowInvalid(f"column {column.path_in_schema} is neither text nor numbers")
            if column.total_uncompressed_size > MOST_TEXT_BYTES:
                raise pa.ArrowInvalid(
                    f"unpacks to {column.total_uncompressed_size} bytes; at most {MOST_TEXT_BYTES} are read"
                )
    if max(values, metadata.num_rows * metadata.num_columns) > MOST_VALUES:
        raise pa.ArrowInvalid(f"unpacks to {values} values; at most {MOST_VALUES} are read")


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

"""Parquet tables that mttu wrote, with their kind and format version."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mttu.data.file_kinds import explain_no_parquet, explain_refusal
from mttu.errors import InputError, raise_if_any, stop_if_too_many_open
from mttu.files import atomic_file, find_byte_names, find_obstacle, read_parquet, write_csv


def check_table_target(path: Path, title: str, what: str, is_ours: Callable[[Mapping[bytes, bytes]], bool]) -> None:
    """Refuses to write a table over a file of another kind, or where it would not be found.

    Args:
        path: File to write.
        title: Its name in messages, e.g. `manifest`.
        what: Kind of file that may be replaced, e.g. `manifest`.
        is_ours: Recognises that kind by the metadata of a file.

    Raises:
        InputError: The name does not end in `.parquet`, another file is there, or its folder cannot be written.
    """
    if path.suffix != ".parquet":
        raise InputError(f"{title} {path}: the name must end in .parquet")
    if path.is_dir():
        raise InputError(f"{title} {path}: is a folder; give a file name")
    obstacle = find_obstacle(path)
    if obstacle:
        raise InputError(f"{title} {path}: {obstacle}")
    if path.exists():
        metadata: Mapping[bytes, bytes] = {}
        with suppress(pa.ArrowException, OSError):
            metadata = pq.read_schema(path).metadata or {}
        if not is_ours(metadata):
            raise InputError(f"{title} {path}: is there and no {what}; it would be lost; give another name")


def write_table(place: Path, table: Any) -> None:
    """Writes `PLACE.csv`, for people, then `PLACE.parquet` with the table's metadata, each whole or not at all."""
    with atomic_file(place.with_name(f"{place.name}.csv")) as partial:
        write_csv(table, partial)
    with atomic_file(place.with_name(f"{place.name}.parquet")) as partial:
        pq.write_table(table, partial)


def read_table(
    path: Path,
    title: str,
    version: int,
    mend: str,
    kind: str | None = None,
    cure: str = "",
    lists: Collection[str] = (),
) -> tuple[dict[str, str], Any]:
    """Metadata and content of a table.

    Args:
        path: File.
        title: Its name in messages, e.g. `manifest`, before the path.
        version: Its format version.
        mend: Cure for a damaged table or another version.
        kind: Kind in its metadata; None for tables without one.
        cure: Cure for a missing table; `mend` if not given.
        lists: See `mttu.files.read_parquet`.

    Raises:
        InputError: Missing, of a name that is no UTF-8, no readable Parquet file, or of another kind or format version.
        RunError: No more files can be opened.
    """
    raise_if_any(find_byte_names(title, [path]))  # pyarrow opens none of these
    try:
        table = read_parquet(path, lists)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{title} {path}: not found; {cure or mend}") from None
    except PermissionError as error:
        raise InputError(f"{title} {path}: {explain_refusal(error)}") from None
    except (pa.ArrowException, OSError) as error:
        stop_if_too_many_open(error)
        raise InputError(f"{title} {path}: {explain_no_parquet(path, error, mend)}") from None
    stored = table.schema.metadata or {}
    metadata = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in stored.items()}
    found = metadata.get("kind")
    if found != kind:
        raise InputError(f"{title} {path}: is {found or 'no table of mttu'}; expected {kind or title}; {mend}")
    found = metadata.get("format_version")
    if found != str(version):
        raise InputError(f"{title} {path}: format_version is {found}; expected {version}; {mend}")
    return metadata, table

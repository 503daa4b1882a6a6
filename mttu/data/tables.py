"""Tables of ours in Parquet, which say their kind and format version: read and checked in one way."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa

from mttu.data.file_kinds import explain_no_parquet, explain_refusal
from mttu.errors import InputError, stop_if_too_many_open
from mttu.files import read_parquet


def read_table(
    path: Path,
    title: str,
    version: int,
    mend: str,
    kind: str | None = None,
    cure: str = "",
    lists: Collection[str] = (),
) -> tuple[dict[str, str], Any]:
    """A table and the metadata that it was written with.

    Args:
        path: File.
        title: What to call it in a message, e.g. `manifest`; its path follows.
        version: Its format version.
        mend: What helps where it is damaged or of another version.
        kind: That its metadata names; None for a table that names none.
        cure: What helps where it is not there; `mend` if not given.
        lists: See `mttu.files.read_parquet`.

    Raises:
        InputError: Missing, no readable Parquet file, or of another kind or format version.
        RunError: No more files can be opened.
    """
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

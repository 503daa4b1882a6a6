"""The folder of a report: table as Parquet and CSV, and pictures; written whole or not at all, an older one goes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from mttu.atomic import atomic_file, atomic_folder, recover_folder
from mttu.errors import InputError
from mttu.figures.saving import save_figure
from mttu.tables import write_csv

FORMAT_VERSION = 1
PICTURES: Mapping[str, Sequence[str]] = {
    "selection": ("candidates", "pseudo_labels", "selection_error", "uncertainty"),
    "thresholds": ("selection_error",),
}
"""Kind of a report to the names of its pictures, each as `.png` and `.pdf`; one without data is not drawn."""


def list_files(kind: str) -> list[str]:
    """All that a report of this kind may hold; a folder with anything else is not replaced."""
    pictures = [f"{name}.{suffix}" for name in PICTURES[kind] for suffix in ("png", "pdf")]
    return [f"{kind}.parquet", f"{kind}.csv", *pictures]


def check_report(folder: Path, kind: str) -> None:
    """Refuses a folder that holds anything but an earlier report of this kind, because it would be replaced.

    Args:
        folder: Where the report goes.
        kind: `selection` or `thresholds`.

    Raises:
        InputError: It is a file, holds files of others, or files of these names without a table of this kind.
    """
    folder = folder.resolve()
    recover_folder(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"output {folder}: is a file; give a folder")
    present = sorted(item.name for item in folder.iterdir())
    foreign = [name for name in present if name not in list_files(kind)]
    if foreign:
        raise InputError(
            f"output {folder}: holds {', '.join(foreign[:3])}, not of an earlier {kind} here; give another folder"
        )
    try:
        own = (pq.read_schema(folder / f"{kind}.parquet").metadata or {}).get(b"kind") == f"mttu {kind}".encode()
    except (OSError, pa.ArrowException):
        own = False
    if present and not own:
        raise InputError(
            f"output {folder}: holds {', '.join(present[:3])}, not of an earlier {kind} here; give another folder"
        )


def write_report(
    folder: Path, kind: str, rows: Sequence[Any], schema: Any, about: Mapping[str, Any], figures: Mapping[str, Figure]
) -> list[Path]:
    """Writes table and pictures; an earlier report there goes, pictures that this one lacks included.

    Args:
        folder: Passed `check_report`.
        kind: `selection` or `thresholds`.
        rows: Dataclasses.
        schema: Their columns.
        about: How they were made, for the metadata of the Parquet file.
        figures: Name, one of `PICTURES`, to figure.

    Returns:
        The pictures.
    """
    names = []
    with atomic_folder(folder.resolve()) as partial:
        write_table(partial, kind, rows, schema, about)
        for name, figure in figures.items():
            names += [path.name for path in save_figure(figure, partial / name)]
    return [folder / name for name in names]


def write_table(folder: Path, kind: str, rows: Sequence[Any], schema: Any, about: Mapping[str, Any]) -> None:
    """Writes rows (dataclasses) as `<kind>.csv`, then `<kind>.parquet` with `about` in its metadata."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)
    metadata = {"kind": f"mttu {kind}", "format_version": str(FORMAT_VERSION), "about": json.dumps(about)}
    with atomic_file(folder / f"{kind}.csv") as partial:
        write_csv(table, partial)
    with atomic_file(folder / f"{kind}.parquet") as partial:
        pq.write_table(table.replace_schema_metadata(metadata), partial)

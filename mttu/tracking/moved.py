"""Artifacts that were moved: MLflow keeps absolute paths, which follow a database that was moved with its artifacts.

MLflow has no call for that, so the rows of its SQLite database are changed here, all at once. Without it, what a
training writes after a move would go into the old folder, made anew.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mttu.errors import InputError

ARTIFACTS = "mlflow-artifacts"
"""Folder beside the database, or beside the run folders where the database is a server's."""

_PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow that hold a place of artifacts."""


def follow_database(database: Path) -> None:
    """Makes all paths of artifacts that lie beside a SQLite database say so; does nothing where they do.

    A copy of a folder is treated like one that was moved: it uses its own artifacts. Artifacts of an experiment that
    somebody gave another place in MLflow stay there, whether its disk is mounted or not.

    Args:
        database: May be missing, or not MLflow's.

    Raises:
        InputError: The artifacts did not come along, or the database cannot be read or changed.
    """
    if not database.is_file():
        return
    here = database.parent / ARTIFACTS
    try:
        with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as connection:
            stale = [place for place in _list_places(connection) if _was_left(connection, place, here, database)]
            if stale:
                connection.execute("BEGIN IMMEDIATE")
                for place in stale:
                    _rebase(connection, place.as_uri(), here.as_uri())
                connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise InputError(f"sqlite:///{database}: MLflow cannot use it ({error})") from error


def check_location(location: str, has_runs: bool, experiment: str) -> None:
    """Refuses a folder of artifacts that is gone, for MLflow would make it anew; not of the one beside the database.

    Args:
        location: Of the experiment's artifacts.
        has_runs: Whether anything was written there before.
        experiment: Its name.

    Raises:
        InputError: The folder is not there any more.
    """
    place = _read_place(location)
    if place is None or place.is_dir() or not has_runs:
        return
    raise InputError(
        f"tracking.experiment {experiment!r}: MLflow keeps its artifacts in {place}, which is not there any more; "
        f"bring it back or mount its disk, make a link to where it is now (ln -s NEW/{ARTIFACTS} {place}), or give "
        "tracking.experiment another name"
    )


def _read_place(location: str | None) -> Path | None:
    """The folder of a location that we gave; None for any other."""
    parts = urlsplit(location or "")
    place = Path(unquote(parts.path))
    return place if parts.scheme == "file" and place.name == ARTIFACTS else None


def _list_places(connection: sqlite3.Connection) -> Iterator[Path]:
    if not any(_existing(connection)):
        return  # nothing of MLflow yet
    for (location,) in connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall():
        place = _read_place(location)
        if place is not None:
            yield place


def _existing(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """Those of the tables and columns that MLflow's version of the database has."""
    for table, column in _PATHS:
        if any(row[1] == column for row in connection.execute(f"PRAGMA table_info({table})")):
            yield table, column


def _was_left(connection: sqlite3.Connection, place: Path, here: Path, database: Path) -> bool:
    """Whether artifacts that should lie in `place` are `here` now."""
    if place == here or (place.is_dir() and here.is_dir() and os.path.samefile(place, here)):
        return False
    uris = [str(uri) for (uri,) in connection.execute("SELECT artifact_uri FROM runs").fetchall()]
    written = [run for uri in uris if (run := _read_run(uri, place)) is not None]
    came_along = here.is_dir() and any((here / run).exists() for run in written)
    if not place.is_dir():
        if not written:
            return not any(f"/{ARTIFACTS}/" in uri for uri in uris)  # with runs in ours, it is one that somebody chose
        if here.is_dir():  # of other runs only: the place is one that somebody chose, on a disk that is not mounted
            return came_along or not any(here.iterdir())
        raise InputError(
            f"tracking: the artifacts of {database} are neither beside it nor in {place}, where they were; bring "
            f"the folder {ARTIFACTS} back beside it, or make an empty one if they are gone for good: mkdir '{here}'"
        )
    if here.is_dir():
        return came_along  # else it is a place that somebody chose
    raise InputError(
        f"tracking: {database} was moved without its artifacts, which are still in {place}; move them, too: "
        f"mv '{place}' '{here}', or link them if they are to stay: ln -s '{place}' '{here}'"
    )


def _read_run(uri: str, place: Path) -> str | None:
    """The run that a place of artifacts is of; None if it does not lie below `place`."""
    prefix = f"{place.as_uri()}/"
    return uri.removeprefix(prefix).partition("/")[0] if uri.startswith(prefix) else None


def _rebase(connection: sqlite3.Connection, old: str, new: str) -> None:
    for table, column in list(_existing(connection)):
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
            (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
        )

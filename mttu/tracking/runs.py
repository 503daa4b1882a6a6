"""The MLflow run of a training: found by the run folder, or by its parent and name, or made; artifacts that were moved.

MLflow keeps absolute paths of artifacts and has no call to move them, so the rows of its SQLite database are changed
here, in one transaction. Otherwise a training that continues after a move would write into the old folder.
"""

import os
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mttu.config import Config
from mttu.errors import InputError
from mttu.files import read_versioned, write_json
from mttu.tracking.connection import (
    NAMED_BY,
    RECORD,
    VARIABLE,
    check_server,
    connect,
    database_path,
    lacks_environment,
    mlflow_errors,
    name_source,
    reason_of,
    resolve_uri,
)
from mttu.tracking.description import describe_run
from mttu.tracking.mlflow_tracker import MlflowTracker
from mttu.tracking.registry import check_model_name
from mttu.tracking.tracker import NullTracker, Tracker

ARTIFACTS = "mlflow-artifacts"
"""Folder beside the database, or beside the run folders where the database is a server's."""

_PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow that hold a location of artifacts."""


def follow_database(database: Path) -> None:
    """Corrects the paths of artifacts beside a SQLite database, if it was moved or copied with them.

    A copied folder uses its own artifacts. Artifacts of an experiment that a user placed elsewhere in MLflow stay
    there, whether that disk is mounted or not. The file may be missing, or not MLflow's.

    Raises:
        InputError: The artifacts were not moved along, or the database cannot be read or changed.
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
    """Refuses a missing artifact folder of an experiment that has runs, because MLflow would create it again.

    The folder beside the database may be created again.
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
    """The folder of a location that mttu wrote; None for any other."""
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
    prefix = f"{place.as_uri()}/"
    written = [uri.removeprefix(prefix).partition("/")[0] for uri in uris if uri.startswith(prefix)]  # runs in `place`
    came_along = here.is_dir() and any((here / run).exists() for run in written)
    if not place.is_dir():
        if not written:
            return not any(f"/{ARTIFACTS}/" in uri for uri in uris)  # if ours has runs, a user chose this place
        if here.is_dir():  # if it holds other runs only, a user chose the place, and its disk is not mounted
            return came_along or not any(here.iterdir())
        raise InputError(
            f"tracking: the artifacts of {database} are neither beside it nor in {place}, where they were; bring "
            f"the folder {ARTIFACTS} back beside it, or make an empty one if they are gone for good: mkdir '{here}'"
        )
    if here.is_dir():
        return came_along  # otherwise a user chose the place
    raise InputError(
        f"tracking: {database} was moved without its artifacts, which are still in {place}; move them, too: "
        f"mv '{place}' '{here}', or link them if they are to stay: ln -s '{place}' '{here}'"
    )


def _rebase(connection: sqlite3.Connection, old: str, new: str) -> None:
    for table, column in list(_existing(connection)):
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
            (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
        )


_FORMAT_VERSION = 1
_TRAINING_TAG = "mttu.training"
_PARENT_TAG = "mlflow.parentRunId"
"""MLflow's own: its pages show such a run below its parent."""
_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""MLflow's own: its pages open such an experiment at its runs, any other at traces of language models."""
_ALL_RUNS = 3
"""`mlflow.entities.ViewType.ALL`: deleted ones, too."""


def open_tracker(
    config: Config,
    run_folder: Path,
    fingerprint: str,
    synthetic: bool,
    parent: Tracker | None = None,
    name: str | None = None,
    labels: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Tracker:
    """Opens the MLflow run of a training: a new one, or the one that the run folder already belongs to.

    Call it in one process before others write: it creates the database, which two processes cannot do at once.

    A child, such as a round of self-training, is identified by its parent and its name, so it is found again if its
    folder was moved or created again. A finished child stays finished.

    Args:
        config: Settings of the training; logged as flat parameters and as the artifact `config.yaml`, without paths.
        run_folder: Folder of the training; `tracking.json` in it holds the id of the MLflow run.
        fingerprint: Content hash of the manifest.
        synthetic: Whether every case is a phantom; pictures of phantoms are always allowed.
        parent: Tracker of the run that this one is a part of, which is written to the same place.
        name: Name of the run, `output.name` if not given. A child needs one, unique among its parent's children; it is
            shown before its parent's: `round 2, fold 1, demo`.
        labels: Parameters that tell runs apart in comparisons, e.g. `{"round": 2}`.
        tags: More tags of the run, e.g. why it has no IDH metric.

    Returns:
        A tracker that other processes can use too; a `NullTracker` if `tracking.enabled` is false or the parent is one.

    Raises:
        InputError: The address is refused or does not work, the recorded run or the folder of artifacts is gone,
            `tracking.model` is not a valid name of a registered model, or a parameter differs from what the run was
            started with.
    """
    if not config.tracking.enabled or isinstance(parent, NullTracker):
        return NullTracker()
    if config.tracking.model is not None:
        check_model_name(config.tracking.model)  # before anything is trained for it
    run_folder.mkdir(parents=True, exist_ok=True)
    if parent is None and lacks_environment(config.tracking.uri, run_folder):
        raise InputError(
            f"{run_folder}: is tracked where {VARIABLE} said when it was begun, and it is not set now; set it, or "
            f"tracking.uri, to that address, or delete {RECORD} to go on in a new MLflow run"
        )
    if isinstance(parent, MlflowTracker):
        uri, source = parent.uri, parent.named_by
    else:
        uri, source = resolve_uri(config.tracking.uri, run_folder), name_source(config.tracking.uri, run_folder)
    try:
        check_server(uri, source)
        client = connect(uri)
        if isinstance(parent, MlflowTracker):
            above = client.get_run(parent.run_id)
            run = _find_child(client, above, run_folder / RECORD, name or config.output.name)
        else:
            location, shared = _prepare_artifacts(uri, run_folder), database_path(uri) is None
            experiment_id = _find_experiment(client, config.tracking.experiment, location, shared)
            named_by = {NAMED_BY: VARIABLE} if source == VARIABLE else {}
            run = _find_run(client, experiment_id, run_folder / RECORD, name or config.output.name, named_by)
        tracker = MlflowTracker(uri, run.info.run_id, source)
        describe_run(client, run, tracker, config, fingerprint, synthetic, labels or {}, tags or {})
        if parent is None or run.info.status != "FINISHED":
            client.update_run(tracker.run_id, status="RUNNING")
    except mlflow_errors() as error:
        raise InputError(f"{source} {uri}: MLflow cannot use it ({reason_of(error)})") from error
    return tracker


def _prepare_artifacts(uri: str, run_folder: Path) -> str | None:
    """Where artifacts of a database go; a server decides that itself. Prepares a database that is a file."""
    if uri.startswith("http"):
        return None
    database = database_path(uri)
    if database is None:
        return (run_folder.resolve().parent / ARTIFACTS).as_uri()
    database.parent.mkdir(parents=True, exist_ok=True)
    follow_database(database)
    return (database.parent / ARTIFACTS).as_uri()


def follow_moved_folder(config: Config, run_folder: Path) -> None:
    """Makes MLflow find the artifacts of a finished run after its folder was moved with them."""
    database = database_path(resolve_uri(config.tracking.uri, run_folder)) if config.tracking.enabled else None
    if database is not None:
        with suppress(InputError):  # nothing will be written, so nothing has to be refused
            follow_database(database)


def _find_experiment(client: Any, name: str, location: str | None, shared: bool) -> str:
    """The id of an experiment, created if there is none, with its artifacts at `location`.

    The database may be shared: a server's, whose rows we do not change.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=location, tags=_KIND))
    if found.lifecycle_stage != "active":
        raise InputError(
            f"tracking.experiment: {name!r} was deleted in MLflow; restore it there "
            f"(mlflow experiments restore --experiment-id {found.experiment_id}) or choose another name"
        )
    for tag, value in _KIND.items():
        if tag not in found.tags:  # of an older MLflow or another program; a user's choice stays
            client.set_experiment_tag(found.experiment_id, tag, value)
    if shared or found.artifact_location != location:  # the folder beside a database file may be created again
        check_location(found.artifact_location, bool(client.search_runs([found.experiment_id], max_results=1)), name)
    return str(found.experiment_id)


def _find_run(client: Any, experiment_id: str, record_path: Path, name: str, named_by: Mapping[str, str]) -> Any:
    """The run of a folder, created if there is none. The folder's id is written first, so a kill orphans no run."""
    record = _read_record(record_path)
    if record is None:
        record = {"format_version": _FORMAT_VERSION, "training": uuid.uuid4().hex, "run_id": None, **named_by}
        write_json(record_path, record)
    tag = {_TRAINING_TAG: record["training"]}
    found = client.search_runs([experiment_id], filter_string=f"tags.`{_TRAINING_TAG}` = '{record['training']}'")
    if not found and record["run_id"] is not None:
        raise InputError(
            f"{record_path}: MLflow run {record['run_id']} is not in experiment {experiment_id} any more; give the "
            f"tracking.uri and tracking.experiment it was written to, or delete {RECORD} to go on in a new MLflow run"
        )
    run = found[0] if found else client.create_run(experiment_id, run_name=name, tags=tag)
    if record["run_id"] is None:
        write_json(record_path, {**record, "run_id": run.info.run_id, **named_by})
    return run


def _find_child(client: Any, parent: Any, record_path: Path, name: str) -> Any:
    """The child of that name. Its id is derived from its parent's and its name; the folder's record is not read."""
    training = uuid.uuid5(uuid.NAMESPACE_URL, f"{parent.info.run_id}/{name}").hex
    experiment_id = parent.info.experiment_id
    condition = f"tags.`{_TRAINING_TAG}` = '{training}'"
    found = client.search_runs([experiment_id], filter_string=condition, run_view_type=_ALL_RUNS)
    if found and found[0].info.lifecycle_stage != "active":
        raise InputError(
            f"{record_path.parent}: its MLflow run {name!r} was deleted; restore it "
            f"(mlflow runs restore --run-id {found[0].info.run_id})"
        )
    tags = {_TRAINING_TAG: training, _PARENT_TAG: parent.info.run_id}
    full_name = f"{name}, {parent.info.run_name}"  # tells runs of several parents apart
    run = found[0] if found else client.create_run(experiment_id, run_name=full_name, tags=tags)
    write_json(record_path, {"format_version": _FORMAT_VERSION, "training": training, "run_id": run.info.run_id})
    return run


def _read_record(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    mend = "delete it to go on in a new MLflow run"
    record = read_versioned(path, _FORMAT_VERSION, mend)
    if not {"training", "run_id"} <= record.keys():
        raise InputError(f"{path}: damaged; {mend}")
    return record

"""Where MLflow writes: tracking addresses, in full and without passwords."""

import os
from pathlib import Path
from shlex import quote

from mttu.atomic import read_json
from mttu.errors import InputError, keep_secret, mask_secrets

SQLITE = "sqlite:///"
SETTING = "tracking.uri"
VARIABLE = "MLFLOW_TRACKING_URI"
"""MLflow's own; counts where `tracking.uri` is not set."""
RECORD = "tracking.json"
"""File in the run folder that ties the folder to its MLflow run."""
NAMED_BY = "named_by"
"""Field of the record: the variable that named the address, if one did."""
_SERVERS = {"http", "https", "postgresql", "mysql", "mssql"}


def resolve_uri(uri: str | None, run_folder: Path) -> str:
    """The tracking URI in full; SQLite paths are made absolute.

    If none is set, `MLFLOW_TRACKING_URI` counts, but for a run that was begun without it; else it is `mlflow.db` beside
    the run folder.

    Raises:
        InputError: An address of a kind that MLflow does not write to, such as a plain folder.
    """
    where = name_source(uri, run_folder)
    if where == VARIABLE:
        uri = os.environ[VARIABLE]
    if uri is None:
        return f"{SQLITE}{run_folder.resolve().parent / 'mlflow.db'}"
    keep_secret(uri)
    scheme, separator, _ = uri.partition("://")
    is_server = bool(separator) and scheme.partition("+")[0] in _SERVERS
    if not is_server and not (uri.startswith(SQLITE) and uri != SQLITE):
        raise InputError(
            f"{where}: {uri!r} is not an address that MLflow can write to; give a database "
            "(sqlite:///mlflow.db), an MLflow server (http://127.0.0.1:5000), or leave the setting out"
            + ("" if where != VARIABLE else "; tracking.uri counts before this variable")
        )
    database = database_path(uri)
    return uri if database is None else f"{SQLITE}{database.resolve()}"


def _is_from_environment(uri: str | None, run_folder: Path) -> bool:
    """Whether `MLFLOW_TRACKING_URI` says where a run is tracked: no setting does, and it was not begun without it."""
    if uri is not None or not os.environ.get(VARIABLE):
        return False
    run_id, named_by = _read_names(run_folder)
    return run_id is None or named_by == VARIABLE


def name_source(uri: str | None, run_folder: Path) -> str:
    """Name of the setting or variable that says where a run is tracked."""
    return VARIABLE if _is_from_environment(uri, run_folder) else SETTING


def lacks_environment(uri: str | None, run_folder: Path) -> bool:
    """Whether a run was begun where `MLFLOW_TRACKING_URI` said, and neither it nor a setting says so now."""
    return uri is None and not os.environ.get(VARIABLE) and _read_names(run_folder)[1] == VARIABLE


def describe_environment(uri: str | None, run_folder: Path, fresh: bool) -> str | None:
    """What becomes of `MLFLOW_TRACKING_URI` in a run that is begun or, unless it is fresh, goes on; None if not set."""
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    keep_secret(named)
    if _is_from_environment(uri, run_folder) or (fresh and uri is None):
        return f"MLflow writes to {mask_secrets(named)}, as {VARIABLE} says; tracking.uri counts before it"
    if uri is not None:
        return f"{VARIABLE} is ignored, for tracking.uri is set"
    return f"{VARIABLE} is ignored, for {run_folder} was begun without it; --fresh, or tracking.uri, goes there"


def _read_names(run_folder: Path) -> tuple[str | None, str | None]:
    """MLflow run of a folder and the variable that named its address; a record that is damaged is its reader's."""
    try:
        record = read_json(run_folder / RECORD)
        return record.get("run_id"), record.get(NAMED_BY)
    except (OSError, ValueError, AttributeError):
        return None, None


def database_path(uri: str) -> Path | None:
    """The file of a SQLite URI, None for any other."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def show_command(uri: str) -> str:
    """The command that opens the runs in a browser on this machine; for a server, its address."""
    if uri.startswith("http"):
        return mask_secrets(uri)
    switches = "MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
    return f"{switches} mlflow ui --host 127.0.0.1 --backend-store-uri {quote(mask_secrets(uri))}"

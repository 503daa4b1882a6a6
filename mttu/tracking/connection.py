"""The address of MLflow, the connection to it, and its failures in words."""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from shlex import quote
from typing import Any

from mttu.errors import InputError, RunError, keep_secret, mask_secrets
from mttu.files import read_json
from mttu.reach import ask_port, find_reason

SQLITE = "sqlite:///"
SETTING = "tracking.uri"
VARIABLE = "MLFLOW_TRACKING_URI"
"""MLflow's own variable; used if `tracking.uri` is not set."""
RECORD = "tracking.json"
"""File in the run folder that ties the folder to its MLflow run."""
NAMED_BY = "named_by"
"""Field of the record: the variable that named the address, if one did."""
_SERVERS = {"http", "https", "postgresql", "mysql", "mssql"}


def resolve_uri(uri: str | None, run_folder: Path) -> str:
    """The tracking URI in full; SQLite paths are made absolute.

    If none is set, it is `MLFLOW_TRACKING_URI`, except for a run that was begun without it; else `mlflow.db` beside the
    run folder.

    Raises:
        InputError: MLflow does not write to this kind of address, such as a plain folder.
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


def name_source(uri: str | None, run_folder: Path) -> str:
    """Name of the setting or variable that says where a run is tracked.

    It is `MLFLOW_TRACKING_URI` where no setting says so, and the run was not begun without the variable.
    """
    if uri is not None or not os.environ.get(VARIABLE):
        return SETTING
    run_id, named_by = _read_names(run_folder)
    return VARIABLE if run_id is None or named_by == VARIABLE else SETTING


def lacks_environment(uri: str | None, run_folder: Path) -> bool:
    """Whether a run was begun where `MLFLOW_TRACKING_URI` said, and neither it nor a setting says so now."""
    return uri is None and not os.environ.get(VARIABLE) and _read_names(run_folder)[1] == VARIABLE


def describe_environment(uri: str | None, run_folder: Path, fresh: bool) -> str | None:
    """How a run uses `MLFLOW_TRACKING_URI`, in words; with `fresh`, for a new run. None if the variable is not set."""
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    keep_secret(named)
    if name_source(uri, run_folder) == VARIABLE or (fresh and uri is None):
        return f"MLflow writes to {mask_secrets(named)}, as {VARIABLE} says; tracking.uri counts before it"
    if uri is not None:
        return f"{VARIABLE} is ignored, because tracking.uri is set"
    return f"{VARIABLE} is ignored, because {run_folder} was begun without it; --fresh, or tracking.uri, goes there"


def _read_names(run_folder: Path) -> tuple[str | None, str | None]:
    """MLflow run of a folder and the variable that named its address; None of a damaged record, refused elsewhere."""
    try:
        record = read_json(run_folder / RECORD)
        return record.get("run_id"), record.get(NAMED_BY)
    except (OSError, ValueError, AttributeError):
        return None, None


def database_path(uri: str) -> Path | None:
    """The file of a SQLite URI; None for any other."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def show_command(uri: str) -> str:
    """The command that opens the runs in a browser on this machine; for a server, its address."""
    if uri.startswith("http"):
        return mask_secrets(uri)
    switches = "MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
    return f"{switches} mlflow ui --host 127.0.0.1 --backend-store-uri {quote(mask_secrets(uri))}"


_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""Limits for a server that answered a moment ago, unless the user's environment sets them. MLflow's own are 120 s and
seven retries, each after twice the pause of the one before."""
_INSECURE = "MLFLOW_TRACKING_INSECURE_TLS"
_SERVER_FILE, _CLIENT_FILE = "MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH"
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_HTTP = "http://HOST:PORT or https://HOST:PORT, a port of 1 to 65535"
_DATABASE = "KIND://HOST:PORT/NAME, a port of 1 to 65535, and signs such as : / @ in a password as %3A %2F %40"


@lru_cache(maxsize=8)
def connect(uri: str) -> Any:
    """An MLflow client; `mttu/__init__.py` has switched telemetry off."""
    for name, value in _LIMITS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient  # takes seconds to import

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def check_server(uri: str, named_by: str = SETTING) -> None:
    """Makes sure that the server at a complete address answers; MLflow itself would try for minutes.

    Raises:
        InputError: It is not an address, nothing answers within `mttu.reach.PATIENCE_SECONDS`, or its certificate is
            not trusted.
    """
    if database_path(uri) is not None:
        return
    where, is_http = f"{named_by} {uri}", uri.startswith("http")
    ask = _ask_http(uri, where) if is_http else _ask_database(uri, where)
    if ask is None:
        return
    reason = find_reason(ask, f"MLflow's {'server' if is_http else 'database'} at {mask_secrets(uri)}")
    if reason:
        # all that remains of some refusals, e.g. if the client has no certificate
        hint = f", set {_CLIENT_FILE} where it asks for a certificate" if "EOF" in reason else ""
        raise InputError(
            f"{where}: nothing answers there ({reason}); start it, mend the address{hint}, or go on untracked "
            "with tracking.enabled=false"
        )


def _ask_http(uri: str, where: str) -> Callable[[float], str]:
    """Any answer counts, even a refusal, which MLflow explains. A proxy is used as by MLflow."""
    import requests  # comes with mlflow

    insecure = os.environ.get(_INSECURE, "false")
    if insecure.lower() not in ("true", "false", "1", "0"):
        raise InputError(f"{_INSECURE}: {insecure!r}; MLflow takes true or false")
    verify = os.environ.get(_SERVER_FILE, insecure.lower() not in ("true", "1"))
    options: dict[str, Any] = {"verify": verify, "cert": os.environ.get(_CLIENT_FILE), "allow_redirects": False}

    def ask(seconds: float) -> str:
        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=seconds, **options).close()
        except requests.Timeout:
            return "no answer"
        except requests.exceptions.SSLError as error:
            reason = _root_of(error)
            if "EOF" in reason:  # e.g. a server that is being restarted
                return reason
            raise _distrust(where, reason) from None
        except requests.ConnectionError as error:
            return _root_of(error)
        except requests.RequestException as error:
            if isinstance(error, ValueError):  # about an address, also a proxy's, before anything is sent
                raise InputError(f"{where}: is no address ({reason_of(error)}); expected {_HTTP}") from None
        except OSError as error:  # a certificate file is missing
            raise _distrust(where, reason_of(error)) from None
        return ""

    return ask


def _distrust(where: str, reason: str) -> InputError:
    return InputError(
        f"{where}: no encrypted connection ({reason}); set {_SERVER_FILE} to its certificate or its authority's (PEM), "
        f"{_CLIENT_FILE} to yours where it asks for one, or give http:// where it speaks without encryption"
    )


def _root_of(error: BaseException) -> str:
    """The innermost of nested errors: `Connection refused` instead of a page."""
    while (inner := getattr(error, "reason", None) or (error.args and error.args[0])) and isinstance(
        inner, BaseException
    ):
        error = inner
    system = error.__cause__ or error.__context__
    return getattr(system, "strerror", None) or getattr(error, "strerror", None) or reason_of(Exception(str(error)))


def _ask_database(uri: str, where: str) -> Callable[[float], str] | None:
    from sqlalchemy.engine import make_url  # comes with mlflow
    from sqlalchemy.exc import ArgumentError

    try:
        address = make_url(uri)
        (address.host or "").encode("idna")  # as a socket would
        if not 0 < (1 if address.port is None else address.port) < 2**16:
            raise ValueError
    except (ArgumentError, ValueError):  # whose message may hold a part of the password
        raise InputError(f"{where}: is no address; expected {_DATABASE}") from None
    host, port = address.host, address.port or _PORTS.get(address.get_backend_name())
    if host is None or port is None:
        return None  # a socket file, or a driver's own form of address
    return lambda seconds: ask_port(host, port, seconds)


def mlflow_errors() -> tuple[type[Exception], ...]:
    """What MLflow raises if an address does not work; it does not wrap everything in its own exception."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError  # comes with mlflow

    return MlflowException, SQLAlchemyError, ImportError, OSError


def reason_of(error: Exception) -> str:
    """The first line of an error; those of databases and servers can be pages long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def show_page(uri: str, experiment: str, named_by: str = SETTING) -> str:
    """Address of the page of an experiment's runs: on the server, or as served by the command of `show_command`."""
    server = mask_secrets(uri).rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    with writing_to(uri, named_by) as client:
        return f"{server}/#/experiments/{client.get_experiment_by_name(experiment).experiment_id}/runs"


@contextmanager
def writing_to(uri: str, named_by: str = SETTING) -> Iterator[Any]:
    """Yields a client of an existing database or server.

    Args:
        uri: Tracking URI in full.
        named_by: Setting or variable that it is from.

    Raises:
        RunError: The database is not on this machine, or MLflow refuses or fails in the body.
    """
    database = database_path(uri)
    if database is not None and not database.exists():
        raise RunError(
            f"tracking: {database} does not exist on {platform.node()}; on several machines give the address of an "
            "MLflow server that all of them reach, e.g. tracking.uri=http://SERVER:5000"
        )
    try:
        try:
            check_server(uri, named_by)
        except InputError as error:
            raise RunError(f"{error}; the same command goes on from here") from None
        yield connect(uri)
    except mlflow_errors() as error:
        raise RunError(
            f"{named_by} {uri}: MLflow cannot write ({reason_of(error)}); mend it and give the "
            "same command again, it goes on from here, or go on untracked with tracking.enabled=false"
        ) from error

"""Where MLflow writes: tracking addresses, in full and without passwords."""

from pathlib import Path

from mttu.errors import InputError, mask_secrets

SQLITE = "sqlite:///"
_SERVERS = {"http", "https", "postgresql", "mysql", "mssql"}


def resolve_uri(uri: str | None, run_folder: Path) -> str:
    """The tracking URI in full: `mlflow.db` beside the run folder if none is set; SQLite paths are made absolute.

    Raises:
        InputError: An address of a kind that MLflow does not write to, such as a plain folder.
    """
    if uri is None:
        return f"{SQLITE}{run_folder.resolve().parent / 'mlflow.db'}"
    scheme, separator, _ = uri.partition("://")
    is_server = bool(separator) and scheme.partition("+")[0] in _SERVERS
    if not is_server and not (uri.startswith(SQLITE) and uri != SQLITE):
        raise InputError(
            f"tracking.uri: {uri!r} is not an address that MLflow can write to; give a database "
            "(sqlite:///mlflow.db), an MLflow server (http://127.0.0.1:5000), or leave the setting out"
        )
    database = database_path(uri)
    return uri if database is None else f"{SQLITE}{database.resolve()}"


def database_path(uri: str) -> Path | None:
    """The file of a SQLite URI, None for any other."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def show_command(uri: str) -> str:
    """The command that opens the runs in a browser on this machine; for a server, its address."""
    if uri.startswith("http"):
        return mask_secrets(uri)
    switches = "MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
    return f"{switches} mlflow ui --host 127.0.0.1 --backend-store-uri '{mask_secrets(uri)}'"

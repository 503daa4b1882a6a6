"""Where MLflow writes: tracking addresses, in full and without passwords."""

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from mttu.errors import InputError

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
            f"tracking.uri: {without_password(uri)!r} is not an address that MLflow can write to; give a database "
            "(sqlite:///mlflow.db), an MLflow server (http://127.0.0.1:5000), or leave the setting out"
        )
    database = database_path(uri)
    return uri if database is None else f"{SQLITE}{database.resolve()}"


def database_path(uri: str) -> Path | None:
    """The file of a SQLite URI, None for any other."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def without_password(uri: str) -> str:
    """The address as it may be shown: what stands before `@` is left out."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def show_command(uri: str) -> str:
    """The command that opens the runs in a browser on this machine; for a server, its address."""
    if uri.startswith("http"):
        return without_password(uri)
    return f"mlflow ui --host 127.0.0.1 --backend-store-uri '{without_password(uri)}'"

"""The connection to MLflow, and what is said where it fails."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from mttu.errors import RunError, mask_secrets
from mttu.tracking.address import database_path


def connect(uri: str) -> Any:
    """An MLflow client; `mttu/__init__.py` has switched telemetry off."""
    return _cached_client(uri)


@lru_cache(maxsize=8)
def _cached_client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient  # takes seconds to import, so only where a run is really written

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def mlflow_errors() -> tuple[type[Exception], ...]:
    """What MLflow raises where an address does not work; not all of it arrives wrapped in its own exception."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError  # comes with mlflow

    return MlflowException, SQLAlchemyError, ImportError, OSError


def reason_of(error: Exception) -> str:
    """The first line of an error: databases and servers add pages to theirs."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def show_page(uri: str, experiment: str) -> str:
    """The page of an experiment's runs: on the server, or where the command of `show_command` serves it.

    Args:
        uri: Of a database or server.
        experiment: Name of an experiment that it holds.
    """
    server = mask_secrets(uri).rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    with writing_to(uri) as client:
        return f"{server}/#/experiments/{client.get_experiment_by_name(experiment).experiment_id}/runs"


@contextmanager
def writing_to(uri: str) -> Iterator[Any]:
    """Yields a client of a database or server that is there; what then goes wrong is told in words.

    Raises:
        RunError: The database is not on this machine, or MLflow refuses or fails.
    """
    database = database_path(uri)
    if database is not None and not database.exists():
        raise RunError(
            f"tracking: {database} does not exist on {platform.node()}; on several machines give the address of an "
            "MLflow server that all of them reach, e.g. tracking.uri=http://SERVER:5000"
        )
    try:
        yield connect(uri)
    except mlflow_errors() as error:
        raise RunError(
            f"tracking.uri {uri}: MLflow cannot write ({reason_of(error)}); mend it and give the "
            "same command again, it goes on from here, or go on untracked with tracking.enabled=false"
        ) from error

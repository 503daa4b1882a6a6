"""Checkpoints of MLflow: a run's best weights, or a version of a registered model, brought into a folder."""

import os
from pathlib import Path

from mttu.errors import InputError, mask_secrets
from mttu.files import atomic_folder, remove, write_json
from mttu.networks.checkpoint import is_checkpoint
from mttu.tracking.connection import (
    check_server,
    connect,
    database_path,
    mlflow_errors,
    name_source,
    reason_of,
    resolve_uri,
)
from mttu.tracking.mlflow_tracker import BEST
from mttu.tracking.registry import check_safe_files
from mttu.tracking.runs import follow_database

_RUNS, _MODELS = "runs:/", "models:/"
ADDRESSES = f"{_RUNS}RUN_ID, {_MODELS}NAME/VERSION, {_MODELS}NAME@ALIAS"
"""What MLflow's addresses of weights look like."""

_MARK = "fetched.json"
"""File that says of a folder that it was fetched, and may be replaced."""


def is_address(text: str) -> bool:
    """Whether a text is such an address, and no path."""
    return text.startswith((_RUNS, _MODELS))


def fetch_checkpoint(address: str, into: Path, runs: Path, uri: str | None = None) -> Path:
    """Brings a checkpoint of MLflow into a new folder; one that an earlier call brought there is replaced.

    Args:
        address: One of `ADDRESSES`.
        into: The folder; it is from an earlier call, or not there.
        runs: Folder of the runs, whose `mlflow.db` is asked where neither `uri` nor `MLFLOW_TRACKING_URI` is given.
        uri: Tracking URI.

    Returns:
        The folder.

    Raises:
        InputError: There is no such database, run, or version; it holds no checkpoint; or the folder is something else.
    """
    if into.exists() and not (into / _MARK).is_file():
        raise InputError(f"{into}: is to hold the weights of {address}, but holds something else; move it")
    place = runs / "any"  # the database is looked for beside it
    full, named_by = resolve_uri(uri, place), name_source(uri, place)
    database = database_path(full)
    if database is not None and not database.is_file():
        raise InputError(f"{address}: {database} does not exist; say with MLFLOW_TRACKING_URI where its run is tracked")
    check_server(full, named_by)
    if database is not None:
        follow_database(database)
    with atomic_folder(into) as folder:
        try:
            _download(address, full, folder)
            write_json(folder / _MARK, {"address": address})
        except InputError:
            remove(folder)
            raise
    return into


def _download(address: str, uri: str, folder: Path) -> None:
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow.artifacts import download_artifacts  # takes seconds to import

    try:
        download_artifacts(_find_artifact(address, uri), dst_path=str(folder), tracking_uri=uri)
    except mlflow_errors() as error:
        reason, where = mask_secrets(reason_of(error)), mask_secrets(uri)
        raise InputError(f"{address}: not found at {where} ({reason}); addresses are {ADDRESSES}") from None
    if not is_checkpoint(folder):
        raise InputError(f"{address}: holds no weights of mttu; give a training or self-training that has finished")
    check_safe_files(folder)


def _find_artifact(address: str, uri: str) -> str:
    """Where the checkpoint lies. MLflow's own way to a model asks the registry of the process, not the one at `uri`."""
    if address.startswith(_RUNS):
        return address if "/" in address.removeprefix(_RUNS) else f"{address}/{BEST}"
    name, sign, alias = address.removeprefix(_MODELS).rpartition("@")
    client = connect(uri)
    if sign:
        version = client.get_model_version_by_alias(name, alias).version
    else:
        name, _, version = alias.rpartition("/")
    return str(client.get_model_version_download_uri(name, version))

"""How a training gets its MLflow run: found by the run folder or made, then described in full."""

import json
import platform
import uuid
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mttu.atomic import write_json
from mttu.config import Config, flatten, to_yaml
from mttu.config.sharing import FREE_TO_CHANGE, without_paths
from mttu.errors import InputError, raise_if_any
from mttu.tracking.address import database_path, resolve_uri, without_password
from mttu.tracking.mlflow_tracker import PICTURES_TAG, MlflowTracker, connect
from mttu.tracking.tracker import NullTracker, Tracker

RECORD = "tracking.json"
"""File in the run folder that ties the folder to its MLflow run."""

_FORMAT_VERSION = 1
_TRAINING_TAG = "mttu.training"
_PACKAGES = ("mttu", "torch", "ray", "monai", "numpy", "scipy", "nibabel")
_NOT_PARAMETERS = ("tracking.", "output.", "workers.max_failures", "data.cache_dir")
"""Settings that decide where results go, not what they are; most hold paths."""


def open_tracker(config: Config, run_folder: Path, fingerprint: str, synthetic: bool) -> Tracker:
    """Opens the MLflow run of a training: a new one, or the one that the run folder already belongs to.

    Call it in one process before others write: it creates the database, which two processes cannot do at once.

    Args:
        config: Settings of the training; logged as flat parameters and as the artifact `config.yaml`, without paths.
        run_folder: Folder of the training; `tracking.json` in it holds the id of the MLflow run.
        fingerprint: Content hash of the manifest.
        synthetic: Whether every case is a phantom; pictures of phantoms are always allowed.

    Returns:
        A tracker that other processes can use too; a `NullTracker` where `tracking.enabled` is false.

    Raises:
        InputError: The address is refused or does not work, the recorded run is gone, or a parameter differs from
            what the run was started with.
    """
    if not config.tracking.enabled:
        return NullTracker()
    uri = resolve_uri(config.tracking.uri, run_folder)
    run_folder.mkdir(parents=True, exist_ok=True)
    database = database_path(uri)
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
        artifacts = database.parent / "mlflow-artifacts"
    else:
        artifacts = run_folder.resolve().parent / "mlflow-artifacts"
    try:
        client = connect(uri)
        # A server decides itself where artifacts go; for a database it is said here.
        location = None if uri.startswith("http") else artifacts.as_uri()
        experiment_id = _find_experiment(client, config.tracking.experiment, location)
        run = _find_run(client, experiment_id, run_folder / RECORD, config.output.name)
        _describe(client, run, config, fingerprint, synthetic)
    except _address_errors() as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"tracking.uri {without_password(uri)}: MLflow cannot use it ({reason})") from error
    return MlflowTracker(uri, run.info.run_id)


def _address_errors() -> tuple[type[Exception], ...]:
    """What MLflow raises where an address does not work; not all of it arrives wrapped in its own exception."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError  # comes with mlflow

    return MlflowException, SQLAlchemyError, ImportError, OSError


def _find_experiment(client: Any, name: str, location: str | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=location))
    if found.lifecycle_stage != "active":
        raise InputError(
            f"tracking.experiment: {name!r} was deleted in MLflow; restore it there "
            f"(mlflow experiments restore --experiment-id {found.experiment_id}) or choose another name"
        )
    return str(found.experiment_id)


def _find_run(client: Any, experiment_id: str, record_path: Path, name: str) -> Any:
    """The run of a folder. The folder's own id is written first, so that a kill leaves no run without an owner."""
    record = _read_record(record_path)
    if record is None:
        record = {"format_version": _FORMAT_VERSION, "training": uuid.uuid4().hex, "run_id": None}
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
        write_json(record_path, {**record, "run_id": run.info.run_id})
    return run


def _read_record(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        known = record["format_version"] == _FORMAT_VERSION and {"training", "run_id"} <= set(record)
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise InputError(f"{path}: damaged or of another version; delete it to go on in a new MLflow run")
    return dict(record)


def _describe(client: Any, run: Any, config: Config, fingerprint: str, synthetic: bool) -> None:
    """Writes what the run is. Everything here may be written again, so a kill in between is mended by the resume."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

    run_id, earlier = run.info.run_id, run.data.params
    parameters = _parameters(config) | {"manifest.fingerprint": fingerprint}
    changed = {name: value for name, value in parameters.items() if earlier.get(name, value) != value}
    raise_if_any(
        [
            f"{name}: the MLflow run of this folder was started with {earlier[name]}, now it is {value}; "
            "set it back, or train under another output.name"
            for name, value in changed.items()
            if not name.startswith(FREE_TO_CHANGE)
        ]
    )
    pictures = synthetic or config.tracking.log_patient_images
    tags = {PICTURES_TAG: "allowed" if pictures else "refused", **_versions(run.data.tags)}
    tags |= {f"changed.{name}": value for name, value in changed.items()}
    rows = [Param(name, value) for name, value in parameters.items() if name not in earlier]
    for start in range(0, len(rows), 100):  # MLflow takes at most 100 parameters at once
        client.log_batch(run_id, params=rows[start : start + 100])
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    manifest = config.data.manifest.name if config.data.manifest else "manifest"
    dataset = Dataset(manifest, fingerprint[:36], "local", json.dumps({"uri": manifest}))
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    client.log_text(run_id, to_yaml(without_paths(config)), "config.yaml")
    client.update_run(run_id, status="RUNNING")


def _parameters(config: Config) -> dict[str, str]:
    flat = flatten(without_paths(config).model_dump(mode="json"))
    kept = {name: value for name, value in flat.items() if not name.startswith(_NOT_PARAMETERS)}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in kept.items()}


def _versions(earlier: dict[str, str]) -> dict[str, str]:
    """Versions as tags; a run resumed with another version names both, in order."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # mttu from a source tree without installation
            found[package] = "unknown"
    tags = {}
    for name, now in found.items():
        past = [text for text in earlier.get(f"version.{name}", "").split(", ") if text]
        tags[f"version.{name}"] = ", ".join(past if now in past else [*past, now])
    return tags

"""The description of an MLflow run: settings, versions, data."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mttu.config import Config, flatten, to_yaml
from mttu.config.batches import describe_accumulation
from mttu.config.changeable import list_changeable
from mttu.config.sharing import without_paths
from mttu.errors import raise_if_any
from mttu.tracking.mlflow_tracker import PICTURES_TAG, MlflowTracker

ACCUMULATION_TAG = "recipe.accumulation"
"""Tag of runs that take a worker's share of a step in micro-batches: what that changes."""
_PACKAGES = ("mttu", "torch", "ray", "monai", "numpy", "scipy", "nibabel")
_NOT_PARAMETERS = ("tracking.", "output.", "workers.max_failures", "data.cache_dir")
"""Settings that have no influence on results; most hold paths."""


def describe_run(
    client: Any,
    run: Any,
    tracker: MlflowTracker,
    config: Config,
    fingerprint: str,
    synthetic: bool,
    labels: Mapping[str, object],
    more_tags: Mapping[str, str],
) -> None:
    """Writes the run's description. It can be written again at any time, so a resume completes it after a kill.

    `run` is what MLflow returned before; `labels` are more parameters, by which runs are compared, e.g. `round`;
    `more_tags` are written as they are.

    Raises:
        InputError: Parameters differ from what the run was started with; names each.
    """
    from mlflow.entities import Param, RunTag

    run_id, earlier = run.info.run_id, run.data.params
    flat = flatten(without_paths(config).model_dump(mode="json"))
    kept = {name: value for name, value in flat.items() if not name.startswith(_NOT_PARAMETERS)}
    parameters = {name: value if isinstance(value, str) else json.dumps(value) for name, value in kept.items()}
    parameters |= {"manifest.fingerprint": fingerprint} | {name: str(value) for name, value in labels.items()}
    changed = {name: value for name, value in parameters.items() if earlier.get(name, value) != value}
    changeable = list_changeable()
    raise_if_any(
        [
            f"{name}: the MLflow run of this folder was started with {earlier[name]}, now it is {value}; "
            "set it back, or train under another output.name"
            for name, value in changed.items()
            if not name.startswith(changeable)
        ]
    )
    pictures = synthetic or config.tracking.log_patient_images
    tags = {PICTURES_TAG: "allowed" if pictures else "refused", **_versions(run.data.tags)}
    accumulation = describe_accumulation(config.train, config.workers.num_workers)
    if accumulation is not None:
        tags[ACCUMULATION_TAG] = accumulation
    tags |= {f"changed.{name}": value for name, value in changed.items()} | dict(more_tags)
    rows = [Param(name, value) for name, value in parameters.items() if name not in earlier]
    for start in range(0, len(rows), 100):  # MLflow takes at most 100 parameters at once
        client.log_batch(run_id, params=rows[start : start + 100])
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    tracker.log_dataset(config.data.manifest.name if config.data.manifest else "manifest", fingerprint, "training")
    client.log_text(run_id, to_yaml(without_paths(config)), "config.yaml")


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

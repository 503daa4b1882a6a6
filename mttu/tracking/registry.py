"""Versions of a registered model: allowed names, and one version per run."""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mttu.errors import InputError, raise_if_any

WEIGHTS_TAG = "weights.sha256"
"""Tag of a version: SHA-256 of its safetensors files, joined in the order of their names."""

_MODEL_NAME = re.compile(r"\w([\w .-]{0,254}[\w.-])?")
_ALIAS = re.compile(r"[\w-]{1,255}")
_RESERVED_ALIAS = re.compile(r"latest|v\d+", re.IGNORECASE)
_SAFE = {".safetensors", ".yaml", ".json"}
_DESCRIPTION = """\
MTTU-Net weights as safetensors with their settings as YAML; no pickle. One version per run. Research use only.

```sh
export MLFLOW_TRACKING_URI=ADDRESS  # sqlite:///PATH/mlflow.db, or the server's
mlflow artifacts download --artifact-uri 'models:/{name}@best' --dst-path weights
mttu predict weights CASES... --output predictions
```"""


def check_model_name(name: str) -> None:
    """Raises `InputError` if a registered model cannot have this name: MLflow allows no `/` and no `:` in it."""
    if not _MODEL_NAME.fullmatch(name):
        raise InputError(
            f"registered model {name!r}: give at most 256 letters, digits, spaces, '.', '_' and '-', "
            "a letter or a digit first and no space last"
        )


def check_alias(alias: str) -> None:
    """Raises `InputError` if MLflow does not allow this alias."""
    if not _ALIAS.fullmatch(alias) or _RESERVED_ALIAS.fullmatch(alias):
        raise InputError(
            f"alias {alias!r}: give at most 255 letters, digits, '_' and '-'; 'latest' and 'v1', 'v2', ... are MLflow's"
        )


def check_safe_files(folder: Path) -> None:
    """Raises `InputError` if a folder holds no weights, or files of kinds that a registered model must not have."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    problems = [
        f"checkpoint {folder}: {file.relative_to(folder)} cannot be registered; safetensors, YAML and JSON can"
        for file in files
        if file.suffix not in _SAFE
    ]
    if not any(file.suffix == ".safetensors" for file in files):
        problems.append(f"checkpoint {folder}: no safetensors file in it; give the `best` folder of a run")
    raise_if_any(problems)


def register_version(
    client: Any,
    run_id: str,
    model_name: str,
    folder: Path,
    tags: Mapping[str, object],
    artifact: str,
    upload: Callable[[Path], None],
) -> str:
    """The run's version of a model, created or updated; after a kill, the same call completes it.

    `upload` keeps the checkpoint folder as the run's artifact folder `artifact`. Weights are uploaded before the
    version that names them, and before its hash is written.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    weights = digest.hexdigest()
    tags = {name: str(value) for name, value in tags.items()} | {WEIGHTS_TAG: weights}
    found = [item for item in client.search_model_versions(f"run_id = '{run_id}'") if item.name == model_name]
    if found:
        version = min(found, key=lambda item: int(item.version))
        if version.tags.get(WEIGHTS_TAG) != weights:
            upload(folder)
        for name, value in tags.items():
            if version.tags.get(name) != value:
                client.set_model_version_tag(model_name, version.version, name, value)
        return str(version.version)
    if not client.search_registered_models(f"name = '{model_name}'"):
        client.create_registered_model(model_name, description=_DESCRIPTION.format(name=model_name))
    upload(folder)
    run = client.get_run(run_id)
    made = client.create_model_version(
        model_name,
        source=f"{run.info.artifact_uri}/{artifact}",
        run_id=run_id,
        tags=tags,
        description=run.data.tags.get("mlflow.note.content") or run.info.run_name,
    )
    return str(made.version)

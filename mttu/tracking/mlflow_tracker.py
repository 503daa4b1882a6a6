"""The tracker that writes to MLflow: a few strings, so that another process can write to the same run."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mttu.config import load_stored_config, to_yaml
from mttu.config.sharing import without_paths
from mttu.data.absent_classes import read_absences
from mttu.files import read_json
from mttu.patients import drop_patients
from mttu.tracking.connection import SETTING, writing_to
from mttu.tracking.registry import check_alias, check_model_name, check_safe_files, register_version
from mttu.tracking.tracker import RunStatus

PICTURES_TAG = "mttu.pictures"
"""Tag of a run that says whether pictures are `allowed` or `refused`: the rule travels with the run."""
ABSENT_TAG = "mttu.absent_classes"
"""Tag of a run: classes of the training masks that the newest validation found in no prediction, and since when, or
`none`."""
EPOCH = "epoch"
"""Metric that marks an epoch as logged; it is written in one transaction with the epoch's metrics."""
BEST = "best"
"""Artifact folder of the checkpoint."""


@dataclass(frozen=True)
class MlflowTracker:
    """Writes to an MLflow run that `open_tracker` made; cheap to build and to pickle. See `Tracker`.

    All methods raise `mttu.errors.RunError` where MLflow cannot be written to.
    """

    uri: str
    run_id: str
    named_by: str = SETTING

    @property
    def allows_pictures(self) -> bool:
        """Whether the run was opened for a synthetic cohort, or with `tracking.log_patient_images`."""
        with writing_to(self.uri, self.named_by) as client:
            return bool(client.get_run(self.run_id).data.tags.get(PICTURES_TAG) == "allowed")

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Logs an epoch's metrics in one transaction, unless the run already holds that epoch. See `Tracker`."""
        with writing_to(self.uri, self.named_by) as client:
            if not _holds(client, self.run_id, EPOCH, epoch):
                absences = read_absences(metrics)
                if absences is not None:  # before the metrics: after a kill in between, both are logged again
                    told = ", ".join(f"{absence.title} since epoch {absence.since}" for absence in absences)
                    client.set_tag(self.run_id, ABSENT_TAG, told or "none")
                _write_metrics(client, self.run_id, epoch, {**metrics, EPOCH: epoch})

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs in one transaction those metrics that the run does not hold at that step. See `Tracker`."""
        with writing_to(self.uri, self.named_by) as client:
            known = client.get_run(self.run_id).data.metrics
            new = {
                name: value
                for name, value in metrics.items()
                if name not in known or not _holds(client, self.run_id, name, step)
            }
            _write_metrics(client, self.run_id, step, new)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tags the run. See `Tracker`."""
        with writing_to(self.uri, self.named_by) as client:
            for name, value in tags.items():
                client.set_tag(self.run_id, name, value)

    def log_picture(self, path: Path) -> bool:
        """Keeps a picture that shows a case under `pictures/`, if the run allows it. See `Tracker`."""
        if not self.allows_pictures:
            return False
        self.log_figure(path)
        return True

    def log_figure(self, path: Path) -> None:
        """Keeps a picture that shows no case under `pictures/`."""
        with writing_to(self.uri, self.named_by) as client:
            client.log_artifact(self.run_id, str(path), "pictures")

    def log_table(self, path: Path) -> None:
        """Keeps a table under `tables/`. See `Tracker`."""
        with writing_to(self.uri, self.named_by) as client:
            client.log_artifact(self.run_id, str(path), "tables")

    def log_dataset(self, name: str, digest: str, context: str) -> None:
        """Names an input of the run; MLflow itself knows a name and digest that the run has. See `Tracker`."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name, digest[:36], "local", json.dumps({"uri": name}))
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])]
        with writing_to(self.uri, self.named_by) as client:
            client.log_inputs(self.run_id, datasets=inputs)

    def log_checkpoint(self, folder: Path) -> None:
        """Keeps a checkpoint folder as the artifact `best`, its settings without paths, its JSON without patients."""
        with writing_to(self.uri, self.named_by) as client:
            for file in sorted(item for item in folder.rglob("*") if item.is_file()):
                target = Path(BEST, file.relative_to(folder))
                if file.name == "config.yaml":
                    client.log_text(self.run_id, to_yaml(without_paths(load_stored_config(file))), target.as_posix())
                elif file.suffix == ".json":
                    client.log_dict(self.run_id, drop_patients(read_json(file)), target.as_posix())
                else:
                    client.log_artifact(self.run_id, str(file), target.parent.as_posix())

    def register(self, model_name: str, folder: Path, tags: Mapping[str, object]) -> str:
        """Makes a checkpoint the run's version of a registered model. See `Tracker`."""
        check_model_name(model_name)
        check_safe_files(folder)
        with writing_to(self.uri, self.named_by) as client:
            return register_version(client, self.run_id, model_name, folder, tags, BEST, self.log_checkpoint)

    def set_alias(self, model_name: str, version: str, alias: str) -> None:
        """Points an alias to a version that `register` returned."""
        check_model_name(model_name)
        check_alias(alias)
        with writing_to(self.uri, self.named_by) as client:
            if str(client.get_registered_model(model_name).aliases.get(alias)) != version:
                client.set_registered_model_alias(model_name, alias, version)

    def finish(self, status: RunStatus) -> None:
        """Closes the run; if it has that status already, its end time stays. A resume opens it again."""
        with writing_to(self.uri, self.named_by) as client:
            if client.get_run(self.run_id).info.status != status:
                client.set_terminated(self.run_id, status)


def _holds(client: Any, run_id: str, name: str, step: int) -> bool:
    return any(row.step == step for row in client.get_metric_history(run_id, name))


def _write_metrics(client: Any, run_id: str, step: int, metrics: Mapping[str, float]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    batch = [Metric(name, float(value), now, step) for name, value in metrics.items() if math.isfinite(value)]
    if batch:
        client.log_batch(run_id, metrics=batch)

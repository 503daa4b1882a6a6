"""The tracker that writes to MLflow: two strings, so it travels to another process and writes to the same run there."""

import math
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mttu.config import load_config, to_yaml
from mttu.config.sharing import without_paths
from mttu.errors import RunError
from mttu.tracking.address import database_path
from mttu.tracking.tracker import Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES_TAG = "mttu.pictures"
"""Tag of a run that says whether pictures are `allowed` or `refused`: the rule travels with the run."""
EPOCH = "epoch"
"""Metric that marks an epoch as logged; it is written in one transaction with the epoch's metrics."""


@dataclass(frozen=True)
class MlflowTracker:
    """Writes to an MLflow run that `open_tracker` made; cheap to build and to pickle.

    Args:
        uri: Tracking URI in full (`resolve_uri`).
        run_id: MLflow's id of the run.
    """

    uri: str
    run_id: str

    @property
    def allows_pictures(self) -> bool:
        """Whether the run was opened for a synthetic cohort, or with `tracking.log_patient_images`."""
        return bool(self._client().get_run(self.run_id).data.tags.get(PICTURES_TAG) == "allowed")

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Logs an epoch's metrics in one transaction, unless the run already holds that epoch.

        Args:
            epoch: Number of the epoch, MLflow's step.
            metrics: Name to value, e.g. `val/dice_wt`. Values that are not finite are left out: what could not be
                measured is missing, not a number.
        """
        client = self._client()
        if any(row.step == epoch for row in client.get_metric_history(self.run_id, EPOCH)):
            return
        from mlflow.entities import Metric

        values = {name: float(value) for name, value in metrics.items()} | {EPOCH: float(epoch)}
        now = int(time.time() * 1000)
        batch = [Metric(name, value, now, epoch) for name, value in values.items() if math.isfinite(value)]
        client.log_batch(self.run_id, metrics=batch)

    def log_picture(self, name: str, figure: "Figure", shows_case: bool = True) -> bool:
        """Logs a figure under `pictures/NAME.png`; one that shows a case only if the run allows it. See `Tracker`."""
        if shows_case and not self.allows_pictures:
            return False
        self._client().log_figure(self.run_id, figure, f"pictures/{name}.png")
        return True

    def log_checkpoint(self, folder: Path) -> None:
        """Keeps a checkpoint folder as the artifact `best`; its `config.yaml` goes without paths."""
        client = self._client()
        for file in sorted(folder.iterdir()):
            if file.name == "config.yaml":
                client.log_text(self.run_id, to_yaml(without_paths(load_config(file))), "best/config.yaml")
            else:
                client.log_artifact(self.run_id, str(file), "best")

    def finish(self, status: Status) -> None:
        """Closes the run; a resume opens it again."""
        self._client().set_terminated(self.run_id, status)

    def _client(self) -> Any:
        database = database_path(self.uri)
        if database is not None and not database.exists():
            raise RunError(
                f"tracking: {database} does not exist on {platform.node()}; on several machines give the address of an "
                "MLflow server that all of them reach, e.g. tracking.uri=http://SERVER:5000"
            )
        return connect(self.uri)


def connect(uri: str) -> Any:
    """An MLflow client; `mttu/__init__.py` has switched telemetry off."""
    return _cached_client(uri)


@lru_cache(maxsize=8)
def _cached_client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient  # takes seconds to import, so only where a run is really written

    return MlflowClient(tracking_uri=uri, registry_uri=uri)

"""Runs for tests of tracking, and what MLflow holds of them."""

from pathlib import Path
from typing import Any

from mttu.config import Config, override
from mttu.tracking import MlflowTracker, open_tracker

FINGERPRINT = "3f" * 32


def settings(**changes: Any) -> Config:
    return override(Config(), {"data.manifest": "/home/someone/cohort.parquet", **changes})


def start(folder: Path, synthetic: bool = False, **changes: Any) -> MlflowTracker:
    config = settings(**{"output.folder": str(folder.parent), "output.name": folder.name} | changes)
    tracker = open_tracker(config, folder, FINGERPRINT, synthetic)
    assert isinstance(tracker, MlflowTracker)
    return tracker


def client_of(tracker: MlflowTracker) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracker.uri)


def run_of(tracker: MlflowTracker) -> Any:
    return client_of(tracker).get_run(tracker.run_id)


def history(tracker: MlflowTracker, name: str) -> list[tuple[int, float]]:
    return [(row.step, row.value) for row in client_of(tracker).get_metric_history(tracker.run_id, name)]


def artifact(tracker: MlflowTracker, path: str) -> Path:
    return Path(client_of(tracker).download_artifacts(tracker.run_id, path))


def artifacts(tracker: MlflowTracker, path: str | None = None) -> list[str]:
    return sorted(item.path for item in client_of(tracker).list_artifacts(tracker.run_id, path))

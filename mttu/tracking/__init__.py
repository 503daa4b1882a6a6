"""Experiment tracking: an MLflow run per training, nested runs, registered weights. Nothing else imports mlflow."""

from mttu.tracking.connection import describe_environment, name_source, resolve_uri, show_command, show_page
from mttu.tracking.fetching import fetch_checkpoint, is_address
from mttu.tracking.mlflow_tracker import MlflowTracker
from mttu.tracking.registry import check_model_name
from mttu.tracking.runs import follow_moved_folder, open_tracker
from mttu.tracking.tracker import NullTracker, RunStatus, Tracker

__all__ = [
    "MlflowTracker",
    "NullTracker",
    "RunStatus",
    "Tracker",
    "check_model_name",
    "describe_environment",
    "fetch_checkpoint",
    "follow_moved_folder",
    "is_address",
    "name_source",
    "open_tracker",
    "resolve_uri",
    "show_command",
    "show_page",
]

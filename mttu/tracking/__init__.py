"""Experiment tracking: one MLflow run per training. The only package that imports mlflow."""

from mttu.tracking.address import resolve_uri, show_command
from mttu.tracking.mlflow_tracker import MlflowTracker
from mttu.tracking.opening import open_tracker
from mttu.tracking.tracker import NullTracker, Status, Tracker

__all__ = ["MlflowTracker", "NullTracker", "Status", "Tracker", "open_tracker", "resolve_uri", "show_command"]

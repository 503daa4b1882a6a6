"""mttu: glioma segmentation and IDH genotyping from MRI, supervised and self-trained (MTTU-Net)."""

import os
from importlib.metadata import PackageNotFoundError, version

# Telemetry of Ray and MLflow is off unless the user's environment says otherwise. It is said here, because both read it
# when they are imported, and MONAI imports MLflow.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
if not {"MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"} & set(os.environ):
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"

try:
    __version__ = version("mttu")
except PackageNotFoundError:  # a source tree on the path without installation
    __version__ = "0+unknown"

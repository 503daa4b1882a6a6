"""mttu: glioma segmentation and IDH genotyping from MRI, supervised and self-trained (MTTU-Net)."""

import os
import secrets
import sys
from importlib.metadata import PackageNotFoundError, version

# Telemetry of Ray and MLflow is off unless the user's environment says otherwise. It is said here, because both read it
# when they are imported, and MONAI imports MLflow.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
if os.environ.get("MLFLOW_DISABLE_TELEMETRY", "").lower() not in ("false", "0", "no", "off"):
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # MLflow takes no other word, neither here nor for DO_NOT_TRACK

# MONAI sets this when it is imported, which is later than the first step on a GPU; cuBLAS reads it at its first call.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# Without RAY_ADDRESS a command starts a Ray of its own: on the loopback interface only, with a token that never touches
# the disk, so that other users of the machine cannot run code in it. Ray reads these when it is imported.
GUARDS_RAY = os.environ.get("RAY_ADDRESS", "local") == "local" and "ray" not in sys.modules
if GUARDS_RAY:
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's switch for "loopback only", on any system

# What mttu writes has the rights that the user's umask gives; with MTTU_PRIVATE=1 nobody else may read any of it. Said
# here, so that it holds in every process, and before any file is opened.
_private = os.environ.get("MTTU_PRIVATE", "").strip().lower()
if _private not in ("1", "true", "yes", "on", "", "0", "false", "no", "off"):
    sys.stderr.write(
        f"error: MTTU_PRIVATE is {os.environ['MTTU_PRIVATE']!r}; set it to 1, and nobody else may read what mttu "
        "writes, or to 0, and the umask decides\n"
    )
    sys.exit(2)
PRIVATE = _private in ("1", "true", "yes", "on")
if PRIVATE:
    os.umask(0o077)

try:
    __version__ = version("mttu")
except PackageNotFoundError:  # a source tree on the path without installation
    __version__ = "0+unknown"

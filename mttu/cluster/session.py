"""Connecting to Ray: the cluster that RAY_ADDRESS names, or a private one on this machine.

Ray reads these variables once, when it is imported; so they are set here, and this module is imported before ray.
A private cluster listens on the loopback interface only and has a token
of its own, never written to disk, so that other users of the machine cannot run code in it. For a cluster that is
already there the user's own token counts; where a program imported ray before mttu, Ray's own defaults do.
"""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager

if not {"RAY_ADDRESS", "RAY_AUTH_MODE"} & set(os.environ) and "ray" not in sys.modules:
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray's switch for "loopback only", on any system

import ray

from mttu.config import WorkerSettings
from mttu.errors import InputError, RunError

OBJECT_STORE_BYTES = 300 * 2**20
"""Rows carry paths and figures, never volumes, so the private cluster's object store stays small."""


def is_private() -> bool:
    """Whether `connect` starts a cluster of its own, on this machine alone."""
    return os.environ.get("RAY_ADDRESS", "local") == "local"


@contextmanager
def connect(settings: WorkerSettings) -> Iterator[None]:
    """Runs the body with Ray connected; a private cluster is stopped afterwards, one that was there is left alone.

    Args:
        settings: Workers and threads. Without RAY_ADDRESS a private cluster is started on the loopback interface, with
            at least as many logical CPUs as the workers' threads.

    Raises:
        InputError: No cluster answers at RAY_ADDRESS.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    try:
        if is_private():
            ray.init(
                address="local",
                num_cpus=max(os.cpu_count() or 1, settings.num_workers * settings.threads_per_worker),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level="error",
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError) as error:
        if is_private():
            raise RunError(f"Ray did not start on this machine: {error}") from error
        raise InputError(f"RAY_ADDRESS {address!r}: no Ray cluster answers there ({error})") from None
    try:
        yield
    finally:
        ray.shutdown()

"""How training workers find each other: no open port on one machine, and no process group for a single worker.

torch's own meeting point, a TCPStore, listens on all interfaces and asks nobody for a password. Workers of one machine
meet in a file instead, in a folder that only their user can enter, and talk over the loopback interface. Workers of
several machines need a port: see the security page.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray.train
from ray.train.torch import TorchConfig, get_device
from torch import distributed as dist

from mttu.cluster.session import private_folder

_RayBackend: Any = TorchConfig().backend_cls


@dataclass
class WorkerGroup(TorchConfig):  # type: ignore[misc]
    """What Ray Train is told of the process group of its workers."""

    folder: str | None = None
    """Of a private cluster, which has all workers on this machine; None for any other."""

    @property
    def backend_cls(self) -> type:
        """What sets the group up."""
        return _ClusterBackend if self.folder is None else _LocalBackend


def describe_group() -> WorkerGroup:
    """The process group for the cluster that is connected."""
    folder = private_folder()
    return WorkerGroup(folder=None if folder is None else str(folder))


class _ClusterBackend(_RayBackend):  # type: ignore[misc]
    """Ray's own way, over TCP, but no group for a single worker."""

    def on_start(self, worker_group: Any, backend_config: WorkerGroup) -> None:
        if len(worker_group) > 1:
            super().on_start(worker_group, backend_config)


class _LocalBackend(_RayBackend):  # type: ignore[misc]
    """A file to meet in, and the loopback interface to talk over."""

    folder: str | None = None

    def on_start(self, worker_group: Any, backend_config: WorkerGroup) -> None:
        if len(worker_group) > 1:
            self.folder = tempfile.mkdtemp(prefix="workers-", dir=backend_config.folder)  # only its owner may enter
            worker_group.execute(_join, str(Path(self.folder) / "store"), backend_config.timeout_s)

    def on_shutdown(self, worker_group: Any, backend_config: WorkerGroup) -> None:
        try:
            super().on_shutdown(worker_group, backend_config)
        finally:  # a worker that died makes it fail
            if self.folder is not None:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder = None


def _join(store: str, timeout_s: float) -> None:
    """In a worker: joins the group of all workers of this training, which meet in the file `store`."""
    context = ray.train.get_context()
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ[name] = "lo"
    dist.init_process_group(
        "nccl" if get_device().type == "cuda" else "gloo",
        init_method=f"file://{store}",
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        timeout=timedelta(seconds=timeout_s),
    )

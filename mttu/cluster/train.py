"""Training by Ray Train, the driver's side: start or go on, follow the progress, keep the best checkpoint.

torch's own rendezvous, a TCPStore, listens on all interfaces without a password. Workers of one machine meet in a file
instead, in a folder that only their user can enter, and communicate over the loopback interface. Workers of several
machines need a port: see the security page.
"""

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from torch import distributed as dist

from mttu.cluster.resources import Demand, say_gpus, tell_placement, telling_pending_group, wants_gpus, watching
from mttu.cluster.runtime import STOP, ProgressFile, train_worker
from mttu.cluster.session import connect, private_folder
from mttu.config import Config, override
from mttu.errors import InputError, RunError, raise_if_any
from mttu.training.inputs import resolve_paths
from mttu.training.run import History, OnEpoch, OnStart, keep_best, measure_training_cases
from mttu.training.runtime import CHECKPOINTS_KEPT

_RayBackend: Any = TorchConfig().backend_cls


@dataclass
class WorkerGroup(TorchConfig):  # type: ignore[misc]
    """How Ray Train sets up the process group of its workers."""

    folder: str | None = None
    """Of a private cluster, whose workers are all on this machine; None for any other."""

    @property
    def backend_cls(self) -> type:
        """The class that sets the group up."""
        return _ClusterBackend if self.folder is None else _LocalBackend


class _ClusterBackend(_RayBackend):  # type: ignore[misc]
    """Ray's own way, over TCP, but no group for a single worker."""

    def on_start(self, worker_group: Any, backend_config: WorkerGroup) -> None:
        if len(worker_group) > 1:
            super().on_start(worker_group, backend_config)


class _LocalBackend(_RayBackend):  # type: ignore[misc]
    """Meets in a file and communicates over the loopback interface."""

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


POLL_SECONDS = "0.2"
"""How often Ray's controller looks at its workers. It takes one report at a time: an epoch lasts at least as long."""


@contextmanager
def follow(path: Path, on_epoch: OnEpoch) -> Iterator[None]:
    """Calls `on_epoch` for each new epoch in a progress file while the body runs, and for the rest at its end.

    Raises:
        Exception: What `on_epoch` raised, after the body is done.
    """
    newest = -1
    failures: list[Exception] = []

    def read(handle: TextIO) -> None:
        nonlocal newest
        position = handle.tell()
        while (line := handle.readline()).endswith("\n"):
            position = handle.tell()
            try:
                row = json.loads(line)
            except ValueError:
                continue  # cut by a full disk or a kill; the history that is logged at the end has the epoch
            epoch = int(row.pop("epoch"))
            if epoch > newest:  # after a restart of the workers some epochs come again, with the same values
                newest = epoch
                on_epoch(epoch, row)
        handle.seek(position)  # a line still being written is read again

    def watch(stop: threading.Event) -> None:
        try:
            with path.open(encoding="utf-8") as handle:
                while not stop.wait(0.3):
                    read(handle)
                read(handle)
        except Exception as failure:  # training goes on; the failure is raised when it is over
            failures.append(failure)

    path.unlink(missing_ok=True)  # writing would follow a link
    path.write_text("", encoding="utf-8")  # of this start; earlier epochs are in the history
    with watching(watch, "mttu-progress"):
        yield
    if failures:
        raise failures[0]


def place_workers(config: Config) -> bool:
    """Whether the workers get a GPU each.

    Raises:
        InputError: The cluster has fewer GPUs or CPUs than asked for; with auto also where it has GPUs, but too few.
    """
    workers, have = config.workers, ray.cluster_resources()
    gpus, cpus = int(have.get("GPU", 0)), int(have.get("CPU", 0))
    use_gpu = wants_gpus(workers.device)
    problems = []
    if workers.gpus_per_worker < 1 and workers.num_workers > 1:
        problems.append(
            f"workers.gpus_per_worker is {workers.gpus_per_worker:g} with workers.num_workers={workers.num_workers}; "
            "workers of one training need a GPU each; set one of them to 1"
        )
    if use_gpu and gpus < workers.num_workers:
        fits = [number for number in range(1, gpus + 1) if config.train.global_batch % number == 0]
        fewer = f"set workers.num_workers={fits[-1]}, or " if fits else "set "
        problems.append(
            f"workers.num_workers is {workers.num_workers} with workers.device={workers.device}, but the cluster has "
            f"{say_gpus(gpus)}; {fewer}workers.device=cpu"
        )
    if cpus < workers.num_workers * workers.threads_per_worker:
        problems.append(
            f"workers need {workers.num_workers} x {workers.threads_per_worker} CPUs, but the cluster has {cpus}; "
            "lower workers.num_workers or workers.threads_per_worker"
        )
    raise_if_any(problems)
    return use_gpu


def launch_on_ray(config: Config, folder: Path, on_epoch: OnEpoch, on_start: OnStart) -> History:
    """Runs Ray Train until the last epoch, from where an earlier start was stopped; a `Launch` of `run_training`.

    Every worker must see manifest, cache and run folder under the same paths.

    Raises:
        InputError: The cluster is too small, or does not answer; or a worker does not see on its node what it reads.
        RunError: Training stopped itself, or its workers failed more often than `workers.max_failures`.
    """
    with connect(config.workers):
        workers, use_gpu, private = config.workers, place_workers(config), private_folder()
        share = workers.gpus_per_worker if use_gpu else 0.0
        demand = Demand("train", workers.num_workers, workers.threads_per_worker, share)
        tell_placement(demand)
        on_start("gpu" if use_gpu else "cpu", workers.num_workers)
        progress = folder / "progress.jsonl"
        manifest, cache_dir = resolve_paths(config)
        start = config.train.start_from
        absolute = override(
            config,
            {
                "data.manifest": str(manifest),
                "data.cache_dir": str(cache_dir),
                "tracking.uri": None,  # it may hold a password, and workers do not need it
                "train.start_from": start and str(start.resolve()),
            },
        )
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={
                "settings": absolute.model_dump(mode="json"),
                "folder": str(folder.resolve()),
                "use_gpu": use_gpu,
            },
            torch_config=WorkerGroup(folder=None if private is None else str(private)),
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers.num_workers,
                use_gpu=use_gpu,
                resources_per_worker={"CPU": workers.threads_per_worker, **({"GPU": share} if use_gpu else {})},
            ),
            run_config=ray.train.RunConfig(
                name="train",
                storage_path=str(folder),
                failure_config=ray.train.FailureConfig(max_failures=workers.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
                callbacks=[ProgressFile(progress)],
            ),
        )
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_SECONDS)
        with follow(progress, on_epoch), telling_pending_group(demand):
            if (folder / STOP).exists():
                raise RunError(f"{folder}: was asked to stop")
            try:
                result = trainer.fit()
            except ray.train.TrainingFailedError as error:
                raise RunError(explain(error)) from error
            outcome = result.return_value or {}
            raise_if_any(outcome.get("refused", []))
            if outcome.get("stopped"):
                raise RunError(outcome["stopped"])
            with result.checkpoint.as_directory() as checkpoint:
                keep_best(Path(checkpoint), folder, measure_training_cases(config))
    return list(outcome["history"])


def explain(error: Exception) -> str:
    """The workers' own reasons behind a failed Ray Train run, in one sentence."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, RunError | InputError):
            return str(cause)
    reasons = "; ".join(f"worker {rank}: {str(failure).strip().splitlines()[-1]}" for rank, failure in failures.items())
    return (
        f"training failed more often than workers.max_failures allows: {reasons or str(error).strip().splitlines()[-1]}"
    )

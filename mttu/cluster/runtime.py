"""The workers' side of Ray Train: ranks, devices and checkpoints for the training loop."""

import json
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.torch import get_device, prepare_model
from torch import nn

from mttu.config import Config
from mttu.errors import InputError, RunError, raise_if_any
from mttu.files import write_text
from mttu.training.inputs import TrainingTask
from mttu.training.loop import fit
from mttu.training.run import task_of
from mttu.training.runtime import AgreedError, WriteCheckpoint, epoch_name, parallel_options, prepare_for_device


class RayRuntime:
    """`mttu.training.runtime.Runtime` on Ray Train."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.device: torch.device = get_device()

    def prepare(self, network: nn.Module) -> nn.Module:
        """See `Runtime`."""
        prepare_for_device(network, self.device, self.world_size)
        prepared: nn.Module = prepare_model(
            network, move_to_device=False, parallel_strategy_kwargs=parallel_options(self.device)
        )
        return prepared

    def report(self, epoch: int, metrics: Mapping[str, float], write_checkpoint: WriteCheckpoint | None) -> None:
        """See `Runtime`."""
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if write_checkpoint is not None and self.rank == 0:
                write_checkpoint(Path(folder))
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"epoch": epoch, **metrics}, checkpoint=checkpoint, checkpoint_dir_name=epoch_name(epoch))

    @contextmanager
    def resume(self) -> Iterator[Path | None]:
        """See `Runtime`."""
        checkpoint = ray.train.get_checkpoint()
        with nullcontext() if checkpoint is None else checkpoint.as_directory() as folder:
            yield folder and Path(folder)


STOP = "stop"
"""File in a run folder that makes a training stop at once, see `ask_to_stop`."""
_LOOK_SECONDS = 0.3


class ProgressFile(ray.train.UserCallback):  # type: ignore[misc]
    """Appends each epoch's metrics, as they arrive in Ray's controller, to a file that the driver follows.

    From the first report on, the controller stops the training if asked to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.watches = False

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Writes one line."""
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(metrics[0]) + "\n")
        if not self.watches:
            self.watches = True
            controller = ray.get_runtime_context().current_actor
            watch = partial(_stop_when_asked, self.path.with_name(STOP), controller)
            threading.Thread(target=watch, name="mttu-stop", daemon=True).start()


def _stop_when_asked(file: Path, controller: Any) -> None:
    while not file.exists():
        time.sleep(_LOOK_SECONDS)
    controller.abort.remote()


def ask_to_stop(folder: Path) -> None:
    """Makes the training of a run folder stop, its workers end and give their place in the cluster back.

    Were its driver killed instead, the place would be lost: Ray's helper that frees it asks the dashboard, which a
    private cluster does not have.
    """
    write_text(folder / STOP, "")


def train_worker(given: dict[str, Any]) -> dict[str, Any]:
    """What each Ray Train worker runs.

    Args:
        given: `settings`, the `folder` of the run, and whether the worker was promised a GPU (`use_gpu`).

    Returns:
        `history`; or, where all ranks stopped themselves, why: `refused` or `stopped`.
    """
    config = Config.model_validate(given["settings"])
    torch.set_num_threads(config.workers.threads_per_worker)
    runtime = RayRuntime()

    def read_task() -> TrainingTask:
        check_worker(Path(given["folder"]), given["use_gpu"], runtime.device)
        return task_of(config)

    try:
        state = fit(read_task, runtime)
    except InputError as error:  # if it were raised, Ray would try again what must fail again
        if runtime.world_size > 1 and not isinstance(error, AgreedError):
            raise  # this rank alone failed: if it returned, the others would wait for it
        return {"refused": error.problems}
    except RunError as error:
        if runtime.world_size == 1 or error.all_ranks:
            return {"stopped": str(error)}
        raise
    return {"history": state.history}


def check_worker(folder: Path, use_gpu: bool, device: torch.device) -> None:
    """Refuses a node that does not see the run folder, or whose torch does not see the GPU that Ray promised.

    Raises:
        InputError: Lists both.
    """
    problems = []
    if not folder.is_dir():
        problems.append(
            f"the run folder {folder} is not there; output.folder has to be on storage that all nodes share"
        )
    if use_gpu and device.type != "cuda":
        problems.append(
            f"Ray gives the worker a GPU, but torch {torch.__version__} sees none; install a torch with CUDA for the "
            "node's driver, or set workers.device=cpu"
        )
    raise_if_any(problems)

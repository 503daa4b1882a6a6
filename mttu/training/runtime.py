"""What the training loop runs on: ranks, device, checkpoints. `mttu.cluster` maps the same protocol to Ray Train."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from mttu.atomic import atomic_folder, remove
from mttu.networks.batch_norm import synchronise

Row = TypeVar("Row")
WriteCheckpoint = Callable[[Path], None]
CHECKPOINTS_KEPT = 2


class Runtime(Protocol):
    """One rank's view of the machine."""

    rank: int
    world_size: int
    device: torch.device

    def prepare(self, network: nn.Module) -> nn.Module:
        """Moves the network to the device, in place, and returns what to call in training."""

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, the same bits on each."""

    def gather(self, rows: list[Row]) -> list[Row]:
        """Rows of all ranks in the order of ranks, on each; JSON values."""

    def report(self, epoch: int, metrics: Mapping[str, float], write_checkpoint: WriteCheckpoint | None) -> None:
        """Hands out the metrics of a finished epoch and keeps a checkpoint, if there is one to write."""

    def resume(self) -> Any:
        """Context manager with the folder of the newest checkpoint, or None at the start."""


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """All-reduce by sum over the default process group; the tensor itself where there is none."""
    total = tensor.clone()
    if dist.is_initialized():
        dist.all_reduce(total)
    return total


def gather_over_ranks(rows: list[Row]) -> list[Row]:
    """Concatenates the rows of all ranks in the default process group; the rows themselves where there is none.

    They travel as JSON in tensors of bytes: torch's own call for objects would unpickle what a peer sends, which is to
    run whatever it says. JSON keeps every bit of a number.

    Args:
        rows: JSON values.
    """
    if not dist.is_initialized():
        return rows
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    own = torch.frombuffer(bytearray(json.dumps(rows).encode()), dtype=torch.uint8).to(device)
    lengths = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([len(own)], device=device))
    longest = max(int(length) for length in lengths)
    parts = [torch.zeros(longest, dtype=torch.uint8, device=device) for _ in lengths]
    dist.all_gather(parts, functional.pad(own, (0, longest - len(own))))
    texts = [part[: int(length)].cpu().numpy().tobytes() for part, length in zip(parts, lengths, strict=True)]
    return [row for text in texts for row in json.loads(text)]


def epoch_name(epoch: int) -> str:
    """Folder name of the checkpoint after `epoch` finished epochs; a repeated epoch reuses it."""
    return f"epoch_{epoch:05d}"


def prepare_for_device(network: nn.Module, device: torch.device, world_size: int) -> nn.Module:
    """Moves a network, in place; on GPUs channels last; with batch norm over all ranks if there are several."""
    network.to(device)
    if device.type == "cuda":
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if world_size > 1:
        synchronise(network, sum_over_ranks)
    return network


def parallel_options(device: torch.device) -> dict[str, Any]:
    """Options of DistributedDataParallel.

    Running statistics of batch norm are not sent: every rank computes those of the global batch, the same bits.

    On a CPU bits must not depend on a resume. The reducer re-sorts its buckets after the first step of a process, and
    with three or more ranks the order in which a ring adds up depends on the place in the bucket; with the search for
    unused parameters on it never re-sorts.
    """
    return {"forward_sync_buffers": False, "find_unused_parameters": device.type == "cpu"}


@dataclass
class LocalRuntime:
    """Runs in this process: one rank, or one of a process group that the caller has set up.

    Args:
        folder: Where checkpoints are kept, the newest two.
        device: Device to train on.
        on_report: Called on rank 0 with the epoch and its metrics.
    """

    folder: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    on_report: Callable[[int, Mapping[str, float]], None] | None = None
    rank: int = field(default_factory=lambda: dist.get_rank() if dist.is_initialized() else 0)
    world_size: int = field(default_factory=lambda: dist.get_world_size() if dist.is_initialized() else 1)

    def prepare(self, network: nn.Module) -> nn.Module:
        """See `Runtime`."""
        network = prepare_for_device(network, self.device, self.world_size)
        if self.world_size == 1:
            return network
        return nn.parallel.DistributedDataParallel(network, **parallel_options(self.device))

    def sum(self, tensor: Tensor) -> Tensor:
        """See `Runtime`."""
        return sum_over_ranks(tensor)

    def gather(self, rows: list[Row]) -> list[Row]:
        """See `Runtime`."""
        return gather_over_ranks(rows)

    def report(self, epoch: int, metrics: Mapping[str, float], write_checkpoint: WriteCheckpoint | None) -> None:
        """See `Runtime`."""
        if self.rank == 0:
            if write_checkpoint is not None:
                with atomic_folder(self.folder / epoch_name(epoch)) as partial:
                    write_checkpoint(partial)
                for old in self._checkpoints()[:-CHECKPOINTS_KEPT]:
                    remove(old)
            if self.on_report is not None:
                self.on_report(epoch, metrics)
        if dist.is_initialized():
            dist.barrier()

    @contextmanager
    def resume(self) -> Iterator[Path | None]:
        """See `Runtime`."""
        found = self._checkpoints()
        yield found[-1] if found else None

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("epoch_*")) if self.folder.is_dir() else []

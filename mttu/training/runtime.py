"""What the training loop runs on: ranks, device, checkpoints. `mttu.cluster` maps the same protocol to Ray Train.

A rank that stops alone leaves the others waiting in a collective until the process group times out, after half an hour
or more. So whatever can fail on one machine is done first, and the ranks then exchange their errors.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from mttu.errors import InputError, RunError, name_some
from mttu.files import atomic_folder, remove
from mttu.networks.batch_norm import synchronise

Row = TypeVar("Row")
WriteCheckpoint = Callable[[Path], None]
CHECKPOINTS_KEPT = 2


class Runtime(Protocol):
    """What one rank runs on."""

    rank: int
    world_size: int
    device: torch.device

    def prepare(self, network: nn.Module) -> nn.Module:
        """Moves the network to the device, in place, and returns what to call in training."""

    def report(self, epoch: int, metrics: Mapping[str, float], write_checkpoint: WriteCheckpoint | None) -> None:
        """Reports the metrics of a finished epoch, and saves a checkpoint if `write_checkpoint` is given."""

    def resume(self) -> Any:
        """Context manager with the folder of the newest checkpoint, or None at the start."""


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum over the ranks of the default process group, the same bits on each; a copy where there is no group."""
    total = tensor.clone()
    if dist.is_initialized():
        dist.all_reduce(total)
    return total


def gather_over_ranks(rows: list[Row]) -> list[Row]:
    """Rows (JSON values) of all ranks of the default process group in their order, on each rank.

    They travel as JSON in tensors of bytes, which keeps every bit of a number: torch's own `all_gather_object` would
    unpickle what a peer sends, and so run any code in it.
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

    Running statistics of batch norm are not sent: every rank computes those of the global batch, the same bits. On a
    CPU a resume must not change a single bit: the reducer re-sorts its buckets after the first step of a process, and
    with three or more ranks the order in which a ring adds up depends on the place in the bucket; with the search for
    unused parameters on it never re-sorts.
    """
    return {"forward_sync_buffers": False, "find_unused_parameters": device.type == "cpu"}


@dataclass
class LocalRuntime:
    """Runs in this process: one rank, or one of a process group that the caller has set up."""

    folder: Path
    """Where the newest two checkpoints are kept."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    on_report: Callable[[int, Mapping[str, float]], None] | None = None
    """Called on rank 0 with the epoch and its metrics."""
    rank: int = field(default_factory=lambda: dist.get_rank() if dist.is_initialized() else 0)
    world_size: int = field(default_factory=lambda: dist.get_world_size() if dist.is_initialized() else 1)

    def prepare(self, network: nn.Module) -> nn.Module:
        """See `Runtime`."""
        network = prepare_for_device(network, self.device, self.world_size)
        if self.world_size == 1:
            return network
        return nn.parallel.DistributedDataParallel(network, **parallel_options(self.device))

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


_MOST = 20
"""Most problems reported per rank; a node without the cache would name every case."""


class AgreedError(InputError):
    """Input that some ranks cannot use; every rank stops with it."""


@contextmanager
def agreeing(runtime: Runtime) -> Iterator[None]:
    """Runs the body, which must not wait for another rank; if any rank fails, all of them raise the errors of every
    rank.

    With a single rank its error is left as it is.

    Raises:
        AgreedError: Some rank refused its input or could not read a file; names each rank, its node and its problems.
        RunError: Some rank stopped itself, see `RunError.all_ranks`; an error of another kind is raised unchanged where
            it happened, and the other ranks say that they stop for it, so that they may be tried again.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        if runtime.world_size == 1:
            raise
        failure = error
    if runtime.world_size == 1:
        return
    found = gather_over_ranks([{"name": _name(runtime), **_describe(failure)}])
    kinds = {row["kind"] for row in found}
    if kinds == {""}:
        return
    names_of: dict[str, list[str]] = {}
    for row in found:
        for problem in row["problems"]:
            names_of.setdefault(problem, []).append(row["name"])
    sentences = [
        f"{'every worker' if len(names) == len(found) else ', '.join(names)}: {problem}"
        for problem, names in names_of.items()
    ]
    if "other" in kinds:
        if failure is not None and not isinstance(failure, InputError | RunError | OSError):
            raise failure
        raise RunError("; ".join(sentences), all_ranks=False) from failure
    if "run" in kinds:
        raise RunError("; ".join(sentences)) from failure
    raise AgreedError(sentences) from failure


def _describe(failure: Exception | None) -> dict[str, Any]:
    if failure is None:
        return {"kind": "", "problems": []}
    if isinstance(failure, InputError):
        problems = failure.problems
        more = [f"and {len(problems) - _MOST} more problems"] if len(problems) > _MOST else []
        return {"kind": "input", "problems": [*problems[:_MOST], *more]}
    if isinstance(failure, OSError):
        return {"kind": "input", "problems": [f"cannot read or write ({failure})"]}
    if isinstance(failure, RunError):
        return {"kind": "run", "problems": [str(failure)]}
    text = (str(failure).strip().splitlines() or [""])[0]
    return {"kind": "other", "problems": [f"{type(failure).__name__}: {text}"]}


def _name(runtime: Runtime) -> str:
    return f"worker {runtime.rank} on node {os.uname().nodename}"


def check_same(runtime: Runtime, seen: Mapping[str, str]) -> None:
    """Refuses ranks that read different things under a name such as `case A`, e.g. where a node has an old cache.

    Raises:
        AgreedError: On every rank; names the rank and what differs from rank 0.
    """
    if runtime.world_size == 1:
        return
    own: dict[str, Any] = {"name": _name(runtime), "seen": dict(seen)}
    first, *others = gather_over_ranks([own])
    problems = []
    for row in others:
        names = sorted(first["seen"].keys() | row["seen"].keys())
        differing = [name for name in names if first["seen"].get(name) != row["seen"].get(name)]
        if differing:
            problems.append(
                f"{row['name']} reads another {name_some(differing)} than {first['name']}; manifest, cache, "
                "checkpoints and run folder have to lie on storage that all nodes share, under the same paths"
            )
    if problems:
        raise AgreedError(problems)

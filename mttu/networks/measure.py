"""Size and cost of a network: parameters, multiply-adds, seconds and memory of a forward pass."""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from mttu.config import NetworkSettings, RivalSettings
from mttu.config.network import OURS, parse_network
from mttu.errors import RunError
from mttu.networks.build import blaming, build_network
from mttu.networks.mttu_net import IdhHead
from mttu.networks.rivals.registry import find_entry

COUNTED_SIZE = (128, 128, 128)
"""Image size that publications count operations at."""
_REPEATS = 3


@dataclass(frozen=True)
class Count:
    """What a network consists of."""

    parameters: int
    """Numbers that are learned."""
    frozen: int
    """Parameters that no logits depend on."""
    macs: int
    """Multiply-adds of the convolutions and matrix products of a forward pass of one image, all tasks."""


@dataclass(frozen=True)
class Cost:
    """A forward pass of one image, without gradients."""

    seconds: float
    """Median of three, after one to warm up."""
    peak_bytes: int
    """Memory: on a GPU the most that tensors took; on a CPU how much the process grew, weights included."""
    device: str
    """`cpu` or `cuda`."""


def take_alone(name: str) -> NetworkSettings | RivalSettings:
    """Default settings of a network with the tasks that it does by itself, without our IDH head on its levels.

    Raises:
        InputError: There is no such network, or it cannot be built.
    """
    if name == OURS:
        return NetworkSettings()
    settings = RivalSettings(kind=name, tasks=find_entry(name).tasks)
    with torch.device("meta"):
        network = build_network(settings, COUNTED_SIZE, trace=False)
    if not isinstance(network.idh_head, IdhHead):
        return settings
    return RivalSettings(kind=name, tasks=("segmentation",))


def count_network(settings: NetworkSettings | RivalSettings, size: Sequence[int] = COUNTED_SIZE) -> Count:
    """Counts on torch's `meta` device, where nothing is computed.

    torch counts two operations for a multiply-add, publications one. Norms, activations and interpolation, which
    publications leave out too, are not counted.

    Raises:
        InputError: The network refuses its options or this size (H, W, D).
    """
    with torch.device("meta"):
        network = build_network(settings, size).eval()
        image = torch.empty(1, settings.in_channels, *size)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, blaming(settings):
        network(image)
    parameters = list(network.parameters())
    learned = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in parameters)
    return Count(learned, total - learned, counter.get_total_flops() // 2)


def time_network(settings: NetworkSettings | RivalSettings, size: Sequence[int], device: str) -> Cost:
    """Measures a forward pass in a process of its own, so that no network before it counts.

    Modules are not looked for in the current folder (`-P`), which may be one of data.

    Args:
        settings: The network; its weights are random.
        size: Image size (H, W, D).
        device: `cpu` or `cuda`.

    Raises:
        RunError: The process failed, for example for want of memory.
    """
    request = json.dumps({"settings": settings.model_dump_json(), "size": list(size), "device": device})
    command = [sys.executable, "-P", "-m", "mttu.networks.measure", request]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RunError(f"network {settings.kind}: the forward pass failed ({reason})")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def time_here(settings: NetworkSettings | RivalSettings, size: Sequence[int], device: torch.device) -> Cost:
    """Measures a forward pass in this process, see `time_network`; its memory is right in a fresh process only."""
    with torch.device("meta"):
        build_network(settings, size)  # imports what it needs, which is not the network's memory
    before = _reset_peak()
    network = build_network(settings, size).eval().to(device)
    image = torch.zeros(1, settings.in_channels, *size, device=device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    seconds = []
    for _ in range(1 + _REPEATS):
        started = time.perf_counter()
        with torch.inference_mode():
            network(image)
        if on_gpu:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else _peak_bytes() - before
    return Cost(statistics.median(seconds[1:]), peak, device.type)


_CLEAR_PEAK = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def _reset_peak() -> int:
    """Forgets the peak so far where the system allows it; returns the memory, in bytes, that later peaks start from."""
    with suppress(OSError):
        _CLEAR_PEAK.write_text("5")  # see proc(5)
    return _peak_bytes()


def _peak_bytes() -> int:
    """The most memory that this process has held so far, in bytes.

    On Linux not `ru_maxrss`, which starts with that of the process that started this one.
    """
    if _STATUS.exists():
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    from dataclasses import asdict

    given = json.loads(sys.argv[1])
    cost = time_here(parse_network(given["settings"]), given["size"], torch.device(given["device"]))
    sys.stdout.write(json.dumps(asdict(cost)) + "\n")

"""Speed and memory of the network against the eager baseline, in one run on one machine.

    python benchmarks/network.py [--size 128] [--repeats 3] [--device cpu] [--threads 2]

The same weights in both, equal outputs first, then interleaved repeats and the ratio of the medians: a busy machine
slows both. Peak memory is of a process of its own for each figure, interpreter and libraries included.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from eager_baseline import EagerBaseline
from torch import Tensor, nn
from torch.nn import functional as F

from mttu.config import Config, LossSettings, override
from mttu.losses import segmentation_loss, segmentation_sums
from mttu.networks import MttuNet, build_network

TOLERANCE = 1e-4
LEAST_DICE = 0.99
PROBABILITY_TOLERANCE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="edge of the patch in voxels, a multiple of 8")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="threads of a CPU run")
    parser.add_argument("--probe", nargs=2, metavar=("WHICH", "WHAT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.allow_tf32 = False
    if arguments.probe:
        which, what = arguments.probe
        print(json.dumps(probe_memory(which, what, arguments.size, arguments.device)))
        return
    # first, while this process is small: Linux counts the parent's peak as a child's until it is exceeded
    memory = {name: compare_memory(name, arguments) for name in ("forward", "train", "train, attention dropout")}
    baseline, network = build_pair(arguments.size, arguments.device)
    image, seg = synthetic_case(arguments.size, arguments.device)
    check_equality(baseline, network, image)
    times = time_both(baseline, network, image, seg, arguments.repeats)
    print_table(times, memory)


def build_pair(size: int, device: str) -> tuple[nn.Module, nn.Module]:
    """Baseline and network with the same weights, fitted briefly so that the masks are not noise."""
    torch.manual_seed(0)
    grid = {"network.bottleneck.position_grid": [size // 8] * 3}
    network = build_network(override(Config(), grid).network).to(device)
    image, seg = synthetic_case(min(size, 32), device)
    step = training_step(network, image, seg, attention_dropout=0.1, lr=1e-3)
    for _ in range(100):
        step()
    baseline = EagerBaseline(size).to(device)
    names = network.state_dict().values()
    baseline.load_state_dict(dict(zip(baseline.state_dict(), names, strict=True)))
    return baseline, network


def synthetic_case(size: int, device: str) -> tuple[Tensor, Tensor]:
    """Image (1, 4, size^3) and labels (1, size^3): a lesion of three nested ellipsoids in a noisy head."""
    generator = torch.Generator().manual_seed(1)
    axis = torch.linspace(-1, 1, size)
    h, w, d = torch.meshgrid(axis, axis, axis, indexing="ij")
    radius = ((h - 0.2) ** 2 + 1.5 * (w + 0.1) ** 2 + 0.7 * d**2).sqrt()
    seg = torch.zeros(size, size, size, dtype=torch.long)
    for label, outer in ((2, 0.6), (3, 0.4), (1, 0.25)):
        seg[radius < outer] = label
    contrast = torch.tensor([[0.0, 1.0, 2.0, 1.0], [0.0, -0.5, 0.0, 2.0], [0.0, -1.0, -0.5, 0.0], [0.0, 2.0, 1.0, 0.5]])
    image = contrast[:, seg] + 0.3 * torch.randn(4, size, size, size, generator=generator)
    return image[None].to(device), seg[None].to(device)


def training_step(
    network: nn.Module, image: Tensor, seg: Tensor, attention_dropout: float, lr: float = 2e-4
) -> Callable[[], object]:
    """A function that does forward, loss, backward and one Adam step."""
    fused = isinstance(network, MttuNet)  # as mttu trains; the baseline takes torch's default
    optimiser = torch.optim.Adam(network.parameters(), lr=lr, amsgrad=True, weight_decay=1e-5, fused=fused)
    settings = LossSettings(include_background=True)
    known = torch.tensor([True], device=image.device)
    idh = torch.tensor([[0.4, 0.6]], device=image.device)  # a soft label: the probability must not saturate

    def step() -> float:
        network.train()
        for name, module in network.named_modules():
            if name.endswith("attention_dropout"):
                module.p = attention_dropout
        with autocast(image, image.device.type == "cuda"):
            logits = network(image)
        optimiser.zero_grad(set_to_none=True)
        seg_loss = segmentation_loss(segmentation_sums(logits["seg_logits"], seg, known, settings), settings)
        loss = seg_loss + F.cross_entropy(logits["idh_logits"].float(), idh)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return float(loss.detach())

    return step


def autocast(image: Tensor, enabled: bool) -> torch.autocast | nullcontext[None]:
    return torch.autocast(image.device.type, torch.bfloat16) if enabled else nullcontext()


def predict(network: nn.Module, image: Tensor, half: bool = False) -> dict[str, Tensor]:
    network.eval()
    with torch.no_grad(), autocast(image, half):
        return {name: logits.float() for name, logits in network(image).items()}


def check_equality(baseline: nn.Module, network: nn.Module, image: Tensor) -> None:
    """Stops the run unless float32 outputs agree, and bfloat16 ones closely enough."""
    expected, found, half = predict(baseline, image), predict(network, image), predict(network, image, half=True)
    differences = {name: float((expected[name] - found[name]).abs().max()) for name in expected}
    masks = expected["seg_logits"].argmax(1), half["seg_logits"].argmax(1)
    dice = [float(2 * ((masks[0] == k) & (masks[1] == k)).sum() / sum((m == k).sum() for m in masks)) for k in range(4)]
    mutant = [float(logits["idh_logits"].softmax(1)[0, 1]) for logits in (expected, half)]
    print(f"largest difference of logits, float32: {json.dumps(differences)}")
    print(f"bfloat16: Dice of the masks {[round(value, 4) for value in dice]}, IDH probability {mutant}")
    if max(differences.values()) > TOLERANCE:
        sys.exit(f"outputs differ by more than {TOLERANCE}: no figure is worth anything")
    if min(dice) < LEAST_DICE or abs(mutant[0] - mutant[1]) > PROBABILITY_TOLERANCE:
        sys.exit(f"bfloat16 is too far off: Dice below {LEAST_DICE} or probability off by {PROBABILITY_TOLERANCE}")


def time_both(
    baseline: nn.Module, network: nn.Module, image: Tensor, seg: Tensor, repeats: int
) -> dict[str, tuple[float, float]]:
    """Median seconds (baseline, network) of each measured thing, repeats interleaved."""
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "forward, float32": (lambda: predict(baseline, image), lambda: predict(network, image)),
        "forward, bfloat16 against float32": (
            lambda: predict(baseline, image),
            lambda: predict(network, image, half=True),
        ),
    }
    for name, dropout in (("train", 0.0), ("train, attention dropout", 0.1)):
        pairs[name] = training_step(baseline, image, seg, dropout), training_step(network, image, seg, dropout)
    medians = {}
    for name, pair in pairs.items():
        seconds: tuple[list[float], list[float]] = ([], [])
        for function in pair:
            function()
        for _ in range(repeats):
            for function, record in zip(pair, seconds, strict=True):
                record.append(seconds_of(function, image.device.type))
        medians[name] = (statistics.median(seconds[0]), statistics.median(seconds[1]))
        print(f"{name}: baseline {seconds[0]}, network {seconds[1]}", flush=True)
    return medians


def seconds_of(function: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare_memory(what: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Peak GiB (baseline, network), each in a process of its own, one after the other."""
    options = [f"--{name}={getattr(arguments, name)}" for name in ("size", "device", "threads")]
    peaks = []
    for which in ("baseline", "network"):
        command = [sys.executable, __file__, *options, "--probe", which, what]
        peaks.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(f"peak memory, {what}: baseline {peaks[0]:.2f} GiB, network {peaks[1]:.2f} GiB", flush=True)
    return peaks[0], peaks[1]


def probe_memory(which: str, what: str, size: int, device: str) -> float:
    """Peak GiB of this process after two rounds of one thing; on a GPU, of its memory."""
    grid = {"network.bottleneck.position_grid": [size // 8] * 3}
    network = (EagerBaseline(size) if which == "baseline" else build_network(override(Config(), grid).network)).to(
        device
    )
    image, seg = synthetic_case(size, device)
    step = training_step(network, image, seg, 0.1 if "dropout" in what else 0.0)
    for _ in range(2):
        if what == "forward":
            predict(network, image)
        else:
            step()
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def print_table(times: dict[str, tuple[float, float]], memory: dict[str, tuple[float, float]]) -> None:
    print(f"{'':36}{'ratio':>8}{'baseline':>12}{'network':>12}")
    for name, (baseline, network) in times.items():
        print(f"{name:36}{baseline / network:7.2f}x{baseline:10.2f} s{network:10.2f} s")
    for name, (baseline, network) in memory.items():
        print(f"{'peak memory, ' + name:36}{network / baseline:7.2f}x{baseline:8.2f} GiB{network:8.2f} GiB")


if __name__ == "__main__":
    main()

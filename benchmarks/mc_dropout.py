"""Monte Carlo dropout: one run of T passes against T full passes of the eager baseline, on one machine.

    python benchmarks/mc_dropout.py [--size 128] [--passes 10] [--repeats 1] [--device cpu] [--threads 2] [--only head]

The same weights in both, equal logits without dropout first, then the shared form against the naive one with the same
masks. Half of the baseline's passes come before the run and half after it, so that a busy machine slows both. The run
does one pass more, without dropout, which its table holds; the FLOP bound does not count it.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from eager_baseline import EagerBaseline
from network import seconds_of, synthetic_case
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mttu.config import Config, InferenceSettings, MonteCarloSettings, override
from mttu.config.scoring import ActiveDropout
from mttu.inference.device import choose_precision
from mttu.inference.passes import run_passes
from mttu.networks import MttuNet, build_network
from mttu.networks.monte_carlo import IdhPasses, drop_by_pass, name_pass

TOLERANCE, SHARED_TOLERANCE = 1e-4, 1e-5
LEAST_SHARE = {"head": 0.8}
"""Least part of the FLOP bound."""
LEAST_RATIO = {"cpu": {"transformer+head": 1.5, "all": 1.3}, "cuda": {"transformer+head": 3.0, "all": 2.0}}
"""Least ratio of times; the last repeat counts."""
DROPOUTS: dict[ActiveDropout, tuple[str, ...]] = {
    "head": ("idh_head",),
    "transformer+head": ("embedding_dropout", "layers", "idh_head"),
    "all": ("stem_dropout", "embedding_dropout", "layers", "idh_head"),
}
"""The baseline's modules whose dropout is on."""
PREFIXES = {
    "head": ("stem", "level", "project", "layers", "final_norm"),
    "transformer+head": ("stem", "level", "project"),
    "all": ("stem",),
}
"""The baseline's modules before the first active dropout; `stem` is the first convolution."""
DECODER = ("entry", "up", "segmentation_head")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="edge of the window in voxels, a multiple of 16")
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="threads of a CPU run")
    parser.add_argument("--passes-per-forward", type=int, default=1)
    parser.add_argument("--only", choices=list(DROPOUTS), help="this part of the dropout alone")
    parser.add_argument("--probe", nargs=2, metavar=("WHICH", "ACTIVE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.allow_tf32 = False
    baseline, network = build_pair(arguments.size, arguments.device)
    image = synthetic_case(arguments.size, arguments.device)[0]
    if arguments.probe:
        which, active = arguments.probe
        print(json.dumps(probe_memory(which, active, baseline, network, image, arguments)))
        return
    check_equality(baseline, network, image)
    flops = count_flops(baseline, image)
    parts = [arguments.only] if arguments.only else list(DROPOUTS)
    missed = [active for active in parts if not compare(active, baseline, network, image, flops, arguments)]
    if missed:
        sys.exit(f"target missed: {', '.join(missed)}")


def build_pair(size: int, device: str) -> tuple[EagerBaseline, MttuNet]:
    """Baseline and network with the same random weights, in evaluation mode."""
    torch.manual_seed(0)
    grid = {"network.bottleneck.position_grid": [size // 8] * 3}
    network = build_network(override(Config(), grid).network).to(device).eval()
    assert isinstance(network, MttuNet)
    baseline = EagerBaseline(size).to(device).eval()
    names = network.state_dict().values()
    baseline.load_state_dict(dict(zip(baseline.state_dict(), names, strict=True)))
    return baseline, network


def baseline_pass(baseline: EagerBaseline, image: Tensor, active: ActiveDropout) -> Tensor:
    """IDH logits of one stochastic pass, as anyone would write it: dropout modules in training mode."""
    for name, module in baseline.named_modules():
        if isinstance(module, nn.Dropout | nn.Dropout3d):
            module.train(name.startswith(DROPOUTS[active]))
    with torch.no_grad():
        logits: Tensor = baseline(image)["idh_logits"]
    baseline.eval()
    return logits


def run(network: MttuNet, image: Tensor, active: ActiveDropout, arguments: argparse.Namespace) -> object:
    """The same as the project does it, on one window."""
    settings = MonteCarloSettings(
        passes=arguments.passes, active_dropout=active, passes_per_forward=arguments.passes_per_forward
    )
    precision = choose_precision("auto", image.device)
    return run_passes(
        network, image[0], "case", image.shape[2:], settings, InferenceSettings(), image.device, precision
    )


@torch.inference_mode()
def check_equality(baseline: EagerBaseline, network: MttuNet, image: Tensor) -> None:
    """Stops unless logits without dropout are equal, and the shared form's logits those of the naive form."""
    expected, found = baseline(image)["idh_logits"], network(image)["idh_logits"]
    difference = float((expected - found).abs().max())
    print(f"largest difference of IDH logits without dropout, baseline and network: {difference:.2g}", flush=True)
    if difference > TOLERANCE:
        sys.exit(f"more than {TOLERANCE}: no figure is worth anything")
    key = name_pass(0, "case", 0)
    for active in DROPOUTS:
        passes = IdhPasses(network, active)
        shared = passes.run(passes.share(image), [key])
        with drop_by_pass(network, passes.places, [key]):
            naive = network(image)["idh_logits"]
        difference = float((shared - naive).abs().max())
        print(f"{active}: largest difference of a pass, shared form and naive form: {difference:.2g}", flush=True)
        if difference > SHARED_TOLERANCE:
            sys.exit(f"more than {SHARED_TOLERANCE}: no figure is worth anything")


@torch.no_grad()
def count_flops(baseline: EagerBaseline, image: Tensor) -> dict[str, int]:
    """FLOP of the baseline's parts: `total`, and one entry per module."""
    with FlopCounterMode(display=False) as counter:
        baseline(image)
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    parts = {name: counts.get(f"EagerBaseline.{name}", 0) for name, _ in baseline.named_children()}
    total = counter.get_total_flops()
    if sum(parts.values()) != total:
        sys.exit(f"FLOP of the parts, {sum(parts.values())}, do not add up to {total}")
    return {**parts, "total": total}


def find_bound(active: ActiveDropout, flops: dict[str, int], passes: int) -> float:
    """Speed-up if time went with FLOP: T full passes over the prefix once and the rest, decoder aside, T times."""

    def add(prefixes: tuple[str, ...]) -> int:
        names = [name for name in flops if name != "total" and "dropout" not in name]
        return sum(flops[name] for name in names if name.startswith(prefixes))

    prefix, decoder = add(PREFIXES[active]), add(DECODER)
    return passes * flops["total"] / (prefix + passes * (flops["total"] - prefix - decoder))


def compare(
    active: ActiveDropout,
    baseline: EagerBaseline,
    network: MttuNet,
    image: Tensor,
    flops: dict[str, int],
    arguments: argparse.Namespace,
) -> bool:
    """Prints one row: time, memory, ratio, FLOP bound; says whether the target is met."""
    device, half = image.device.type, arguments.passes // 2
    slow: Callable[[], object] = lambda: baseline_pass(baseline, image, active)  # noqa: E731
    slow()
    run(network, image, active, argparse.Namespace(**{**vars(arguments), "passes": 2}))
    for repeat in range(arguments.repeats):
        before = [seconds_of(slow, device) for _ in range(half)]
        seconds = seconds_of(lambda: run(network, image, active, arguments), device)
        after = [seconds_of(slow, device) for _ in range(arguments.passes - half)]
        passes = sum(before) + sum(after)
        bound = find_bound(active, flops, arguments.passes)
        least = LEAST_SHARE[active] * bound if active in LEAST_SHARE else LEAST_RATIO[device][active]
        print(
            f"{active:18}{arguments.passes} passes of the baseline {passes:8.2f} s, run {seconds:8.2f} s: "
            f"{passes / seconds:6.2f}x; FLOP bound {bound:6.2f}x, share {passes / seconds / bound:5.2f}; "
            f"least {least:.2f}x (repeat {repeat + 1}, {time.strftime('%H:%M:%S')})",
            flush=True,
        )
    peaks = [measure_memory(which, active, arguments) for which in ("baseline", "run")]
    print(f"{active:18}peak memory: baseline {peaks[0]:.2f} GiB, run {peaks[1]:.2f} GiB", flush=True)
    return passes / seconds >= least


def measure_memory(which: str, active: ActiveDropout, arguments: argparse.Namespace) -> float:
    """Peak GiB of a process of its own."""
    names = ("size", "device", "threads", "passes_per_forward")
    options = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in names]
    command = [sys.executable, __file__, *options, "--passes", "2", "--probe", which, active]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def probe_memory(
    which: str,
    active: ActiveDropout,
    baseline: EagerBaseline,
    network: MttuNet,
    image: Tensor,
    arguments: argparse.Namespace,
) -> float:
    """Peak GiB of this process after two passes of one form, interpreter and both networks' weights included.

    Not `ru_maxrss`: on Linux a new process inherits the peak of the one that started it.
    """
    if which == "baseline":
        for _ in range(2):
            baseline_pass(baseline, image, active)
    else:
        run(network, image, active, arguments)
    if image.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**20


if __name__ == "__main__":
    main()

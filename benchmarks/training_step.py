"""Seconds of a whole training step as `mttu train` does it, and where they go, on one machine.

    python benchmarks/training_step.py [--size 128] [--steps 8] [--loader-workers 0 4] [--device cpu] [--profile]

A phantom cohort is written and prepared; then whole epochs run with the paper's network and batch: once from batches
that are in memory already, and once for each number of loader processes. The share of the loader is the difference.
With --network, the step of other networks (`mttu networks`), one after the other.
With --teacher, every second case has no mask, and a mean teacher takes its place (`teacher.masks`), as the mean of so
many orientations; 0: without a teacher, to compare with.
With --profile, the operations that took longest, by PyTorch's profiler.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from mttu.cohort.build import discover
from mttu.config import Config, PrepareSettings, override
from mttu.config.network import OURS, RIVALS
from mttu.data.cache import cache_case
from mttu.data.loaders import Batch, PatchDataset, build_loader, labelled_tasks_of_steps
from mttu.data.manifest import Case
from mttu.losses import idh_class_weights
from mttu.phantom import Recipe, write_phantom
from mttu.training.loop import counted_labels, train_epoch
from mttu.training.runtime import LocalRuntime
from mttu.training.state import create_state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=[OURS, *RIVALS], default=[OURS])
    parser.add_argument("--size", type=int, default=128, help="edge of the patch in voxels, a multiple of 8")
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8, help="optimiser steps of an epoch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4, help="global batch")
    parser.add_argument("--batch-per-worker", type=int, default=2, help="patches at once")
    parser.add_argument("--task-weighting", choices=["uncertainty", "equal", "pcgrad"], default="uncertainty")
    parser.add_argument("--loader-workers", type=int, nargs="*", default=[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="threads of a CPU run")
    parser.add_argument("--teacher", type=int, nargs="+", choices=(0, 1, 2, 8), help="orientations of its mean")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        cases = prepare(Path(folder), arguments)
        for name in arguments.network:
            for flips in arguments.teacher or [None]:
                if len(arguments.network) > 1 or flips is not None:
                    print(f"{name}{'' if flips is None else f', teacher of {flips} orientations'}:", flush=True)
                try:
                    measure(Path(folder), cases, name, flips, arguments)
                except torch.OutOfMemoryError as error:
                    print(f"out of memory: {error}")


def measure(folder: Path, cases: tuple[Case, ...], name: str, flips: int | None, arguments: argparse.Namespace) -> None:
    """Prints the seconds of a step from memory and from the loader, the peak of GPU memory, and the profile."""
    config = settings(name, flips, arguments, 0)
    device = torch.device(arguments.device)
    runtime = LocalRuntime(folder / "run", device=device)
    state = create_state(config, device)
    network = runtime.prepare(state.network)
    if state.teacher is not None:
        state.teacher.prepare(device)
    weights = torch.tensor(idh_class_weights(counted_labels(cases, config)), device=device)

    def run(batches: Iterable[Batch], loader_workers: int) -> float:
        dataset = PatchDataset(cases, folder / "cache", settings(name, flips, arguments, loader_workers))
        tasks = labelled_tasks_of_steps(dataset, 0)
        started = time.perf_counter()
        train_epoch(state, network, batches, tasks, weights, config, runtime)
        return (time.perf_counter() - started) / int(arguments.steps)

    def load(loader_workers: int) -> Iterable[Batch]:
        dataset = PatchDataset(cases, folder / "cache", settings(name, flips, arguments, loader_workers))
        return build_loader(dataset, 0, 0, 1, device)

    in_memory = list(load(0))
    run(in_memory, 0)  # kernels are chosen and memory is reserved
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = {"batches in memory": [run(in_memory, 0) for _ in range(arguments.repeats)]}
    if device.type == "cuda":
        print(f"peak GPU memory: {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB", flush=True)
    else:
        print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    for count in arguments.loader_workers:
        seconds[f"loader, {count} processes"] = [run(load(count), count) for _ in range(arguments.repeats)]
    base = statistics.median(seconds["batches in memory"])
    for name, found in seconds.items():
        middle = statistics.median(found)
        print(f"{name:24}{1000 * middle:9.1f} ms a step ({middle / base:5.2f}x; {[round(one, 4) for one in found]})")
    if arguments.profile:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        with profile(activities=activities) as profiled:
            run(in_memory, 0)
        order = f"self_{device.type}_time_total"
        print(profiled.key_averages().table(sort_by=order, row_limit=45, max_name_column_width=90))


def settings(name: str, flips: int | None, arguments: argparse.Namespace, loader_workers: int) -> Config:
    """The paper's, for a network and patches of this size."""
    grid = {"network.bottleneck.position_grid": [arguments.size // 8] * 3}
    changes: dict[str, Any] = {
        "patch.size": [arguments.size] * 3,
        **(grid if name == OURS else {"network.kind": name}),
        "train.steps_per_epoch": arguments.steps,
        "train.global_batch": arguments.batch,
        "train.batch_per_worker": arguments.batch_per_worker,
        "train.loader_workers": loader_workers,
        "loss.task_weighting": arguments.task_weighting,
        "teacher.masks": bool(flips),
        "teacher.flips": flips or 1,
    }
    return override(Config(), changes)


def prepare(folder: Path, arguments: argparse.Namespace) -> tuple[Case, ...]:
    """A phantom cohort's cases, prepared below `folder`."""
    recipe = Recipe(
        cases=arguments.cases, size=arguments.size + arguments.size // 8, unlabelled_fraction=0.0, test_fraction=0.0
    )
    write_phantom(folder / "cohort", recipe)
    manifest = discover(folder / "cohort", folder / "cohort" / "clinical.csv")
    cases = list(manifest.cases)
    if arguments.teacher is not None:
        cases[::2] = [replace(case, seg=None) for case in cases[::2]]
    for case in cases:
        cache_case(case, folder / "cache", manifest.modalities, PrepareSettings())
    return tuple(cases)


if __name__ == "__main__":
    main()

"""What Ray Data costs per volume: the pool that scores and prepares, around work of a known length.

    python benchmarks/ray_overhead.py [--cases 30] [--cpu-seconds 1.0] [--zero-cases 300]

One actor of one thread against a plain loop of one thread. A case is CPU time, not wall time, so that a busy machine
makes both longer; the two halves of the loop lie before and after the pool.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from typing import Any

import mttu.cluster.session  # isort: skip  (before anything imports ray)
from mttu.cluster.cases import Work, run_pool
from mttu.cluster.resources import Demand
from mttu.config import WorkerSettings
from mttu.inference.cases import Row

MOST_OVERHEAD = 0.15


def build_burner(cpu_seconds: float) -> Work:
    """Work that takes that much CPU time per case."""

    def burn(case_id: str) -> Mapping[str, Any]:
        end = time.process_time() + cpu_seconds
        while time.process_time() < end:
            sum(range(10_000))
        return {"case_id": case_id}

    return burn


def time_pool(num_cases: int, cpu_seconds: float) -> tuple[float, float]:
    """Seconds to the first row, with the actor's start, and from there to the last one."""
    arrived: list[float] = []
    start = time.perf_counter()
    names = [f"case{index:04d}" for index in range(num_cases)]

    def refuse(case_id: str, reason: str) -> Row:
        raise SystemExit(reason)

    def note(done: int, row: Row) -> None:
        arrived.append(time.perf_counter())

    run_pool(names, build_burner, (cpu_seconds,), Demand("burn", 1, 1), refuse, "try again", note)
    return arrived[0] - start, time.perf_counter() - arrived[0]


def time_loop(num_cases: int, cpu_seconds: float) -> float:
    """Seconds of the same work without Ray."""
    burn = build_burner(cpu_seconds)
    start = time.perf_counter()
    for index in range(num_cases):
        burn(f"case{index:04d}")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=30, help="an even number")
    parser.add_argument("--cpu-seconds", type=float, default=1.0)
    parser.add_argument("--zero-cases", type=int, default=300)
    arguments = parser.parse_args()
    num_cases, work = arguments.cases, arguments.cpu_seconds
    start = time.perf_counter()
    with mttu.cluster.session.connect(WorkerSettings(num_workers=1, threads_per_worker=1)):
        print(f"Ray's start: {time.perf_counter() - start:.1f} s", flush=True)
        first, rest = time_pool(arguments.zero_cases, 0.0)
        print(f"start of the pool to the first row: {first:.1f} s", flush=True)
        print(f"zero work: {1000 * rest / (arguments.zero_cases - 1):.1f} ms per volume", flush=True)
        before = time_loop(num_cases // 2, work)
        first, rest = time_pool(num_cases, work)
        plain = before + time_loop(num_cases - num_cases // 2, work)
        steady, whole = rest / (num_cases - 1) * num_cases / plain - 1, (first + rest) / plain - 1
        print(
            f"{work:g} s of CPU per volume, {num_cases} volumes: loop {plain:.1f} s, pool {first + rest:.1f} s; "
            f"overhead {steady:.1%} from the first row on, {whole:.1%} with the pool's start",
            flush=True,
        )
    if steady > MOST_OVERHEAD:
        sys.exit(f"more than {MOST_OVERHEAD:.0%} from the first row on")


if __name__ == "__main__":
    main()

"""Cases prepared per second, and what a second actor gains, in one run on one machine.

    python benchmarks/prepare.py [--cases 200] [--size 64] [--actors 1 2] [--repeats 3] [--out FOLDER]

A phantom cohort is written, or found in --out, and prepared on a private Ray into a new cache for each count of actors,
in turns, so that a busy machine slows all of them. `all` counts from the call to the last row, start of the actors
included; `steady` from the first row to the last, as over a large cohort. The figures shown are medians.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from mttu.cluster.cases import PreparedRow, prepare_cohort
from mttu.cluster.session import connect
from mttu.cohort.build import discover
from mttu.config import PrepareSettings, WorkerSettings
from mttu.data.manifest import Manifest
from mttu.phantom import Recipe, write_phantom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--size", type=int, default=64, help="voxels along each axis of a case")
    parser.add_argument(
        "--actors", type=int, nargs="+", default=[1, 2], help="counts to compare; the first is the base"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder of the phantom and the caches; a temporary one if not given")
    arguments = parser.parse_args()
    if arguments.out is not None:
        compare(arguments.out, arguments.cases, arguments.size, arguments.actors, arguments.repeats)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), arguments.cases, arguments.size, arguments.actors, arguments.repeats)


def compare(folder: Path, cases: int, size: int, actors: list[int], repeats: int) -> None:
    data = folder / "phantom"
    write_phantom(data, Recipe(cases=cases, size=size))
    manifest = discover(data)
    print(f"{cases} phantom cases of {size}^3, {len(manifest.modalities)} modalities and mask; {os.cpu_count()} CPUs")
    everything: dict[int, list[float]] = {count: [] for count in actors}
    steady: dict[int, list[float]] = {count: [] for count in actors}
    with connect(WorkerSettings(num_workers=1, threads_per_worker=max(actors))):
        measure(manifest, folder / "cache", max(actors))  # the first pipeline of a Ray also starts its workers
        for repeat in range(repeats):
            for count in actors:
                found = measure(manifest, folder / "cache", count)
                everything[count].append(found[0])
                steady[count].append(found[1])
                print(f"repeat {repeat + 1}, {count} actors: all {found[0]:.2f}, steady {found[1]:.2f} cases/s")
    base = {name: statistics.median(rates[actors[0]]) for name, rates in (("all", everything), ("steady", steady))}
    for count in actors:
        rates = {"all": statistics.median(everything[count]), "steady": statistics.median(steady[count])}
        shown = [f"{name} {rate:.2f} cases/s (x{rate / base[name]:.2f})" for name, rate in rates.items()]
        print(f"{count} actors: {', '.join(shown)}")


def measure(manifest: Manifest, cache: Path, actors: int) -> tuple[float, float]:
    """Cases per second of one preparation into a new cache: over all of it, and from the first row to the last."""
    shutil.rmtree(cache, ignore_errors=True)
    arrivals: list[float] = []

    def note(done: int, row: PreparedRow) -> None:
        if row["error"] or not row["written"]:
            raise SystemExit(f"{row['case_id']}: {row['error'] or 'was there already'}")
        arrivals.append(time.perf_counter())

    started = time.perf_counter()
    prepare_cohort(manifest, cache, manifest.modalities, PrepareSettings(), actors, note)
    total = arrivals[-1] - started
    between = arrivals[-1] - arrivals[0]
    return len(arrivals) / total, (len(arrivals) - 1) / between if between > 0 else float("nan")


if __name__ == "__main__":
    main()

"""Time of Dice and HD95 of the three regions of one 240 x 240 x 155 case, on one core.

    python benchmarks/metrics.py [SEG.nii.gz] [--repeats 5]

Without a mask a lesion of nested ellipsoids stands in for one. Three predictions are timed: shifted by 3 voxels; the
same with a thousand stray voxels, so that the box around both masks is the whole volume; a box in place of the brain.
CPU seconds of one thread: on a busy machine the clock on the wall says more about the neighbours. The bound, 2 s, is
for the first two; the script exits with 1 if the median of either is above it.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mttu.data.labels import to_classes
from mttu.data.volumes import read_volume
from mttu.metrics.segmentation import score_regions

SHAPE = (240, 240, 155)
BOUND_SECONDS = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seg", type=Path, nargs="?", help="mask with labels 0, 1, 2, 4")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    truth = synthetic_seg() if arguments.seg is None else read_seg(arguments.seg)
    medians = {name: time_scoring(mask, truth, name, arguments.repeats) for name, mask in predictions(truth).items()}
    slow = [name for name in ("shifted", "stray voxels") if medians[name] > BOUND_SECONDS]
    if slow:
        sys.exit(f"above {BOUND_SECONDS} s: {', '.join(slow)}")


def synthetic_seg() -> NDArray[np.uint8]:
    """Classes of a lesion of about 60 ml: edema around enhancing tumour around necrosis."""
    axes = np.ogrid[tuple(slice(0, extent) for extent in SHAPE)]
    radius = np.sqrt(
        sum(
            ((axis - 0.4 * extent) / weight) ** 2
            for axis, extent, weight in zip(axes, SHAPE, (1.2, 1.0, 0.8), strict=True)
        )
    )
    seg = np.zeros(SHAPE, np.uint8)
    for label, outer in ((2, 24), (3, 16), (1, 10)):
        seg[radius < outer] = label
    return seg


def read_seg(path: Path) -> NDArray[np.uint8]:
    return to_classes(read_volume(path, path.name).get_fdata(dtype=np.float32), "brats", path.name)


def predictions(truth: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    shifted = np.roll(truth, 3, axis=0)
    stray = shifted.copy()
    stray.ravel()[generator.choice(stray.size, 1000, replace=False)] = generator.integers(1, 4, 1000)
    brain = np.zeros_like(truth)
    brain[30:210, 20:220, 5:145] = 3
    return {"shifted": shifted, "stray voxels": stray, "whole brain": brain}


def time_scoring(predicted: NDArray[np.uint8], truth: NDArray[np.uint8], name: str, repeats: int) -> float:
    seconds, wall = [], []
    for _ in range(repeats):
        start, start_wall = time.process_time(), time.perf_counter()
        scores = score_regions(predicted, truth, (1.0, 1.0, 1.0))
        seconds.append(time.process_time() - start)
        wall.append(time.perf_counter() - start_wall)
    print(
        f"{name}: median {statistics.median(seconds):.3f} CPU s ({statistics.median(wall):.3f} s on the wall)",
        flush=True,
    )
    for region, one in scores.items():
        print(f"  {region}: Dice {one.dice}, HD95 {one.hd95_mm} mm")
    return statistics.median(seconds)


if __name__ == "__main__":
    main()

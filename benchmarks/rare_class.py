"""Does a network predict a class that is small and often missing? Dice alone, and Dice with voxel-wise cross entropy.

A phantom cohort in which three to four of ten patients have no enhancing tumour, and the others little; the network and
the schedule of a preset, trained once per loss and seed on the same crops. Scored on test cases that no training saw:
mean Dice of a region over the cases whose true mask holds it (a missed one is 0), and in how many cases enhancing
tumour is predicted, with and without any in truth.

    python benchmarks/rare_class.py [--preset demo] [--seeds 0 1 2] [--out FOLDER] [SECTION.NAME=VALUE ...]

Everything is written below --out; a second call goes on. Results depend on the number of threads in the last bits.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mttu.cohort.build import discover
from mttu.config import Config, override, parse_overrides
from mttu.data.cache import cache_case, open_cached
from mttu.data.loaders import read_prepared
from mttu.data.manifest import Manifest, write_manifest
from mttu.files import write_json
from mttu.inference.windows import predict_volume, segment
from mttu.metrics.segmentation import Overlap, count_overlaps
from mttu.networks.checkpoint import read_checkpoint
from mttu.phantom import Recipe, write_phantom
from mttu.search.presets import PRESETS, preset
from mttu.training.run import launch_locally, run_training

REGIONS = ("et", "tc", "wt")
LOSSES: dict[str, dict[str, Any]] = {
    "dice": {"loss.segmentation": "dice"},
    "dice_ce": {"loss.segmentation": "dice_ce"},
    "dice-foreground": {"loss.segmentation": "dice", "loss.include_background": False},
    "dice_ce-foreground": {"loss.segmentation": "dice_ce", "loss.include_background": False},
}
"""The first two count the background as a class of Dice where the preset does."""


def build(out: Path, arguments: argparse.Namespace) -> tuple[Manifest, Path]:
    """Phantom, manifest and cache; two thirds of the cases are test cases."""
    data, path = out / "phantom", out / "cohort.parquet"
    recipe = Recipe(
        cases=arguments.cases,
        size=arguments.size,
        difficulty=arguments.difficulty,
        mutant_fraction=arguments.mutants,
        unlabelled_fraction=0.0,
        test_fraction=0.65,
    )
    write_phantom(data, recipe)
    manifest = discover(data, data / "clinical.csv")
    write_manifest(manifest, path)
    for case in manifest.cases:
        cache_case(case, out / "cache", manifest.modalities, preset("paper").data.prepare)
    return manifest, path


def find_overlaps(run: Path, manifest: Manifest, cache: Path) -> list[dict[str, Overlap]]:
    """Overlaps of each test case with its true mask, by region."""
    network, config = read_checkpoint(run)
    overlaps = []
    for case in manifest.split("test"):
        cached = open_cached(cache, case.case_id)
        image = read_prepared(cached, config)
        found = predict_volume(network, image, config.patch.size, config.inference, torch.device("cpu"))
        assert found.seg_probabilities is not None
        assert cached.seg is not None
        classes = segment(found.seg_probabilities, config.inference, config.data.prepare.spacing_mm**3)
        overlaps.append(dict(count_overlaps(classes.numpy(), np.asarray(cached.seg))))
    return overlaps


def summarise(overlaps: Sequence[dict[str, Overlap]]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for region in REGIONS:
        held = [case[region].dice for case in overlaps if case[region].status in ("normal", "missed")]
        scores[region] = float(np.mean([0.0 if dice is None else dice for dice in held]))
    statuses = [case["et"].status for case in overlaps]
    scores["found"], scores["held"] = statuses.count("normal"), statuses.count("normal") + statuses.count("missed")
    scores["spurious"], scores["bare"] = statuses.count("spurious"), len(statuses) - int(scores["held"])
    return scores


def run_one(config: Config, manifest: Manifest, cache: Path) -> dict[str, float]:
    run = run_training(config, launch_locally)
    return summarise(find_overlaps(run, manifest, cache))


def show(name: str, scores: dict[str, float]) -> None:
    dices = "  ".join(f"{region.upper()} {scores[region]:.3f}" for region in REGIONS)
    enhancing = (
        f"{scores['found']:.3g} of {scores['held']:g}, and {scores['spurious']:.3g} of {scores['bare']:g} without"
    )
    print(f"{name:27} {dices}   ET predicted in {enhancing}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="SECTION.NAME=VALUE")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="demo", help="network, patch and schedule")
    parser.add_argument("--out", type=Path, default=Path("runs/rare_class"))
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--size", type=int, default=48, help="voxels along each axis of the phantom")
    # mutants enhance little, and the less the plainer the signs of IDH are: at 0 and 0.9 six of ten not at all
    parser.add_argument("--difficulty", type=float, default=0.2)
    parser.add_argument("--mutants", type=float, default=0.75, help="share of the cases")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--losses", nargs="+", choices=sorted(LOSSES), default=["dice", "dice_ce"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    manifest, path = build(arguments.out, arguments)
    fixed = {
        "data.manifest": str(path),
        "output.folder": str(arguments.out / "runs"),
        "tracking.enabled": False,
        "workers.threads_per_worker": arguments.threads,
        **parse_overrides(arguments.overrides),
    }
    table: dict[str, list[dict[str, float]]] = {}
    for seed in arguments.seeds:
        for name in arguments.losses:
            changes = {**fixed, **LOSSES[name], "train.seed": seed, "output.name": f"{name}-seed-{seed}"}
            scores = run_one(override(preset(arguments.preset), changes), manifest, arguments.out / "cache")
            table.setdefault(name, []).append(scores)
            show(f"{name}, seed {seed}", scores)
    for name, rows in table.items():
        show(f"{name}, mean", {key: float(np.mean([row[key] for row in rows])) for key in rows[0]})
    write_json(arguments.out / "results.json", table)


if __name__ == "__main__":
    main()

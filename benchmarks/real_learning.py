"""Does it learn on real MRI? The small preset on three BraTS 2013 patients (leave one out) and two TCGA patients.

Each BraTS 2013 patient (FLAIR and T1c) is segmented by a network trained on the other two, without any look at the
patient left out, and compared with a two-level Otsu threshold of FLAIR inside the brain. The two TCGA patients (four
modalities, IDH known) are fitted: can the network, its losses and the loop reproduce what they were shown?

    python benchmarks/real_learning.py DATA [--only brats2013|tcga] [--out FOLDER]
    python benchmarks/real_learning.py DATA --only brats2013 --network unet --network segresnet --network mttu-net
    python benchmarks/real_learning.py DATA --only brats2013 --teacher [--patient brats_2013_pat0003_1]

With --teacher the training goes on for as many epochs again, twice: on the two patients alone, and with the images of
the patient left out, whose mask a mean teacher takes the place of (`teacher.masks`).

Networks other than MTTU-Net are as small as table VI has them beside a small MTTU-Net (`mttu ablations VI`).

DATA holds `brats2013_flair_t1c/` and `tcga_lgg/`. Everything is written below --out, apart for CPU and GPU; a second
call goes on.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mttu.cohort.build import discover
from mttu.config import Config, override
from mttu.config.network import OURS, RIVALS
from mttu.data.cache import cache_case, open_cached
from mttu.data.manifest import Manifest, read_manifest, write_manifest
from mttu.figures.overlay import draw_overlay
from mttu.files import atomic_file, write_json
from mttu.inference.device import choose_device
from mttu.inference.windows import predict_volume, segment
from mttu.metrics.empty_masks import fill_dice
from mttu.metrics.segmentation import count_overlaps
from mttu.networks.checkpoint import read_checkpoint
from mttu.search.ablations import changes_of
from mttu.search.presets import preset
from mttu.training.run import launch_locally, run_training

BRATS2013 = ("brats_2013_pat0003_1", "brats_2013_pat0005_1", "brats_2013_pat0006_1")
SEGMENTING = [kind for kind, tasks in RIVALS.items() if "segmentation" in tasks] + [OURS]
TCGA = {"TCGA-DU-7294": 1, "TCGA-FG-6692": 0}


def otsu_threshold(values: NDArray[np.float32]) -> float:
    """Threshold of the largest between-class variance over 256 bins (Otsu, 1979; doi:10.1109/TSMC.1979.4310076)."""
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    sums = (counts * centres).cumsum()
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(centres[np.nanargmax(variance)])


def two_level_otsu(flair: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Voxels above Otsu's threshold of the voxels above Otsu's threshold of the brain."""
    brain = flair != 0
    first = otsu_threshold(flair[brain])
    second = otsu_threshold(flair[brain & (flair > first)])
    return np.asarray(brain & (flair > second))


def build(folder: Path, out: Path, rows: list[str], labels: str, modalities: tuple[str, ...]) -> Path:
    """Writes a clinical table, the manifest and the cache; returns the manifest's path."""
    out.mkdir(parents=True, exist_ok=True)
    table, path = out / "clinical.csv", out / "cohort.parquet"
    table.write_text("\n".join(["case_id,idh,split", *rows]) + "\n", encoding="utf-8")
    manifest = discover(folder, clinical=table, labels=labels, modalities=modalities)
    write_manifest(manifest, path)
    for case in manifest.cases:
        cache_case(case, out.parent / "cache" / labels, modalities, preset("small").data.prepare)
    return path


def settings(manifest: Path, cache: Path, changes: dict[str, Any]) -> Config:
    fixed = {
        "data.manifest": str(manifest),
        "data.cache_dir": str(cache),
        "output.folder": str(manifest.parent),
        "output.name": "run",
        "tracking.enabled": False,
    }
    return override(preset("small"), {**fixed, **changes})


def train(config: Config, device: torch.device) -> tuple[Path, float]:
    """Trains or goes on; returns the run folder and the seconds of all starts together."""
    clock = config.output.folder / "seconds.json"
    earlier = json.loads(clock.read_text()) if clock.exists() else 0.0
    started = time.monotonic()

    def show(epoch: int, metrics: Mapping[str, float]) -> None:
        print(f"  epoch {epoch}: loss {metrics['train/loss']:.4f}", flush=True)
        write_json(clock, earlier + time.monotonic() - started)

    run = run_training(config, partial(launch_locally, device=device), show=show)
    return run, json.loads(clock.read_text())


def score(
    run: Path, manifest: Manifest, cache: Path, case_id: str, picture: Path, device: torch.device
) -> dict[str, float | None]:
    """Dice of a case against its expert mask, on the prepared grid, with an overlay drawn."""
    network, config = read_checkpoint(run)
    network.to(device)
    cached = open_cached(cache, case_id)
    image = np.asarray(cached.image, dtype=np.float32)
    truth = torch.from_numpy(np.array(cached.seg))
    found = predict_volume(network, torch.from_numpy(image), config.patch.size, config.inference, device)
    assert found.seg_probabilities is not None
    classes = segment(found.seg_probabilities, config.inference, 1.0).cpu()
    figure = draw_overlay(image[0], classes.numpy(), case_id, manifest.modalities[0], 1.0)
    with atomic_file(picture) as partial:
        figure.savefig(partial, format="png", dpi=100)
    otsu = torch.from_numpy(two_level_otsu(image[0]).astype(np.uint8))
    result = {f"dice_{region}": value for region, value in score_dice(classes, truth, config).items()}
    result["otsu_wt"] = score_dice(otsu, truth, config)["wt"]
    if found.idh_probabilities is not None:
        result["mutant_probability"] = float(found.idh_probabilities[1])
    return result


def score_dice(predicted: torch.Tensor, truth: torch.Tensor, config: Config) -> dict[str, float | None]:
    overlaps = count_overlaps(predicted.numpy(), truth.numpy())
    return {region: fill_dice(one.dice, one.status, config.metrics) for region, one in overlaps.items()}


def leave_one_out(
    data: Path, out: Path, changes: dict[str, Any], network: str, device: torch.device, patients: Sequence[str]
) -> dict[str, Any]:
    results = {}
    row = f"{OURS}-vi" if network == OURS else network
    out = out if network == OURS else out / network
    for held in patients:
        rows = [f"{case},,{'test' if case == held else 'train'}" for case in BRATS2013]
        path = build(data / "brats2013_flair_t1c", out / held, rows, "brats2013", ("flair", "t1ce"))
        cache = out / "cache" / "brats2013"
        two = {"data.modalities": ["flair", "t1ce"], "network.in_channels": 2, "network.tasks": ["segmentation"]}
        print(f"{network}: {held} left out", flush=True)
        config = settings(path, cache, {**changes_of(row, preset("small")), **two, **changes})
        run, seconds = train(config, device)
        found = score(run, read_manifest(path), cache, held, out / f"{held}.png", device)
        results[held] = {**found, "seconds": seconds}
        print(f"  {results[held]}", flush=True)
    return results


def leave_one_out_taught(
    out: Path, changes: dict[str, Any], device: torch.device, patients: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Goes on from `leave_one_out` of MTTU-Net, without and with the patient left out as a case without a mask."""
    results: dict[str, dict[str, Any]] = {"alone": {}, "taught": {}}
    for held in patients:
        manifest = read_manifest(out / held / "cohort.parquet")
        for way, own in results.items():
            place = out / f"{held}_{way}"
            place.mkdir(exist_ok=True)
            bare = [replace(case, split="train", seg=None) if case.split == "test" else case for case in manifest.cases]
            cases = manifest.cases if way == "alone" else tuple(bare)
            write_manifest(replace(manifest, cases=cases), place / "cohort.parquet")
            cache = out / "cache" / ("brats2013" if way == "alone" else held)
            for case in cases:
                cache_case(case, cache, manifest.modalities, preset("small").data.prepare)
            two = {"data.modalities": ["flair", "t1ce"], "network.in_channels": 2, "network.tasks": ["segmentation"]}
            two = {**changes_of(f"{OURS}-vi", preset("small")), **two}
            taught = {"train.start_from": str(out / held / "run"), "teacher.masks": way == "taught"}
            print(f"{held} left out, {way}", flush=True)
            run, seconds = train(settings(place / "cohort.parquet", cache, {**two, **changes, **taught}), device)
            whole = out / "cache" / "brats2013"
            own[held] = {**score(run, manifest, whole, held, out / f"{held}_{way}.png", device), "seconds": seconds}
            print(f"  {own[held]}", flush=True)
    return results


def fit_tcga(data: Path, out: Path, changes: dict[str, Any], device: torch.device) -> dict[str, Any]:
    rows = [f"{case},{idh},train" for case, idh in TCGA.items()]
    path = build(data / "tcga_lgg", out / "tcga", rows, "brats", ("flair", "t1ce", "t1", "t2"))
    cache = out / "cache" / "brats"
    run, seconds = train(settings(path, cache, changes), device)
    manifest = read_manifest(path)
    return {
        case: {**score(run, manifest, cache, case, out / f"{case}.png", device), "seconds": seconds} for case in TCGA
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/real_learning"))
    parser.add_argument("--only", choices=("brats2013", "tcga"))
    parser.add_argument(
        "--network", action="append", choices=SEGMENTING, help="of the leave-one-out; mttu-net if not given"
    )
    parser.add_argument("--patient", action="append", choices=BRATS2013, help="left out; each in turn if not given")
    parser.add_argument("--teacher", action="store_true", help="go on without and with a mean teacher")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40, help="optimiser steps per epoch")
    arguments = parser.parse_args()
    if arguments.teacher and (arguments.only == "tcga" or OURS not in (arguments.network or [OURS])):
        parser.error(f"--teacher goes on from the leave-one-out of {OURS}")
    torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    arguments.out /= device.type  # a run does not say what it was trained on
    changes = {
        "train.epochs": arguments.epochs,
        "train.steps_per_epoch": arguments.steps,
        "train.checkpoint_every": 5,
        "workers.threads_per_worker": arguments.threads,
    }
    patients = arguments.patient or BRATS2013
    results: dict[str, Any] = {}
    if arguments.only != "tcga":
        for network in arguments.network or [OURS]:
            found = leave_one_out(arguments.data, arguments.out, changes, network, device, patients)
            results[f"brats2013 {network}"] = found
        if arguments.teacher:
            ways = leave_one_out_taught(arguments.out, changes, device, patients)
            results |= {f"brats2013 {way}": table for way, table in ways.items()}
    if arguments.only != "brats2013":
        results["tcga"] = fit_tcga(arguments.data, arguments.out, changes, device)
    for name, table in results.items():
        for region in ("dice_wt", "dice_tc", "dice_et", "otsu_wt"):
            print(f"{name}: mean {region} {np.mean([row[region] for row in table.values()]):.3f}")
    path = arguments.out / "results.json"
    earlier = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, {**earlier, **results})
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

"""What do networks reach in the same time? A few networks on one cohort, each trained for as many seconds.

The seconds of an optimiser step are measured first, one network after another; every network then gets the epochs of
eight steps that fill its share, on one thread. Scores are of the test cases, by the weights that validation chose.

    python benchmarks/equal_seconds.py COHORT CACHE [--seconds 60] [--seeds 3] [--out FOLDER] [--row NAME ...]

Rows are those of `mttu ablations VI`. A second call goes on with what is not finished. The machine has to be quiet:
what runs beside it takes steps from whichever network is measured then.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import torch

from mttu.config import Config, override
from mttu.data.manifest import read_manifest
from mttu.files import remove, write_json
from mttu.search.ablations import ABLATIONS, PAPERS_ROW, changes_of, rows_of
from mttu.search.presets import preset
from mttu.self_training.evaluation import evaluate_locally, read_rows, write_rows
from mttu.tables.case_tests import compare_on_cases
from mttu.tables.files import write_csv, write_markdown
from mttu.tables.scores import measure_cell, summarise
from mttu.training.run import launch_locally, run_training

ROWS = ("unet", "dmfnet", "segresnet", "cmsvnet", "mttu-net-vi")
STEPS = 8
"""Optimiser steps of an epoch, as in the preset demo."""
MEASURED_EPOCHS = 3
RECORD = "record.json"


def settings(arguments: argparse.Namespace, row: str, name: str, changes: dict[str, Any]) -> Config:
    base = override(
        preset("demo"),
        {
            "data.manifest": str(arguments.cohort.resolve()),
            "data.cache_dir": str(arguments.cache.resolve()),
            "output.folder": str(arguments.out.resolve()),
            "output.name": name,
            "train.steps_per_epoch": STEPS,
            "train.global_batch": 2,
            "train.batch_per_worker": 2,
            "workers.threads_per_worker": 1,
            "tracking.enabled": False,
        },
    )
    return override(base, {**changes_of(row, base), **changes})


def measure_step(arguments: argparse.Namespace, row: str) -> float:
    """Seconds of an optimiser step, loading included: the median over epochs without the first."""
    config = settings(arguments, row, f"{row}-measured", {"train.epochs": 1 + MEASURED_EPOCHS})
    remove(config.output.place)  # half a measurement is none
    seconds: list[float] = []
    run_training(config, launch_locally, show=lambda epoch, metrics: seconds.append(metrics["time/step_seconds"]))
    return median(seconds[1:])


def open_record(arguments: argparse.Namespace) -> dict[str, Any]:
    """What this folder is of, with the seconds of a step of each network: measured once, as the trainings follow."""
    path = arguments.out / RECORD
    wanted = {"cohort": read_manifest(arguments.cohort).fingerprint, "seconds": arguments.seconds}
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {**wanted, "steps": {}}
    if any(record[name] != value for name, value in wanted.items()):
        raise SystemExit(f"{path}: is of another cohort or of {record['seconds']:g} seconds; give another --out")
    for row in arguments.row:
        if row not in record["steps"]:
            record["steps"][row] = measure_step(arguments, row)
            write_json(path, record)
            print(f"{row}: {record['steps'][row]:.3f} s a step", flush=True)
    return record


def train_and_score(arguments: argparse.Namespace, row: str, epochs: int, seed: int) -> Path:
    """Trains, or goes on, and scores the test cases; returns the file of their scores."""
    changes = {"train.epochs": epochs, "train.seed": seed, "train.validate_every": (epochs + 1) // 2}
    config = settings(arguments, row, f"{row}-seed-{seed}", changes)
    run = run_training(config, launch_locally)
    scores = run / "test.parquet"
    if not scores.exists():
        cases = read_manifest(arguments.cohort).split("test")
        rows = evaluate_locally(run / "best", cases, config, lambda done, row: None, distances=True)
        write_rows(rows, scores, {"row": row})
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohort", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0, help="of optimiser steps, for each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--row", action="append", choices=rows_of("VI"), help=f"rows of table VI; {' '.join(ROWS)} if not given"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/equal_seconds"))
    arguments = parser.parse_args()
    arguments.row = arguments.row or list(ROWS)
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    steps = open_record(arguments)["steps"]
    cells: dict[str, dict[str, Any]] = {row: {} for row in arguments.row}
    epochs = {row: max(1, round(arguments.seconds / (STEPS * steps[row]))) for row in arguments.row}
    for seed in range(arguments.seeds):
        for row in arguments.row:
            cells[row][f"seed {seed}"], _ = read_rows(train_and_score(arguments, row, epochs[row], seed))
            print(f"{row}, seed {seed}: {STEPS * epochs[row]} steps", flush=True)
    reference = PAPERS_ROW["VI"] if PAPERS_ROW["VI"] in cells else arguments.row[0]
    summary = summarise(
        {row: {repeat: measure_cell(cases) for repeat, cases in own.items()} for row, own in cells.items()},
        reference,
        {row: f"{ABLATIONS[row].row}, {STEPS * epochs[row]} steps" for row in cells},
        {row: {"step_seconds": [steps[row]]} for row in cells},
        compare_on_cases(cells, reference),
    )
    write_csv(summary, arguments.out / "table.csv")
    caption = f"{arguments.seconds:g} seconds of optimiser steps for each training, on one thread."
    write_markdown(summary, caption, arguments.out / "table.md")
    print((arguments.out / "table.md").read_text())


if __name__ == "__main__":
    main()

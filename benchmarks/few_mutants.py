"""How right could mutant pseudo-labels be in a pool of few mutants, with thresholds that are set by the truth?

From the test cases of `selection_study.py`, whose truth is known: a threshold on the mutant probability is set where it
takes a wanted share of the true mutants (sensitivity), and the wild types above it are counted. Moved to a pool with
another share of mutants, sensitivity and false-positive rate give the share of right labels among the selected. A
selection does not know these thresholds, and a pool of 80 has hardly any mutants to set them by. The probability is
that of one pass without dropout.

    python benchmarks/few_mutants.py FOLDER [--cell full] [--share 0.05]

FOLDER is that of `selection_study.py`. An arm that has not been run there is left out, and so is the ensemble, whose
networks the arm "4 ensemble" trains.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from selection_study import CELLS, FOLDS, Study

from mttu.data.labels import IDH_MUTANT, IDH_WILD
from mttu.data.manifest import read_manifest
from mttu.files import read_parquet
from mttu.networks.checkpoint import read_checkpoint
from mttu.training.folds import CSV

ARMS = {"round 0": ("none", 0), "none": ("none", 2), "pool": ("pool", 2), "oracle 80": ("oracle_80", 2)}
"""Row: folder of an arm, and its round."""
ENSEMBLE = f"ensemble of {FOLDS}"
SENSITIVITIES = (0.1, 0.25, 0.5)
WANTED = 0.8
"""Share of right labels."""
Scores = tuple[np.ndarray, np.ndarray]
"""Mutant probability and true class of each test case."""


def read_arm(seed: Path, arm: str, number: int) -> Scores | None:
    """What the network of a round said of the test cases."""
    path = seed / arm / "test.parquet"
    if not path.exists():
        return None
    rows = [row for row in read_parquet(path).to_pylist() if row["round"] == number]
    return np.array([row["mutant_probability"] for row in rows]), np.array([row["idh"] for row in rows])


def ask_ensemble(study: Study) -> Scores | None:
    """The mean over the networks of a cross-validation."""
    if not (study.folder / "cv" / CSV).exists():  # the last file of a cross-validation
        return None
    cases, told = read_manifest(study.manifest).split("test"), []
    for number in range(1, FOLDS + 1):
        place = study.folder / "cv" / f"fold_{number}"
        _, config = read_checkpoint(place)
        rows = study.evaluate(place, cases, config, lambda count, row: None)
        told.append([row["mutant_probability"] for row in rows])
    return np.mean(np.array(told, dtype=float), axis=0), np.array([case.idh for case in cases])


def count_rates(scores: Scores, sensitivity: float) -> tuple[float, float]:
    """Sensitivity and false-positive rate at the threshold that takes this share of the mutants, or just more."""
    probability, idh = scores
    mutants = np.sort(probability[idh == IDH_MUTANT])[::-1]
    threshold = mutants[max(1, round(sensitivity * len(mutants))) - 1]
    taken = probability >= threshold
    return float(taken[idh == IDH_MUTANT].mean()), float(taken[idh == IDH_WILD].mean())


def find_precision(rates: Sequence[tuple[float, float]], share: float) -> float:
    """Share of right labels among all that these networks would select of pools with such a share of mutants."""
    right, false = share * sum(true for true, _ in rates), (1 - share) * sum(false for _, false in rates)
    return right / (right + false)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of selection_study.py")
    parser.add_argument("--cell", choices=CELLS, default="full", help="whose networks are asked")
    parser.add_argument("--share", type=float, default=0.05, help="of mutants in the pool")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.folder.resolve() / "study"
    found: dict[str, list[Scores]] = {}
    places = (folder / arguments.cell).glob("seed_*")
    for seed in sorted(int(place.name.removeprefix("seed_")) for place in places):
        study = Study(folder, arguments.cell, seed, torch.device("cpu"))
        told: Mapping[str, Scores | None] = {
            **{name: read_arm(study.folder, arm, number) for name, (arm, number) in ARMS.items()},
            ENSEMBLE: ask_ensemble(study),
        }
        for name, scores in told.items():
            if scores is not None:
                found.setdefault(name, []).append(scores)
    titles = [f"{share:g} of the mutants" for share in SENSITIVITIES]
    print(f"right labels at a share of {arguments.share:g}; in brackets, seeds of {WANTED:g} and more\n")
    print(f"| network | seeds | {' | '.join(titles)} |\n| --- | ---: |{' ---: |' * len(titles)}")
    for name, seeds in found.items():
        cells = []
        for sensitivity in SENSITIVITIES:
            rates = [count_rates(scores, sensitivity) for scores in seeds]
            enough = sum(find_precision([own], arguments.share) >= WANTED for own in rates)
            cells.append(f"{find_precision(rates, arguments.share):.2f} ({enough} of {len(rates)})")
        print(f"| {name} | {len(seeds)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

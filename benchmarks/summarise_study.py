"""Table and picture of `selection_study.py`: paired differences of the arms, with 95 % intervals over seeds.

python benchmarks/summarise_study.py FOLDER [--picture docs/pictures/selection_study]
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from selection_study import ARMS, POOL, TEST, TRAIN, VAL

from mttu.cohort.truth import read_truth
from mttu.figures.style import (
    ERROR_BARS,
    GUIDE,
    LABEL_SIZE,
    NOTE_SIZE,
    PAGE_WIDTH_IN,
    TITLE_SIZE,
    new_figure,
    pick_series,
    save_figure,
)
from mttu.files import read_versioned
from mttu.phantom import TRUTH_TABLE
from mttu.self_training.tracking import RoundSummary, summarise_rounds

FIGURES = {"test/idh_auc": "IDH AUC", "test/idh_accuracy": "IDH accuracy", "test/dice_wt": "WT Dice"}
PAIRS = (
    *((arm, "none") for arm in ARMS if arm != "none"),
    ("UPS", "labelled"),
    ("UPS", "PL"),
    ("UPS", "CPL"),
    ("corrected", "UPS"),
    ("random", "corrected"),
)
Rounds = Mapping[int, Mapping[str, Sequence[RoundSummary]]]
"""Seed to arm to its rounds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--picture", type=Path, help="write PNG here, name without suffix")
    arguments = parser.parse_args()
    seeds = read_versioned(arguments.folder / "study.json", 1, "run selection_study.py again")["seeds"]
    if len(seeds) < 2:
        sys.exit("one seed has no interval; run more")
    truth = read_truth(arguments.folder / "phantom" / TRUTH_TABLE)
    rounds = {
        seed: {arm: summarise_rounds(arguments.folder / f"seed_{seed}" / arm, truth) for arm in ARMS} for seed in seeds
    }
    open_ends = [f"seed {seed}, {arm}" for seed, arms in rounds.items() for arm in ARMS if not has_tests(arms[arm])]
    if open_ends:
        sys.exit(f"not finished: {', '.join(open_ends)}; run selection_study.py again")
    print(f"{len(seeds)} seeds, each with {TRAIN} + {VAL} labelled cases and {POOL} in the pool; {TEST} test cases\n")
    print_metrics(rounds)
    print_differences(rounds)
    print_selections(rounds)
    if arguments.picture is not None:
        save_figure(draw(rounds), arguments.picture, ("png",))
    seen = {arm: interval(differences(rounds, arm, "none", "test/idh_auc")) for arm in ("oracle", "wrong")}
    if not (seen["oracle"][1] > 0 and seen["wrong"][2] < 0):
        sys.exit("the study cannot see whether labels are right: true ones must help, wrong ones must hurt")


def has_tests(rounds: Sequence[RoundSummary]) -> bool:
    return bool(rounds) and FIGURES.keys() <= rounds[-1].metrics.keys()


def print_metrics(rounds: Rounds) -> None:
    """Mean and standard deviation over seeds, on the test cases; round 0 is common to all arms."""
    print("| arm | " + " | ".join(FIGURES.values()) + " |\n| --- |" + " ---: |" * len(FIGURES))
    for arm, number in (("none", 0), *((arm, -1) for arm in ARMS)):
        values = [[arms[arm][number].metrics[name] for arms in rounds.values()] for name in FIGURES]
        name = arm if number else "round 0"
        print(f"| {name} | " + " | ".join(f"{np.mean(row):.3f} ± {np.std(row, ddof=1):.3f}" for row in values) + " |")
    print()


def differences(rounds: Rounds, arm: str, other: str, metric: str) -> list[float]:
    """Of the last rounds, seed by seed."""
    return [arms[arm][-1].metrics[metric] - arms[other][-1].metrics[metric] for arms in rounds.values()]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t: over seeds, for these test cases."""
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def print_differences(rounds: Rounds) -> None:
    print("| difference | " + " | ".join(FIGURES.values()) + " |\n| --- |" + " ---: |" * len(FIGURES))
    for arm, other in PAIRS:
        found = [interval(differences(rounds, arm, other, name)) for name in FIGURES]
        cells = " | ".join(f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" for mean, low, high in found)
        print(f"| {arm} - {other} | {cells} |")
    print()


def print_selections(rounds: Rounds) -> None:
    """Selected cases and how many are right, all seeds together."""
    print("| arm | round | mutants | wild types | right |\n| --- | ---: | ---: | ---: | ---: |")
    for arm in ("PL", "CPL", "UPS"):
        for number in (1, 2):
            rows = [arms[arm][number] for arms in rounds.values()]
            known, right = sum(row.num_known for row in rows), sum(row.num_right for row in rows)
            mutants, wild = (sum(getattr(row, name) for row in rows) / len(rows) for name in ("num_mutant", "num_wild"))
            share = f"{right / known:.3f} ({right}/{known})" if known else "-"
            print(f"| {arm} | {number} | {mutants:.1f} | {wild:.1f} | {share} |")


def draw(rounds: Rounds) -> Figure:
    """A panel per metric: each seed's difference from `none`, and the mean with its interval."""
    figure = new_figure(PAGE_WIDTH_IN, 2.8)
    arms = [arm for arm in ARMS if arm != "none"]
    for axes, (metric, title) in zip(figure.subplots(1, len(FIGURES), sharey=True), FIGURES.items(), strict=True):
        axes.axvline(0, **GUIDE)
        for place, arm in enumerate(arms):
            values = differences(rounds, arm, "none", metric)
            mean, low, high = interval(values)
            colour = pick_series(place).colour
            spread = np.linspace(-0.28, 0.28, len(values))
            axes.scatter(values, place + spread, s=7, color=colour, alpha=0.45, linewidths=0)
            bars = [[mean - low], [high - mean]]
            axes.errorbar([mean], [place], xerr=bars, fmt="o", color=colour, markersize=4.5, zorder=3, **ERROR_BARS)
        axes.set_title(title, fontsize=TITLE_SIZE)
        axes.set_yticks(range(len(arms)), arms, fontsize=LABEL_SIZE)
        axes.set_xlabel("difference from none", fontsize=LABEL_SIZE)
        axes.tick_params(labelsize=NOTE_SIZE)
        axes.invert_yaxis()
    return figure


if __name__ == "__main__":
    main()

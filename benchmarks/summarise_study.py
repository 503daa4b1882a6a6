"""Tables and pictures of `selection_study.jsonl`: arms, paired differences with 95 % intervals over seeds, selections.

python benchmarks/summarise_study.py [RESULTS] [--chosen] [--pictures docs/pictures] [--page docs/selection-study.md]
"""

import argparse
import io
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from selection_study import ARMS, CELLS, CLASSES, POOL, RESULTS, TEST, read_results

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
from mttu.training.evaluation import TIE_BREAK

VALUES: Mapping[str, str] = {
    "test/idh_auc": "IDH AUC",
    "test/idh_accuracy": "IDH accuracy",
    "test/idh_ece": "IDH ECE",
    "dice": "mean Dice",
    "test/dice_wt": "Dice WT",
    "test/dice_tc": "Dice TC",
    "test/dice_et": "Dice ET",
}
COMPARED = ("test/idh_auc", "test/idh_accuracy", "test/idh_ece", "dice")
MORE_PAIRS = (
    ("pool", "UPS"),
    ("pool", "labelled"),
    ("pool", "labelled 8"),
    ("UPS", "labelled"),
    ("UPS", "PL"),
    ("corrected", "UPS"),
    ("random", "corrected"),
    ("oracle 20 quotas", "oracle 20"),
)
SELECTING = ("UPS", "pool", "3 rank", "3 precision", "4 ensemble")
"""Arms whose selected mutants are counted."""
LEAST_MUTANTS = 10
"""Mutants that an arm has to select, over all seeds and rounds, before their precision is called one."""
Rounds = Sequence[Mapping[str, Any]]
"""Lines of an arm, by round."""
Seeds = Mapping[int, Mapping[str, Rounds]]
"""Seed to arm to its rounds."""


PAGE = """# Tables of the selection study

All results of the [study of self-training](self-training.md#on-phantoms-whose-truth-is-known), as
`python benchmarks/summarise_study.py --page docs/selection-study.md` writes them from
`benchmarks/selection_study.jsonl`. What they mean is said there. Values are on the test cases, mean and standard
deviation over seeds; differences are paired, with 95 % intervals (Student's t over seeds), not adjusted for their
number. Selections are per seed; a share of right labels is over all seeds, and where it rests on few labels it says
little. Where probabilities were moved to the pool's share, seeds 0 to 9 ordered the cases of a class by the moved
probability less its deviation, not yet by that before the move.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    parser.add_argument("--chosen", action="store_true", help="the round that validation chose, not the last")
    parser.add_argument("--pictures", type=Path, help="write PNG into this folder")
    parser.add_argument("--page", type=Path, help="write all tables into this file, those of the chosen round, too")
    arguments = parser.parse_args()
    if arguments.page is not None and arguments.chosen:
        parser.error("--page holds both, the last and the chosen round: leave out --chosen")
    lines = read_results(arguments.results)
    if arguments.page is not None:
        arguments.page.write_text(make_page(lines), encoding="utf-8")
    else:
        print_cells(lines, arguments.chosen)
    if arguments.pictures is not None:
        draw_cells(lines, arguments.chosen, arguments.pictures)


def list_cells(lines: Rounds, chosen: bool) -> dict[str, Seeds]:
    """Cells that have the two seeds that an interval needs."""
    found = {name: group([line for line in lines if line["cell"] == name], chosen) for name in CELLS}
    for name, seeds in found.items():
        if len(seeds) < 2:
            print(f"{name}: {len(seeds)} seeds; an interval needs 2\n", file=sys.stderr)
    return {name: seeds for name, seeds in found.items() if len(seeds) > 1}


def describe_cell(name: str, seeds: Seeds) -> str:
    cell = CELLS[name]
    return (
        f"{name}: {cell.train} + {cell.val} labelled cases, {POOL} in the pool, {cell.mutant_share:g} of them mutant, "
        f"{'with' if cell.masks else 'without'} masks; {len(seeds)} seeds, {TEST} test cases"
    )


def print_cells(lines: Rounds, chosen: bool) -> None:
    for name, seeds in list_cells(lines, chosen).items():
        print(f"## {describe_cell(name, seeds)}\n")
        print_values(seeds)
        print_differences(seeds)
        print_selections(seeds)
        print_wanted(seeds)
        if not chosen:
            compare_choices(seeds)


def make_page(lines: Rounds) -> str:
    """All tables after the last round, and the differences after the round that validation chose."""
    with redirect_stdout(io.StringIO()) as text:
        print(f"{PAGE}\n## What the arms are\n")
        rows = [
            [name, ", ".join(cell for cell in CELLS if name in CELLS[cell].arms), arm.what]
            for name, arm in ARMS.items()
        ]
        print("| arm | cells | what |\n| --- | --- | --- |")
        print("".join(f"| {' | '.join(row)} |\n" for row in rows))
        print_cells(lines, chosen=False)
        for name, seeds in list_cells(lines, chosen=True).items():
            print(f"## {name}, after the round that validation chose\n")
            print_values(seeds)
            print_differences(seeds)
            print_wanted(seeds)
    return text.getvalue().rstrip() + "\n"


def draw_cells(lines: Rounds, chosen: bool, folder: Path) -> None:
    for name, seeds in list_cells(lines, chosen).items():
        save_figure(draw_differences(seeds), folder / f"selection_study_{name}", ("png",))
        if sum(arm.startswith("oracle") for arm in list_arms(seeds)) > 2:
            save_figure(draw_doses(seeds), folder / "selection_study_doses", ("png",))


def group(lines: Rounds, chosen: bool) -> Seeds:
    """All rounds of a cell; with `chosen`, those after the chosen one are left out. An arm may lack seeds."""
    seeds: dict[int, dict[str, list[Mapping[str, Any]]]] = {}
    for line in sorted(lines, key=lambda line: line["round"]):
        own = seeds.setdefault(line["seed"], {}).setdefault(line["arm"], [])
        own.append({**line, "dice": np.mean([line[f"test/dice_{region}"] for region in ("wt", "tc", "et")])})
    if chosen:
        for arms in seeds.values():
            for arm, rounds in arms.items():
                last = next(place for place, line in enumerate(rounds) if line["chosen"])
                arms[arm] = rounds[: last + 1]
    return {seed: arms for seed, arms in sorted(seeds.items()) if "none" in arms}


def list_arms(seeds: Seeds) -> list[str]:
    """Those of two seeds or more."""
    return [arm for arm in ARMS if len(of_arm(seeds, arm)) > 1]


def of_arm(seeds: Seeds, *wanted: str) -> list[Mapping[str, Rounds]]:
    """The seeds that have these arms."""
    return [arms for arms in seeds.values() if arms.keys() >= set(wanted)]


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    numbers = len(titles) - 1
    print(f"| {' | '.join(titles)} |\n| --- |{' ---: |' * numbers}")
    print("".join(f"| {' | '.join(row)} |\n" for row in rows))


def print_values(seeds: Seeds) -> None:
    """Mean and standard deviation over seeds, on the test cases; round 0 is common to the arms."""
    rows = []
    for arm, place in (("none", 0), *((arm, -1) for arm in list_arms(seeds))):
        values = [[arms[arm][place][name] for arms in of_arm(seeds, arm)] for name in VALUES]
        rows.append(
            [
                arm if place else "round 0",
                str(len(values[0])),
                *(f"{np.mean(own):.3f} ± {np.std(own, ddof=1):.3f}" for own in values),
            ]
        )
    print_table(["arm", "seeds", *VALUES.values()], rows)


def differences(seeds: Seeds, arm: str, other: str, name: str) -> list[float]:
    """Of the last rounds, seed by seed."""
    return [arms[arm][-1][name] - arms[other][-1][name] for arms in of_arm(seeds, arm, other)]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t: over seeds, for these test cases."""
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def print_differences(seeds: Seeds) -> None:
    arms = list_arms(seeds)
    pairs = [(arm, "none") for arm in arms if arm != "none"]
    pairs += [pair for pair in MORE_PAIRS if len(of_arm(seeds, *pair)) > 1]
    rows = []
    for arm, other in pairs:
        found = [interval(differences(seeds, arm, other, name)) for name in COMPARED]
        rows.append([f"{arm} - {other}", *(f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" for mean, low, high in found)])
    print_table(["difference", *(VALUES[name] for name in COMPARED)], rows)


def print_selections(seeds: Seeds) -> None:
    """Labels per seed and round, how many are right over all seeds, and seeds without any."""
    rows = []
    for arm in list_arms(seeds):
        own = [arms[arm] for arms in of_arm(seeds, arm)]
        for number in range(1, max(map(len, own))):
            found = [rounds[number] for rounds in own if len(rounds) > number]
            if not any(line["num_mutant"] + line["num_wild"] for line in found):
                continue
            nothing = sum(not line["num_mutant"] + line["num_wild"] for line in found)
            cells = []
            for name in CLASSES:
                labels, right = (sum(line[f"{key}_{name}"] for line in found) for key in ("num", "right"))
                cells += [f"{labels / len(found):.1f}", f"{right / labels:.3f}" if labels else "-"]
            said = [line for line in found if line.get("selected/estimated_precision_mutant") is not None]
            count = sum(line["num_mutant"] for line in said)
            expected = sum(line["num_mutant"] * line["selected/estimated_precision_mutant"] for line in said)
            shares = [line["selected/pool_share"] for line in found if "selected/pool_share" in line]
            moved = sum("selected/moved_to" in line for line in found)
            told = [f"{expected / count:.3f}" if count else "-", f"{np.mean(shares):.3f}" if shares else "-"]
            told.append(f"{moved} of {len(found)}" if shares else "-")
            rows.append([arm, str(number), *cells, *told, f"{nothing} of {len(found)}"])
    titles = [
        "mutants",
        "right",
        "wild types",
        "right",
        "estimated right (mutants)",
        "estimated share",
        "moved to it",
        "seeds without",
    ]
    print_table(["arm", "round", *titles], rows)


def print_wanted(seeds: Seeds) -> None:
    """The comparisons that were named before; all others are looked at, and not adjusted for their number."""
    mean, low, high = interval(differences(seeds, "pool", "none", "dice"))
    print(f"- pool - none, mean Dice: {mean:+.4f} ({low:+.4f} to {high:+.4f})")
    mean, low, high = interval(differences(seeds, "pool", "none", "test/idh_auc"))
    most, least, _ = interval(differences(seeds, f"oracle {POOL}", "none", "test/idh_auc"))
    share = (
        f"{mean / most:.2f} of the oracle's {most:+.4f}"
        if least > 0
        else f"the oracle's {most:+.4f} is not beyond chance"
    )
    print(f"- pool - none, AUC: {mean:+.4f} ({low:+.4f} to {high:+.4f}); {share}")
    told = []
    for arm in [arm for arm in SELECTING if arm in list_arms(seeds)]:
        own = of_arm(seeds, arm, "UPS")
        ups = (
            ""
            if len(own) == len(of_arm(seeds, "UPS"))
            else f" (UPS in these {len(own)} seeds {say_mutants(own, 'UPS')})"
        )
        told.append(f"{arm} {say_mutants(own, arm)}{ups}")
    print(f"- selected mutants that are right: {', '.join(told)}\n")


def say_mutants(seeds: Sequence[Mapping[str, Rounds]], arm: str) -> str:
    """Right ones among the selected mutants of all rounds, and their share where they are enough for one."""
    lines = [line for arms in seeds for line in arms[arm][1:]]
    labels, right = (sum(line[f"{key}_mutant"] for line in lines) for key in ("num", "right"))
    return f"{right}/{labels}" + (f" = {right / labels:.3f}" if labels >= LEAST_MUTANTS else "")


def compare_choices(seeds: Seeds) -> None:
    """What the round is worth on test cases that a validation metric chooses, among the rounds of an arm.

    The tie-break is by the plain cross entropy, where `mttu.training.evaluation` fits a temperature first.
    """
    ways: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
        "dice_minus_ce": lambda line: float(line["val/dice"] - line["val/idh_ce"]),
        "dice_plus_auc": lambda line: float(line["val/dice"] + line["val/idh_auc"] - TIE_BREAK * line["val/idh_ce"]),
        "last round": lambda line: float(line["round"]),
    }

    def judge(line: Mapping[str, Any]) -> float:
        return float(line["dice"] + line["test/idh_auc"])

    runs = [[rounds for rounds in arms.values() if len(rounds) > 1] for arms in seeds.values()]
    worth = {
        way: [fmean(judge(max(rounds, key=measure)) for rounds in own) for own in runs] for way, measure in ways.items()
    }
    best = [fmean(max(map(judge, rounds)) for rounds in own) for own in runs]
    rows = []
    for way, values in worth.items():
        mean, low, high = interval([value - top for value, top in zip(values, best, strict=True)])
        rows.append([way, f"{np.mean(values):.4f}", f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"])
    print_table(["choice of the round", "mean Dice + AUC on test cases", "to the best round"], rows)
    pairs = zip(worth["dice_plus_auc"], worth["dice_minus_ce"], strict=True)
    mean, low, high = interval([plus - minus for plus, minus in pairs])
    print(f"dice_plus_auc - dice_minus_ce: {mean:+.4f} ({low:+.4f} to {high:+.4f})")
    parts = ("val/dice", "val/idh_ce", "val/idh_auc")
    spreads = [np.mean([np.std([line[name] for line in rounds]) for own in runs for rounds in own]) for name in parts]
    told = ", ".join(f"{name} {value:.3f}" for name, value in zip(parts, spreads, strict=True))
    print(f"standard deviation over the rounds of an arm: {told}\n")


def draw_differences(seeds: Seeds) -> Figure:
    """A panel per score: each seed's difference from `none`, and the mean with its interval."""
    arms = [arm for arm in list_arms(seeds) if arm != "none"]
    figure = new_figure(PAGE_WIDTH_IN, 0.8 + 0.2 * len(arms))
    names = ("test/idh_auc", "test/idh_ece", "dice")
    for axes, name in zip(figure.subplots(1, len(names), sharey=True), names, strict=True):
        axes.axvline(0, **GUIDE)
        for place, arm in enumerate(arms):
            values = differences(seeds, arm, "none", name)
            mean, low, high = interval(values)
            colour = pick_series(0).colour if arm != "pool" else pick_series(1).colour
            spread = np.linspace(-0.28, 0.28, len(values))
            axes.scatter(values, place + spread, s=6, color=colour, alpha=0.4, linewidths=0)
            bars = [[mean - low], [high - mean]]
            axes.errorbar([mean], [place], xerr=bars, fmt="o", color=colour, markersize=4, zorder=3, **ERROR_BARS)
        axes.set_title(VALUES[name], fontsize=TITLE_SIZE)
        axes.set_yticks(range(len(arms)), arms, fontsize=LABEL_SIZE)
        axes.set_xlabel("difference from none", fontsize=LABEL_SIZE)
        axes.locator_params(axis="x", nbins=4)
        axes.tick_params(labelsize=NOTE_SIZE)
        axes.invert_yaxis()
    return figure


def draw_doses(seeds: Seeds) -> Figure:
    """What true labels of more and more cases of the pool are worth."""
    figure = new_figure(PAGE_WIDTH_IN, 2.6)
    counts = [0, *(int(arm.split()[1]) for arm in list_arms(seeds) if arm.startswith("oracle") and "quotas" not in arm)]
    for axes, name in zip(figure.subplots(1, 2), ("test/idh_auc", "test/idh_ece"), strict=True):
        arms = ["none", *(f"oracle {count}" for count in counts[1:])]
        values = np.array([[own[arm][-1][name] for arm in arms] for own in of_arm(seeds, *arms)])
        places = range(len(counts))
        for row in values:
            axes.plot(places, row, color=pick_series(0).colour, alpha=0.25, linewidth=0.8)
        axes.plot(places, values.mean(axis=0), "o-", color=pick_series(0).colour, label="true labels, mean")
        for place, arm in enumerate(("UPS", "pool")):
            level = np.mean([own[arm][-1][name] for own in of_arm(seeds, arm, *arms)])
            axes.axhline(level, color=pick_series(place + 1).colour, linestyle="--", linewidth=1, label=arm)
        axes.set_xticks(places, [str(count) for count in counts])
        axes.set_xlabel(f"cases of the pool ({POOL}) with their true class", fontsize=LABEL_SIZE)
        axes.set_title(VALUES[name], fontsize=TITLE_SIZE)
        axes.tick_params(labelsize=NOTE_SIZE)
        axes.legend(fontsize=NOTE_SIZE, frameon=False)
    return figure


if __name__ == "__main__":
    main()

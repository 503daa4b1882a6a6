"""Which rule finds the mutants of a pool that has few, if the networks of a cross-validation score it together?

For each seed of the cell `rare` of `selection_study.py`: its training cases are cross-validated, the networks of the
folds score the pool together, and each training case is scored by the one network that did not learn from it. Then each
rule in RULES selects, as in round 1 of a self-training by an ensemble; nothing is trained on it. Beside that, the same
by the network of the first fold alone, which has learned from three quarters of the training cases and is calibrated on
the others.

    python benchmarks/ensemble_rules.py FOLDER [--family development] [--first-seed 0] [--seeds 10] [--processes 2]

FOLDER is that of `selection_study.py`, whose networks are used where they are there. A second call goes on. The table
counts the selected cases of all seeds, and how many of their labels are right.
"""

import argparse
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from selection_study import CALIBRATED, CELLS, FAMILIES, FOLDS, SETTINGS, Study, list_sources, write_source

from mttu.config import SelectionSettings, override
from mttu.data.manifest import read_manifest
from mttu.pseudo_labels.correction import fit_correction
from mttu.pseudo_labels.score_table import ScoreTable, read_scores, write_scores
from mttu.pseudo_labels.scoring import ScoringPlan, plan_scoring, score_cases
from mttu.pseudo_labels.selection import SelectionCounts, count_selected
from mttu.search.presets import preset
from mttu.self_training.fold_teacher import join_held_out, list_held_out, plan_held_out, scoring_changes
from mttu.self_training.mixture import choose_labels

CELL = "rare"
_PRIORS: Mapping[str, Any] = {
    "not moved": "none",
    "share estimated": "estimate",
    "share estimated if it differs": "detect",
    "share given": CELLS[CELL].mutant_share,
}
_CHOICES: Mapping[str, Mapping[str, Any]] = {
    "rank": {"selection.rule": "rank"},
    "precision 0.8": {"selection.rule": "precision", "selection.wanted_precision": 0.8},
}
RULES: Mapping[str, Mapping[str, Any]] = {
    "thresholds of the paper (UPS)": {},
    "the same without balance": {"selection.balance": False},
    "confidence alone, without balance (CPL)": {"selection.method": "CPL", "selection.balance": False},
    **{
        f"{rule}, {name}": {**CALIBRATED, "selection.prior": prior, **changes}
        for rule, changes in _CHOICES.items()
        for name, prior in _PRIORS.items()
    },
}
"""Settings of round 1, beside those of the study."""
ENSEMBLE, ONE = f"ensemble of {FOLDS}", "one of them"


def score(plan: ScoringPlan, path: Path) -> ScoreTable:
    """Scores a plan's cases, or reads what an earlier call has written."""
    if path.exists() and (found := read_scores(path)).about.items() >= plan.about.items():
        return found
    write_scores(score_cases(plan, torch.device("cpu")), path)
    return read_scores(path)


def count(folder: Path, seed: int) -> dict[tuple[str, str], SelectionCounts]:
    """What each teacher selects by each rule in the pool of a seed: (teacher, rule) to numbers of cases.

    Raises:
        InputError: The held-out cases calibrate nothing, so that there is no rule to look at.
    """
    torch.set_num_threads(1)
    study = Study(folder, CELL, seed, torch.device("cpu"))
    validated, manifest = study.cross_validate(), read_manifest(study.manifest)
    asked = {
        "data.manifest": str(study.manifest),
        "self_training.teacher": "ensemble",
        "self_training.ensemble": str(validated),
    }
    config = override(preset("demo"), {**SETTINGS, **asked})
    place = study.folder / "rules"
    place.mkdir(exist_ok=True)
    pools = {
        name: score(
            plan_scoring(teacher, study.manifest, "unlabelled", scoring_changes(config), study.cache),
            place / f"pool_by_{teacher.name}.parquet",
        )
        for name, teacher in ((ENSEMBLE, validated), (ONE, validated / "fold_1"))
    }
    plans = enumerate(plan_held_out(config, study.cache), 1)
    tables = [score(plan, place / f"held_out_{number}.parquet") for number, plan in plans]
    held_out = {ENSEMBLE: join_held_out(tables, pools[ENSEMBLE]), ONE: join_held_out(tables[:1], pools[ONE])}
    known = {case.case_id: case.idh for case in list_held_out(config, manifest)}
    found = {}
    for name, pool in pools.items():
        for rule, changes in RULES.items():
            settings = override(config, {"selection.method": "UPS", **changes}).selection
            found[name, rule] = select_by(settings, pool, held_out[name], known, study.truth)
    return found


def select_by(
    settings: SelectionSettings, pool: ScoreTable, held_out: ScoreTable, known: Mapping[str, int], truth: dict[str, int]
) -> SelectionCounts:
    """Selects as round 1 does, and counts by the truth; `known` are the classes of the held-out cases."""
    correction = None
    if settings.calibrate != "none":
        own = {row.case_id: known[row.case_id] for row in held_out.rows}
        correction, _ = fit_correction(pool, {"held out": held_out}, own, settings)
    return count_selected(choose_labels(pool, settings, {}, correction), truth)


def say_right(right: int, number: int) -> str:
    """E.g. `0.32 (16/50)`."""
    return f"{right / number:.2f} ({right}/{number})" if number else "none selected"


def show(counts: Sequence[Mapping[tuple[str, str], SelectionCounts]]) -> None:
    """Prints a row for each teacher and rule, over the seeds."""
    print("| teacher | selection | mutants: right | wild types: right | seeds without a mutant |")
    print("| --- | --- | ---: | ---: | ---: |")
    for key in counts[0]:
        own = [found[key] for found in counts]
        mutant = say_right(sum(one.num_right_mutant for one in own), sum(one.num_mutant for one in own))
        wild = say_right(sum(one.num_right_wild for one in own), sum(one.num_wild for one in own))
        told = f"{mutant} | {wild} | {sum(one.num_mutant == 0 for one in own)} of {len(own)}"
        print(f"| {' | '.join(key)} | {told} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of selection_study.py")
    parser.add_argument("--family", choices=FAMILIES, default="development", help="of phantoms")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="number of the first one")
    parser.add_argument("--processes", type=int, default=2, help="seeds at the same time")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    folder = arguments.folder.resolve() / arguments.family
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn")) as pool:
        sources = list_sources(seeds, [CELL], FAMILIES[arguments.family])
        list(pool.map(partial(write_source, folder), sources))
        show(list(pool.map(partial(count, folder), seeds)))


if __name__ == "__main__":
    main()

"""Does the semi-supervised half help? Self-training in many ways on phantom cohorts whose truth is known.

Cells are kinds of cohort: how many labelled cases, the share of mutants in the pool, and whether the pool has masks.
Within a cell every seed has labelled cases, a pool and first weights of its own; the test cases are common. The arms of
a seed share round 0 and take the same number of steps after it, but for those that say otherwise. ARMS says what each
is, CELLS where it runs.

    python benchmarks/selection_study.py FOLDER --cell CELL [--seeds 10] [--processes 2]

A second call goes on. The results of a finished seed are added to `selection_study.jsonl` beside this script, a line
for each round, and seeds that are there are not run again. `summarise_study.py` makes tables and pictures of them.
`--family development` draws other phantoms, for choosing settings; its results stay in FOLDER.
"""

import argparse
import json
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from mttu.cohort.build import discover
from mttu.cohort.truth import read_truth
from mttu.config import Config, override
from mttu.data.cache import cache_case
from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.data.manifest import Case, Manifest, read_manifest, write_manifest
from mttu.files import atomic_file
from mttu.phantom import TRUTH_TABLE, Recipe, write_phantom
from mttu.pseudo_labels.score_table import ScoreTable, summarise_passes
from mttu.pseudo_labels.scoring import OnScored, ScoringPlan, make_table, score_cases
from mttu.search.presets import PRESETS, preset
from mttu.self_training import Callables, run_self_training
from mttu.self_training.evaluation import evaluate_locally, read_summary
from mttu.self_training.job import CaseRow, OnEvaluated
from mttu.self_training.mixture import read_pseudo_labels
from mttu.self_training.round_folder import MANIFEST, read_record, round_folder
from mttu.self_training.tracking import read_test
from mttu.training.run import History, OnEpoch, OnStart, launch_locally
from mttu.training.start import digest_weights

RESULTS = Path(__file__).with_suffix(".jsonl")
SEEDS_AT_MOST = 12
COHORT = "cohort.parquet"
POOL, TEST = 80, 500
"""Cases; the pool is each seed's own."""
SIZE = 24
SURE = 0.999
"""Probability that an oracle gives to what it says."""
FAMILIES = {"study": 0, "development": 1000}
"""Seeds of phantoms: what is chosen on one family is tested on the other."""

SETTINGS: Mapping[str, Any] = {
    "patch.size": [SIZE] * 3,
    "train.epochs": 30,
    "train.global_batch": 4,
    "train.batch_per_worker": 4,
    "train.checkpoint_every": 30,
    "train.validate_every": 50,  # at the end of each training alone, so that no arm chooses among more epochs
    "self_training.rounds": 2,
    "self_training.epochs": 10,
    "self_training.lr": 1e-3,
    "self_training.stop_when_unchanged": False,
    "selection.confidence_threshold": 0.9,  # the paper's thresholds (section IV-B), not searched
    "selection.uncertainty_threshold": 0.05,
    "mc.windows": "sliding",
    "inference.overlap": 0.0,
    "workers.threads_per_worker": 1,
    "tracking.enabled": False,
}
ROUND_STEPS = 80
"""Optimiser steps of a round after round 0: 10 epochs of 8, see preset demo."""


@dataclass(frozen=True)
class Cell:
    """A kind of cohort."""

    train: int
    val: int
    mutant_share: float
    """Of the pool."""
    masks: bool
    """Whether the pool has masks."""
    arms: tuple[str, ...]


@dataclass(frozen=True)
class Arm:
    """A way to self-train."""

    what: str
    method: str = "UPS"
    changes: Mapping[str, Any] = field(default_factory=dict)
    in_rounds: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the trainings from round 1 on; round 0 is shared without them."""
    oracle: int | None = None
    """Pool cases whose true class is given; the others stay unlabelled."""
    scores: str = "own"
    """Where scores come from: own passes, or the truth (oracle, wrong, corrected, random)."""
    labelled_alone: bool = False
    own_start: bool = False
    """Whether it trains its own round 0."""


CALIBRATED: Mapping[str, Any] = {"selection.calibrate": "temperature+bias", "selection.prior": "estimate"}
QUOTAS: Mapping[str, Any] = {"train.quotas": {"labelled": 2, "pseudo": 1, "unlabelled": 1}}
POOL_PRESET: Mapping[str, Any] = PRESETS["pool"]

ARMS: Mapping[str, Arm] = {
    "none": Arm("the pool's masks, where it has any, and no pseudo-labels, in the same rounds", "none"),
    "direct": Arm(
        "one training on labelled cases and masks (the dagger of Table VI), as many steps",
        "direct",
        {"train.epochs": 50},
        own_start=True,
    ),
    "PL": Arm("every prediction is a label", "PL"),
    "CPL": Arm("those of confidence 0.9 and more", "CPL"),
    "UPS": Arm("and of deviation 0.05 and less: the paper's recipe"),
    "UPS searched": Arm(
        "thresholds searched on the validation cases in each round", changes={"self_training.thresholds": "search"}
    ),
    "1 teacher": Arm("UPS, and a mean teacher for cases without a mask", changes={"teacher.masks": True}),
    "2 quotas": Arm("UPS, batches of 2 true labels, 1 pseudo-label, 1 unlabelled", in_rounds=QUOTAS),
    "3 rank": Arm(
        "the most certain 20 %, then 25 % of each class, calibrated, prior estimated",
        changes={**CALIBRATED, "selection.rule": "rank"},
    ),
    "3 precision": Arm(
        "as many as are estimated to be right in 0.9 of cases, calibrated, prior estimated",
        changes={**CALIBRATED, "selection.rule": "precision"},
    ),
    "4 fresh": Arm(
        "UPS, every round from random weights, as long as round 0",
        changes={"self_training.init": "fresh", "self_training.lr": 2e-3, "self_training.epochs": 30},
    ),
    "5 soft": Arm("PL with soft labels", "PL", {"self_training.labels": "soft", **CALIBRATED}),
    "6 best": Arm(
        "UPS, the start of a round is a candidate, and the best round so far teaches",
        changes={"train.keep_start": True, "self_training.teacher": "best"},
    ),
    "pool": Arm(
        "the preset pool",
        changes={name: value for name, value in POOL_PRESET.items() if name != "train.quotas"},
        in_rounds={"train.quotas": POOL_PRESET["train.quotas"]},
    ),
    **{
        f"oracle {count}": Arm(f"the true classes of {count} cases of the pool", "PL", oracle=count, scores="oracle")
        for count in (5, 10, 20, 40, POOL)
    },
    "oracle 20 quotas": Arm("the same with quotas", "PL", in_rounds=QUOTAS, oracle=20, scores="oracle"),
    "wrong": Arm("false classes for the whole pool", "PL", scores="wrong"),
    "corrected": Arm(
        "what UPS selected, with its true classes", "CPL", {"selection.balance": False}, scores="corrected"
    ),
    "random": Arm(
        "as many of each true class as corrected has, drawn",
        "CPL",
        {"selection.balance": False},
        scores="random",
    ),
    "labelled": Arm("the labelled cases alone, as many steps", "none", labelled_alone=True),
    "labelled views": Arm(
        "the labelled cases alone, as many patches of them as in the rounds of none", "none", labelled_alone=True
    ),
}
_BOTH = ("none", "UPS", "1 teacher", "3 rank", "3 precision", "pool", f"oracle {POOL}")
CELLS: Mapping[str, Cell] = {
    "full": Cell(64, 24, 0.38, True, tuple(name for name in ARMS if name != "1 teacher")),
    "bare": Cell(16, 16, 0.38, False, _BOTH),
    "rare": Cell(64, 24, 0.05, False, _BOTH),
}
"""full: round 0 knows IDH fairly well; all arms but the teacher, for whom no mask is missing. bare: few labels and no
masks in the pool. rare: few mutants in the pool, and no masks. Without masks, none learns from the labelled cases
alone."""


def write_phantoms(folder: Path, seed: int, mutant_share: float) -> None:
    """Cases for every seed that there may be, and the test cases."""
    if (folder / TRUTH_TABLE).exists():
        return
    labelled = SEEDS_AT_MOST * max(cell.train + cell.val for cell in CELLS.values())
    cases = TEST + labelled + SEEDS_AT_MOST * POOL
    recipe = Recipe(
        cases=cases,
        size=SIZE,
        seed=seed,
        unlabelled_fraction=SEEDS_AT_MOST * POOL / cases,
        test_fraction=TEST / cases,
        unlabelled_mutant_fraction=mutant_share,
        difficulty=0.2,
    )
    write_phantom(folder, recipe)


def write_cohort(folder: Path, phantoms: Path, masks: bool) -> None:
    """The cohort, prepared; without `masks` the pool has none."""
    if (folder / COHORT).exists():
        return
    manifest = discover(phantoms, phantoms / "clinical.csv")
    bare = [case if masks or case.split != "unlabelled" else replace(case, seg=None) for case in manifest.cases]
    for case in bare:
        cache_case(case, folder / "cache", manifest.modalities, Config().data.prepare)
    write_manifest(replace(manifest, cases=tuple(bare)), folder / COHORT)


def deal(manifest: Manifest, truth: Mapping[str, int], seed: int, cell: Cell) -> Manifest:
    """The cases of one seed, disjoint from those of the others but for the test cases; the classes as in the whole."""

    def share(cases: Sequence[Case], count: int) -> list[Case]:
        ordered = sorted(cases, key=lambda case: (truth[case.case_id], case.case_id))
        own = ordered[seed::SEEDS_AT_MOST]
        return [own[place * len(own) // count] for place in range(count)]

    labelled = [case for case in manifest.cases if case.split in ("train", "val")]
    drawn = share(labelled, cell.train + cell.val)
    val = {drawn[place * len(drawn) // cell.val].case_id for place in range(cell.val)}
    cases = [replace(case, split="val" if case.case_id in val else "train") for case in drawn]
    cases += [*share(manifest.split("unlabelled"), POOL), *manifest.split("test")]
    return replace(manifest, cases=tuple(sorted(cases, key=lambda case: case.case_id)))


def find_cohort(folder: Path, cell: str) -> tuple[Path, Path]:
    """Folders of the phantoms of a cell, and of its cohort."""
    share, masks = CELLS[cell].mutant_share, CELLS[cell].masks
    return folder / f"phantoms_{share:g}", folder / f"cohort_{share:g}_{'masks' if masks else 'bare'}"


class Study:
    """One seed's arms in one cell."""

    def __init__(self, folder: Path, name: str, seed: int) -> None:
        self.cell, self.seed = CELLS[name], seed
        phantoms, cohort = find_cohort(folder, name)
        self.folder, self.cache = folder / name / f"seed_{seed}", cohort / "cache"
        self.truth_table = phantoms / TRUTH_TABLE
        self.truth = read_truth(self.truth_table)
        self.evaluated: dict[tuple[str, ...], list[CaseRow]] = {}
        self.manifest = self.folder / COHORT
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.manifest.exists():
            write_manifest(deal(read_manifest(cohort / COHORT), self.truth, seed, self.cell), self.manifest)

    def run(self, name: str, arm: Arm) -> Path:
        """Runs an arm's self-training, or goes on; `none` is the first, whose round 0 the others take over."""
        changes: dict[str, Any] = {
            "data.manifest": str(self.manifest),
            "data.cache_dir": str(self.cache),
            "output.folder": str(self.folder),
            "output.name": name.replace(" ", "_"),
            "train.seed": self.seed,
            "selection.method": arm.method,
            "self_training.truth": str(self.truth_table),
        }
        if name != "none" and not arm.own_start:
            changes["self_training.start"] = str(self.folder / "none" / "round_0")
        if name == "labelled views":
            # patches of a round that are of labelled cases, in steps of whole batches: one in each epoch
            share = self.cell.train / (self.cell.train + (POOL if self.cell.masks else 0))
            changes["self_training.epochs"] = round(ROUND_STEPS * share)
        config = override(preset("demo"), {**SETTINGS, **arm.changes, **changes})

        def score(plan: ScoringPlan, on_row: OnScored) -> ScoreTable:
            return self.score(plan, on_row, arm)

        def train(config: Config, folder: Path, on_epoch: OnEpoch, on_start: OnStart) -> History:
            return self.train(config, folder, on_epoch, on_start, name, arm)

        return run_self_training(config, Callables(train, score, self.evaluate))

    def score(self, plan: ScoringPlan, on_row: OnScored, arm: Arm) -> ScoreTable:
        """Monte Carlo dropout, or what an arm knows of the truth; cases that it does not know get 0.5."""
        if arm.scores == "own":
            return score_cases(plan, torch.device("cpu"), on_row)
        names = [case.case_id for case in plan.cases]
        if arm.scores == "wrong":
            return score_by(plan, [abs(SURE - self.truth[name]) for name in names])
        ways: Mapping[str, Callable[[], Sequence[str]]] = {
            "oracle": lambda: self.draw(names, arm.oracle or len(names)),
            "corrected": lambda: list(self.read_ups(plan)),
            "random": lambda: self.draw_as_ups(plan),
        }
        known = set(ways[arm.scores]())
        return score_by(plan, [abs(1 - SURE - self.truth[name]) if name in known else None for name in names])

    def draw(self, names: Sequence[str], count: int) -> list[str]:
        """The same cases in every round, and the smaller number among the larger."""
        return random.Random(f"{self.seed} oracle").sample(sorted(names), len(names))[:count]

    def draw_as_ups(self, plan: ScoringPlan) -> list[str]:
        """As many cases of each true class as `corrected` has in this round."""
        corrected, chosen = [self.truth[name] for name in self.read_ups(plan)], []
        for idh in (IDH_WILD, IDH_MUTANT):
            names = [case.case_id for case in plan.cases if self.truth[case.case_id] == idh]
            chosen += self.draw(names, corrected.count(idh))
        return chosen

    def read_ups(self, plan: ScoringPlan) -> dict[str, int]:
        """The pseudo-labels of UPS in the round that is to come."""
        number = int(plan.checkpoint.parent.name.removeprefix("round_")) + 1
        return read_pseudo_labels(read_manifest(round_folder(self.folder / "UPS", number) / MANIFEST))

    def train(self, config: Config, folder: Path, on_epoch: OnEpoch, on_start: OnStart, name: str, arm: Arm) -> History:
        """Trains a round as the arm says."""
        manifest = read_manifest(Path(str(config.data.manifest)))
        if config.train.start_from is None and not arm.own_start and arm.changes.get("self_training.init") != "fresh":
            return launch_locally(config, folder, on_epoch, on_start)  # round 0
        if arm.labelled_alone:
            kept = tuple(case for case in manifest.cases if case.split != "train" or case.idh != IDH_UNKNOWN)
            write_manifest(replace(manifest, cases=kept), folder / "labelled.parquet")
            config = override(config, {"data.manifest": str(folder / "labelled.parquet")})
        if name == "labelled views":
            config = override(config, {"train.steps_per_epoch": 1})
        return launch_locally(override(config, arm.in_rounds), folder, on_epoch, on_start)

    def evaluate(self, checkpoint: Path, cases: Sequence[Case], config: Config, on_case: OnEvaluated) -> list[CaseRow]:
        """The same weights are evaluated once: all arms have round 0 in common."""
        key = (digest_weights(checkpoint), *(case.case_id for case in cases))
        if key not in self.evaluated:
            self.evaluated[key] = evaluate_locally(checkpoint, cases, config, on_case)
        return self.evaluated[key]

    def read_results(self, run: Path) -> list[dict[str, Any]]:
        """A line for each round of an arm."""
        chosen, tests = (read_summary(run) or {})["chosen_round"], read_test(run) or {}
        lines = []
        for number, metrics in sorted(tests.items()):
            record = read_record(round_folder(run, number))
            labels = read_pseudo_labels(read_manifest(round_folder(run, number) / MANIFEST))
            right = [idh for name, idh in labels.items() if self.truth[name] == idh]
            values: dict[str, Any] = {f"num_{name}": list(labels.values()).count(idh) for name, idh in CLASSES.items()}
            values |= {f"right_{name}": right.count(idh) for name, idh in CLASSES.items()}
            values |= {"val_score": record.metrics.get("val/score"), "chosen": number == chosen}
            values |= record.estimates
            tested = {name: value for name, value in metrics.items() if name.startswith(METRICS)}
            values |= {"weights": record.weights_sha256[:12], **tested}
            lines.append({"round": number, **{name: shorten(value) for name, value in values.items()}})
        return lines


CLASSES = {"mutant": IDH_MUTANT, "wild": IDH_WILD}
METRICS = ("test/dice", "test/idh_auc", "test/idh_accuracy", "test/idh_ece")


def shorten(value: Any) -> Any:
    return round(value, 5) if isinstance(value, float) else value


def score_by(plan: ScoringPlan, mutant: Sequence[float | None]) -> ScoreTable:
    """A table of these mutant probabilities, equal in every pass; None is an error, which no method selects."""
    rows = []
    for case, value in zip(plan.cases, mutant, strict=True):
        row = summarise_passes(case.case_id, [value or 0.5] * plan.config.mc.passes, value or 0.5, 0.0)
        rows.append(row if value is not None else replace(row, confidence=None, mean_probability=None))
    return make_table(plan, rows, "cpu", torch.get_num_threads())


def run_seed(folder: Path, cell: str, seed: int) -> list[dict[str, Any]]:
    """Runs all arms of a seed; returns their lines."""
    torch.set_num_threads(1)
    study, lines = Study(folder, cell, seed), []
    for name in CELLS[cell].arms:
        started = time.monotonic()
        run = study.run(name, ARMS[name])
        seconds = round(time.monotonic() - started)
        lines += [{"cell": cell, "seed": seed, "arm": name, **line} for line in study.read_results(run)]
        print(f"{cell}, seed {seed}, {name}: {seconds} s", flush=True)
    return lines


def read_results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add_results(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Adds lines; the file is whole at any time."""
    with atomic_file(path) as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in [*read_results(path), *lines]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for everything but the results")
    parser.add_argument("--cell", choices=CELLS, action="append", required=True)
    parser.add_argument("--seeds", type=int, default=10, help=f"number of seeds, {SEEDS_AT_MOST} at most")
    parser.add_argument("--first-seed", type=int, default=0, help="number of the first one")
    parser.add_argument("--processes", type=int, default=2, help="seeds that run at the same time")
    parser.add_argument("--family", choices=FAMILIES, default="study", help="of phantoms")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    if not 0 <= seeds.start < seeds.stop <= SEEDS_AT_MOST:
        sys.exit(f"seeds {seeds.start} to {seeds.stop - 1}: there are 0 to {SEEDS_AT_MOST - 1}")
    folder = arguments.folder.resolve() / arguments.family
    results = RESULTS if arguments.family == "study" else folder / RESULTS.name
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, context) as pool:
        family = FAMILIES[arguments.family]
        places = {find_cohort(folder, name): CELLS[name] for name in arguments.cell}
        phantoms = {place: cell.mutant_share for (place, _), cell in places.items()}
        for future in [pool.submit(write_phantoms, place, family, share) for place, share in phantoms.items()]:
            future.result()
        for future in [pool.submit(write_cohort, place, of, cell.masks) for (of, place), cell in places.items()]:
            future.result()
        print("cohorts are written", flush=True)
        finished = {(line["cell"], line["seed"], line["arm"]) for line in read_results(results)}
        running = {}
        for seed in seeds:
            for name in arguments.cell:
                if not {(name, seed, arm) for arm in CELLS[name].arms} <= finished:
                    running[pool.submit(run_seed, folder, name, seed)] = (name, seed)
        for finished_seed in as_completed(running):
            name, seed = running[finished_seed]
            others = [line for line in finished_seed.result() if (name, seed, line["arm"]) not in finished]
            add_results(results, others)
            print(f"{name}, seed {seed}: in {results.name}", flush=True)


if __name__ == "__main__":
    main()

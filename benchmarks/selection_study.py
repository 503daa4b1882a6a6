"""Do selected pseudo-labels help? Self-training by each method on phantom cohorts whose truth is known.

Every seed has labelled cases, a pool and first weights of its own; the test cases are the same for all. The arms of a
seed share round 0 and take the same number of steps after it:

    none       the pool's masks teach the decoder, nobody's prediction becomes a label, in the same rounds
    PL         every prediction becomes a label
    CPL, UPS   those confident enough; those confident and certain enough (eq. 19)
    oracle     the pool's true classes as labels: the most that any selection can win
    wrong      the opposite of the true classes: the study must see that this hurts
    labelled   the labelled cases alone, again
    corrected  the cases that UPS selected, with their true classes: what its wrong labels cost
    random     as many of each class, drawn from the pool, with their true classes: beside `corrected`, what its choice
               of cases costs (their classes differ by its wrong labels)

    python benchmarks/selection_study.py FOLDER [--seeds 10] [--processes 2]

Everything is written below FOLDER; a second call goes on. `summarise_study.py FOLDER` makes the table and the picture.
"""

import argparse
import multiprocessing
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mttu.cohort.build import discover
from mttu.cohort.truth import read_truth
from mttu.config import Config, override
from mttu.data.cache import cache_case
from mttu.data.manifest import Case, Manifest, read_manifest, write_manifest
from mttu.files import read_versioned, write_json
from mttu.phantom import TRUTH_TABLE, Recipe, measure_phantom, write_phantom
from mttu.pseudo_labels.score_table import ScoreTable, summarise_passes
from mttu.pseudo_labels.scoring import OnScored, ScoringPlan, make_table, score_cases
from mttu.search.presets import preset
from mttu.self_training import Callables, run_self_training
from mttu.self_training.evaluation import evaluate_locally
from mttu.self_training.job import CaseRow, OnEvaluated
from mttu.self_training.mixture import read_pseudo_labels
from mttu.training.run import History, OnEpoch, OnStart, launch_locally
from mttu.training.start import digest_weights

ARMS = ("none", "PL", "CPL", "UPS", "oracle", "wrong", "labelled", "corrected", "random")
SEEDS_AT_MOST = 12
TRAIN, VAL, POOL, TEST = 16, 8, 80, 500
"""Cases: of the first three, for each seed."""
SIZE = 24
SURE = 0.999
"""Probability that an oracle gives to what it says."""

SETTINGS: dict[str, Any] = {
    "patch.size": [SIZE] * 3,
    "train.epochs": 30,
    "train.global_batch": 4,
    "train.batch_per_worker": 4,
    "train.checkpoint_every": 30,
    "train.validate_every": 10,
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


def write_cohort(folder: Path) -> None:
    """The phantom, prepared: cases for every seed there may be, and the test cases."""
    if (folder / "cohort.parquet").exists():
        return
    cases = TEST + SEEDS_AT_MOST * (TRAIN + VAL + POOL)
    recipe = Recipe(
        cases=cases,
        size=SIZE,
        unlabelled_fraction=SEEDS_AT_MOST * POOL / cases,
        test_fraction=TEST / cases,
        unlabelled_mutant_fraction=0.3,
        difficulty=0.2,
    )
    write_phantom(folder / "phantom", recipe)
    manifest = discover(folder / "phantom", folder / "phantom" / "clinical.csv")
    for case in manifest.cases:
        cache_case(case, folder / "cache", manifest.modalities, Config().data.prepare)
    write_manifest(manifest, folder / "cohort.parquet")


def deal(manifest: Manifest, truth: dict[str, int], seed: int) -> Manifest:
    """The cases of one seed, disjoint from those of the others but for the test cases; the classes as in the whole."""

    def share(cases: Sequence[Case], count: int) -> list[Case]:
        ordered = sorted(cases, key=lambda case: (truth[case.case_id], case.case_id))
        return ordered[seed::SEEDS_AT_MOST][:count]

    labelled = [case for case in manifest.cases if case.split in ("train", "val")]
    drawn = share(labelled, TRAIN + VAL)
    val = {case.case_id for case in drawn[:: (TRAIN + VAL) // VAL][:VAL]}
    cases = [replace(case, split="val" if case.case_id in val else "train") for case in drawn]
    cases += [*share(manifest.split("unlabelled"), POOL), *manifest.split("test")]
    return replace(manifest, cases=tuple(sorted(cases, key=lambda case: case.case_id)))


class Study:
    """One seed's arms."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder / f"seed_{seed}", seed
        self.cache = folder / "cache"
        self.truth = read_truth(folder / "phantom" / TRUTH_TABLE)
        self.truth_table = folder / "phantom" / TRUTH_TABLE
        self.evaluated: dict[tuple[str, ...], list[CaseRow]] = {}
        self.manifest = self.folder / "cohort.parquet"
        self.folder.mkdir(exist_ok=True)
        if not self.manifest.exists():
            write_manifest(deal(read_manifest(folder / "cohort.parquet"), self.truth, seed), self.manifest)

    def run(self, arm: str) -> None:
        """Runs an arm's self-training, or goes on; `none` is the first, whose round 0 the others take over."""
        others = {"oracle": "PL", "wrong": "PL", "labelled": "none", "corrected": "CPL", "random": "CPL"}
        method = others.get(arm, arm)
        changes: dict[str, Any] = {
            "data.manifest": str(self.manifest),
            "data.cache_dir": str(self.cache),
            "output.folder": str(self.folder),
            "output.name": arm,
            "train.seed": self.seed,
            "selection.method": method,
            "self_training.truth": str(self.truth_table),
        }
        if arm != "none":
            changes["self_training.start"] = str(self.folder / "none" / "round_0")
        if arm in ("corrected", "random"):
            changes["selection.balance"] = False  # UPS did that
        ways = {"oracle": self.score_truly, "wrong": self.score_wrongly}
        ways |= {"corrected": self.score_corrected, "random": self.score_random}
        score = ways.get(arm, self.score)
        train = self.train_labelled if arm == "labelled" else launch_locally
        # the loss that the preset had when the study began: a folder of then goes on with the same training
        config = override(preset("demo"), {"loss.segmentation": "dice", **SETTINGS, **changes})
        run_self_training(config, Callables(train, score, self.evaluate))

    @staticmethod
    def score(plan: ScoringPlan, on_row: OnScored) -> ScoreTable:
        """Monte Carlo dropout."""
        return score_cases(plan, torch.device("cpu"), on_row)

    def score_truly(self, plan: ScoringPlan, on_row: OnScored) -> ScoreTable:
        """Says the true class of each case, and is sure of it."""
        return self.score_some(plan, [case.case_id for case in plan.cases])

    def score_wrongly(self, plan: ScoringPlan, on_row: OnScored) -> ScoreTable:
        """Says the other class of each case, and is sure of it."""
        return self.score_by(plan, [abs(SURE - self.truth[case.case_id]) for case in plan.cases])

    def score_corrected(self, plan: ScoringPlan, on_row: OnScored) -> ScoreTable:
        """Is sure of the true classes of what UPS selected in this round, and of nothing else."""
        return self.score_some(plan, list(self.read_ups(plan)))

    def score_random(self, plan: ScoringPlan, on_row: OnScored) -> ScoreTable:
        """Is sure of the true classes of as many cases of each class as UPS selected in this round."""
        labels, chosen = list(self.read_ups(plan).values()), []
        for idh in (0, 1):
            names = sorted(case.case_id for case in plan.cases if self.truth[case.case_id] == idh)
            count = min(labels.count(idh), len(names))
            chosen += random.Random(f"{self.seed} {idh}").sample(names, count)
        return self.score_some(plan, chosen)

    def read_ups(self, plan: ScoringPlan) -> dict[str, int]:
        """The pseudo-labels of UPS in the round that is to come."""
        number = int(plan.checkpoint.parent.name.removeprefix("round_")) + 1
        return read_pseudo_labels(read_manifest(self.folder / "UPS" / f"round_{number}" / "manifest.parquet"))

    def score_some(self, plan: ScoringPlan, chosen: Sequence[str]) -> ScoreTable:
        """The true classes of some cases; of the others, nothing."""
        names = [case.case_id for case in plan.cases]
        return self.score_by(plan, [abs(1 - SURE - self.truth[name]) if name in chosen else 0.5 for name in names])

    @staticmethod
    def score_by(plan: ScoringPlan, mutant: Sequence[float]) -> ScoreTable:
        """A table of these mutant probabilities, equal in every pass."""
        rows = [
            summarise_passes(case.case_id, [value] * plan.config.mc.passes, value, 0.0)
            for case, value in zip(plan.cases, mutant, strict=True)
        ]
        return make_table(plan, rows, "cpu", torch.get_num_threads())

    @staticmethod
    def train_labelled(config: Config, folder: Path, on_epoch: OnEpoch, on_start: OnStart) -> History:
        """Trains on the labelled cases of a round's manifest alone."""
        manifest = read_manifest(Path(str(config.data.manifest)))
        kept = tuple(case for case in manifest.cases if case.split != "train" or case.idh >= 0)
        write_manifest(replace(manifest, cases=kept), folder / "labelled.parquet")
        labelled = override(config, {"data.manifest": str(folder / "labelled.parquet")})
        return launch_locally(labelled, folder, on_epoch, on_start)

    def evaluate(self, checkpoint: Path, cases: Sequence[Case], config: Config, on_case: OnEvaluated) -> list[CaseRow]:
        """The same weights are evaluated once: all arms have round 0 in common."""
        key = (digest_weights(checkpoint), *(case.case_id for case in cases))
        if key not in self.evaluated:
            self.evaluated[key] = evaluate_locally(checkpoint, cases, config, on_case)
        return self.evaluated[key]


def run_seed(folder: Path, seed: int) -> float:
    """Runs all arms of a seed; returns the seconds that it took this time."""
    torch.set_num_threads(1)
    started = time.monotonic()
    study = Study(folder, seed)
    for arm in ARMS:
        study.run(arm)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=10, help=f"number of seeds, {SEEDS_AT_MOST} at most")
    parser.add_argument("--first-seed", type=int, default=0, help="number of the first one")
    parser.add_argument("--processes", type=int, default=2, help="seeds that run at the same time")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    if not 0 <= seeds.start < seeds.stop <= SEEDS_AT_MOST:
        sys.exit(f"seeds {seeds.start} to {seeds.stop - 1}: there are 0 to {SEEDS_AT_MOST - 1}")
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    record = folder / "study.json"
    earlier = (
        read_versioned(record, 1, "use another folder") if record.exists() else {"seeds": [], "settings": SETTINGS}
    )
    if earlier["settings"] != SETTINGS:
        sys.exit(f"{record}: earlier seeds had other settings; give another folder")
    write_cohort(folder)
    print(*measure_phantom(folder / "phantom").describe(), sep="\n")
    print(f"cohort: {time.monotonic() - started:.0f} s", flush=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, context) as pool:
        running = {seed: pool.submit(run_seed, folder, seed) for seed in seeds}
        for seed, future in running.items():
            print(f"seed {seed}: {future.result():.0f} s", flush=True)
    together = sorted({*earlier["seeds"], *seeds})
    write_json(record, {"format_version": 1, "seeds": together, "settings": SETTINGS})
    print(f"all: {time.monotonic() - started:.0f} s; now: summarise_study.py {folder}")


if __name__ == "__main__":
    main()

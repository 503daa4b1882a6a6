"""Does the semi-supervised half help? Self-training in many ways on phantom cohorts whose truth is known.

Cells are kinds of cohort: how many labelled cases, the share of mutants in the pool, and whether the pool has masks.
Within a cell every seed has labelled cases, a pool and first weights of its own; the test cases are common. The arms of
a seed share round 0 and take the same number of steps after it, but for those that say otherwise. ARMS says what each
is, CELLS where it runs.

    python benchmarks/selection_study.py FOLDER --cell CELL [--seeds 10] [--processes 2] [--device gpu]

A second call goes on. Results are added to `selection_study.jsonl` beside this script, a line for each round of an arm,
and arms that are there are not run again. `summarise_study.py` makes tables and pictures of them. Compare arms of one
device: those of a seed share its round 0, whose last bits are another's elsewhere.
`--family development` draws other phantoms, for choosing settings; its results stay in FOLDER.
"""

import argparse
import json
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from filelock import FileLock
from torch.nn.functional import pad

from mttu.cohort.build import discover
from mttu.cohort.truth import read_truth
from mttu.config import Config, override
from mttu.data.cache import cache_case, open_cached
from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.data.loaders import read_prepared
from mttu.data.manifest import Case, Manifest, read_manifest, write_manifest
from mttu.files import atomic_file, write_csv_rows
from mttu.inference.device import choose_device
from mttu.inference.windows import VolumePrediction
from mttu.networks.checkpoint import read_checkpoint
from mttu.phantom import TRUTH_TABLE, Recipe, write_phantom
from mttu.pseudo_labels.score_table import ScoreTable, summarise_passes
from mttu.pseudo_labels.scoring import OnScored, ScoringPlan, make_table, score_cases
from mttu.search.presets import PRESETS, preset
from mttu.self_training import Callables, run_self_training
from mttu.self_training.evaluation import read_summary
from mttu.self_training.job import CaseRow, OnEvaluated
from mttu.self_training.mixture import read_pseudo_labels
from mttu.self_training.round_folder import MANIFEST, read_record, round_folder
from mttu.self_training.tracking import read_test
from mttu.training.evaluation import score_prediction
from mttu.training.folds import cross_validate
from mttu.training.run import History, OnEpoch, OnStart, launch_locally

RESULTS = Path(__file__).with_suffix(".jsonl")
COHORT = "cohort.parquet"
TRUTH = "truth.csv"
LABELLED, POOL, TEST = 88, 80, 500
"""Cases: those of a seed that can be labelled, its pool, and the test cases of all seeds."""
TEST_PARTS = 10
"""Phantoms that the test cases are from."""
SIZE = 24
SURE = 0.999
"""Probability that an oracle gives to what it says."""
FAMILIES = {"study": 0, "development": 1000}
"""Seeds of phantoms: what is chosen on one family is tested on the other."""
FOLDS = 4
"""Of the ensemble."""
CASES_AT_ONCE = 50
"""Of a forward pass in evaluation."""

SETTINGS: Mapping[str, Any] = {
    "patch.size": [SIZE] * 3,
    "train.epochs": 50,  # more bring no better network on 16 cases: it is labels that are missing, not steps
    "train.global_batch": 4,
    "train.batch_per_worker": 4,
    "train.checkpoint_every": 100,
    "train.validate_every": 100,  # at the end of each training alone, so that no arm chooses among more epochs
    "self_training.rounds": 2,
    "self_training.epochs": 10,
    "self_training.lr": 1e-3,
    "self_training.stop_when_unchanged": False,
    "selection.confidence_threshold": 0.9,  # the paper's thresholds (section IV-B), not searched
    "selection.uncertainty_threshold": 0.05,
    "mc.windows": "sliding",
    "mc.passes_per_forward": 10,
    "inference.overlap": 0.0,
    "train.precision": "float32",
    "train.loader_workers": 0,
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
    after: str | None = "none"
    """The arm that has to be finished before, because this one takes something over."""


CALIBRATED: Mapping[str, Any] = {"selection.calibrate": "temperature+bias", "selection.prior": "estimate"}
POOL_PRESET: Mapping[str, Any] = PRESETS["pool"]
QUOTAS: Mapping[str, Any] = {
    **{name: POOL_PRESET[name] for name in ("train.global_batch", "train.quotas")},
    "train.batch_per_worker": POOL_PRESET["train.global_batch"],
}
"""Of the preset, in the rounds alone: round 0 is common to all arms."""

ARMS: Mapping[str, Arm] = {
    "none": Arm("the pool's masks, where it has any, and no pseudo-labels, in the same rounds", "none", after=None),
    "direct": Arm(
        "one training on labelled cases and masks (the dagger of Table VI), as many steps",
        "direct",
        {"train.epochs": 70},
        own_start=True,
        after=None,
    ),
    "PL": Arm("every prediction is a label", "PL"),
    "CPL": Arm("every prediction of confidence 0.9 and more is a label", "CPL"),
    "UPS": Arm("those of confidence 0.9 and more and deviation 0.05 and less: the paper's recipe"),
    "UPS searched": Arm(
        "thresholds searched on the validation cases in each round", changes={"self_training.thresholds": "search"}
    ),
    "1 teacher": Arm("UPS, and a mean teacher for cases without a mask", changes={"teacher.masks": True}),
    "2 quotas": Arm("UPS, batches of 4 true labels, 2 pseudo-labels, 2 unlabelled", in_rounds=QUOTAS),
    "3 rank": Arm(
        "the most certain 20 %, then 25 % of each class, calibrated, prior estimated",
        changes={**CALIBRATED, "selection.rule": "rank"},
    ),
    "3 precision": Arm(
        "as many as are estimated to be right in 0.9 of cases, calibrated, prior estimated",
        changes={**CALIBRATED, "selection.rule": "precision"},
    ),
    "4 ensemble": Arm(
        "UPS, round 1 labelled by the four networks of a cross-validation of the training cases",
        changes={"self_training.teacher": "ensemble"},
    ),
    "4 fresh": Arm(
        "UPS, every round from random weights, as long as round 0",
        changes={"self_training.init": "fresh", "self_training.lr": 2e-3, "self_training.epochs": 50},
    ),
    "5 soft": Arm(
        "PL with soft labels, calibrated, prior estimated", "PL", {"self_training.labels": "soft", **CALIBRATED}
    ),
    "6 best": Arm(
        "UPS, the start of a round is a candidate, and the best round so far teaches",
        changes={"train.keep_start": True, "self_training.teacher": "best"},
    ),
    "pool": Arm(
        "the preset pool",
        changes={name: value for name, value in POOL_PRESET.items() if name not in QUOTAS},
        in_rounds=QUOTAS,
    ),
    **{
        f"oracle {count}": Arm(f"the true classes of {count} cases of the pool", "PL", oracle=count, scores="oracle")
        for count in (5, 10, 20, 40, POOL)
    },
    "oracle 20 quotas": Arm(
        "the true classes of 20 cases of the pool, with quotas", "PL", in_rounds=QUOTAS, oracle=20, scores="oracle"
    ),
    "wrong": Arm("false classes for the whole pool", "PL", scores="wrong"),
    "corrected": Arm(
        "what UPS selected, with its true classes", "CPL", {"selection.balance": False}, scores="corrected", after="UPS"
    ),
    "random": Arm(
        "as many of each true class as corrected has, drawn",
        "CPL",
        {"selection.balance": False},
        scores="random",
        after="UPS",
    ),
    "labelled": Arm("the labelled cases alone, as many steps", "none", labelled_alone=True),
    "labelled 8": Arm(
        "the labelled cases alone, batches as large as those with quotas",
        "none",
        in_rounds={name: value for name, value in QUOTAS.items() if name != "train.quotas"},
        labelled_alone=True,
    ),
    "labelled views": Arm(
        "the labelled cases alone, as many patches of them as in the rounds of none", "none", labelled_alone=True
    ),
}
_BOTH = ("none", "UPS", "3 rank", "pool", f"oracle {POOL}", "labelled 8")
CELLS: Mapping[str, Cell] = {
    "full": Cell(64, 24, 0.38, True, tuple(name for name in ARMS if name != "1 teacher")),
    "bare": Cell(24, 24, 0.38, False, (*_BOTH, "1 teacher")),
    "rare": Cell(64, 24, 0.05, False, (*_BOTH, "3 precision", "4 ensemble")),
}
"""full: round 0 knows IDH fairly well; all arms but the teacher, for whom no mask is missing. bare: few labels and no
masks in the pool. rare: few mutants in the pool, and no masks. Without masks, none learns from the labelled cases
alone."""


@dataclass(frozen=True)
class Source:
    """A phantom: the labelled cases of a seed, a pool, or some test cases."""

    name: str
    seed: int
    cases: int
    pool: int = 0
    mutant_share: float = 0.38
    """Of its pool; the other cases are as the paper's labelled ones."""
    masks: bool = True


def list_sources(seeds: Sequence[int], cells: Sequence[str], family: int) -> list[Source]:
    """What these seeds need, each once."""
    found = [Source(f"test_{part}", 900 + part, TEST // TEST_PARTS) for part in range(TEST_PARTS)]
    for seed in seeds:
        found.append(Source(f"seed_{seed}", seed, LABELLED))
        for cell in map(CELLS.__getitem__, cells):
            spare = 5  # a phantom has labelled cases, too
            found.append(Source(name_pool(seed, cell), 500 + seed, POOL + spare, POOL, cell.mutant_share, cell.masks))
    return [replace(source, seed=source.seed + family) for source in found]


def name_pool(seed: int, cell: Cell) -> str:
    return f"pool_{seed}_{cell.mutant_share:g}{'' if cell.masks else '_bare'}"


def write_source(folder: Path, source: Source) -> None:
    """Writes a phantom and prepares its cases, under names that no other source has; once, by whoever comes first."""
    (folder / "sources").mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "sources" / f"{source.name}.lock"):
        if not (folder / "sources" / source.name / COHORT).exists():
            draw_source(folder, source)


def draw_source(folder: Path, source: Source) -> None:
    phantom, place = folder / "phantoms" / source.name, folder / "sources" / source.name
    recipe = Recipe(
        cases=source.cases,
        size=SIZE,
        seed=source.seed,
        unlabelled_fraction=source.pool / source.cases,
        test_fraction=0.0,
        unlabelled_mutant_fraction=source.mutant_share,
        difficulty=0.2,
    )
    write_phantom(phantom, recipe)
    manifest, truth = discover(phantom, phantom / "clinical.csv"), read_truth(phantom / TRUTH_TABLE)

    def rename(case: Case) -> Case:
        return replace(case, case_id=f"{source.name}-{case.case_id}", patient_id=f"{source.name}-{case.patient_id}")

    cases = tuple(map(rename, manifest.cases))
    if not source.masks:
        cases = tuple(replace(case, seg=None) for case in cases)
    for case in cases:
        cache_case(case, folder / "cache", manifest.modalities, Config().data.prepare)
    place.mkdir(parents=True, exist_ok=True)
    rows = [(f"{source.name}-{case_id}", idh) for case_id, idh in sorted(truth.items())]
    write_csv_rows(place / TRUTH, ("case_id", "true_idh"), rows)
    write_manifest(replace(manifest, cases=cases, root=folder / "phantoms"), place / COHORT)


def gather(folder: Path, seed: int, cell: Cell) -> tuple[Manifest, dict[str, int]]:
    """The cohort of a seed, and the truth of its cases."""
    tests = [f"test_{part}" for part in range(TEST_PARTS)]
    own = [f"seed_{seed}", name_pool(seed, cell), *tests]
    manifests = {name: read_manifest(folder / "sources" / name / COHORT) for name in own}
    truth = {key: idh for name in own for key, idh in read_truth(folder / "sources" / name / TRUTH).items()}
    labelled = sorted(manifests[own[0]].cases, key=lambda case: (case.idh, case.case_id))
    drawn = spread(labelled, cell.train + cell.val)
    val = {case.case_id for case in spread(drawn, cell.val)}
    cases = [replace(case, split="val" if case.case_id in val else "train") for case in drawn]
    cases += manifests[own[1]].split("unlabelled")
    cases += [replace(case, split="test") for name in tests for case in manifests[name].cases]
    return replace(manifests[own[0]], cases=tuple(sorted(cases, key=lambda case: case.case_id))), truth


def spread(cases: Sequence[Case], count: int) -> list[Case]:
    """So many of these cases, evenly over their order."""
    return [cases[place * len(cases) // count] for place in range(count)]


class Study:
    """One seed's arms in one cell."""

    def __init__(self, folder: Path, name: str, seed: int, device: torch.device) -> None:
        self.cell, self.seed, self.device = CELLS[name], seed, device
        self.folder, self.cache = folder / name / f"seed_{seed}", folder / "cache"
        self.manifest, self.truth_table = self.folder / COHORT, self.folder / TRUTH
        manifest, self.truth = gather(folder, seed, self.cell)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.manifest.exists():
            write_csv_rows(self.truth_table, ("case_id", "true_idh"), self.truth.items())
            write_manifest(manifest, self.manifest)

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
        if arm.changes.get("self_training.teacher") == "ensemble":
            changes["self_training.ensemble"] = str(self.cross_validate())
        config = override(preset("demo"), {**SETTINGS, **arm.changes, **changes})

        def score(plan: ScoringPlan, on_row: OnScored) -> ScoreTable:
            return self.score(plan, on_row, arm)

        def train(config: Config, folder: Path, on_epoch: OnEpoch, on_start: OnStart) -> History:
            return self.train(config, folder, on_epoch, on_start, name, arm)

        with patch("mttu.self_training.algorithm.log_round"), patch("mttu.self_training.evaluation.log_finish"):
            return run_self_training(config, Callables(train, score, self.evaluate))  # without pictures

    def cross_validate(self) -> Path:
        """Networks of a cross-validation of the training cases alone: the ensemble knows no label that others lack."""
        manifest, place = read_manifest(self.manifest), self.folder / "without_val.parquet"
        cases = tuple(case for case in manifest.cases if case.split in ("train", "unlabelled"))
        write_manifest(replace(manifest, cases=cases), place)
        changes = {
            "data.manifest": str(place),
            "data.cache_dir": str(self.cache),
            "data.folds": FOLDS,
            "output.folder": str(self.folder),
            "output.name": "cv",
            "train.seed": self.seed,
        }
        config = override(preset("demo"), {**SETTINGS, **changes})
        with FileLock(self.folder / "cv.lock"):  # the first arm that needs it trains it
            return cross_validate(config, partial(launch_locally, device=self.device))

    def score(self, plan: ScoringPlan, on_row: OnScored, arm: Arm) -> ScoreTable:
        """Monte Carlo dropout, or what an arm knows of the truth; cases that it does not know get 0.5."""
        if arm.scores == "own":
            return score_cases(plan, self.device, on_row)
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
            return launch_locally(config, folder, on_epoch, on_start, self.device)  # round 0
        if arm.labelled_alone:
            kept = tuple(case for case in manifest.cases if case.split != "train" or case.idh != IDH_UNKNOWN)
            write_manifest(replace(manifest, cases=kept), folder / "labelled.parquet")
            config = override(config, {"data.manifest": str(folder / "labelled.parquet")})
        if name == "labelled views":
            config = override(config, {"train.steps_per_epoch": 1})
        return launch_locally(override(config, arm.in_rounds), folder, on_epoch, on_start, self.device)

    def evaluate(self, checkpoint: Path, cases: Sequence[Case], config: Config, on_case: OnEvaluated) -> list[CaseRow]:
        """As `evaluate_locally`, but many cases to a forward pass: each is a single window."""
        network, _ = read_checkpoint(checkpoint)
        network.to(self.device).eval()
        rows: list[CaseRow] = []
        for start in range(0, len(cases), CASES_AT_ONCE):
            some = cases[start : start + CASES_AT_ONCE]
            cached = [open_cached(self.cache, case.case_id) for case in some]
            images = [read_prepared(one, config) for one in cached]
            windows = torch.stack([pad(image, list_margins(image)) for image in images])
            with torch.inference_mode():
                outputs = network(windows.to(self.device))
            masks, logits = outputs["seg_logits"].softmax(dim=1).cpu(), outputs["idh_logits"].cpu()
            for place, (case, one) in enumerate(zip(some, cached, strict=True)):
                inside = pad(masks[place], [-margin for margin in list_margins(images[place])])
                prediction = VolumePrediction(inside, logits[place : place + 1])
                row = score_prediction(prediction, case, one, config, network.learned_parts)
                rows.append({**row, "precision": "float32"})
                on_case(len(rows), rows[-1])
        return rows

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
            values |= {name: record.metrics.get(name) for name in ("val/score", *VALIDATED)}
            values["chosen"] = number == chosen
            values |= record.estimates
            tested = {name: value for name, value in metrics.items() if name.startswith(METRICS)}
            values |= {"weights": record.weights_sha256[:12], **tested}
            lines.append({"round": number, **{name: shorten(value) for name, value in values.items()}})
        return lines


CLASSES = {"mutant": IDH_MUTANT, "wild": IDH_WILD}
VALIDATED = ("val/dice", "val/idh_auc", "val/idh_ce")
"""What a choice of rounds can be made by, see `compare_choices` in summarise_study.py."""
METRICS = ("test/dice", "test/idh_auc", "test/idh_accuracy", "test/idh_ece")


def list_margins(image: torch.Tensor) -> list[int]:
    """Voxels around a prepared case that make it a window, as `pad` wants them; as in MONAI's sliding window."""
    missing = [SIZE - extent for extent in reversed(image.shape[1:])]
    return [margin for count in missing for margin in (count // 2, count - count // 2)]


def shorten(value: Any) -> Any:
    return round(value, 5) if isinstance(value, float) else value


def score_by(plan: ScoringPlan, mutant: Sequence[float | None]) -> ScoreTable:
    """A table of these mutant probabilities, equal in every pass; None is an error, which no method selects."""
    rows = []
    for case, value in zip(plan.cases, mutant, strict=True):
        row = summarise_passes(case.case_id, [value or 0.5] * plan.config.mc.passes, value or 0.5, 0.0)
        rows.append(row if value is not None else replace(row, confidence=None, mean_probability=None))
    return make_table(plan, rows, "cpu", torch.get_num_threads())


def run_arm(folder: Path, cell: str, seed: int, name: str, device: str) -> list[dict[str, Any]]:
    """Runs an arm; returns its lines."""
    torch.set_num_threads(1)
    started = time.monotonic()
    study = Study(folder, cell, seed, choose_device(device))
    run = study.run(name, ARMS[name])
    lines = [{"cell": cell, "seed": seed, "arm": name, **line} for line in study.read_results(run)]
    print(f"{cell}, seed {seed}, {name}: {time.monotonic() - started:.0f} s", flush=True)
    return lines


def read_results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add_results(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Adds lines; the file is whole at any time."""
    with atomic_file(path) as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in [*read_results(path), *lines]))


Job = tuple[str, int, str]
"""Cell, seed and arm."""


def list_jobs(
    cells: Sequence[str], seeds: Sequence[int], chosen: Collection[str], finished: Set[Job]
) -> dict[Job, Job | None]:
    """What is to be run, with the job that has to be done before: another's round 0, or what UPS selected."""
    jobs: dict[Job, Job | None] = {}
    for cell, seed in product(cells, seeds):
        wanted = [name for name in CELLS[cell].arms if name in chosen and (cell, seed, name) not in finished]
        needed = {before for name in wanted if (before := ARMS[name].after)}
        needed |= {before for name in needed if (before := ARMS[name].after)}
        for name in [name for name in ARMS if name in needed or name in wanted]:
            before = ARMS[name].after
            jobs[cell, seed, name] = (cell, seed, before) if before else None
    return jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for everything but the results")
    parser.add_argument("--cell", choices=CELLS, action="append", required=True)
    parser.add_argument("--arm", choices=ARMS, action="append", help="each if none is given")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="number of the first one")
    parser.add_argument("--processes", type=int, default=2, help="arms that run at the same time")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="cpu")
    parser.add_argument("--family", choices=FAMILIES, default="study", help="of phantoms")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the family study")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    folder = arguments.folder.resolve() / arguments.family
    results = arguments.results if arguments.family == "study" else folder / RESULTS.name
    finished = {(line["cell"], line["seed"], line["arm"]) for line in read_results(results)}
    waiting = list_jobs(arguments.cell, seeds, arguments.arm or list(ARMS), finished)
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn")) as pool:
        sources = list_sources(seeds, arguments.cell, FAMILIES[arguments.family])
        for written in [pool.submit(write_source, folder, source) for source in sources]:
            written.result()
        print("cohorts are written", flush=True)
        running: dict[Future[list[dict[str, Any]]], Job] = {}
        done: set[Job] = set()
        while waiting or running:
            for job in [job for job, before in waiting.items() if before is None or before in done]:
                del waiting[job]
                running[pool.submit(run_arm, folder, *job, arguments.device)] = job
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(ended)
                error = ended.exception()
                if error is not None:
                    print(f"{job} failed: {error}", flush=True)
                    continue
                done.add(job)
                if job not in finished:
                    add_results(results, ended.result())
            if waiting and not running and done.isdisjoint(waiting.values()):
                sys.exit(f"not run, because what they begin with failed: {', '.join(map(str, waiting))}")


if __name__ == "__main__":
    main()

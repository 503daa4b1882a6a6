"""One self-training: its settings and folders, and the callables that train, score and evaluate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mttu.config import Config, TeacherSettings, override
from mttu.data.labels import CLASS_NAMES
from mttu.data.manifest import Case, Manifest
from mttu.pseudo_labels.score_table import ScoreTable
from mttu.pseudo_labels.scoring import OnScored, ScoringPlan
from mttu.pseudo_labels.selection import Selection
from mttu.self_training.fold_teacher import teaches_by_folds
from mttu.self_training.round_folder import (
    MANIFEST,
    find_teacher,
    find_training_checkpoint,
    round_folder,
    working_folder,
)
from mttu.tracking import Tracker
from mttu.training.inputs import Inputs, resolve_paths
from mttu.training.run import Launch
from mttu.training.state import derive_seed

CaseRow = Mapping[str, Any]
"""What `mttu.training.evaluation.score_case` says of a case; JSON values."""
OnEvaluated = Callable[[int, CaseRow], None]
"""Called with the number of cases done and the newest row."""
Score = Callable[[ScoringPlan, OnScored], ScoreTable]
"""Monte Carlo scores of a plan's cases; a case that fails is a row with its error."""
Evaluate = Callable[[Path, Sequence[Case], Config, OnEvaluated], list[CaseRow]]
"""Scores prepared cases with the network of a checkpoint folder, each once, in any order; raises if one fails."""


@dataclass(frozen=True)
class Callables:
    """How the work of a round is done: in this process, or on Ray."""

    train: Launch
    score: Score
    evaluate: Evaluate


@dataclass(frozen=True)
class Step:
    """Progress: one more epoch or case is done."""

    round: int
    rounds: int
    """Number of the last round."""
    phase: str
    """train, score, select, evaluate or test."""
    done: int
    total: int
    """Epochs or cases."""
    case_id: str = ""
    """The newest one; empty for an epoch."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the newest epoch; empty for a case."""
    fold: int = 0
    """Number from 1; 0 without cross-validation."""
    folds: int = 0
    notes: tuple[str, ...] = ()
    """Of phase select: what was selected, and what to think of it."""


OnStep = Callable[[Step], None]


@dataclass(frozen=True)
class Checked:
    """Inputs of a self-training."""

    inputs: Inputs
    truth: dict[str, int]
    """True classes of the pool, where known; reports may use them, choices never do."""


@dataclass(frozen=True)
class Job:
    """One self-training: settings, cohort, folder, and how the work is done."""

    config: Config
    """`data.manifest` and `data.cache_dir` are absolute."""
    inputs: Inputs
    truth: Mapping[str, int]
    """See `Checked`."""
    folder: Path
    """Holds the rounds."""
    callables: Callables
    tracker: Tracker
    """Tracker of the whole; its rounds are child runs."""
    on_step: OnStep | None

    @property
    def manifest(self) -> Manifest:
        """The cohort."""
        return self.inputs.manifest

    def tell_selection(self, number: int, selection: Selection) -> None:
        """Reports what a round selected, before it trains on that."""
        if self.on_step is not None:
            labels = list(selection.pseudo_labels.values())
            chosen = f"{len(labels)} of {len(selection.cases)} cases of the pool are selected"
            if labels:
                chosen += ", " + ", ".join(f"{labels.count(label)} {name}" for label, name in CLASS_NAMES.items())
            notes = (chosen, *selection.notes)
            self.on_step(Step(number, last_round(self.config), "select", 1, 1, notes=notes))

    def show(
        self,
        number: int,
        phase: str,
        done: int,
        total: int,
        case_id: str = "",
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Reports a `Step` of a round."""
        if self.on_step is not None:
            self.on_step(Step(number, last_round(self.config), phase, done, total, case_id, metrics or {}))


def make_job(
    config: Config, checked: Checked, folder: Path, callables: Callables, tracker: Tracker, show: OnStep | None
) -> Job:
    """The job of these settings, with absolute paths."""
    manifest, cache_dir = resolve_paths(config)
    absolute = override(config, {"data.manifest": str(manifest), "data.cache_dir": str(cache_dir)})
    return Job(absolute, checked.inputs, checked.truth, folder, callables, tracker, show)


@dataclass(frozen=True)
class Round:
    """A round that is being built."""

    job: Job
    number: int

    @property
    def folder(self) -> Path:
        """Where it is built."""
        return working_folder(self.job.folder, self.number)

    @property
    def previous_folder(self) -> Path:
        """Folder of the round before; for round 1 and later."""
        return round_folder(self.job.folder, self.number - 1)

    @property
    def teacher(self) -> int:
        """Number of the round whose network scores the pool and hands on its weights; for round 1 and later."""
        return find_teacher(self.job.folder, self.number, self.job.config.self_training.teacher)

    @property
    def has_ensemble(self) -> bool:
        """Whether the pool is scored by the networks of a cross-validation, not by a round's."""
        return self.number == 1 and teaches_by_folds(self.job.config)


def last_round(config: Config) -> int:
    """Number of the last round; direct training on the mixed data has only round 0."""
    return 0 if config.selection.method == "direct" else config.self_training.rounds


def searches_thresholds(config: Config) -> bool:
    """Whether each round searches its thresholds on the validation cases."""
    return config.self_training.thresholds == "search" and config.selection.method in ("CPL", "UPS")


def calibrates(config: Config) -> bool:
    """Whether each round calibrates the pool's probabilities on the validation cases."""
    return config.selection.calibrate != "none" and config.selection.method in ("PL", "CPL", "UPS")


def round_config(config: Config, number: int, place: Path) -> Config:
    """Settings of a round's training: its manifest, and from round 1 on its start, epochs, learning rate and seed.

    Round 0 is the training that `mttu train` would run on that manifest, without a teacher unless it is the only one
    (`selection.method=direct`): Algorithm 1 begins with labelled cases, and its network is the first that could teach.
    `place` is the folder of the round's manifest, beside that of the round before.
    """
    settings = config.self_training
    changes: dict[str, Any] = {"data.manifest": str(place / MANIFEST)}
    if number == 0:
        changes["self_training.class_weights"] = "true"  # no pseudo-labels to count; round 0 can be shared
        if config.train.start_from is None:
            changes["train.keep_start"] = False  # nothing to keep
        if config.selection.method != "direct":
            changes["teacher"] = TeacherSettings().model_dump()  # so that it can be shared with and without one
        return override(config, changes)
    teacher = round_folder(place.parent, find_teacher(place.parent, number, settings.teacher))
    kept = find_training_checkpoint(teacher) if settings.optimiser == "kept" else None
    changes |= {
        "train.start_from": str(kept or teacher) if settings.init == "warm" else None,
        "train.start_optimiser": settings.optimiser,
        "train.epochs": settings.epochs or config.train.epochs,
        "optim.lr": settings.lr or config.optim.lr,
        "train.seed": derive_seed(config.train.seed, number),  # otherwise every round would repeat the crops of round 0
    }
    return override(config, changes)

"""One self-training: its settings and folders, and what is given from outside: how to train, score and evaluate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mttu.config import Config, override
from mttu.data.manifest import Case, Manifest
from mttu.pseudo_labels.score_table import ScoreTable
from mttu.pseudo_labels.scoring import OnRow, ScoringPlan
from mttu.self_training.round_folder import MANIFEST, find_training_checkpoint
from mttu.tracking import Tracker
from mttu.training.run import Launch
from mttu.training.state import derive_seed

CaseRow = Mapping[str, Any]
"""What `mttu.training.evaluation.score_case` says of a case; JSON values."""
OnEvaluated = Callable[[int, CaseRow], None]
"""Told how many cases are done, and the newest row."""
Score = Callable[[ScoringPlan, OnRow], ScoreTable]
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
    """A sign of life."""

    round: int
    rounds: int
    """Last round that is to come."""
    phase: str
    """train, score, evaluate or test."""
    done: int
    total: int
    """Epochs or cases."""
    case_id: str = ""
    """The newest one; empty for an epoch."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the newest epoch; empty for a case."""
    fold: int = 0
    """Number from 1; 0 without cross-validation."""
    folds: int = 0


OnStep = Callable[[Step], None]


@dataclass(frozen=True)
class Job:
    """Settings, cohort, folder, and how the work is done."""

    config: Config
    """`data.manifest` and `data.cache_dir` are absolute."""
    manifest_path: Path
    manifest: Manifest
    fingerprint: str
    """Of manifest and prepared cases."""
    cache_dir: Path
    folder: Path
    """Holds the rounds."""
    callables: Callables
    tracker: Tracker
    """Of the whole; its rounds are runs below it."""
    truth: Mapping[str, int]
    """True classes of pool cases, where known; reports may look at it, choices never do."""
    on_step: OnStep

    def show_case(self, number: int, phase: str, done: int, total: int, case_id: str) -> None:
        """Tells of a scored case."""
        self.on_step(Step(number, last_round(self.config), phase, done, total, case_id))

    def show_epoch(self, number: int, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Tells of a finished epoch."""
        self.on_step(Step(number, last_round(self.config), "train", done, total, metrics=metrics))


def last_round(config: Config) -> int:
    """Number of the last round that is to come; the direct training on the mixed data is a round 0 alone."""
    return 0 if config.selection.method == "direct" else config.self_training.rounds


def round_config(config: Config, number: int, place: Path, before: Path | None) -> Config:
    """Settings of a round's training: its manifest, and from round 1 on where it starts, its epochs and its seed.

    Round 0 is the training that `mttu train` would run on that manifest.

    Args:
        config: Settings of the whole.
        number: Of the round.
        place: Where its manifest lies.
        before: Folder of the finished round before; None for round 0.
    """
    settings = config.self_training
    changes: dict[str, Any] = {"data.manifest": str(place / MANIFEST)}
    if before is None:
        changes["self_training.class_weights"] = "true"  # there are no others, and round 0 can be shared
        return override(config, changes)
    kept = find_training_checkpoint(before) if settings.optimiser == "kept" else None
    changes |= {
        "train.start_from": str(kept or before),
        "train.start_optimiser": settings.optimiser,
        "train.epochs": settings.epochs or config.train.epochs,
        "optim.lr": settings.lr or config.optim.lr,
        "train.seed": derive_seed(config.train.seed, number),  # else every round would see the crops of round 0
    }
    return override(config, changes)

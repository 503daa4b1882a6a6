"""What self-training is given from outside: how to train, score and evaluate, and whom to tell."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mttu.config import Config
from mttu.data.manifest import Case
from mttu.data.score_table import ScoreTable
from mttu.scoring.cases import OnRow
from mttu.scoring.plan import ScoringPlan
from mttu.training.run import Launch

CaseRow = Mapping[str, Any]
"""What `mttu.training.evaluation.score_case` says of a case; JSON values."""
OnCase = Callable[[int, CaseRow], None]
"""Told how many cases are done, and the newest row."""
Score = Callable[[ScoringPlan, OnRow], ScoreTable]
"""Monte Carlo scores of a plan's cases; a case that fails is a row with its error."""
Evaluate = Callable[[Path, Sequence[Case], Config, OnCase], list[CaseRow]]
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

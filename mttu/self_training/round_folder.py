"""A round on disk: built under a working name, renamed when complete; later only old checkpoints are removed.

A run folder holds `round_0`, `round_1`, ...; each with

- `round.json`: what the round was made from and what came out, see `RoundRecord`;
- `manifest.parquet`: what it trained on;
- `scores.parquet` (not with method none), `selection.parquet` and `.csv` (from round 1 on): Monte Carlo scores of the
  pool by the round before, and what was selected; with searched thresholds or calibration also `val_scores.parquet`,
  or one such table for each network of a cross-validation that taught;
- `best/`, `history.json`: the checkpoint, and the metrics of every epoch;
- `held_out.json`: what `best/` says of the validation cases' IDH status, on which its calibration is fitted;
- `val.parquet`, `metrics.json`: scores of the validation cases by `best/`, and their summary; pictures.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from mttu.config.self_training import Teacher
from mttu.errors import InputError
from mttu.files import read_versioned, remove, write_json

FORMAT_VERSION = 1
RECORD = "round.json"
MANIFEST = "manifest.parquet"
SCORES = "scores.parquet"
VAL_SCORES = "val_scores.parquet"
SELECTION = "selection.parquet"
HISTORY = "history.json"
METRICS = "metrics.json"
VAL = "val.parquet"
TRAIN = "train"
UNCHANGED = "unchanged"
"""Scores and selection of the round that was not trained because its selection is that of the round before."""


@dataclass(frozen=True)
class RoundRecord:
    """What a finished round was made from, and its results; nothing in it depends on hidden true classes."""

    round: int
    identity: Mapping[str, Any]
    """What its training depends on, see `mttu.training.run.identify`."""
    manifest_fingerprint: str
    """Of `manifest.parquet`."""
    weights_sha256: str
    """Of `best/`."""
    started_from: str | None
    """SHA-256 of the weights that training started from and that, but for an ensemble, scored the pool."""
    scores_sha256: str | None
    """Digest of `scores.parquet`."""
    epochs: int
    best_epoch: int
    num_pool: int
    """Unlabelled cases."""
    num_mutant: int
    """Pseudo-labels that it trained with."""
    num_wild: int
    confidence_threshold: float | None
    """As used; None in round 0, and where selection is by another rule."""
    uncertainty_threshold: float | None
    metrics: Mapping[str, float]
    """On validation, by name, `val/dice` and so on."""
    notes: tuple[str, ...] = ()
    """Sentences for the user."""
    left_out: tuple[str, ...] = field(default=(), repr=False)
    """Pool cases with neither pseudo-label nor mask."""
    estimates: Mapping[str, float] = field(default_factory=dict)
    """What the selection was calibrated with and is expected to be, see `Estimates.to_metrics`; empty without."""
    teacher: int | str | None = None
    """Number of the round whose network scored the pool, where that need not be the round before; or `ensemble`."""


def round_folder(folder: Path, number: int) -> Path:
    """Where a finished round lies."""
    return folder / f"round_{number}"


def working_folder(folder: Path, number: int) -> Path:
    """Where a round is built."""
    return folder / f"working-round_{number}"


def is_finished(folder: Path, number: int) -> bool:
    """Whether a round is complete: only then has its folder this name."""
    return round_folder(folder, number).is_dir()


def count_finished(folder: Path) -> int:
    """Number of finished rounds, round 0 included."""
    return next(number for number in count() if not is_finished(folder, number))


def find_teacher(folder: Path, number: int, teacher: Teacher) -> int:
    """Number of the finished round whose network scores the pool for round `number`, 1 or later.

    Raises:
        InputError: A round's record is damaged.
    """
    before = range(number)
    if teacher != "best":
        return before[-1]
    scores = [read_record(round_folder(folder, one)).metrics.get("val/score", -math.inf) for one in before]
    return max(before, key=lambda one: (scores[one], one))


def prune(folder: Path, keep_newest: bool) -> None:
    """Removes the training checkpoints of finished rounds, except of the newest if the next round needs them."""
    finished = count_finished(folder)
    for number in range(finished - 1 if keep_newest else finished):
        remove(round_folder(folder, number) / TRAIN)


def find_training_checkpoint(folder: Path) -> Path | None:
    """The newest training checkpoint of a round, with the optimiser's state; None if it was not kept."""
    return max((folder / TRAIN).glob("epoch_*"), default=None)


def write_record(record: RoundRecord, folder: Path) -> None:
    """Writes `round.json`."""
    content = asdict(record)
    for name in ("estimates", "teacher"):
        if content[name] in ({}, None):
            del content[name]  # as in earlier versions
    write_json(folder / RECORD, {"format_version": FORMAT_VERSION, **content})


def read_record(folder: Path) -> RoundRecord:
    """Reads `round.json` of a finished round.

    Raises:
        InputError: Missing, damaged, or of another format version.
    """
    content = _read(folder / RECORD)
    del content["format_version"]
    try:
        return RoundRecord(**{**content, "notes": tuple(content["notes"]), "left_out": tuple(content["left_out"])})
    except (KeyError, TypeError):
        raise InputError(f"{folder / RECORD}: an entry is missing or unknown; {_mend(folder)}") from None


def read_history(folder: Path) -> list[dict[str, float]] | None:
    """Metrics of every epoch of a finished training; None if it is not finished."""
    path = folder / HISTORY
    return list(_read(path)["history"]) if path.exists() else None


def write_history(history: list[dict[str, float]], folder: Path) -> None:
    """Marks a training as finished."""
    write_json(folder / HISTORY, {"format_version": FORMAT_VERSION, "history": history})


def read_metrics(folder: Path) -> dict[str, float] | None:
    """Validation metrics of a round; None if it is not evaluated yet."""
    path = folder / METRICS
    return dict(_read(path)["metrics"]) if path.exists() else None


def write_metrics(metrics: Mapping[str, float], folder: Path, empty_dice: str) -> None:
    """Marks a round as evaluated; `empty_dice` is the convention for empty masks behind its Dice."""
    content = {"format_version": FORMAT_VERSION, "empty_dice": empty_dice, "metrics": dict(metrics)}
    write_json(folder / METRICS, content)


def _read(path: Path) -> dict[str, Any]:
    return read_versioned(path, FORMAT_VERSION, _mend(path.parent))


def _mend(folder: Path) -> str:
    return f"restore it from a copy, or remove {folder.name} and all later rounds and run the same command again"

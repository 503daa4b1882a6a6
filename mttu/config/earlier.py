"""Reads settings stored by earlier versions: renamed, and completed with the values those versions used.

A new setting needs a line in `NEWER`, a renamed one in `MOVED`, a changed preset one in
`mttu.search.presets.EARLIER_PRESETS`; then checkpoints, run folders, rounds and prepared cases of earlier versions keep
their meaning and can be continued.
"""

from collections.abc import Mapping
from typing import Any

from mttu.errors import InputError

NEWER: Mapping[str, Any] = {
    "loss.dice_weight": 0.5,
    "loss.ce_weight": 0.5,
    "optim.clip_norm": None,
    "teacher.masks": False,
    "teacher.decay": 0.99,
    "teacher.confidence": 0.9,
    "teacher.weight": 1.0,
    "teacher.ramp_share": 0.3,
    "teacher.flips": 1,
    "metrics.empty_dice": "brats",
    "metrics.empty_hd95": "exclude",
    "data.folds": 0,
    "data.fold_seed": 0,
    "network.kind": "mttu-net",
    "train.keep_start": False,
    "self_training.teacher": "last",
    "self_training.ensemble": None,
    "self_training.init": "warm",
    "train.quotas.labelled": 0,
    "train.quotas.pseudo": 0,
    "train.quotas.unlabelled": 0,
    "self_training.labels": "hard",
    "selection.calibrate": "none",
    "selection.prior": "none",
    "selection.rule": "thresholds",
    "selection.rank_share": 0.2,
    "selection.rank_growth": 0.05,
    "selection.wanted_precision": 0.9,
    "selection.least_selected": 10,
}
"""Settings that runs of earlier versions may lack, by dotted name, with the value that corresponds to what they did."""

MOVED: Mapping[str, str] = {
    "self_training.folds": "data.folds",
    "self_training.fold_seed": "data.fold_seed",
}
"""Renamed settings; the old names are accepted in what earlier versions stored, and from users."""
OPTIONS: Mapping[str, str] = {"folds": "data.folds", "fold seed": "data.fold_seed"}
"""Options of a cross-validated training, as earlier versions stored them, and the settings that they are now."""

BATCH_SIZE = "train.batch_size"
"""Patches per worker and step, up to format 1: the global batch grew with the number of workers."""
GLOBAL_BATCH, BATCH_PER_WORKER = "train.global_batch", "train.batch_per_worker"
NUM_WORKERS = "workers.num_workers"

GONE: Mapping[str, str] = {
    BATCH_SIZE: f"is now two settings; set {GLOBAL_BATCH} (patches of a step, over all workers together) and "
    f"{BATCH_PER_WORKER} (the most that a worker holds at once)"
}
"""Removed names, and what to do; accepted where earlier versions stored them, and on the command line."""


def complete(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings (dotted names to JSON values) as any version stored them: under today's names, and complete."""
    settings = {OPTIONS.get(name, name): value for name, value in stored.items()}
    return {**NEWER, **rename(settings, stored.get(NUM_WORKERS, 1), "stored settings")}


def complete_section(prefix: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """`complete` for one section that was stored alone, e.g. `mc.`; names in it lack the prefix."""
    newer = {name.removeprefix(prefix): value for name, value in NEWER.items() if name.startswith(prefix)}
    return {**newer, **stored}


def drop_unchanged(prefix: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """A section without the settings of `NEWER` that have their earlier value; its hash is computed from this."""
    return {
        name: value
        for name, value in section.items()
        if f"{prefix}{name}" not in NEWER or NEWER[f"{prefix}{name}"] != value
    }


def rename(settings: Mapping[str, Any], num_workers: Any, source: str) -> dict[str, Any]:
    """Settings under today's names, see `MOVED`; the global batch was `BATCH_SIZE` times the number of workers.

    Args:
        settings: Dotted names to values, as text or as numbers.
        num_workers: Number of workers; an invalid one counts as 1 here, because the setting itself is refused
            elsewhere.
        source: Where the settings come from, for the error message.

    Raises:
        InputError: An old name and its new one are both given, or a batch size is not a number of patches.
    """
    twice = [name for name in MOVED if name in settings and MOVED[name] in settings]
    if twice:
        raise InputError(
            f"{source}: {twice[0]} is now {MOVED[twice[0]]}; leave it out, because the new name is given too"
        )
    settings = {MOVED.get(name, name): value for name, value in settings.items()}
    if BATCH_SIZE not in settings:
        return settings
    both = [name for name in (GLOBAL_BATCH, BATCH_PER_WORKER) if name in settings]
    if both:
        raise InputError(f"{source}: {BATCH_SIZE}: {GONE[BATCH_SIZE]}; leave it out, because {both[0]} is given too")
    batch, workers = _read_count(settings[BATCH_SIZE]), max(_read_count(num_workers), 1)
    if batch < 1:
        raise InputError(f"{source}: {BATCH_SIZE}: {GONE[BATCH_SIZE]}; found {settings[BATCH_SIZE]!r}")
    rest = {name: value for name, value in settings.items() if name != BATCH_SIZE}
    return {**rest, GLOBAL_BATCH: batch * workers, BATCH_PER_WORKER: batch}


def _read_count(value: Any) -> int:
    """A whole number, given as text or as a number; 0 if it is none."""
    try:
        return int(str(value))
    except ValueError:
        return 0

"""Settings as earlier versions stored them, under today's names and with the values that they had then.

Whoever adds a setting adds a line to `NEWER`; whoever changes a preset, one to
`mttu.search.presets.EARLIER_PRESETS`. Then checkpoints, run folders, rounds and prepared cases of earlier versions stay
what they were, and go on.
"""

from collections.abc import Mapping
from typing import Any

from mttu.errors import InputError

NEWER: Mapping[str, Any] = {
    "loss.dice_weight": 0.5,
    "loss.ce_weight": 0.5,
    "optim.clip_norm": None,
    "metrics.empty_dice": "brats",
    "metrics.empty_hd95": "exclude",
}
"""Settings that runs of format 1 may lack, by dotted name, with the value that their behaviour had."""

BATCH_SIZE = "train.batch_size"
"""Patches per worker and step, up to format 1: the global batch grew with the number of workers."""
GLOBAL_BATCH, BATCH_PER_WORKER = "train.global_batch", "train.batch_per_worker"
NUM_WORKERS = "workers.num_workers"

GONE: Mapping[str, str] = {
    BATCH_SIZE: f"is now two settings; set {GLOBAL_BATCH} (patches of a step, over all workers together) and "
    f"{BATCH_PER_WORKER} (the most that a worker holds at once)"
}
"""Names that are no more, and what to do; read where earlier versions stored them, and on the command line."""


def complete(stored: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a run, as some version stored them, as those of today.

    Args:
        stored: Dotted names to JSON values; `workers.num_workers` is among them.
    """
    return {**NEWER, **rename(stored, stored.get(NUM_WORKERS, 1), "stored settings")}


def complete_section(prefix: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The same of one section that was stored alone, such as `mc.`; names in it go without the prefix."""
    newer = {name.removeprefix(prefix): value for name, value in NEWER.items() if name.startswith(prefix)}
    return {**newer, **stored}


def drop_unchanged(prefix: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """A section without settings that are newer than format 1 and have the value of then: what its hash is made of."""
    return {
        name: value
        for name, value in section.items()
        if f"{prefix}{name}" not in NEWER or NEWER[f"{prefix}{name}"] != value
    }


def rename(settings: Mapping[str, Any], num_workers: Any, source: str) -> dict[str, Any]:
    """Settings under today's names: so many patches per worker were a global batch of that times the workers.

    Args:
        settings: Dotted names to values, as text or as numbers.
        num_workers: Of the run that they are for; one that is no number of workers counts as 1 here and is left to its
            own setting to refuse.
        source: Where they come from, for the error message.

    Raises:
        InputError: The old name and a new one are both given, or its value is no number of patches.
    """
    if BATCH_SIZE not in settings:
        return dict(settings)
    both = [name for name in (GLOBAL_BATCH, BATCH_PER_WORKER) if name in settings]
    if both:
        raise InputError(f"{source}: {BATCH_SIZE}: {GONE[BATCH_SIZE]}; leave it out, for {both[0]} is given too")
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

"""Settings as earlier versions stored them, under today's names and with the values that they had then.

A new setting needs a line in `NEWER`, a changed preset one in `mttu.search.presets.EARLIER_PRESETS`; then checkpoints,
run folders, rounds and prepared cases of earlier versions keep their meaning and can be continued.
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
"""Settings that runs of format 1 may lack, by dotted name, with the value that corresponds to what they did."""

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
    """All settings of a run (dotted names to JSON values), as some version stored them, as those of today."""
    return {**NEWER, **rename(stored, stored.get(NUM_WORKERS, 1), "stored settings")}


def complete_section(prefix: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """`complete` for one section that was stored alone, e.g. `mc.`; names in it lack the prefix."""
    newer = {name.removeprefix(prefix): value for name, value in NEWER.items() if name.startswith(prefix)}
    return {**newer, **stored}


def drop_unchanged(prefix: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """A section without the settings of `NEWER` that have their earlier value: what its hash is computed of."""
    return {
        name: value
        for name, value in section.items()
        if f"{prefix}{name}" not in NEWER or NEWER[f"{prefix}{name}"] != value
    }


def rename(settings: Mapping[str, Any], num_workers: Any, source: str) -> dict[str, Any]:
    """Settings under today's names: the global batch was `BATCH_SIZE` times the number of workers.

    Args:
        settings: Dotted names to values, as text or as numbers.
        num_workers: Of the run; an invalid one counts as 1 here, because its own setting refuses it.
        source: Where the settings come from, for the error message.

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

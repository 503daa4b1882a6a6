"""How many cores there are to work with, which on a shared machine is fewer than it has."""

import math
import os
from contextlib import suppress
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of a core, or `max`, and of the period that they are for (Linux, control groups of version 2)."""


def count_cores() -> int:
    """Cores that this process may use, at least one.

    Those that a batch system has bound it to, and no more than a container's quota, rounded up.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError, ZeroDivisionError):  # no quota, or none in this form
        time, period = map(int, _QUOTA.read_text(encoding="ascii").split())
        cores = min(cores, math.ceil(time / period))
    return max(1, cores)

"""How many cores there are to work with, which on a shared machine is fewer than it has."""

import joblib


def count_cores() -> int:
    """Cores that this process may use, at least one.

    A batch system that binds its jobs to cores, a container's quota and `LOKY_MAX_CPU_COUNT` count.
    """
    return int(joblib.cpu_count())

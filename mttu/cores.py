"""How many cores there are to work with, which on a shared machine is fewer than it has."""

import os

from mttu.errors import InputError

_LIMIT = "LOKY_MAX_CPU_COUNT"


def count_cores() -> int:
    """Cores that this process may use, at least one.

    A batch system that binds its jobs to cores, a container's quota and the variable `LOKY_MAX_CPU_COUNT` count.

    Raises:
        InputError: That variable is no whole number of at least 1.
    """
    import joblib  # its import takes a quarter of a second

    limit = os.environ.get(_LIMIT)
    if limit is not None and not (limit.isdecimal() and int(limit) > 0):
        raise InputError(f"{_LIMIT} {limit!r}: expected a whole number of at least 1; unset it to use all cores")
    return int(joblib.cpu_count())

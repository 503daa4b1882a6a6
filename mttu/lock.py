"""One writer at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mttu.errors import InputError


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Holds a folder for this process; the lock goes with the process, however it ends.

    Raises:
        InputError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{folder}: another mttu is working in this folder; wait for it, or use another") from None
        yield

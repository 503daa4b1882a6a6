"""The folder where a private Ray keeps its sockets and logs: checked before Ray starts, which says little of it."""

import os
import sys
from pathlib import Path

from mttu.atomic import find_obstacle
from mttu.errors import InputError

VARIABLE = "RAY_TMPDIR"
LONGEST_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""Of the path of a Unix socket; the system has no room for more (unix(7): `sun_path`)."""
INNER = "r"
"""Name of the folder that Ray is given, inside one that nobody else enters; short, for the sockets' sake."""
_RUN = f"ray-12345678/{INNER}/session_2000-12-31_23-59-59_999999"
"""What the folders of a run of Ray are called there, before the number of the process."""


def find_place() -> Path:
    """Where the folder of a private Ray is made."""
    return Path(os.environ.get(VARIABLE, "/tmp"))


def check_place(place: Path) -> None:
    """Makes sure that Ray can have its sockets below a folder.

    Raises:
        InputError: A socket's path would be too long, or the folder cannot be written or made.
    """
    what = f"{VARIABLE} {place}" if VARIABLE in os.environ else str(place)
    cure = f"set {VARIABLE} to a short folder on a local disk, e.g. {VARIABLE}=/tmp"
    obstacle = find_obstacle(place / "ray")
    if obstacle:
        raise InputError(f"{what}: Ray cannot keep its sockets there: {obstacle}, or {cure}")
    length = len(os.fsencode(place.absolute() / f"{_RUN}_{os.getpid()}" / "sockets" / "plasma_store"))
    if length > LONGEST_SOCKET_BYTES:
        too_many = length - LONGEST_SOCKET_BYTES
        raise InputError(
            f"{what}: is {too_many} bytes too long for Ray, whose sockets there would have paths of {length} bytes; "
            f"the system allows {LONGEST_SOCKET_BYTES}; {cure}"
        )

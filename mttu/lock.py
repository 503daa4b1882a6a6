"""One writer at a time."""

import errno
import getpass
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from mttu import PRIVATE
from mttu.errors import InputError

LOCK, MARKER, OWNER = ".lock", ".lock-marker", ".lock-owner"
"""The file that is locked; the one whose being there is the lock where a file system has no locks; who holds it."""
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
_MODE = 0o600 if PRIVATE else 0o666
"""Mode of the lock, which holds nothing: whoever may write into the folder may lock it, if others may at all."""


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Holds a folder for this process; the lock goes with the process, however it ends.

    Where the file system has no locks (Lustre, some NFS), a marker file is the lock. One that a killed process left is
    recognised on the same machine; on another it has to be removed by hand, and the message says so.

    Raises:
        InputError: Another process holds it, or it cannot be locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _acquire(folder)
    try:
        _write_owner(folder)
        yield
    finally:
        (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def _acquire(folder: Path) -> BaseFileLock:
    path = folder / LOCK
    lock: BaseFileLock = FileLock(path, timeout=0, mode=_MODE, fallback_to_soft=False)
    try:
        try:
            lock.acquire()
        except OSError as error:
            if isinstance(error, Timeout) or error.errno not in _NO_LOCKS:
                raise
            path = folder / MARKER
            lock = SoftFileLock(path, timeout=0, mode=_MODE)
            lock.acquire()
    except Timeout:
        stale = f"; if that is gone, remove {path}" if path.name == MARKER else ""
        raise InputError(
            f"{folder}: another mttu is working in this folder{_read_owner(folder)}; wait for it, or use another{stale}"
        ) from None
    except PermissionError:
        if not path.exists():
            raise InputError(f"{folder}: cannot be written by {_user()}; allow it, or use another folder") from None
        raise InputError(
            f"{folder}: {path.name} belongs to {_owner_of(path)} and cannot be opened by {_user()}; let its owner "
            f"run `chmod a+rw {path}`, or use another folder"
        ) from None
    except OSError as error:
        cure = (
            "is a link, and links are not followed; remove it"
            if path.is_symlink()
            else f"cannot be locked ({error.strerror})"
        )
        raise InputError(f"{path}: {cure}") from None
    return lock


def _write_owner(folder: Path) -> None:
    """A note for whoever finds the folder held; no lock hangs on it."""
    content = {"user": _user(), "host": socket.gethostname(), "pid": os.getpid()}
    with suppress(OSError):
        path = folder / OWNER
        path.unlink(missing_ok=True)  # another user's, or a link
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)


def _read_owner(folder: Path) -> str:
    try:
        descriptor = os.open(folder / OWNER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would wait
        with os.fdopen(descriptor, "rb") as file:
            content = json.loads(file.read(1000))
        return f" (process {int(content['pid'])} of {content['user']!s:.64} on {content['host']!s:.64})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())  # a container without this user


def _owner_of(path: Path) -> str:
    try:
        return path.owner()
    except (OSError, KeyError):
        return "another user"

"""Files and folders that are written whole or not at all: under a temporary name beside the target, then renamed.

A process that dies at any point leaves either the old content or the new one, and at most a leftover whose name starts
with `.partial-`, which the next writer of the same target removes. One process at a time writes a target.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PREFIX = ".partial-"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes a file, a whole folder, or a link but not what it leads to, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def drop_link(path: Path) -> None:
    """Removes a link in place of a working folder: mttu makes none, and what it leads to is somebody else's."""
    if path.is_symlink():
        path.unlink()


def _partial(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f"{PREFIX}{target.name}"
    remove(partial)
    return partial


def find_obstacle(target: Path) -> str | None:
    """Why `target` could not be written, tried out in the nearest folder that is there; None if it can."""
    nearest = next(place for place in target.absolute().parents if place.exists())
    if not nearest.is_dir():
        return f"{nearest} is a file; give another folder"
    probe = nearest / f"{PREFIX}probe-{target.name}"[:100]  # rights alone do not tell, for root has them all
    try:
        probe.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            probe.rmdir()
    except OSError:
        return f"{nearest} is not writable; allow it, or give another folder"
    return None


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yields a temporary path beside `target`; on success it is flushed to disk and renamed over `target`."""
    partial = _partial(target)
    yield partial
    _sync(partial)
    os.replace(partial, target)
    _sync(target.parent)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yields an empty temporary folder; on success it is renamed to `target`, replacing an older folder there.

    A folder cannot be renamed over a full one, so an older one is first moved aside, then removed. A kill between the
    two renames leaves no `target`; `recover_folder`, which this calls first, brings the older one back.
    """
    recover_folder(target)
    partial = _partial(target)
    partial.mkdir()
    yield partial
    for file in [*sorted(partial.rglob("*")), partial]:
        _sync(file)
    aside = _aside(target)
    if os.path.lexists(target):
        os.replace(target, aside)
    os.replace(partial, target)
    _sync(target.parent)
    remove(aside)


def recover_folder(target: Path) -> None:
    """Undoes what a kill inside `atomic_folder` left: afterwards `target` is there if it ever was written whole."""
    aside = _aside(target)
    if not os.path.lexists(aside):
        return
    if target.exists() or aside.is_symlink():  # a link may lead to what is not ours to put here
        remove(aside)
    else:
        os.replace(aside, target)


def _aside(target: Path) -> Path:
    return target.parent / f"{PREFIX}old-{target.name}"


def move_into_place(source: Path, target: Path) -> None:
    """Renames what was built under a working name in the same folder; there is nothing at `target`."""
    os.rename(source, target)
    _sync(target.parent)


def write_text(target: Path, text: str) -> None:
    """Writes a text file (UTF-8) whole or not at all."""
    with atomic_file(target) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Reads a JSON file that this or somebody else wrote.

    Raises:
        OSError: Not there, or not to be read.
        ValueError: Not JSON, or nested too deeply.
    """
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; see `read_json`."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_json(target: Path, content: Any) -> None:
    """Writes a JSON file whole or not at all; refuses NaN, which is not JSON."""
    write_text(target, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")

"""Files and folders that are written whole or not at all: under a temporary name beside the target, then renamed.

A process that dies at any point leaves either the old content or the new one under the final name, and at most a
leftover whose name starts with `.partial-`, which the next writer of the same target removes.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PREFIX = ".partial-"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _partial(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f"{PREFIX}{target.name}"
    if partial.is_dir():
        shutil.rmtree(partial)
    return partial


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

    A folder cannot be renamed over a full one, so an older one is first moved aside, then removed. Readers that find
    no `target` treat it as not written.
    """
    partial = _partial(target)
    partial.mkdir()
    yield partial
    for file in sorted(partial.rglob("*")):
        _sync(file)
    aside = target.parent / f"{PREFIX}old-{target.name}"
    if aside.exists():
        shutil.rmtree(aside)
    if target.exists():
        os.replace(target, aside)
    os.replace(partial, target)
    _sync(target.parent)
    if aside.exists():
        shutil.rmtree(aside)


def write_text(target: Path, text: str) -> None:
    """Writes a text file (UTF-8) whole or not at all."""
    with atomic_file(target) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(target: Path, content: Any) -> None:
    """Writes a JSON file whole or not at all; refuses NaN, which is not JSON."""
    write_text(target, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")

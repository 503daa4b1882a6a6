"""The folder of one training run: who may write to it, what it was started with, whether it is finished."""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mttu.atomic import write_json
from mttu.config import Config, flatten
from mttu.errors import InputError

FORMAT_VERSION = 1
FREE_TO_CHANGE = (
    "output.",
    "tracking.",
    "data.manifest",
    "data.cache_dir",
    "workers.max_failures",
)
"""Settings that a resumed run may have changed: none of them makes the epochs so far untrue."""


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
            raise InputError(
                f"run {folder}: another mttu is working in this folder; wait for it, or set another output.name"
            ) from None
        yield


def identify(config: Config, fingerprint: str) -> dict[str, Any]:
    """What must stay the same for a run to go on: settings and the manifest's content."""
    flat = flatten(config.model_dump(mode="json"))
    settings = {name: value for name, value in flat.items() if not name.startswith(FREE_TO_CHANGE)}
    return {"format_version": FORMAT_VERSION, "manifest": fingerprint, "settings": settings}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Each difference of two identities as `name: old -> new`."""
    found = []
    if old.get("format_version") != new["format_version"]:
        found.append(f"format_version: {old.get('format_version')} -> {new['format_version']}")
    if old.get("manifest") != new["manifest"]:
        found.append(f"content of the manifest: {str(old.get('manifest'))[:12]} -> {str(new['manifest'])[:12]}")
    before, after = old.get("settings", {}), new["settings"]
    names = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    return [*found, *(f"{name}: {before.get(name)} -> {after.get(name)}" for name in names)]


def begin_or_continue(folder: Path, config: Config, fingerprint: str, fresh: bool) -> None:
    """Marks a folder with what its run was started with, or checks that it still is the same run.

    Args:
        folder: Run folder, locked by the caller.
        config: Settings of this start.
        fingerprint: Of the manifest.
        fresh: Move an older run in this folder aside, under a name of its own, and start anew.

    Raises:
        InputError: The folder holds a run of other settings or data; lists each difference.
    """
    mark, identity = folder / "run.json", identify(config, fingerprint)
    if fresh:
        move_aside(folder)
    if not mark.exists():
        write_json(mark, identity)
        return
    try:
        old = json.loads(mark.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"run {folder}: run.json is damaged; start anew with --fresh") from None
    found = differences(old, identity)
    if found:
        changes = "; ".join(found)
        raise InputError(
            f"run {folder}: was started with other settings or data ({changes}); "
            "undo the change, set another output.name, or start anew with --fresh (the old run is kept aside)"
        )


def move_aside(folder: Path) -> None:
    """Moves everything in a run folder but its lock into the next free `replaced-N` inside it; nothing is deleted."""
    content = [item for item in folder.iterdir() if item.name != ".lock" and not item.name.startswith("replaced-")]
    if not content:
        return
    number = 1 + max((int(item.name.split("-")[1]) for item in folder.glob("replaced-[0-9]*")), default=0)
    aside = folder / f"replaced-{number}"
    aside.mkdir()
    marks = {
        "run.json": 0
    }  # the mark goes first: a kill halfway leaves a folder that starts anew, not one that resumes
    for item in sorted(content, key=lambda item: marks.get(item.name, 1)):
        item.rename(aside / item.name)

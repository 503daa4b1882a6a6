"""What the run in a folder was started with, and whether another start is the same run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mttu.atomic import PREFIX, read_json, write_json
from mttu.config import Config, flatten
from mttu.config.earlier import complete
from mttu.config.sharing import FREE_TO_CHANGE
from mttu.errors import InputError
from mttu.training.start import identify_start

FORMAT_VERSION = 2
"""2: `train.global_batch` and `train.batch_per_worker` in place of `train.batch_size`."""
MARK = "run.json"


def identify(config: Config, fingerprint: str, free: tuple[str, ...] = FREE_TO_CHANGE) -> dict[str, Any]:
    """What must stay the same for a run to go on: settings, the content of its prepared cases and where it started.

    Args:
        config: Settings.
        fingerprint: Of manifest and prepared cases.
        free: What settings that may change start with.
    """
    flat = flatten(config.model_dump(mode="json"))
    settings = {name: value for name, value in flat.items() if not name.startswith(free)}
    settings["train.start_from"] = identify_start(config)
    return {"format_version": FORMAT_VERSION, "data": fingerprint, "settings": settings}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Each difference of two identities as `name: old -> new`.

    A setting that is newer than the old one counts there as what its version did, see `mttu.config.earlier`.
    """
    found = []
    if old.get("format_version") not in range(1, new["format_version"] + 1):
        found.append(f"format_version: {old.get('format_version')} -> {new['format_version']}")
    if old.get("data") != new["data"]:
        found.append(f"manifest or prepared cases: {str(old.get('data'))[:12]} -> {str(new['data'])[:12]}")
    stored, after = old.get("settings", {}), new["settings"]
    # settings that may change are not compared, and a new one of them is not missing
    before = {name: value for name, value in complete(stored).items() if name in stored or name in after}
    names = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    return [*found, *(f"{name}: {before.get(name)} -> {after.get(name)}" for name in names)]


def read_format(folder: Path) -> int | None:
    """Format version of the run in a folder; None where there is none, or none that can be read."""
    try:
        found = read_json(folder / MARK)["format_version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, int) else None


def begin_or_continue(
    folder: Path,
    config: Config,
    fingerprint: str,
    fresh: bool,
    free: tuple[str, ...] = FREE_TO_CHANGE,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Marks a folder with what its run was started with, or checks that it still is the same run.

    Args:
        folder: Run folder, locked by the caller.
        config: Settings of this start.
        fingerprint: Of manifest and prepared cases.
        fresh: Move an older run in this folder aside, under a name of its own, and start anew.
        free: What settings that may change start with.
        extra: What else must stay the same, by name; JSON values.

    Raises:
        InputError: The folder holds a run of other settings or data; lists each difference.
    """
    mark, identity = folder / MARK, identify(config, fingerprint, free)
    identity["settings"] |= extra or {}
    if fresh or not mark.exists():
        move_aside(folder)
        write_json(mark, identity)
        return
    try:
        old = read_json(mark)
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
    """Moves everything in a run folder but its lock into the next free `replaced-N` inside it; nothing is deleted.

    A kill halfway leaves the rest without its mark, and the next start moves that aside, too.
    """
    stays = (".lock", "replaced-", PREFIX)  # what a kill left half-written belongs to no run
    content = [item for item in folder.iterdir() if not item.name.startswith(stays)]
    if not content:
        return
    number = 1 + max((int(item.name.split("-")[1]) for item in folder.glob("replaced-[0-9]*")), default=0)
    aside = folder / f"replaced-{number}"
    aside.mkdir()
    for item in sorted(content, key=lambda item: item.name != MARK):  # the mark first: without it nothing is resumed
        item.rename(aside / item.name)

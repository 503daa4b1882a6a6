"""Settings fit to leave the machine they were written on, or to change while a run is stopped."""

from typing import Any

from mttu.config import Config, override
from mttu.config.schema import MayChange, Settings


def list_free(in_rounds: bool = False, section: type[Settings] = Config, prefix: str = "") -> tuple[str, ...]:
    """What dotted names of settings start with that may change while a run is stopped, as said at each field.

    Args:
        in_rounds: Of a self-training; false: of a plain training.
        section: Where to look.
        prefix: Of its settings' names.
    """
    found: list[str] = []
    for name, described in section.model_fields.items():
        kind: Any = described.annotation
        mark = next((one for one in described.metadata if isinstance(one, MayChange)), None)
        is_section = isinstance(kind, type) and issubclass(kind, Settings)
        if mark is not None and (mark.in_rounds or not in_rounds):
            found.append(f"{prefix}{name}." if is_section else f"{prefix}{name}")
        elif is_section:
            found += list_free(in_rounds, kind, f"{prefix}{name}.")
    return tuple(found)


def without_paths(config: Config) -> Config:
    """Settings without folders and addresses, still valid and of the same result.

    Names of home folders can identify people, and an address can hold a password. The manifest keeps its file name.
    """
    manifest = config.data.manifest
    changes = {
        "data.manifest": manifest.name if manifest else None,
        "data.cache_dir": None,
        "output.folder": config.output.folder.name or ".",
        "tracking.uri": None,
        "train.start_from": None,
        "train.start_optimiser": "fresh",
        "self_training.start": None,
        "self_training.truth": None,
    }
    return override(config, changes)

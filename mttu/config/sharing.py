"""Settings that may change while a run is stopped, and settings without what belongs to one machine."""

from typing import Any

from mttu.config import Config, override
from mttu.config.schema import MayChange, Settings


def list_free(in_rounds: bool = False, section: type[Settings] = Config, prefix: str = "") -> tuple[str, ...]:
    """Prefixes of the dotted names of settings that may change while a run is stopped, as each field says.

    `in_rounds`: of a self-training, else of a plain training; `prefix` is that of the names in `section`.
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
    """Settings with the same result, without folders, which can name people, and addresses, which can hold passwords.

    The manifest keeps its file name.
    """
    changes = {
        "data.manifest": config.data.manifest and config.data.manifest.name,
        "data.cache_dir": None,
        "output.folder": config.output.folder.name or ".",
        "tracking.uri": None,
        "train.start_from": None,
        "train.start_optimiser": "fresh",
        "self_training.start": None,
        "self_training.truth": None,
    }
    return override(config, changes)

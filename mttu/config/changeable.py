"""Settings that may change while a run is stopped."""

from typing import Any

from mttu.config import Config
from mttu.config.schema import MayChange, Settings


def list_changeable(in_rounds: bool = False, section: type[Settings] = Config, prefix: str = "") -> tuple[str, ...]:
    """Prefixes of the dotted names of settings that may change while a run is stopped, as each field says.

    With `in_rounds`, those of a self-training; otherwise those of a plain training. `prefix` precedes the names in
    `section`.
    """
    found: list[str] = []
    for name, described in section.model_fields.items():
        kind: Any = described.annotation
        mark = next((one for one in described.metadata if isinstance(one, MayChange)), None)
        is_section = isinstance(kind, type) and issubclass(kind, Settings)
        if mark is not None and (mark.in_rounds or not in_rounds):
            found.append(f"{prefix}{name}." if is_section else f"{prefix}{name}")
        elif is_section:
            found += list_changeable(in_rounds, kind, f"{prefix}{name}.")
    return tuple(found)

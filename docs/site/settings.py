"""Writes docs/settings.md, the reference of every setting, from the docstrings, types and defaults in `mttu.config`.

Usage: python docs/site/settings.py
"""

import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mttu.config import Config
from mttu.config.schema import MayChange, Settings

PAGE = Path(__file__).parents[1] / "settings.md"
HEAD = """\
# Every setting

Written by `docs/site/settings.py` from `mttu/config/`: change the docstring of a field there, then run `make settings`.
[Settings](configuration.md) says how they are given. The defaults are the paper's; `null` is none. A setting marked \\*
may change while a run is stopped, one marked \\*\\* in a plain training only.
"""
_BOUNDS = {Ge: ("at least", "ge"), Gt: ("above", "gt"), Le: ("at most", "le"), Lt: ("below", "lt")}


def write_page() -> str:
    """The page in Markdown: a section per settings class, a table row per setting."""
    parts = [HEAD]
    for title, name, section, mark in list_sections(Config, "", None):
        fields = {key: field for key, field in section.model_fields.items() if not find_sections(field)}
        if not fields:
            continue
        parts += [
            f"## {title}",
            tidy(section.__doc__ or ""),
            "| setting | type | default | what |\n| --- | --- | --- | --- |",
        ]
        parts[-1] += "".join(f"\n{write_row(f'{name}.{key}', field, mark)}" for key, field in fields.items())
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def list_sections(
    section: type[Settings], prefix: str, mark: MayChange | None, of: str = ""
) -> Iterator[tuple[str, str, Any, Any]]:
    """(title, dotted name, class, mark) of a section and those inside it; of a union, each member with its kind."""
    for name, field in section.model_fields.items():
        found = find_sections(field)
        for inner in found:
            kind = f", kind {name_kind(inner)}" if len(found) > 1 else of
            own = next((one for one in field.metadata if isinstance(one, MayChange)), mark)
            yield f"{prefix}{name}{kind}", f"{prefix}{name}", inner, own
            yield from list_sections(inner, f"{prefix}{name}.", own, kind)


def find_sections(field: FieldInfo) -> list[type[Settings]]:
    """The settings classes that a field may hold; none for a plain setting."""
    return [one for one in walk(field.annotation) if isinstance(one, type) and issubclass(one, Settings)]


def walk(kind: Any) -> Iterator[Any]:
    """A type and the members of its unions."""
    if get_origin(kind) is Annotated:
        yield from walk(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for one in get_args(kind):
            yield from walk(one)
    else:
        yield kind


def name_kind(section: type[Settings]) -> str:
    """The tag of a member of a union; `any other` where a member takes all that have no settings of their own."""
    default = section.model_fields["kind"].default
    return "any other" if default is PydanticUndefined else str(default)


def write_row(name: str, field: FieldInfo, mark: MayChange | None) -> str:
    """A setting as a row of a table."""
    own = next((one for one in field.metadata if isinstance(one, MayChange)), mark)
    stars = "" if own is None else r" \*" if own.in_rounds else r" \*\*"
    bounds = describe_bounds(field.metadata)
    kind = describe_type(field.annotation) + (f", {bounds}" if bounds else "")
    return f"| `{name}`{stars} | {kind} | {show_default(field)} | {tidy(field.description or '')} |".replace("  ", " ")


def describe_type(kind: Any) -> str:
    """A type in words, with the values or the range that it allows."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = describe_bounds(inner[1:])
        return describe_type(inner[0]) + (f", {bounds}" if bounds else "")
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        return " or ".join("null" if one is NoneType else describe_type(one) for one in inner)
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return f"list of: {describe_type(inner[0])}"
        return f"{len(inner)} of: {describe_type(inner[0])}"
    if origin is not None and issubclass(origin, dict):
        return "mapping"
    names = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text", Path: "path"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def describe_bounds(metadata: Any) -> str:
    """The range that annotations give, e.g. `at least 0, below 1`."""
    flat = [one for item in metadata for one in (item.metadata if isinstance(item, FieldInfo) else [item])]
    told = []
    for one in flat:
        told += [f"{words} {getattr(one, name)}" for kind, (words, name) in _BOUNDS.items() if isinstance(one, kind)]
        told += [f"at least {one.min_length} of them"] if isinstance(one, MinLen) else []
        told += [f"at most {one.max_length} of them"] if isinstance(one, MaxLen) else []
        pattern = getattr(one, "pattern", None)
        told += [f"matching `{pattern}`"] if pattern else []
    return ", ".join(told)


def show_default(field: FieldInfo) -> str:
    """The default as it is written on the command line."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "must be given"
    if isinstance(value, tuple):
        return f"`[{','.join(map(str, value))}]`"
    if isinstance(value, bool) or value is None:
        return f"`{'null' if value is None else str(value).lower()}`"
    return f"`{value}`"


def tidy(text: str) -> str:
    """A docstring in one line that a table can hold."""
    return re.sub(r"\s+", " ", text).strip().replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(write_page(), encoding="utf-8")

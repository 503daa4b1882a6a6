"""Types of the options that this package's networks take, and the check of the options that settings name.

A body annotates its parameters with them. The bounds keep out what cannot be built or means nothing, and keep an
untrusted checkpoint from asking for a network that takes minutes to build or to run.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from mttu.config.network import RIVALS, Few, Width
from mttu.config.schema import Probability

__all__ = [
    "AtMostFew",
    "Few",
    "FourCounts",
    "Hidden",
    "Levels",
    "Probability",
    "Width",
    "find_option_problems",
    "list_options",
]

AtMostFew = Annotated[int, Field(ge=0, le=64)]
Levels = Annotated[tuple[Width, ...], Field(min_length=2, max_length=8)]
"""Channels of each level; each level but the first halves the image."""
Hidden = Annotated[tuple[Width, ...], Field(max_length=16)]
"""Widths of hidden layers; there may be none."""
FourCounts = Annotated[tuple[Few, ...], Field(min_length=4, max_length=4)]
"""Numbers of blocks of four stages."""

_NOT_AN_OPTION = ("num_classes", "patch_size")


def find_option_problems(kind: str, build: Callable[..., Any], options: Mapping[str, Any]) -> list[str]:
    """Says which options a network does not know or, of this package's, not with such a value.

    Args:
        kind: Name of the network.
        build: What builds it; its first parameter is the number of modalities.
        options: By name, as in `network.options`.
    """
    parameters = inspect.signature(build).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        return []
    known = {one.name: one.annotation for one in _describe(build)}
    problems = []
    for name, value in options.items():
        if name not in known:
            listed = ", ".join(known) or "none"
            problems.append(f"network.options.{name}: no such option of {kind}; known there: {listed}")
        elif kind in RIVALS:
            problems += [f"network.options.{name}: {kind}: {text}" for text in _explain_value(known[name], value)]
    return problems


def list_options(build: Callable[..., Any]) -> dict[str, Any]:
    """Options of a network with their defaults; None where there is no default, text where settings cannot hold it."""
    options: dict[str, Any] = {}
    for one in _describe(build):
        try:
            json.dumps(one.default)
            plain = True
        except (TypeError, ValueError):
            plain = False
        options[one.name] = None if one.default is one.empty else one.default if plain else str(one.default)
    return options


def _describe(build: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters that settings may name."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = list(inspect.signature(build).parameters.values())[1:]
    return [one for one in parameters if one.name not in _NOT_AN_OPTION and one.kind not in kinds]


def _explain_value(annotation: Any, value: Any) -> list[str]:
    try:
        TypeAdapter(annotation).validate_python(value, strict=True)  # strict: True is no number, 1.5 no count
    except ValidationError as error:
        return [f"{item['msg']}; found {value!r}" for item in error.errors()]
    return []

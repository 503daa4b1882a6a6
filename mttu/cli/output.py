"""`--quiet` and `--json`, which every command takes: less to read, or one document for a machine."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any

import typer

Quiet = Annotated[bool, typer.Option("--quiet", help="No progress; results, notes and errors stay")]
AsJson = Annotated[bool, typer.Option("--json", help="Result as JSON; all else goes to standard error")]


@dataclass
class _Asked:
    """What the running command was asked for, and what it has found."""

    quiet: bool = False
    found: Any = None


_asked = _Asked()


def is_quiet() -> bool:
    """Whether progress is not to be shown."""
    return _asked.quiet


def give(found: Any) -> None:
    """Gives the result of a command, for `--json`; of several, such as those of the steps of a demo, the last counts.

    Args:
        found: Mappings, sequences, dataclasses, paths, numbers of NumPy; what is not finite becomes null.
    """
    _asked.found = found


def to_plain(value: Any) -> Any:
    """What JSON can hold of a value."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): to_plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(to_plain(one) for one in value)
    if hasattr(value, "tolist"):  # NumPy
        return to_plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


@contextmanager
def _answer(quiet: bool, as_json: bool) -> Iterator[None]:
    """Runs a command as it was asked; prints its result, if it has one, even where it then fails."""
    _asked.quiet, _asked.found = quiet, None
    out = sys.stdout
    try:
        if not as_json:
            yield
            return
        try:
            with redirect_stdout(sys.stderr):
                yield
        finally:
            if _asked.found is not None:
                out.write(json.dumps(to_plain(_asked.found), indent=1, allow_nan=False) + "\n")
                out.flush()
    finally:
        _asked.quiet, _asked.found = False, None


def add_output(function: Callable[..., None]) -> Callable[..., None]:
    """A command with the options `--quiet` and `--json`, of which the function itself knows nothing."""

    @wraps(function)
    def run(*arguments: Any, quiet: bool = False, as_json: bool = False, **given: Any) -> None:
        with _answer(quiet, as_json):
            function(*arguments, **given)

    shared = {"quiet": Quiet, "as_json": AsJson}
    own = signature(function)
    added = [Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=kind) for name, kind in shared.items()]
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])  # type: ignore[attr-defined]
    run.__annotations__ = {**function.__annotations__, **shared}
    return run

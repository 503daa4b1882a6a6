"""Search spaces: which values of which settings a search tries. One YAML file per search (`tune_spaces/`)."""

from pathlib import Path
from typing import Any

from mttu.config import Config, override, read_yaml
from mttu.errors import InputError, raise_if_any

FORMAT_VERSION = 1


def load_space(path: Path) -> dict[str, list[Any]]:
    """Reads a search space: dotted setting to the values it is tried with, in the file's order.

    The file holds `format_version: 1`, a `description`, and under `space` one list of values per dotted setting.

    Raises:
        InputError: The file is not such a space, or a setting refuses one of its values; names all of them.
    """
    content = read_yaml(path)
    problems = [
        f"{path}: {name}: not known here; a search space holds format_version, description and space"
        for name in content
        if name not in {"format_version", "description", "space"}
    ]
    found = content.get("format_version")
    if found != FORMAT_VERSION:
        problems.append(f"{path}: format_version is {found}; this version of mttu reads {FORMAT_VERSION}")
    space = content.get("space")
    if not isinstance(space, dict) or not space:
        raise InputError([*problems, f"{path}: space: found {space!r}; expected settings, each with a list of values"])
    for name, values in space.items():
        if not isinstance(values, list) or not values:
            problems.append(f"{path}: {name}: found {values!r}; expected a list of at least one value")
            continue
        repeated = [value for place, value in enumerate(values) if value in values[:place]]
        if repeated:
            problems.append(f"{path}: {name}: {repeated[0]!r} is listed twice")
        for value in values:
            try:
                override(Config(), {str(name): value}, str(path))
            except InputError as error:
                problems.extend(error.problems)
    raise_if_any(problems)
    return {str(name): list(values) for name, values in space.items()}

"""The nearest name there is to one that is not, for whoever mistyped it or has a program that names files otherwise."""

import os
import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from difflib import SequenceMatcher
from pathlib import Path

LEAST_SIMILARITY = 0.6
"""Of two names, as `difflib` counts it and has it for its default; `t2w` and `t2` have 0.8."""
_MOST_COMPARED = 100
"""Names of a folder, those next to the one wanted in the alphabet: a table may miss a file in each of 5,000 rows."""


def say_nearest(path: Path) -> str:
    """What to add to a message on a path that is not there; nothing where no name is near.

    Names whose numbers differ are not near: they are another patient's, or of another modality.

    Args:
        path: Anything; of its parts, the first one that is not there is compared with what lies in its place.
    """
    place = Path(os.path.abspath(path))
    while place.parent != place and not place.parent.is_dir():
        place = place.parent
    try:
        names = sorted(name for name in os.listdir(place.parent) if not name.startswith(".") and name != place.name)
    except OSError:
        return ""
    if len(names) > _MOST_COMPARED:
        start = max(0, bisect_left(names, place.name) - _MOST_COMPARED // 2)
        names = names[start : start + _MOST_COMPARED]
    near = [
        (similarity, name)
        for name in names
        if _numbers(name) == _numbers(place.name) and (similarity := _compare(name, place.name)) >= LEAST_SIMILARITY
    ]
    return f"; the nearest there is {place.parent / max(near)[1]}" if near else ""


def find_nearest(
    role: str,
    own_name: str,
    files: Iterable[tuple[str, str]],
    known_names: Mapping[str, Collection[str]],
    least: float = LEAST_SIMILARITY,
) -> str | None:
    """The file that most probably is what a case lacks.

    Args:
        role: What it lacks.
        own_name: How its layout names that, without the case.
        files: Name of each file that is not used otherwise, and what of it is neither ending nor case.
        known_names: Role to names that are in use for it; a name of another role is not near.
        least: Similarity; a name that is in use for it has 1.
    """
    wanted = {_bare(name) for name in (own_name, *known_names.get(role, ()))}
    others = {_bare(name) for other, names in known_names.items() if other != role for name in names} - wanted
    best: tuple[float, str] | None = None
    for file, rest in files:
        name = _bare(rest)
        if not name or name in others:
            continue
        parts = {part.casefold() for part in re.split(r"[^A-Za-z0-9]+", rest)}
        similarity = 1.0 if parts & wanted else max(_compare(name, one) for one in wanted)
        if similarity >= least and (best is None or similarity > best[0]):
            best = similarity, file
    return best[1] if best else None


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _compare(first: str, second: str) -> float:
    return SequenceMatcher(None, first.casefold(), second.casefold()).ratio()

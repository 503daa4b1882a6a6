"""Names as people write them: matched regardless of case and leading zeros; the nearest name to a missing one."""

import os
import re
from bisect import bisect_left
from collections.abc import Collection, Hashable, Iterable, Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Generic, TypeVar

_DAY, _MONTH, _YEAR = r"(?:0[1-9]|[12]\d|3[01])", r"(?:0[1-9]|1[0-2])", r"(?:19|20)\d{2}"
_EXAMINATION = (
    rf"(?:{_YEAR}{_MONTH}{_DAY}|{_YEAR}[-_.]{_MONTH}[-_.]{_DAY}(?:[-_ T].*)?|{_DAY}[-_.]{_DAY}[-_.]{_YEAR}(?:[-_ ].*)?|"
    r"ses-[a-z0-9]+|(?:ses|session|visit|tp|time|time-?point|follow-?up|fu|week|month|day)[-_ ]?\d[a-z0-9-]*|"
    r"baseline|follow[-_ ]?up|(?:pre|post)(?:[-_ ]?op(?:erative)?)?)"
)
"""A date, `ses-1`, `visit_2`, `week-012`, `baseline`, `postop`; not `scan_3` or `exam_3`, which may name a patient."""
_NAMED_EXAMINATION = re.compile(rf"(.+?)[-_ .]{_EXAMINATION}", re.IGNORECASE)
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
Named = TypeVar("Named", bound=Hashable)


class NameIndex(Generic[Named]):
    """Objects by their names; an object may have several names, and a name several objects."""

    def __init__(self, names: Iterable[tuple[str, Named]]) -> None:
        self._exact: dict[str, set[Named]] = {}
        self._loose: dict[str, set[Named]] = {}
        for name, named in names:
            self._exact.setdefault(name, set()).add(named)
            self._loose.setdefault(_loosen(name), set()).add(named)

    def find_exact(self, name: str) -> set[Named]:
        """All with exactly this name."""
        return set(self._exact.get(name, ()))

    def find(self, name: str) -> set[Named]:
        """All with exactly this name; if there are none, all whose name differs by case and leading zeros only."""
        return self.find_exact(name) or set(self._loose.get(_loosen(name), ()))


def _loosen(name: str) -> str:
    return _LEADING_ZEROS.sub("", name).casefold()


def is_examination(name: str) -> bool:
    """Whether a name is that of an examination alone, without the patient."""
    return re.fullmatch(_EXAMINATION, name, re.IGNORECASE) is not None


def patient_before_examination(name: str) -> str | None:
    """The patient in a name such as `P7_ses-1` or `P7_2019-01-02`; None if it names no examination."""
    found = _NAMED_EXAMINATION.fullmatch(name)
    return found[1] if found else None


LEAST_SIMILARITY = 0.6
"""Of two names, by `difflib`, whose default it is; `t2w` and `t2` have 0.8."""
_MOST_COMPARED = 100
"""Names of a folder, alphabetically next to the missing one: a table may name 5,000 missing files."""


def say_nearest(path: Path) -> str:
    """What to add to a message on a missing path: the name nearest to its first missing part, or nothing.

    Names with other numbers are not near: they are of another patient or modality.
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
    """The file that a case most likely lacks.

    Args:
        role: Role of the missing file.
        own_name: Its name in the case's layout, without the case.
        files: Name of each unused file, and its part that is neither ending nor case.
        known_names: Role to names in use for it; names of other roles are not near.
        least: Minimum similarity; a name in use for the role has 1.
    """
    wanted = {_bare(name) for name in (own_name, *known_names.get(role, ()))}
    others = {_bare(name) for other, names in known_names.items() if other != role for name in names} - wanted
    near: list[tuple[float, str]] = []
    for file, rest in files:
        name = _bare(rest)
        if not name or name in others:
            continue
        parts = {part.casefold() for part in re.split(r"[^A-Za-z0-9]+", rest)}
        near.append((1.0 if parts & wanted else max(_compare(name, one) for one in wanted), file))
    similarity, nearest = max(near, key=lambda pair: pair[0], default=(0.0, None))
    return nearest if similarity >= least else None


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _compare(first: str, second: str) -> float:
    return SequenceMatcher(None, first.casefold(), second.casefold()).ratio()

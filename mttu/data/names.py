"""Names as people write them: found without regard to case and leading zeros, and the nearest to a missing one."""

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
"""A date, `ses-1`, `visit_2`, `week-012`, `baseline`, `postop`; not `scan_3` or `exam_3`, which may be a patient's."""
_NAMED_EXAMINATION = re.compile(rf"(.+?)[-_ .]{_EXAMINATION}", re.IGNORECASE)
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
Named = TypeVar("Named", bound=Hashable)


class NameIndex(Generic[Named]):
    """Things by their names; one thing may have several names, and one name may be that of several things.

    Args:
        names: Each with what it is a name of.
    """

    def __init__(self, names: Iterable[tuple[str, Named]]) -> None:
        self._exact: dict[str, set[Named]] = {}
        self._loose: dict[str, set[Named]] = {}
        for name, named in names:
            self._exact.setdefault(name, set()).add(named)
            self._loose.setdefault(_loosen(name), set()).add(named)

    def find_exact(self, name: str) -> set[Named]:
        """All that is spelt so."""
        return set(self._exact.get(name, ()))

    def find(self, name: str) -> set[Named]:
        """All that is spelt so; if nothing is, all that only case and leading zeros tell apart from it."""
        return self.find_exact(name) or set(self._loose.get(_loosen(name), ()))


def _loosen(name: str) -> str:
    return _LEADING_ZEROS.sub("", name).casefold()


def is_examination(name: str) -> bool:
    """Whether a name is that of one examination among several of a patient, and says nothing of the patient."""
    return re.fullmatch(_EXAMINATION, name, re.IGNORECASE) is not None


def patient_before_examination(name: str) -> str | None:
    """What stands before the examination in a name such as `P7_ses-1` or `P7_2019-01-02`; None if it has none."""
    found = _NAMED_EXAMINATION.fullmatch(name)
    return found[1] if found else None


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

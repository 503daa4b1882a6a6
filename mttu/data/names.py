"""Names as people write them: found as they are spelt, else without regard to case and leading zeros."""

import re
from collections.abc import Hashable, Iterable
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

"""Names as people write them: found as they are spelt, else without regard to case and leading zeros."""

import re
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

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

"""Which cases are no patient's: a marker beside the phantom lists them."""

import os
from collections.abc import Sequence
from pathlib import Path

from mttu.data.file_kinds import explain_refusal
from mttu.data.manifest import Case
from mttu.errors import InputError
from mttu.files import read_json

PHANTOM_MARKER = "phantom.json"
"""Lists the synthetic cases of a folder; a cohort is synthetic if all of its cases are."""


class SyntheticCases:
    """Knows the synthetic cases of some places: a marker at or above every image, up to the place, lists its case.

    Args:
        places: Folders, or files in them.
    """

    def __init__(self, places: Sequence[Path]) -> None:
        self._tops = [Path(os.path.abspath(place if place.is_dir() else place.parent)) for place in places]
        self._listed: dict[Path, set[str]] = {}
        self.unreadable: dict[Path, str] = {}
        """Markers that cannot be read, with the reason; their cases count as patients'."""

    def __contains__(self, case: Case) -> bool:
        """Whether the case is synthetic.

        Raises:
            InputError: A marker is damaged.
        """
        return all(
            any(
                case.case_id in self._read(folder)
                for folder in image.parents
                if any(folder.is_relative_to(top) for top in self._tops)
            )
            for image in case.images.values()
        )

    def _read(self, folder: Path) -> set[str]:
        if folder not in self._listed:
            try:
                self._listed[folder] = _read_marker(folder / PHANTOM_MARKER)
            except OSError as error:
                self._listed[folder], self.unreadable[folder / PHANTOM_MARKER] = set(), explain_refusal(error)
        return self._listed[folder]


def _read_marker(marker: Path) -> set[str]:
    """Ids of the synthetic cases; none if there is no marker.

    Raises:
        InputError: It is damaged.
        OSError: It cannot be read.
    """
    if not marker.is_file():
        return set()
    try:
        content = read_json(marker)
        return set(content["cases"]) if content["synthetic"] is True else set()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{marker}: damaged ({error}); write the phantom again with `mttu phantom`") from None

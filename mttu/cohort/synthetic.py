"""Which cases are synthetic: a marker beside the phantom lists them."""

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
                case.case_id in self._read(folder / PHANTOM_MARKER)
                for folder in image.parents
                if any(folder.is_relative_to(top) for top in self._tops)
            )
            for image in case.images.values()
        )

    def _read(self, marker: Path) -> set[str]:
        if marker not in self._listed:
            listed: set[str] = set()
            try:
                if marker.is_file():
                    content = read_json(marker)
                    listed = set(content["cases"]) if content["synthetic"] is True else set()
            except OSError as error:
                self.unreadable[marker] = explain_refusal(error)
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{marker}: damaged ({error}); write the phantom again with `mttu phantom`") from None
            self._listed[marker] = listed
        return self._listed[marker]

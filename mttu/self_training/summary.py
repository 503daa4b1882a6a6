"""The finished rounds in short, one line each, for tables, tracking and `summary.json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mttu.atomic import read_json
from mttu.data.manifest import read_manifest
from mttu.errors import InputError
from mttu.self_training.mixing import read_pseudo_labels
from mttu.self_training.round_folder import MANIFEST, count_finished, read_record, round_folder

FORMAT_VERSION = 1
TEST = "test.json"


@dataclass(frozen=True)
class RoundSummary:
    """One line of the table at the end."""

    round: int
    num_pool: int
    num_mutant: int
    """Pseudo-labels that the round trained with."""
    num_wild: int
    num_known: int
    """Of these, cases whose true class is known."""
    num_right: int
    """Of these, right ones."""
    metrics: Mapping[str, float]
    """On validation and, once it is finished, on test."""
    notes: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float | None:
        """Share of right pseudo-labels among those whose truth is known; None without any."""
        return self.num_right / self.num_known if self.num_known else None


def summarise_rounds(folder: Path, truth: Mapping[str, int]) -> list[RoundSummary]:
    """The finished rounds, one line each.

    Args:
        folder: Run folder.
        truth: Case to true class, where known; it changes the counts of right labels and nothing else.
    """
    test = read_test(folder) or {}
    rows = []
    for number in range(count_finished(folder)):
        place = round_folder(folder, number)
        record, labels = read_record(place), read_pseudo_labels(read_manifest(place / MANIFEST))
        known = {case_id: label for case_id, label in labels.items() if case_id in truth}
        rows.append(
            RoundSummary(
                round=number,
                num_pool=record.num_pool,
                num_mutant=record.num_mutant,
                num_wild=record.num_wild,
                num_known=len(known),
                num_right=sum(truth[case_id] == label for case_id, label in known.items()),
                metrics={**record.metrics, **test.get(number, {})},
                notes=record.notes,
            )
        )
    return rows


def read_test(folder: Path) -> dict[int, dict[str, float]] | None:
    """Round to its metrics on the test cases; None before they were looked at.

    Raises:
        InputError: See `read_versioned`.
    """
    path = folder / TEST
    if not path.exists():
        return None
    return {int(number): found for number, found in read_versioned(path)["rounds"].items()}


def read_versioned(path: Path) -> dict[str, Any]:
    """Reads a JSON file of this package.

    Raises:
        InputError: Damaged, or of another format version.
    """
    try:
        content = dict(read_json(path))
    except (ValueError, TypeError):
        raise InputError(f"{path}: damaged; remove it and run the same command again, which writes it anew") from None
    if content.get("format_version") != FORMAT_VERSION:
        found = content.get("format_version")
        raise InputError(f"{path}: format_version is {found}; this version of mttu reads {FORMAT_VERSION}")
    return content

"""Labels that training masks hold and no validation prediction does: a mean Dice hides them.

All of it is part of an epoch's metrics, so that ranks, trackers and the command line agree after any resume.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mttu.data.labels import CLASSES, WHOLE_TUMOUR

NAMES = ("background", "ncr_net", "edema", "enhancing")
"""Labels in the names of metrics, in the order of `CLASSES`."""
_PREDICTED, _TRUE, _ABSENT = "val/predicted_", "val/true_", "val/absent_since_"


@dataclass(frozen=True)
class Absence:
    """A label that no prediction for a validation case holds."""

    title: str
    since: int
    """Epoch of the first of the consecutive validations that found it in no prediction."""
    in_masks: int
    """Validation cases whose mask holds it."""


def find_held_classes(masks: Iterable[NDArray[np.uint8] | None]) -> tuple[str, ...]:
    """Names of the labels that prepared masks hold; stops reading masks (None: no mask) once all are found."""
    found: set[str] = set()
    for mask in masks:
        if mask is not None:
            found |= set(_name_classes(mask))
        if len(found) == len(NAMES):
            break
    return tuple(name for name in NAMES if name in found)


def describe_classes(predicted: NDArray[np.uint8], truth: NDArray[np.uint8]) -> dict[str, int]:
    """Whether prediction and true mask hold each label, 1 or 0: `predicted_enhancing`, `true_enhancing`."""
    held = {"predicted": _name_classes(predicted), "true": _name_classes(truth)}
    return {f"{part}_{name}": int(name in names) for part, names in held.items() for name in NAMES}


def count_classes(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Number of cases whose prediction and true mask hold each label: `val/predicted_enhancing`, `val/true_enhancing`.

    Args:
        rows: One per case; those without the values of `describe_classes` don't count, and without any there is no
            metric.
    """
    counts = {}
    for name in NAMES:
        known = [row for row in rows if row.get(f"predicted_{name}") is not None]
        if known:
            counts[f"{_PREDICTED}{name}"] = float(sum(row[f"predicted_{name}"] for row in known))
            counts[f"{_TRUE}{name}"] = float(sum(row[f"true_{name}"] for row in known))
    return counts


def lacks_classes(metrics: Mapping[str, float]) -> bool:
    """Whether some label is in no prediction of a validation, so that it matters which ones training masks hold."""
    return any(metrics.get(f"{_PREDICTED}{name}") == 0 for name in NAMES)


def note_absences(
    metrics: Mapping[str, float], held: Sequence[str], history: Sequence[Mapping[str, float]], epoch: int
) -> dict[str, float]:
    """Since which epoch each label of the training masks is in no prediction: `val/absent_since_enhancing`.

    Args:
        metrics: Metrics of a validation, with those of `count_classes`.
        held: Result of `find_held_classes` for the training masks.
        history: Metrics of the earlier epochs, in order, each with `epoch`.
        epoch: Epoch of this validation.
    """
    noted = {}
    for name in held:
        if metrics.get(f"{_PREDICTED}{name}") == 0:
            since = float(epoch)
            for row in reversed(history):
                if row.get(f"{_PREDICTED}{name}", 0) > 0:
                    break
                since = row["epoch"] if f"{_PREDICTED}{name}" in row else since
            noted[f"{_ABSENT}{name}"] = since
    return noted


def read_absences(metrics: Mapping[str, float]) -> list[Absence] | None:
    """Absences in an epoch's metrics; None for an epoch without a validation of masks."""
    if f"{_PREDICTED}{NAMES[0]}" not in metrics:
        return None
    return [
        Absence(title, int(metrics[f"{_ABSENT}{name}"]), int(metrics[f"{_TRUE}{name}"]))
        for name, title in zip(NAMES, CLASSES, strict=True)
        if f"{_ABSENT}{name}" in metrics
    ]


def without_absences(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics without those of `count_classes` and `note_absences`, whose mean over trainings has no meaning."""
    return {name: value for name, value in metrics.items() if not name.startswith((_PREDICTED, _TRUE, _ABSENT))}


def _name_classes(mask: NDArray[np.uint8]) -> list[str]:
    counts = np.bincount(np.asarray(mask).ravel(), minlength=WHOLE_TUMOUR + 1)
    return [name for name, count in zip(NAMES, counts, strict=False) if count]

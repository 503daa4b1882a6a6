"""Classes that training masks hold and no validation prediction does: a mean Dice hides them.

All of it travels as metrics of an epoch, so that ranks, a tracker and the command line say the same, through any
resume.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mttu.data.labels import CLASSES, WHOLE_TUMOUR

NAMES = ("background", "ncr_net", "edema", "enhancing")
"""Classes in the names of metrics, in the order of `CLASSES`."""
_PREDICTED, _TRUE, _ABSENT = "val/predicted_", "val/true_", "val/absent_since_"


@dataclass(frozen=True)
class Absence:
    """A class that is in no prediction for a validation case."""

    title: str
    """E.g. `enhancing`."""
    since: int
    """Epoch of the first of the validations, without a break, that found it in no prediction."""
    in_masks: int
    """Validation cases whose mask holds it."""


def find_held_classes(masks: Iterable[NDArray[np.uint8] | None]) -> tuple[str, ...]:
    """Names of the classes that masks hold; reads no more masks than it takes to find all of them.

    Args:
        masks: Classes inside, as prepared; None for a case without a mask.
    """
    found: set[str] = set()
    for mask in masks:
        if mask is not None:
            found |= set(_name_classes(mask))
        if len(found) == len(NAMES):
            break
    return tuple(name for name in NAMES if name in found)


def describe_classes(predicted: NDArray[np.uint8], truth: NDArray[np.uint8]) -> dict[str, int]:
    """For each class whether prediction and true mask hold it, 1 or 0: `predicted_enhancing`, `true_enhancing`."""
    row: dict[str, int] = {}
    for part, mask in (("predicted", predicted), ("true", truth)):
        held = _name_classes(mask)
        row |= {f"{part}_{name}": int(name in held) for name in NAMES}
    return row


def count_classes(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """In how many cases prediction and true mask hold each class: `val/predicted_enhancing`, `val/true_enhancing`.

    Args:
        rows: Of cases, each with what `describe_classes` says; those without it count nowhere. Nothing without any.
    """
    counts = {}
    for name in NAMES:
        known = [row for row in rows if row.get(f"predicted_{name}") is not None]
        if known:
            counts[f"{_PREDICTED}{name}"] = float(sum(row[f"predicted_{name}"] for row in known))
            counts[f"{_TRUE}{name}"] = float(sum(row[f"true_{name}"] for row in known))
    return counts


def lacks_classes(metrics: Mapping[str, float]) -> bool:
    """Whether no prediction of a validation holds some class, so that it matters what training masks hold."""
    return any(metrics.get(f"{_PREDICTED}{name}") == 0 for name in NAMES)


def note_absences(
    metrics: Mapping[str, float], held: Sequence[str], history: Sequence[Mapping[str, float]], epoch: int
) -> dict[str, float]:
    """For each class that training masks hold and no prediction does, since which epoch: `val/absent_since_enhancing`.

    Args:
        metrics: Of a validation, with `count_classes`.
        held: What `find_held_classes` found in the training masks.
        history: Metrics of the earlier epochs, in order, each with `epoch`.
        epoch: Of this validation.
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
    """What `note_absences` noted in an epoch's metrics; None for an epoch without a validation of masks."""
    if f"{_PREDICTED}{NAMES[0]}" not in metrics:
        return None
    return [
        Absence(title, int(metrics[f"{_ABSENT}{name}"]), int(metrics[f"{_TRUE}{name}"]))
        for name, title in zip(NAMES, CLASSES, strict=True)
        if f"{_ABSENT}{name}" in metrics
    ]


def without_absences(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics without what `count_classes` and `note_absences` say.

    Neither counts over trainings on different cases nor an epoch of one of them have a mean that says anything.
    """
    return {name: value for name, value in metrics.items() if not name.startswith((_PREDICTED, _TRUE, _ABSENT))}


def _name_classes(mask: NDArray[np.uint8]) -> list[str]:
    counts = np.bincount(np.asarray(mask).ravel(), minlength=WHOLE_TUMOUR + 1)
    return [name for name, count in zip(NAMES, counts, strict=False) if count]

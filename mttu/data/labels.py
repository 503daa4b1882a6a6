"""Voxel labels, tumour regions and IDH classes; how each data set's labels map to the classes used inside."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mttu.data.label_scaling import explain_scaling
from mttu.errors import InputError

CLASSES = ("background", "NCR/NET", "edema", "enhancing")
"""Classes inside, by index, in the softmax order of the network."""

WHOLE_TUMOUR = 4
"""Voxel of a tumour whose part is unknown, in masks of the convention `whole-tumour`. The network has no such class."""

REGIONS: Mapping[str, tuple[int, ...]] = {"wt": (1, 2, 3, WHOLE_TUMOUR), "tc": (1, 3), "et": (3,)}
"""Tumour regions as classes inside: whole tumour, tumour core, enhancing tumour (section V-B.2)."""

IDH_UNKNOWN, IDH_WILD, IDH_MUTANT = -1, 0, 1

WHOLE_NUMBER_TOLERANCE = 1e-3
"""Scaled NIfTI files store 0.99999997 for 1."""


@dataclass(frozen=True)
class Convention:
    """Labels of one family of files; of several labels of a class, the first is the one that is written."""

    title: str
    to_class: Mapping[int, int]


CONVENTIONS: Mapping[str, Convention] = {
    "brats": Convention("BraTS to 2021", {0: 0, 1: 1, 2: 2, 4: 3}),
    "brats2013": Convention("BraTS 2013", {0: 0, 1: 1, 2: 2, 3: 1, 4: 3}),
    "brats2023": Convention("BraTS 2023", {0: 0, 1: 1, 2: 2, 3: 3}),
    "brats2024": Convention("BraTS 2024, resection cavity 4 becomes background", {0: 0, 1: 1, 2: 2, 3: 3, 4: 0}),
    "brats2024-no-cavity": Convention("BraTS 2024, resection cavity 4 refused", {0: 0, 1: 1, 2: 2, 3: 3}),
    "msd": Convention("Medical Segmentation Decathlon and nnU-Net: 1 is edema", {0: 0, 1: 2, 2: 1, 3: 3}),
    "whole-tumour": Convention("whole tumour without parts", {0: 0, 1: WHOLE_TUMOUR}),
}
"""Known conventions. In BraTS 2013, 1 is necrosis and 3 non-enhancing tumour; together they are NCR/NET. `msd` is the
order of Task01_BrainTumour (dataset.json: 1 edema, 2 non-enhancing tumor, 3 enhancing tumour; Antonelli et al. 2022,
doi:10.1038/s41467-022-30695-9), to which nnU-Net converts BraTS masks (2, 1, 4 become 1, 2, 3)."""


def find_convention(name: str) -> Convention:
    """The convention of that name.

    Raises:
        InputError: Unknown name; lists the known ones.
    """
    if name not in CONVENTIONS:
        known = ", ".join(f"{key} ({convention.title})" for key, convention in CONVENTIONS.items())
        raise InputError(f"labels {name!r}: unknown convention; choose one of {known}")
    return CONVENTIONS[name]


def knows_parts(convention: str) -> bool:
    """Whether masks of that convention tell the parts of a tumour; else only the whole tumour is supervised and scored.

    Raises:
        InputError: See `find_convention`.
    """
    return WHOLE_TUMOUR not in find_convention(convention).to_class.values()


def find_regions(convention: str) -> tuple[str, ...]:
    """The regions that masks of a convention define: WT alone where the parts of the tumour are not told apart.

    Raises:
        InputError: Unknown convention.
    """
    classes = set(find_convention(convention).to_class.values())
    return tuple(
        region for region, members in REGIONS.items() if WHOLE_TUMOUR not in classes or WHOLE_TUMOUR in members
    )


def _listed(values: NDArray[np.generic]) -> str:
    shown = [f"{value:g}" for value in values[:10].tolist()]
    return "{" + ", ".join([*shown, "..."] if len(values) > len(shown) else shown) + "}"


def to_classes(
    seg: NDArray[np.generic], convention: str, case_id: str, scaling: tuple[float, float] = (1.0, 0.0)
) -> NDArray[np.uint8]:
    """Maps the labels of a file to classes.

    Args:
        seg: Labels as read, any shape and number type.
        convention: Name in `CONVENTIONS`.
        case_id: For the message.
        scaling: Slope and intercept of the file's header, for the message.

    Returns:
        Classes 0 to 3, or 0 and `WHOLE_TUMOUR`, of the same shape.

    Raises:
        InputError: A label that the convention doesn't know, or a value that is no whole number.
    """
    known = find_convention(convention)
    whole = np.rint(seg)
    if np.abs(seg - whole).max(initial=0) > WHOLE_NUMBER_TOLERANCE:
        broken = np.unique(seg[np.abs(seg - whole) > WHOLE_NUMBER_TOLERANCE])
        raise InputError(
            f"case {case_id}: seg has values {_listed(broken)} that are not whole numbers; "
            + (_explain(seg, convention, scaling) or f"expected labels; {_explain_broken(seg)}")
        )
    in_range = whole.min(initial=0) >= 0 and whole.max(initial=0) <= 255
    labels = whole.astype(np.uint8) if in_range else whole
    found = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)) if in_range else np.unique(whole)
    if not set(found.tolist()) <= set(known.to_class):
        others = any(set(found.tolist()) <= set(other.to_class) for other in CONVENTIONS.values())
        another = "pass --labels NAME for another convention" if others else "no convention has these; correct the mask"
        raise InputError(
            f"case {case_id}: seg has labels {_listed(found)}; expected a subset of "
            f"{_listed(np.array(list(known.to_class)))} ({known.title}); "
            + (_explain(seg, convention, scaling) or another)
        )
    table = np.zeros(256, np.uint8)
    table[list(known.to_class)] = list(known.to_class.values())
    classes: NDArray[np.uint8] = np.take(table, labels)
    return classes


def _explain(seg: NDArray[np.generic], convention: str, scaling: tuple[float, float]) -> str | None:
    known = {name: frozenset(one.to_class) for name, one in CONVENTIONS.items()}
    return explain_scaling(np.unique(seg).tolist(), convention, known, scaling)


def _explain_broken(seg: NDArray[np.generic]) -> str:
    if seg.min() >= 0 and seg.max() <= 1:
        return (
            "cut a map of probabilities at 0.5; if it is a mask that was resampled, resample it anew by nearest "
            "neighbour only"
        )
    return "resample masks by nearest neighbour only"


def from_classes(classes: NDArray[np.uint8], convention: str) -> NDArray[np.uint8]:
    """Maps classes to the labels of a file; of several labels of a class, the first is written.

    With `whole-tumour` every tumour class becomes 1. No other convention has a label for `WHOLE_TUMOUR`.
    """
    known = find_convention(convention).to_class
    if not knows_parts(convention):
        return (classes > 0).astype(np.uint8)
    table = np.zeros(len(CLASSES), np.uint8)
    for label, index in reversed(list(known.items())):
        table[index] = label
    labels: NDArray[np.uint8] = np.take(table, classes)
    return labels

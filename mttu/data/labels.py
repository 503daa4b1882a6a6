"""Voxel labels, tumour regions and IDH classes; how the labels of each data set map to the classes used inside.

Masks whose labels were scaled by a header, to grey values of a picture or to 0..1, are recognised by their values.
"""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mttu.errors import InputError

CLASSES = ("background", "NCR/NET", "edema", "enhancing")
"""Classes inside, by index, in the softmax order of the network."""

WHOLE_TUMOUR = 4
"""Tumour voxel of unknown part, in masks of the convention `whole-tumour`. The network has no such class."""

REGIONS: Mapping[str, tuple[int, ...]] = {"wt": (1, 2, 3, WHOLE_TUMOUR), "tc": (1, 3), "et": (3,)}
"""Tumour regions as classes inside: whole tumour, tumour core, enhancing tumour (section V-B.2)."""

IDH_UNKNOWN, IDH_WILD, IDH_MUTANT = -1, 0, 1
CLASS_NAMES = {IDH_MUTANT: "mutant", IDH_WILD: "wild type"}

WHOLE_NUMBER_TOLERANCE = 1e-3
"""Scaled NIfTI files store 0.99999997 for 1."""

_TOPS = (255, 65535)
"""What programs stretch a mask to for display; other whole numbers may be labels of another kind."""
_ROUNDING = 0.02
"""Tolerance of a value, divided by its factor, against a label: 0.33 is a third of 1."""
_MOST_VALUES = 16
"""A scaled mask has as many values as labels; an interpolated one has hundreds."""


@dataclass(frozen=True)
class Convention:
    """Labels of one family of files; of several labels of a class, the first is written."""

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
    """The convention of that name; an InputError that lists the known ones for any other."""
    if name not in CONVENTIONS:
        known = ", ".join(f"{key} ({convention.title})" for key, convention in CONVENTIONS.items())
        raise InputError(f"labels {name!r}: unknown convention; choose one of {known}")
    return CONVENTIONS[name]


def knows_parts(convention: str) -> bool:
    """Whether masks of a convention tell the parts of a tumour; else only the whole tumour is supervised and scored."""
    return WHOLE_TUMOUR not in find_convention(convention).to_class.values()


def find_regions(convention: str) -> tuple[str, ...]:
    """The regions that masks of a convention define: WT alone if they don't tell the parts of a tumour."""
    return tuple(REGIONS) if knows_parts(convention) else ("wt",)


def _list_values(values: Sequence[float]) -> str:
    shown = [f"{value:g}" for value in values[:10]]
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
        InputError: Labels unknown to the convention, or values that are no whole numbers.
    """
    known = find_convention(convention)
    whole = np.rint(seg)
    if np.abs(seg - whole).max(initial=0) > WHOLE_NUMBER_TOLERANCE:
        broken = np.unique(seg[np.abs(seg - whole) > WHOLE_NUMBER_TOLERANCE])
        raise InputError(
            f"case {case_id}: seg has values {_list_values(broken.tolist())} that are not whole numbers; "
            + (_explain_scaling(seg, convention, scaling) or f"expected labels; {_explain_broken(seg)}")
        )
    in_range = whole.min(initial=0) >= 0 and whole.max(initial=0) <= 255
    labels = whole.astype(np.uint8) if in_range else whole
    counted = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)) if in_range else np.unique(whole)
    found = counted.tolist()
    if not set(found) <= set(known.to_class):
        others = any(set(found) <= set(other.to_class) for other in CONVENTIONS.values())
        another = "pass --labels NAME for another convention" if others else "no convention has these; correct the mask"
        raise InputError(
            f"case {case_id}: seg has labels {_list_values(found)}; expected a subset of "
            f"{_list_values(list(known.to_class))} ({known.title}); "
            + (_explain_scaling(seg, convention, scaling) or another)
        )
    table = np.zeros(256, np.uint8)
    table[list(known.to_class)] = list(known.to_class.values())
    classes: NDArray[np.uint8] = np.take(table, labels)
    return classes


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


def _explain_scaling(seg: NDArray[np.generic], own: str, scaling: tuple[float, float]) -> str | None:
    """How the values of a mask that convention `own` refused are scaled labels, and the cure; None if they are not."""
    values = np.unique(seg).tolist()
    if len(values) > _MOST_VALUES:
        return None
    slope, inter = scaling
    if scaling != (1.0, 0.0):
        stored = _to_labels(values, slope, inter, _ROUNDING)
        fitting = _find_fitting(stored, own, CONVENTIONS)
        if stored and fitting:
            return (
                f"its header scales the voxels (scl_slope {slope:g}, scl_inter {inter:g}), and stored are "
                f"{_list_values(sorted(stored))}; set scl_slope to 1 and scl_inter to 0{_say_labels(own, fitting)}"
            )
    for factors, names in itertools.product(_list_factors(values), ([own], CONVENTIONS)):
        scaled = {
            labels: factor
            for factor in factors
            if (labels := _find_multiples(values, factor)) and _find_fitting(labels, own, names)
        }
        if scaled:
            return _say_multiples(scaled, own, names)
    return None


def _say_multiples(scaled: Mapping[frozenset[int], float], own: str, names: Collection[str]) -> str:
    first, factor = next(iter(scaled.items()))
    if first == {0, 1}:  # one tumour label: 255 is more likely 1 times 255 than 2 times 127.5
        told = "" if own == "whole-tumour" else ", and pass --labels whole-tumour if 1 is the whole tumour"
        return f"they are {factor:g} times {_list_values(sorted(first))}; divide by {factor:g} and round{told}"
    listed = " or ".join(f"{factor:g} times {_list_values(sorted(labels))}" for labels, factor in scaled.items())
    divisor = f"{factor:g}" if len(scaled) == 1 else "the one that the data set means"
    told = _say_labels(own, _find_fitting(first, own, names))
    return f"they are {listed}; divide by {divisor} and round{told}"


def _find_fitting(labels: frozenset[int] | None, own: str, names: Collection[str]) -> list[str]:
    """Which of the named conventions have these labels; `own` alone if it does."""
    fitting = [name for name in names if labels and labels.issubset(CONVENTIONS[name].to_class)]
    return [own] if own in fitting else fitting


def _say_labels(own: str, fitting: Sequence[str]) -> str:
    return "" if own in fitting else f", and pass --labels {' or '.join(fitting)}, whichever the data set means"


def _list_factors(values: Sequence[float]) -> Iterator[tuple[float, ...]]:
    """Possible factors of labels: 1/255, as of a picture of bytes, then those that make 1 to 4 the largest value."""
    largest = max(values, default=0)
    if largest in _TOPS or (0 < largest <= 1 and not all(float(value).is_integer() for value in values)):
        if largest < 0.1:
            yield (1 / 255,)
        yield tuple(largest / label for label in (1, 2, 3, 4))


def _find_multiples(values: Sequence[float], factor: float) -> frozenset[int] | None:
    rounding = 1.0 / factor if factor > 1 else _ROUNDING  # whole numbers were rounded up or down
    return _to_labels(values, factor, 0.0, rounding)


def _to_labels(values: Sequence[float], slope: float, inter: float, tolerance: float) -> frozenset[int] | None:
    """Distinct whole numbers for which `label * slope + inter` gives these values; None if there are none."""
    with np.errstate(all="ignore"):
        exact = (np.asarray(values, np.float64) - inter) / slope
    labels = np.rint(exact)
    if not np.isfinite(exact).all() or (np.abs(exact - labels) > tolerance).any():
        return None
    found = frozenset(labels.astype(int).tolist())
    return found if len(found) == len(values) else None

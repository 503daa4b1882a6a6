"""Masks whose labels were scaled, by their header, to the grey values of a picture or to 0..1: told by their values."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

_TOPS = (255, 65535)
"""What programs stretch a mask to that is to be seen; other whole numbers may be labels of another kind."""
_ROUNDING = 0.02
"""How far a value, divided by what it was multiplied by, may lie from a label: 0.33 is a third of 1."""
_MOST_VALUES = 16
"""A scaled mask has as many values as it has labels; one that was interpolated has hundreds."""

Labels = frozenset[int]


def explain_scaling(
    values: Sequence[float], own: str, conventions: Mapping[str, Labels], scaling: tuple[float, float]
) -> str | None:
    """How the values of a refused mask are scaled labels, and the cure; None if they are not.

    Args:
        values: All values of the mask as they count, in order.
        own: Name of the convention that refused them.
        conventions: Name to labels.
        scaling: Slope and intercept of the file's header.
    """
    if len(values) > _MOST_VALUES:
        return None
    slope, inter = scaling
    if scaling != (1.0, 0.0):
        stored = _to_labels(values, slope, inter, _ROUNDING)
        fitting = _find_fitting(stored, own, conventions)
        if fitting:
            return (
                f"its header scales the voxels (scl_slope {slope:g}, scl_inter {inter:g}), and stored are "
                f"{_listed(stored)}; set scl_slope to 1 and scl_inter to 0{_say_labels(own, fitting)}"
            )
    for factors, fits in itertools.product(_list_factors(values), ({own: conventions[own]}, conventions)):
        scaled = {
            labels: factor
            for factor in factors
            if (labels := _multiples(values, factor)) and _find_fitting(labels, own, fits)
        }
        if scaled:
            return _say_multiples(scaled, own, fits)
    return None


def _say_multiples(scaled: Mapping[Labels, float], own: str, conventions: Mapping[str, Labels]) -> str:
    first, factor = next(iter(scaled.items()))
    if first == {0, 1}:  # one tumour label: 255 is rather once 255 than twice 127.5
        told = "" if own == "whole-tumour" else ", and pass --labels whole-tumour if 1 is the whole tumour"
        return f"they are {factor:g} times {_listed(first)}; divide by {factor:g} and round{told}"
    listed = " or ".join(f"{factor:g} times {_listed(labels)}" for labels, factor in scaled.items())
    divisor = f"{factor:g}" if len(scaled) == 1 else "the one that the data set means"
    told = _say_labels(own, _find_fitting(first, own, conventions))
    return f"they are {listed}; divide by {divisor} and round{told}"


def _find_fitting(labels: Labels | None, own: str, conventions: Mapping[str, Labels]) -> list[str]:
    """Names of the conventions that have these labels; the own one alone if it does."""
    fitting = [name for name, known in conventions.items() if labels and labels <= known]
    return [own] if own in fitting else fitting


def _say_labels(own: str, fitting: Sequence[str]) -> str:
    return "" if own in fitting else f", and pass --labels {' or '.join(fitting)}, whichever the data set means"


def _list_factors(values: Sequence[float]) -> Iterator[tuple[float, ...]]:
    """What labels may have been multiplied by: 1/255, as of a picture of bytes, then what makes 1 to 4 the largest."""
    largest = max(values, default=0)
    if largest in _TOPS or (0 < largest <= 1 and not all(float(value).is_integer() for value in values)):
        if largest < 0.1:
            yield (1 / 255,)
        yield tuple(largest / label for label in (1, 2, 3, 4))


def _multiples(values: Sequence[float], factor: float) -> Labels | None:
    rounding = 1.0 / factor if factor > 1 else _ROUNDING  # whole numbers were rounded, up or down
    return _to_labels(values, factor, 0.0, rounding)


def _to_labels(values: Sequence[float], slope: float, inter: float, tolerance: float) -> Labels | None:
    """What `label * slope + inter` gives these values; None if no whole numbers do, each its own."""
    with np.errstate(all="ignore"):
        exact = (np.asarray(values, np.float64) - inter) / slope
    labels = np.rint(exact)
    if not np.isfinite(exact).all() or (np.abs(exact - labels) > tolerance).any():
        return None
    found = frozenset(labels.astype(int).tolist())
    return found if len(found) == len(values) else None


def _listed(labels: Labels | None) -> str:
    return "{" + ", ".join(map(str, sorted(labels or ()))) + "}"

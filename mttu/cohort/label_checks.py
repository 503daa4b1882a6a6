"""Label conventions: which one the mask of each case has, and whether the masks of a cohort can mean what it says."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from mttu.cohort.layouts import LAYOUTS, FoundCase
from mttu.data.findings import Finding
from mttu.data.labels import CLASSES, CONVENTIONS, WHOLE_TUMOUR, knows_parts
from mttu.data.manifest import Case
from mttu.errors import InputError, name_some, say_count

LEAST_MASKS = 2
"""One mask proves nothing: a small tumour may have a single part."""
LEAST_SHARE = 2 / 3
"""Share of the masks that must look wrong."""
LEAST_VOXELS = 10
"""Least voxels of a part to tell what surrounds it."""
LEAST_DIFFERENCE = 0.25
"""Least `MaskLook.core_outside` of swapped labels. Edema surrounds the core: in five real patients the value is -0.55
to -0.85, on the synthetic cohort -0.41 to -0.76, and the opposite if swapped."""

_CORE, _EDEMA = CLASSES.index("NCR/NET"), CLASSES.index("edema")


@dataclass(frozen=True)
class MaskLook:
    """What one mask says of the meaning of its labels."""

    classes: frozenset[int]
    """Tumour classes in it."""
    core_outside: float | None
    """Share of the faces of NCR/NET that border on no tumour, minus that of edema; None if either is missing."""


def look_at_mask(seg: NDArray[np.uint8]) -> MaskLook:
    """Measures a mask of classes, shape (X, Y, Z), with at least one tumour voxel."""
    width = WHOLE_TUMOUR + 1
    classes = np.pad(seg[find_objects((seg > 0).view(np.uint8))[0]], 1)
    volumes = np.bincount(classes.ravel(), minlength=width)
    found = frozenset(int(part) for part in np.flatnonzero(volumes[1:]) + 1)
    if min(volumes[_CORE], volumes[_EDEMA]) < LEAST_VOXELS:
        return MaskLook(found, None)
    faces = np.zeros(width * width, int)
    for axis in range(3):
        line = np.moveaxis(classes, axis, 0)
        faces += np.bincount((line[:-1] * width + line[1:]).ravel(), minlength=width * width)
    pairs = faces.reshape(width, width)
    pairs = pairs + pairs.T
    np.fill_diagonal(pairs, 0)
    outside = {part: pairs[part, 0] / pairs[part].sum() for part in (_CORE, _EDEMA)}
    return MaskLook(found, float(outside[_CORE] - outside[_EDEMA]))


def find_label_suspicions(cases: Sequence[Case], looks: Mapping[str, MaskLook]) -> list[Finding]:
    """Warnings on conventions that the masks contradict, with the likely one; notes on classes that no mask has.

    Masks of one data set and convention are looked at together, and, if nothing is wrong with all of them, those of
    each folder of cases: there may be two sources side by side. `looks` has the ids of the cases with a mask.
    """
    findings: list[Finding] = []
    sets: dict[tuple[str | None, str], dict[str, list[str]]] = {}
    for case in cases:
        if case.case_id in looks and knows_parts(case.labels):
            place = str(next(iter(case.images.values())).parent.parent)
            sets.setdefault((case.dataset, case.labels), {}).setdefault(place, []).append(case.case_id)
    for (_, labels), places in sets.items():
        together = [name for names in places.values() for name in names]
        warnings = _find_warnings(together, looks, labels)
        if not warnings and len(places) > 1:
            warnings = [text for names in places.values() for text in _find_warnings(names, looks, labels)]
        findings += [Finding("warning", "", text) for text in warnings]
        if not warnings and len(together) > LEAST_MASKS:
            findings += [
                Finding(
                    "note",
                    "",
                    f"none of {len(together)} masks read with --labels {labels} holds {CLASSES[part]} "
                    f"(label {_label_of(part, labels)}); is this what its labels mean?",
                )
                for part in range(1, len(CLASSES))
                if not any(part in looks[name].classes for name in together)
            ]
    return findings


def _find_warnings(names: Sequence[str], looks: Mapping[str, MaskLook], labels: str) -> list[str]:
    found = []
    for part in range(1, len(CLASSES)):
        alone = [name for name in names if looks[name].classes == {part}]
        if len(alone) >= LEAST_MASKS and len(alone) >= LEAST_SHARE * len(names):
            found.append(
                f"{_count(alone, names)} ({name_some(alone)}) hold no label but {_label_of(part, labels)}, which "
                f"--labels {labels} reads as {CLASSES[part]}; if it is the whole tumour, pass --labels whole-tumour"
            )
    told = [name for name in names if looks[name].core_outside is not None]
    swapped = [name for name in told if (looks[name].core_outside or 0) > LEAST_DIFFERENCE]
    if len(swapped) >= LEAST_MASKS and len(swapped) >= LEAST_SHARE * len(told):
        found.append(
            f"in {_count(swapped, told)} ({name_some(swapped)}) what --labels {labels} reads as {CLASSES[_CORE]} "
            f"(label {_label_of(_CORE, labels)}) surrounds what it reads as edema (label {_label_of(_EDEMA, labels)}), "
            "but edema surrounds the core; " + _name_likely(labels, any(3 in looks[name].classes for name in swapped))
        )
    return found


def _name_likely(labels: str, with_enhancing: bool) -> str:
    if labels == "msd":
        return "the order is likely that of BraTS: pass --labels brats2023"
    if with_enhancing and CONVENTIONS[labels].to_class.get(4) == 3:
        return "no known convention has this order: change labels 1 and 2 in the masks"
    return "the order is likely that of MSD and nnU-Net: pass --labels msd"


def _count(some: Sequence[str], whole: Sequence[str]) -> str:
    return f"{len(some)} of {say_count(len(whole), 'mask', 'masks')}"


def _label_of(part: int, labels: str) -> str:
    return " or ".join(str(label) for label, index in CONVENTIONS[labels].to_class.items() if index == part)


def choose_labels(found: Sequence[FoundCase], asked: str | None) -> list[FoundCase]:
    """Gives the cases of all places their convention; None if nothing tells which it is.

    What a table of paths says of a case comes first. Cases of one layout then take the convention that was `asked` for:
    a data set may use another's names. In a mix of layouts, only cases whose layout documents none take it; masks of a
    documented layout would be read wrongly.

    Raises:
        InputError: A convention was asked for that applies to no case of the mix.
    """
    mixed = len({case.layout for case in found if case.layout}) > 1
    chosen = []
    for case in found:
        documented = LAYOUTS[case.layout].labels if case.layout in LAYOUTS else None
        order = (case.labels, documented, asked) if mixed else (case.labels, asked, documented)
        chosen.append(replace(case, labels=next(filter(None, order), None)))
    if mixed and asked is not None and all(case.labels != asked for case in chosen if case.layout):
        raise InputError(
            f"labels {asked}: every layout here documents another convention ({_count_documented(found)}); "
            "leave it out, or give the data set by itself, or as a table of paths with a column labels"
        )
    return chosen


def note_labels(found: Sequence[FoundCase], asked: str | None) -> list[Finding]:
    """Which of the cases that `choose_labels` returned have the convention that was asked for, if not all have."""
    kept = [case for case in found if case.labels != asked and case.layout in LAYOUTS and not case.problems]
    taken = [case for case in found if case.labels == asked and not case.problems]
    if asked is None or not kept or not taken:
        return []
    counts = sorted(Counter(case.layout for case in taken).items())
    listed = ", ".join(f"{name} ({say_count(number, 'case', 'cases')})" for name, number in counts)
    text = f"--labels {asked} is taken for {listed}; the others keep what their layout documents: "
    return [Finding("note", "", text + _count_documented(kept))]


def _count_documented(found: Sequence[FoundCase]) -> str:
    counts = sorted(Counter(case.layout for case in found if case.layout in LAYOUTS).items())
    return ", ".join(
        f"{name} is {LAYOUTS[name].labels} ({say_count(number, 'case', 'cases')})" for name, number in counts
    )

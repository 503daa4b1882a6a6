"""Checks of a brain, given as a mask or taken from the images, and of the tumour in it.

Volume: whole brains of adults have 1.17 to 1.63 l (Filipek et al. 1994, doi:10.1093/cercor/4.4.344), a skull holds
1.0 l and more from two years of age on (Sgouros et al. 1999, doi:10.3171/jns.1999.91.4.0610), a brain 0.34 l at birth
and 0.56 l at three months (Holland et al. 2014, doi:10.1001/jamaneurol.2014.1638). A brain below
`SMALLEST_BRAIN_LITRES` is an infant's, a part of one, or none; that alone is never an error. The errors of
`check_brain` rest on shares, so they hold for a small phantom, too; synthetic cases have no lower limit of volume.

Measured on five patients (two of TCGA, three of BraTS 2013): 1.1 to 1.7 l. Dice with the brain: non-zero voxels of one
modality 0.998 and more; the brain of another patient on the same grid 0.70 to 0.93; the brain shifted sideways by 5 mm
0.93 to 0.95, by 40 mm 0.55 to 0.61; a mask of ones 0.22 to 0.32; the tumour 0.04 to 0.33. Tumour outside of the brain:
at most 0.22% of its voxels; tumour over brain: 0.02 to 0.20.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes

from mttu.data.findings import Finding, Severity

SMALLEST_BRAIN_LITRES = 0.7
LARGEST_BRAIN_LITRES = 2.2
LARGEST_MASK_LITRES = 3.0
"""A given mask may be drawn generously: 3 mm around a large brain add half a litre. A head has 4 l and more."""
MOST_ON_FACES = 0.05
"""Share of brain on the grid's six faces; skull-stripped images have 0 there."""
LEAST_AGREEMENT = 0.95
"""Dice of the non-zero voxels of two modalities, or of one and the mask, of a brain."""
TUMOUR_OUTSIDE = (0.02, 0.5)
"""Share of tumour voxels outside of the brain above which there is a warning, an error."""
TUMOUR_OF_BRAIN = (0.4, 0.75)
"""Tumour voxels over brain voxels, likewise: one of the masks is mislabelled."""
FAINT = 5e-3
"""Relative to an image's bright voxels. Traces of interpolation, filters and rounding are fainter from three voxels off
a stripped brain on: a cubic spline rings by about a tenth at an edge, and by 0.27 of that from voxel to voxel (Unser et
al. 1993, doi:10.1109/78.193220). A skull is as bright as a brain; noise in air is 0.0125 on average even at a signal of
100 times the noise (Gudbjartsson and Patz 1995, doi:10.1002/mrm.1910340618)."""
_BRIGHT_PERCENTILE = 99.0
"""Of the magnitudes on the grid: inside a brain, which fills at least a tenth of it, and no outlier."""
_NO_AGREEMENT = 0.5
"""Dice, or share of a mask on the imaged brain, below which there is an error."""
_MASK = "is it the brain mask of this case, on its grid and not inverted?"


@dataclass(frozen=True)
class FoundBrain:
    """A brain taken from images."""

    inside: NDArray[np.bool_]
    """(X, Y, Z)."""
    unstripped: str | None = None
    """Why this cannot be brain alone, and the cure; None if it can."""
    note: str | None = None
    """That faint voxels counted as background; None if every voxel other than 0 counted."""


def find_brain(images: Sequence[NDArray[np.float32]], spacing_mm: Sequence[float]) -> FoundBrain:
    """Takes the brain from skull-stripped images: where any of them is not 0.

    If that is more than a brain, voxels that are nearly 0 (`FAINT`) count as 0, provided that leaves a brain.
    """
    inside = np.asarray(reduce(np.logical_or, (image != 0 for image in images)))
    unstripped = _find_more(inside, spacing_mm)
    if unstripped is None:
        return FoundBrain(inside)
    strong = np.asarray(reduce(np.logical_or, (is_shown(image) for image in images)))
    if strong.any() and _find_more(strong, spacing_mm) is None:
        strong = np.asarray(binary_fill_holes(strong)) & inside  # z-scores may be nearly 0 inside the brain
        faint = int(np.count_nonzero(inside & ~strong))
        largest = max(float(np.abs(image[~strong]).max()) for image in images)
        text = (
            f"{faint} voxels around the brain are nearly 0 (at most {largest:.2g}, less than {FAINT:g} of the bright "
            "ones), as interpolation leaves them; they count as background"
        )
        return FoundBrain(strong, note=text)
    cause = _find_background(images, spacing_mm) or (
        f"looks not skull-stripped: {unstripped}; strip the skull first, or give a brain mask"
    )
    return FoundBrain(inside, unstripped=cause)


def is_shown(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(X, Y, Z) voxels of an image that are neither 0 nor `FAINT`."""
    magnitude = np.abs(image)
    return np.asarray(magnitude > FAINT * np.percentile(magnitude, _BRIGHT_PERCENTILE))


def measure_hollow(shown: NDArray[np.bool_], within: NDArray[np.bool_]) -> float:
    """Share of the outline of an image (X, Y, Z) that is not shown, looking only `within` a mask (X, Y, Z).

    The outline is made of the voxels between the first and the last one that is shown, along every axis.
    """
    outline = within.copy()
    for axis in range(3):
        line = np.moveaxis(shown, axis, 0)
        before = np.logical_or.accumulate(line, axis=0)
        after = np.logical_or.accumulate(line[::-1], axis=0)[::-1]
        outline &= np.moveaxis(before & after, 0, axis)
    total = np.count_nonzero(outline)
    return 1 - np.count_nonzero(outline & shown) / total if total else 0.0


def _find_background(images: Sequence[NDArray[np.float32]], spacing_mm: Sequence[float]) -> str | None:
    """Message that a background other than 0 makes a stripped brain look unstripped; None if it does not."""
    shown = _find_shown(images)
    if shown is None or not shown.any() or _find_more(shown, spacing_mm) is not None:
        return None
    values = dict.fromkeys(f"{image[~shown].flat[0]:.3g}" for image in images)
    return (
        f"the brain does not stand out from the background, which is {', '.join(values)} and not 0, as z-scores over "
        "the whole grid leave it; set it to 0, or give a brain mask"
    )


def _find_more(inside: NDArray[np.bool_], spacing_mm: Sequence[float]) -> str | None:
    """Why there seems to be more than brain inside; None if there does not."""
    litres, on_faces = measure_litres(inside, spacing_mm), _share_on_faces(inside)
    if litres > LARGEST_BRAIN_LITRES:
        return f"{litres:.1f} litres of voxels are not 0; a brain has at most {LARGEST_BRAIN_LITRES} l"
    if on_faces > MOST_ON_FACES:
        return (
            f"{on_faces:.0%} of the voxels on the grid's faces are not 0; expected at most {MOST_ON_FACES:.0%} around "
            "a brain"
        )
    return None


def measure_litres(inside: NDArray[np.bool_], spacing_mm: Sequence[float]) -> float:
    """Volume of a mask."""
    return float(np.count_nonzero(inside)) * float(np.prod(spacing_mm)) / 1e6


def find_small(brain: NDArray[np.bool_], spacing_mm: Sequence[float]) -> str | None:
    """Why a brain looks too small for a person's; None if it does not."""
    litres = measure_litres(brain, spacing_mm)
    if litres >= SMALLEST_BRAIN_LITRES:
        return None
    return (
        f"the brain has {litres:.2g} litres; expected at least {SMALLEST_BRAIN_LITRES} l but for infants and parts of "
        "a brain; check voxel spacing and brain mask"
    )


def check_brain(
    images: Sequence[NDArray[np.float32]],
    brain: NDArray[np.bool_],
    is_given: bool,
    seg: NDArray[np.uint8] | None,
    spacing_mm: Sequence[float],
) -> list[Finding]:
    """Errors and warnings on a brain, at most one of them on the brain mask, and on the tumour in it, without case id.

    Args:
        images: One (X, Y, Z) array per modality.
        brain: (X, Y, Z), at least one voxel.
        is_given: Whether it comes from a brain mask; else it is where any image is not 0.
        seg: (X, Y, Z) classes, if there are any; more than 0 is tumour.
        spacing_mm: Voxel size on each axis.
    """
    found = _check_mask(images, brain, spacing_mm) if is_given else []
    found = sorted(found, key=lambda finding: finding.severity != "error")[:1]
    if seg is None or not seg.any():
        return found
    tumour = seg > 0
    total = int(np.count_nonzero(tumour))
    place = "the brain mask" if is_given else "the brain, where no image is other than 0"
    outside = 1 - np.count_nonzero(tumour & brain) / total
    most, refused = TUMOUR_OUTSIDE
    if outside > most:
        text = (
            f"{_percent(outside)} of the {total} tumour voxels lie outside of {place}; expected at most {most:.0%}; "
            "is the mask of this case, and not shifted or mirrored?"
        )
        found.append(_finding(outside > refused, text))
    share = total / np.count_nonzero(brain)
    most, refused = TUMOUR_OF_BRAIN
    if share > most:
        text = (
            f"the tumour mask has {_percent(share)} of the brain's voxels; expected at most {most:.0%}; is one mask "
            "given as the other?"
        )
        found.append(_finding(share > refused, text))
    return found


def _check_mask(
    images: Sequence[NDArray[np.float32]], mask: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> list[Finding]:
    """All that is wrong with a given brain mask."""
    found = []
    litres = measure_litres(mask, spacing_mm)
    if litres > LARGEST_BRAIN_LITRES:
        text = f"the brain mask has {litres:.1f} litres; a brain has at most {LARGEST_BRAIN_LITRES} l; {_MASK}"
        found.append(_finding(litres > LARGEST_MASK_LITRES, text))
    filled = sum(float(face.mean()) > 0.5 for face in _faces(mask))
    on_faces = _share_on_faces(mask)
    if on_faces > MOST_ON_FACES:
        text = (
            f"{_percent(on_faces)} of the voxels on the grid's faces lie in the brain mask; expected at most "
            f"{MOST_ON_FACES:.0%}; {_MASK}"
        )
        found.append(_finding(filled > 2, text))  # a tightly cropped slab of a brain fills two
    own = _find_shown(images)
    if own is None:
        return found
    both = np.count_nonzero(own & mask)
    inside = both / np.count_nonzero(mask)
    agreement = 2 * both / (np.count_nonzero(own) + np.count_nonzero(mask))
    if _find_more(own, spacing_mm) is None:
        if agreement < LEAST_AGREEMENT:
            text = (
                f"brain mask and skull-stripped images overlap with a Dice of {agreement:.2f} ({_percent(inside)} of "
                f"the mask lie on what they show); expected at least {LEAST_AGREEMENT}; {_MASK}"
            )
            found.append(_finding(agreement < _NO_AGREEMENT, text))
    elif inside < LEAST_AGREEMENT:
        text = (
            f"only {_percent(inside)} of the brain mask lie where an image shows something; expected at least "
            f"{LEAST_AGREEMENT:.0%}; {_MASK}"
        )
        found.append(_finding(inside < _NO_AGREEMENT, text))
    return found


def _find_shown(images: Sequence[NDArray[np.float32]]) -> NDArray[np.bool_] | None:
    """(X, Y, Z) voxels that are not background in some image; None if an image has no single background value.

    The background is 0, or another value after z-scores over the whole grid; a corner and most of the faces have it.
    """
    shown = np.zeros_like(images[0], dtype=bool)  # in the images' memory order, which is ten times as fast
    for image in images:
        edge = np.concatenate(_faces(image))
        shares = {corner: float(np.mean(edge == corner)) for corner in np.unique(image[np.ix_(*[(0, -1)] * 3)])}
        background = max(shares, key=shares.__getitem__)
        if shares[background] < 0.5:  # air with noise
            return None
        shown |= image != background
    return shown


def _faces(volume: NDArray[Any]) -> list[NDArray[Any]]:
    """The six faces of a volume, each flat."""
    return [np.moveaxis(volume, axis, 0)[index].ravel() for axis in range(3) for index in (0, -1)]


def _share_on_faces(mask: NDArray[np.bool_]) -> float:
    return float(np.mean(np.concatenate(_faces(mask))))


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%" if share < 0.995 else f"{share:.0%}"


def _finding(is_error: bool | np.bool_, text: str) -> Finding:
    severity: Severity = "error" if is_error else "warning"
    return Finding(severity, "", text)

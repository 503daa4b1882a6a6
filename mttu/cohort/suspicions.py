"""What looks wrong with a case but may be right: warnings, each with the value that it is based on."""

import itertools
from collections.abc import Sequence

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from mttu.data.brain import LEAST_AGREEMENT, find_small, is_shown, measure_hollow
from mttu.data.manifest import Case
from mttu.data.sources import Sources

COMMON_SPACING_MM = (0.3, 7.0)
LARGEST_ANISOTROPY = 10.0
MOST_HOLLOW = 0.02
"""Share of zeros within the outline of an image's voxels other than 0. In the four modalities of two real patients it
is at most 0.03%; in their z-scores clipped at the mean 15% to 49%, and one standard deviation below it 2% to 7%."""


def find_suspicions(case: Case, modalities: Sequence[str], sources: Sources, is_synthetic: bool) -> list[str]:
    """Warnings on a case that was read without an error: brain, registration, one image twice, spacing, placement.

    The brain of a synthetic case may be smaller than any patient's.
    """
    reference, spacing = sources.reference, sources.spacing_mm
    found = []
    if sources.unstripped:
        found.append(f"case {case.case_id}: {sources.unstripped}")
    small = None if is_synthetic else find_small(sources.brain, spacing)
    found += [f"case {case.case_id}: {small}"] if small else []
    found += sources.warnings
    found += _find_shifted(case.case_id, modalities, sources)
    found += [
        f"case {case.case_id}: {first} and {second} have the same voxels; is one of them a copy of the other?"
        for first, second in itertools.combinations(modalities, 2)
        if sources.digests[first] == sources.digests[second]
    ]
    low, high = COMMON_SPACING_MM
    if min(spacing) < low or max(spacing) > high or max(spacing) > LARGEST_ANISOTROPY * min(spacing):
        listed = " x ".join(f"{value:g}" for value in spacing)
        found.append(
            f"case {case.case_id}: odd voxel spacing of {listed} mm; usual are {low:g} to {high:g} mm, "
            f"the largest at most {LARGEST_ANISOTROPY:g} times the smallest; check the header"
        )
    if not reference.header["sform_code"] and not reference.header["qform_code"]:
        axes = "".join(str(code) for code in nib.orientations.aff2axcodes(reference.affine))
        found.append(
            f"case {case.case_id}: sform and qform codes are both 0, so left and right are a guess ({axes}); "
            "set one of them"
        )
    return found


def _find_shifted(case_id: str, modalities: Sequence[str], sources: Sources) -> list[str]:
    """Neighbouring modalities whose outlines differ: not co-registered, or clipped at 0."""
    images = sources.images
    filled = [image != 0 for image in images]
    if any(mask.mean() > 0.95 for mask in filled):  # no background of 0 to compare
        return []
    found = []
    hollow: dict[str, float] = {}
    for first, second in itertools.pairwise(range(len(filled))):
        if _agree(filled[first], filled[second]) >= LEAST_AGREEMENT:
            continue
        names = modalities[first], modalities[second]
        shown = [is_shown(images[index]) for index in (first, second)]  # without faint values that interpolation left
        agreement = _agree(*shown)
        within = sources.brain if sources.has_mask else np.ones_like(shown[0])
        shares = [measure_hollow(mask, within) for mask in shown]
        if agreement >= LEAST_AGREEMENT or (max(shares) > MOST_HOLLOW and sources.unstripped):
            continue
        if max(shares) > MOST_HOLLOW:
            hollow |= {name: share for name, share in zip(names, shares, strict=True) if share > MOST_HOLLOW}
            continue
        found.append(
            f"case {case_id}: looks not co-registered: non-zero voxels of {' and '.join(names)} overlap with a Dice of "
            f"{agreement:.3f}; expected at least {LEAST_AGREEMENT}; register them to one another"
        )
    if hollow:
        listed = ", ".join(f"{share:.0%} of {name}" for name, share in hollow.items())
        found.append(
            f"case {case_id}: looks clipped at 0, as z-scores that lost their lower values: of what lies within their "
            f"outlines, {listed} is 0; give the images as they were before (whether they are registered cannot be told "
            "from these)"
        )
    return found


def _agree(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Dice; 1 for two empty masks."""
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / total if total else 1.0

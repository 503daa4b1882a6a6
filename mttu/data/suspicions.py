"""What looks wrong with a case but may be right: warnings, each with the figure it rests on."""

import itertools
from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from mttu.data.brain_checks import LEAST_AGREEMENT, find_small, find_unstripped
from mttu.data.manifest import Case
from mttu.data.sources import Sources

COMMON_SPACING_MM = (0.3, 7.0)
LARGEST_ANISOTROPY = 10.0


def find_suspicions(case: Case, modalities: Sequence[str], sources: Sources, is_synthetic: bool = False) -> list[str]:
    """Warnings on a case that was read without an error: brain, registration, one image twice, spacing, placement.

    Args:
        case: The case.
        modalities: Channels in order.
        sources: What its files hold.
        is_synthetic: Whether it is known to be no patient's, whose brain may be drawn smaller than any.
    """
    reference, spacing = sources.reference, sources.spacing_mm
    found = []
    if case.brain_mask is None:
        unstripped = find_unstripped(sources.images, spacing)
        found += [f"case {case.case_id}: looks not skull-stripped: {unstripped}"] if unstripped else []
    small = None if is_synthetic else find_small(sources.brain, spacing)
    found += [f"case {case.case_id}: {small}"] if small else []
    found += sources.warnings
    found += _find_shifted(case.case_id, modalities, sources.images)
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
    if not _says_orientation(reference):
        axes = "".join(_axis_codes(reference))
        found.append(
            f"case {case.case_id}: sform and qform codes are both 0, so left and right are a guess ({axes}); "
            "set one of them"
        )
    return found


def _find_shifted(case_id: str, modalities: Sequence[str], images: Sequence[NDArray[np.float32]]) -> list[str]:
    filled = [image != 0 for image in images]
    if any(mask.mean() > 0.95 for mask in filled):  # no background of 0, so nothing to compare
        return []
    found = []
    for first, second in itertools.pairwise(range(len(filled))):
        total = np.count_nonzero(filled[first]) + np.count_nonzero(filled[second])
        agreement = 2 * np.count_nonzero(filled[first] & filled[second]) / total
        if agreement < LEAST_AGREEMENT:
            found.append(
                f"case {case_id}: looks not co-registered: non-zero voxels of {modalities[first]} and "
                f"{modalities[second]} overlap with a Dice of {agreement:.3f}; expected at least {LEAST_AGREEMENT}; "
                "register them to one another"
            )
    return found


def _says_orientation(image: Any) -> bool:
    return bool(image.header["sform_code"] or image.header["qform_code"])


def _axis_codes(image: Any) -> tuple[str, ...]:
    return tuple(str(code) for code in nib.orientations.aff2axcodes(image.affine))

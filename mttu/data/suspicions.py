"""What looks wrong with a case but may be right: warnings, each with the figure it rests on."""

import itertools
from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from mttu.data.manifest import Case
from mttu.data.sources import Sources

LARGEST_BRAIN_LITRES = 2.2
"""A skull-stripped brain has 0.8 to 2.0 litres (measured on five patients: 1.1 to 1.7)."""
MOST_ON_FACES = 0.05
"""Share of non-zero voxels on the grid's six faces; skull-stripped images have 0 there, others hundreds of times it."""
LEAST_AGREEMENT = 0.95
"""Dice of two modalities' non-zero voxels; 0.999 and more where they were stripped together."""
COMMON_SPACING_MM = (0.3, 7.0)
LARGEST_ANISOTROPY = 10.0
_NEXT_STEP = "strip the skull first, or give a brain mask"


def find_unstripped(images: Sequence[NDArray[np.float32]], spacing_mm: Sequence[float]) -> str | None:
    """Why the images look as if there were more than brain in them; None if they do not.

    Args:
        images: One (X, Y, Z) array per modality; the brain is taken to be where any of them is not 0.
        spacing_mm: Voxel size on each axis.
    """
    inside = images[0] != 0
    for image in images[1:]:
        inside |= image != 0
    litres = float(np.count_nonzero(inside)) * float(np.prod(spacing_mm)) / 1e6
    faces = [inside.take(index, axis) for axis in range(3) for index in (0, -1)]
    on_faces = sum(map(np.count_nonzero, faces)) / sum(face.size for face in faces)
    if litres > LARGEST_BRAIN_LITRES:
        return f"{litres:.1f} litres of voxels are not 0; a brain has at most {LARGEST_BRAIN_LITRES} l; {_NEXT_STEP}"
    if on_faces > MOST_ON_FACES:
        return (
            f"{on_faces:.0%} of the voxels on the grid's faces are not 0; expected at most {MOST_ON_FACES:.0%} around "
            f"a brain; {_NEXT_STEP}"
        )
    return None


def find_suspicions(case: Case, modalities: Sequence[str], sources: Sources) -> list[str]:
    """Warnings on a case that was read without an error: skull, registration, one image twice, spacing, orientation.

    Args:
        case: The case.
        modalities: Channels in order.
        sources: What its files hold.
    """
    reference, spacing = sources.reference, voxel_sizes(sources.reference.affine).tolist()
    found = []
    if case.brain_mask is None:
        unstripped = find_unstripped(sources.images, spacing)
        found += [f"case {case.case_id}: looks not skull-stripped: {unstripped}"] if unstripped else []
    found += _find_shifted(case.case_id, modalities, sources.images)
    found += _find_copies(case.case_id, modalities, sources.images)
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


def _find_copies(case_id: str, modalities: Sequence[str], images: Sequence[NDArray[np.float32]]) -> list[str]:
    return [
        f"case {case_id}: {first} and {second} have the same voxels; is one of them a copy of the other?"
        for (first, one), (second, other) in itertools.combinations(zip(modalities, images, strict=True), 2)
        if np.array_equal(one, other)
    ]


def _says_orientation(image: Any) -> bool:
    return bool(image.header["sform_code"] or image.header["qform_code"])


def _axis_codes(image: Any) -> tuple[str, ...]:
    return tuple(str(code) for code in nib.orientations.aff2axcodes(image.affine))

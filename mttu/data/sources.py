"""A case's files read and checked together: what `mttu cohort` looks for and preparation builds on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mttu.data.labels import to_classes
from mttu.data.manifest import Case
from mttu.data.volumes import differ, read_volume
from mttu.errors import InputError, raise_if_any


@dataclass(frozen=True)
class Sources:
    """A case on its original grid."""

    reference: Any
    """nibabel image of the first modality, whose grid is the case's grid."""
    images: tuple[NDArray[np.float32], ...]
    """One array per modality."""
    seg: NDArray[np.uint8] | None
    """Classes 0 to 3."""
    brain: NDArray[np.bool_]
    """Brain: the given mask above one half, else where any modality is not 0."""


def read_sources(case: Case, modalities: Sequence[str]) -> Sources:
    """Reads and checks all files of a case.

    Args:
        case: Case of a manifest or a folder.
        modalities: Channels in order.

    Raises:
        InputError: Lists all problems: files that cannot be read, are not finite or lie on different grids, labels
            outside of the convention, no brain, a modality without contrast.
    """
    paths: dict[str, Path] = {name: case.images[name] for name in modalities if name in case.images}
    paths |= {role: path for role, path in {"seg": case.seg, "brain mask": case.brain_mask}.items() if path}
    volumes: dict[str, Any] = {}
    problems = [f"case {case.case_id}: the manifest has no {name}" for name in modalities if name not in case.images]
    for role, path in paths.items():
        try:
            volumes[role] = read_volume(path, case.case_id)
        except InputError as error:
            problems += error.problems
    problems += _find_misfits(case.case_id, volumes)
    seg = None
    if "seg" in volumes:
        try:
            seg = to_classes(_voxels(volumes["seg"]), case.labels, case.case_id)
        except InputError as error:
            problems += error.problems
    raise_if_any(problems)
    images = tuple(_voxels(volumes[name]) for name in modalities)
    brain = _find_brain(images, volumes.get("brain mask"))
    raise_if_any(_find_empty(case, modalities, images, brain))
    return Sources(volumes[modalities[0]], images, seg, brain)


def _voxels(image: Any) -> NDArray[np.float32]:
    voxels: NDArray[np.float32] = image.get_fdata(dtype=np.float32)
    return voxels


def _find_misfits(case_id: str, volumes: Mapping[str, Any]) -> list[str]:
    problems = []
    for role in list(volumes)[1:]:
        first = next(iter(volumes))
        difference = differ(volumes[first], volumes[role])
        if difference:
            problems.append(
                f"case {case_id}: {first} and {role} have different grids: {difference}; "
                "register all volumes of a case to one grid"
            )
    return problems


def _find_brain(images: Sequence[NDArray[np.float32]], mask: Any | None) -> NDArray[np.bool_]:
    if mask is not None:
        return np.asarray(_voxels(mask) > 0.5)
    brain = np.asarray(images[0] != 0)
    for image in images[1:]:
        brain |= image != 0
    return brain


def _find_empty(
    case: Case, modalities: Sequence[str], images: Sequence[NDArray[np.float32]], brain: NDArray[np.bool_]
) -> list[str]:
    if not brain.any():
        source = "the brain mask has no voxel above 0.5" if case.brain_mask else "all modalities are 0 everywhere"
        return [f"case {case.case_id}: no brain: {source}; replace the files"]
    problems = []
    for name, image in zip(modalities, images, strict=True):
        inside = image[brain]
        low, high = float(inside.min()), float(inside.max())
        if low == high:
            problems.append(f"case {case.case_id}: {name} is {low:g} everywhere in the brain; replace the file")
    return problems

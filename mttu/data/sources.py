"""A case's files read and checked together, for `mttu cohort` and for preparation."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from mttu.data.brain import FoundBrain, check_brain, find_brain
from mttu.data.geometry import compare_forms
from mttu.data.labels import to_classes
from mttu.data.manifest import BRAIN_MASK, SEG, Case
from mttu.data.volumes import differ, read_notes, read_scaling, read_volume
from mttu.errors import InputError, collecting, raise_if_any

_LEAST_COMPARED = 100
"""Tumour voxels; fewer may be the same in two patients by chance."""


@dataclass(frozen=True)
class Sources:
    """A case on its original grid."""

    reference: Any
    """nibabel image of the first modality, whose grid is that of the case."""
    images: tuple[NDArray[np.float32], ...]
    """One array per modality."""
    seg: NDArray[np.uint8] | None
    """Classes 0 to 3."""
    brain: NDArray[np.bool_]
    """The given mask above one half, else the result of `mttu.data.brain.find_brain`."""
    modalities: tuple[str, ...]
    has_mask: bool
    """Whether the brain was given."""
    warnings: tuple[str, ...]
    """On brain, tumour and headers; each names the case."""
    unstripped: str | None = None
    """Why `brain`, taken from the images, cannot be brain alone, and the cure; None if it can."""

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel size on each axis."""
        return tuple(voxel_sizes(self.reference.affine).tolist())

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """Role to a hash of its voxels, independent of the file; none for a tumour mask of few voxels."""
        images = dict(zip(self.modalities, self.images, strict=True))
        return _hash_all(images, self.seg, self.brain if self.has_mask else None)


def read_sources(case: Case, modalities: Sequence[str]) -> Sources:
    """Reads and checks all files of a case, its modalities in this order.

    Raises:
        InputError: Lists all problems: files that cannot be read, are not finite or lie on different grids, labels
            outside of the convention, no brain, a modality without contrast, and errors of `check_brain`.
    """
    paths: dict[str, Path] = {name: case.images[name] for name in modalities if name in case.images}
    paths |= {role: path for role, path in {SEG: case.seg, BRAIN_MASK: case.brain_mask}.items() if path}
    volumes: dict[str, Any] = {}
    problems = [f"case {case.case_id}: the manifest has no {name}" for name in modalities if name not in case.images]
    for role, path in paths.items():
        with collecting(problems):
            volumes[role] = read_volume(path, case.case_id)
    roles = list(volumes)
    problems += [
        f"case {case.case_id}: {roles[0]} and {role} have different grids: {difference}; "
        "register all volumes of a case to one grid"
        for role in roles[1:]
        if (difference := differ(volumes[roles[0]], volumes[role]))
    ]
    seg = None
    if SEG in volumes:
        with collecting(problems):
            seg = to_classes(_voxels(volumes[SEG]), case.labels, case.case_id, read_scaling(volumes[SEG]))
    raise_if_any(problems)
    images = tuple(_voxels(volumes[name]) for name in modalities)
    spacing = voxel_sizes(volumes[modalities[0]].affine).tolist()
    taken = FoundBrain(_voxels(volumes[BRAIN_MASK]) > 0.5) if case.brain_mask else find_brain(images, spacing)
    brain = taken.inside
    if not brain.any():
        raise InputError(f"case {case.case_id}: no brain: {_say_empty(volumes.get(BRAIN_MASK))}")
    found = check_brain(images, brain, case.brain_mask is not None, seg, spacing)
    raise_if_any([f"case {case.case_id}: {finding.text}" for finding in found if finding.severity == "error"])
    for name, image in zip(modalities, images, strict=True):
        inside = image[brain]
        low, high = float(inside.min()), float(inside.max())
        if low == high:
            problems.append(f"case {case.case_id}: {name} is {low:g} everywhere in the brain; replace the file")
    raise_if_any(problems)
    texts = [finding.text for finding in found]
    texts += [taken.note] if taken.note else []
    texts += [note for volume in volumes.values() for note in read_notes(volume)]
    forms = {paths[role].name: compare_forms(volume.header, volume.shape) for role, volume in volumes.items()}
    texts += [f"{name}: {text}" for name, text in forms.items() if text]
    return Sources(
        reference=volumes[modalities[0]],
        images=images,
        seg=seg,
        brain=brain,
        modalities=tuple(modalities),
        has_mask=case.brain_mask is not None,
        warnings=tuple(f"case {case.case_id}: {text}" for text in texts),
        unstripped=taken.unstripped,
    )


def digest_readable(case: Case) -> Mapping[str, str]:
    """`Sources.digests` for a refused case, file by file; none for files that cannot be read."""
    seg = brain = None
    images: dict[str, NDArray[np.float32]] = {}
    for role, path in {**case.images, SEG: case.seg, BRAIN_MASK: case.brain_mask}.items():
        if path is None:
            continue
        try:
            voxels = _voxels(read_volume(path, case.case_id))
            if role == SEG:
                seg = to_classes(voxels, case.labels, case.case_id)
            elif role == BRAIN_MASK:
                brain = np.asarray(voxels > 0.5)
            else:
                images[role] = voxels
        except InputError:  # said when the case was read, or it was refused before
            continue
    return _hash_all(images, seg, brain)


def _hash_all(
    images: Mapping[str, NDArray[np.float32]], seg: NDArray[np.uint8] | None, brain: NDArray[np.bool_] | None
) -> dict[str, str]:
    volumes: dict[str, NDArray[Any]] = dict(images)
    if seg is not None and np.count_nonzero(seg) >= _LEAST_COMPARED:
        volumes[SEG] = seg
    if brain is not None:
        volumes[BRAIN_MASK] = brain
    digests = {}
    for role, voxels in volumes.items():
        content: Any = np.asfortranarray(voxels).T  # nibabel's order of memory: no copy
        digests[role] = hashlib.sha1(memoryview(content), usedforsecurity=False).hexdigest()
    return digests


def _voxels(image: Any) -> NDArray[np.float32]:
    voxels: NDArray[np.float32] = image.get_fdata(dtype=np.float32)
    return voxels


def _say_empty(mask: Any | None) -> str:
    if mask is None:
        return "all modalities are 0 everywhere; replace the files"
    largest = float(_voxels(mask).max())
    scaled = f", the largest is {largest:.3g}; make it 1 inside and 0 outside" if largest > 0 else "; replace the files"
    return f"the brain mask has no voxel above 0.5{scaled}"

"""Disk space for a cache, checked before anything is prepared: the most it can take, from headers alone."""

import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
from rich.filesize import decimal

from mttu.config import PrepareSettings
from mttu.data.cache import open_cached, settings_hash
from mttu.data.geometry import spatial_shape, start_geometry, use_qform
from mttu.data.manifest import Case
from mttu.data.volumes import LARGEST_AXIS, SPACING_RANGE_MM, open_image
from mttu.errors import InputError

IMAGE_BYTES, SEG_BYTES = 2, 1
"""Bytes of a voxel: float16 for each modality, uint8 for the mask."""
ABOUT_BYTES = 16384
"""Bytes of a case besides its voxels: its description, two array headers, partly filled blocks."""


@dataclass(frozen=True)
class Room:
    """Disk space that a preparation needs and has."""

    cases: int
    """Cases that are not yet prepared with these settings."""
    needed_bytes: int
    """Upper bound; the crop to the brain, which no header tells, often takes half or less."""
    free_bytes: int

    def __str__(self) -> str:
        return (
            f"cases to prepare: {self.cases}, taking at most {decimal(self.needed_bytes)}; "
            f"free: {decimal(self.free_bytes)}"
        )


def measure_room(cases: Sequence[Case], cache_dir: Path, modalities: Sequence[str], settings: PrepareSettings) -> Room:
    """Compares what the cases may take with what is free where the cache is or will be.

    Cases that are already there with the same settings need nothing.
    """
    wanted = settings_hash(modalities, settings)
    missing = [case for case in cases if not _is_prepared(cache_dir, case.case_id, wanted)]
    needed = sum(estimate_bytes(case, modalities, settings) for case in missing)
    absolute = cache_dir.absolute()
    place = next(place for place in (absolute, *absolute.parents) if place.exists())
    return Room(len(missing), needed, shutil.disk_usage(place).free)


def _is_prepared(cache_dir: Path, case_id: str, wanted: str) -> bool:
    try:
        return open_cached(cache_dir, case_id).settings_hash == wanted
    except InputError:
        return False


def estimate_bytes(case: Case, modalities: Sequence[str], settings: PrepareSettings) -> int:
    """Upper bound of the bytes of a prepared case, from its whole grid; 0 if its header will be refused anyway."""
    try:
        image = open_image(case.images[modalities[0]])
        use_qform(image)
        shape, sizes = spatial_shape(image.shape), nib.affines.voxel_sizes(image.affine)
    except Exception:  # a damaged header makes nibabel raise nearly anything
        return 0
    low, high = SPACING_RANGE_MM
    if len(shape) != 3 or max(shape) > LARGEST_AXIS or not all(low <= size <= high for size in sizes.tolist()):
        return 0
    of_voxel = IMAGE_BYTES * len(modalities) + (SEG_BYTES if case.seg is not None else 0)
    return math.prod(start_geometry(image, settings.spacing_mm).grid_shape) * of_voxel + ABOUT_BYTES


def check_room(room: Room, cache_dir: Path) -> None:
    """Refuses a preparation that may fill the disk.

    Raises:
        InputError: Names the bytes needed and free, and what to do.
    """
    if room.needed_bytes > room.free_bytes:
        raise InputError(
            f"{cache_dir}: the disk may be too small for the cache: {room} ({room.needed_bytes} and {room.free_bytes} "
            "bytes); free some, choose another disk with --cache FOLDER, or, as the crop to the brain takes less, "
            "try it with --no-space-check"
        )


def check_writable(cache_dir: Path) -> None:
    """Creates the cache folder and writes into it.

    Raises:
        InputError: Neither is possible; says why.
    """
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_dir) as file:
            file.write(b"0")
            file.flush()
    except OSError as error:
        raise InputError(
            f"{cache_dir}: the cache cannot be written there ({error.strerror}); choose a folder of yours with "
            "--cache FOLDER"
        ) from None

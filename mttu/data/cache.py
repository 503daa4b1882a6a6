"""Prepared cases on disk, memory-mapped: one folder per case, written whole, valid as long as its content hash is."""

import hashlib
import json
import mmap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mttu.config import PrepareSettings
from mttu.config.earlier import complete_section, drop_unchanged
from mttu.data.geometry import Geometry
from mttu.data.manifest import Case
from mttu.data.preprocess import prepare_case
from mttu.data.source_records import SourceRecords, from_json, list_sources, record_sources, to_json
from mttu.errors import InputError, stop_if_too_many_open
from mttu.files import atomic_folder, hash_file, read_json, write_text

FORMAT_VERSION = 2
MEND = "run `mttu prepare` on the manifest again"
PREPARE = "data.prepare."

IMAGE, SEG, ABOUT = "image.npy", "seg.npy", "case.json"
FILES = (IMAGE, SEG, ABOUT)
"""All files of a prepared case."""
DAMAGE = (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError)
"""Raised by reading a damaged prepared case: EOFError by an empty array file, RecursionError by deep nesting."""


@dataclass(frozen=True)
class CachedCase:
    """A prepared case whose voxels are read on access, page by page."""

    case_id: str
    image: "np.memmap[Any, np.dtype[np.float16]]"
    """(C, H, W, D) float16; on disk the modalities of a voxel lie together."""
    seg: "np.memmap[Any, np.dtype[np.uint8]] | None"
    """(H, W, D) classes, see `mttu.data.preprocess.PreparedCase`."""
    geometry: Geometry
    modalities: tuple[str, ...]
    settings: PrepareSettings
    labels: str
    """Label convention that the mask was read with."""
    settings_hash: str
    """See `settings_hash`."""
    content_hash: str
    """See `content_hash`."""
    checksums: Mapping[str, str]
    """SHA-256 of each file of voxels as written."""
    sources: SourceRecords | None = None
    """Its source files when it was prepared; None in cases of versions without such a record."""

    def channels(self, modalities: Sequence[str]) -> list[int]:
        """Index of each modality among the channels.

        Raises:
            InputError: A modality is not in the prepared case.
        """
        missing = [name for name in modalities if name not in self.modalities]
        if missing:
            have = ", ".join(self.modalities)
            raise InputError(f"case {self.case_id}: prepared with {have}, without {', '.join(missing)}; {MEND}")
        return [self.modalities.index(name) for name in modalities]

    def will_need(self, start: Sequence[int] = (0, 0, 0), size: Sequence[int] | None = None) -> None:
        """Asks the system to read a crop, or all, ahead in a few large pieces instead of page by page.

        This changes speed only: a cold 128^3 crop of 240^3 took 0.07 s instead of 0.6 s. A crop may begin outside.
        """
        shape = self.image.shape[1:]
        first = [max(0, begin) for begin in start]
        stop = [min(extent, begin + side) for begin, side, extent in zip(start, size or shape, shape, strict=True)]
        if any(begin >= end for begin, end in zip(first, stop, strict=True)):
            return
        volumes: list[Any] = [self.image[0]] if self.seg is None else [self.image[0], self.seg]
        for volume in volumes:
            base = np.frombuffer(volume._mmap, np.uint8).ctypes.data
            for plane in range(first[0], stop[0]):
                begin = volume[plane, first[1], first[2] :].ctypes.data - base
                end = volume[plane, stop[1] - 1, stop[2] - 1 :].ctypes.data - base + volume.strides[2]
                begin -= begin % mmap.PAGESIZE
                _advise(volume, "MADV_WILLNEED", begin, end - begin)


def _advise(volume: Any, advice: str, *place: int) -> None:
    """Gives the system advice on a memory map; not every system or file system takes it."""
    if hasattr(mmap, advice):
        with suppress(OSError):
            volume._mmap.madvise(getattr(mmap, advice), *place)


def settings_hash(modalities: Sequence[str], settings: PrepareSettings) -> str:
    """SHA-256 over format, modalities and settings: the same for all cases prepared alike."""
    decisive = drop_unchanged(PREPARE, settings.model_dump(mode="json"))
    rules = {"format_version": FORMAT_VERSION, "modalities": list(modalities)} | decisive
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def content_hash(case: Case, modalities: Sequence[str], settings: PrepareSettings) -> str:
    """SHA-256 over all that decides a prepared case: source bytes, settings, label convention, format; no paths.

    Raises:
        InputError: Lists the source files that cannot be read.
    """
    return _hash_content(case, modalities, settings, record_sources(case, modalities))


def _hash_content(case: Case, modalities: Sequence[str], settings: PrepareSettings, sources: SourceRecords) -> str:
    digest = hashlib.sha256(f"{settings_hash(modalities, settings)}\nlabels:{case.labels}".encode())
    for role, _ in list_sources(case, modalities):
        digest.update(f"\n{role}:".encode())
        if role in sources:
            digest.update(bytes.fromhex(sources[role].sha256))
    return digest.hexdigest()


def cache_case(case: Case, cache_dir: Path, modalities: Sequence[str], settings: PrepareSettings) -> bool:
    """Prepares a case into the cache; if it is there and still valid, only the record of its sources is renewed.

    A killed process leaves the case as it was, or absent; the next call writes it.

    Returns:
        Whether it was written.

    Raises:
        InputError: See `content_hash` and `mttu.data.preprocess.prepare_case`.
    """
    sources = record_sources(case, modalities)
    wanted = _hash_content(case, modalities, settings, sources)
    try:
        found = open_cached(cache_dir, case.case_id)
        if found.content_hash == wanted:
            if found.sources != sources:  # files of another time, or prepared when no record was kept
                path = cache_dir / case.case_id / ABOUT
                write_text(path, _to_text(read_json(path) | {"sources": to_json(sources)}))
            return False
    except InputError:
        pass  # absent, older or damaged: it is written again
    prepared = prepare_case(case, modalities, settings)
    about: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "case_id": case.case_id,
        "content_hash": wanted,
        "settings_hash": settings_hash(modalities, settings),
        "labels": case.labels,
        "modalities": list(modalities),
        "settings": settings.model_dump(mode="json"),
        "has_seg": prepared.seg is not None,
        "geometry": prepared.geometry.to_dict(),
    }
    with atomic_folder(cache_dir / case.case_id) as partial:
        # With the modalities of a voxel together, a crop wastes two pages per plane, not two per plane and modality:
        # 128^3 of 240^3 voxels touches 1.91 times its bytes.
        np.save(partial / IMAGE, np.ascontiguousarray(np.moveaxis(prepared.image, 0, -1)), allow_pickle=False)
        if prepared.seg is not None:
            np.save(partial / SEG, prepared.seg, allow_pickle=False)
        about["checksums"] = {file.name: hash_file(file) for file in sorted(partial.iterdir())}
        (partial / ABOUT).write_text(_to_text(about | {"sources": to_json(sources)}), encoding="utf-8")
    return True


def _to_text(about: Mapping[str, Any]) -> str:
    return json.dumps(about, indent=1, allow_nan=False) + "\n"


def open_cached(cache_dir: Path, case_id: str) -> CachedCase:
    """Opens a prepared case without reading its voxels.

    Raises:
        InputError: Missing, of another format version, or damaged; says what mends it.
        RunError: No more files can be opened; each open case keeps two open, because Python's memory maps do.
    """
    folder = cache_dir / case_id
    where = f"case {case_id}: prepared case {folder}"
    try:
        about = read_json(folder / ABOUT)
        if about["format_version"] != FORMAT_VERSION:
            raise InputError(f"{where} has format_version {about['format_version']}, not {FORMAT_VERSION}; {MEND}")
        if about["case_id"] != case_id:
            raise ValueError(f"its {ABOUT} is of case {about['case_id']}")
        geometry = Geometry.from_dict(about["geometry"])
        modalities = tuple(about["modalities"])
        image = _map(folder / IMAGE, np.dtype("<f2"), (*geometry.crop_shape, len(modalities)))
        seg = _map(folder / SEG, np.dtype("u1"), geometry.crop_shape) if about["has_seg"] else None
        settings = PrepareSettings.model_validate(complete_section(PREPARE, about["settings"]))
        return CachedCase(
            case_id=case_id,
            image=np.moveaxis(image, -1, 0),
            seg=seg,
            geometry=geometry,
            modalities=modalities,
            settings=settings,
            labels=str(about["labels"]),
            settings_hash=str(about["settings_hash"]),
            content_hash=str(about["content_hash"]),
            checksums=dict(about["checksums"]),
            sources=from_json(about["sources"]) if "sources" in about else None,
        )
    except FileNotFoundError:
        raise InputError(f"case {case_id}: not prepared in {cache_dir}; {MEND}") from None
    except DAMAGE as error:
        if isinstance(error, InputError):
            raise
        stop_if_too_many_open(error)
        raise InputError(f"{where} is damaged ({error}); {MEND}") from None


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    voxels: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    if voxels.dtype != dtype or voxels.shape != shape:
        raise ValueError(f"{path.name} holds {voxels.dtype} {voxels.shape}, expected {dtype} {shape}")
    _advise(voxels, "MADV_RANDOM")  # otherwise the system reads up to four times what a crop needs
    return voxels

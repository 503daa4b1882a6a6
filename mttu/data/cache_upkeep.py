"""Upkeep of a cache: whether its prepared cases are whole and still valid, and which of them no manifest names."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mttu.data.cache import (
    ABOUT,
    DAMAGE,
    FILES,
    IMAGE,
    MEND,
    SEG,
    CachedCase,
    content_hash,
    open_cached,
    settings_hash,
)
from mttu.data.labels import WHOLE_TUMOUR
from mttu.data.manifest import Case, Manifest, is_safe_name
from mttu.data.source_records import find_changes
from mttu.errors import InputError, say_count, stop_if_too_many_open
from mttu.files import PREFIX, hash_file, lock_folder, read_json


@dataclass(frozen=True)
class CacheFinding:
    """A problem of a prepared case, and its cure."""

    case_id: str
    problem: str
    mend: str


@dataclass(frozen=True)
class Verification:
    """Result of a check of every prepared case."""

    cases: int
    findings: tuple[CacheFinding, ...]
    settings: Counter[str]
    """Number of cases by their settings of preparation, in words."""


@dataclass(frozen=True)
class Removal:
    """A folder that `prune_cache` removes."""

    name: str
    reason: str
    size_bytes: int


def list_cases(cache_dir: Path, manifest: Manifest | None = None) -> list[str]:
    """Ids of all cases that the cache holds or the manifest names, sorted.

    Raises:
        InputError: No such folder, or no prepared case in it.
    """
    _check_folder(cache_dir)
    found = {name for name in _list_folders(cache_dir) if any((cache_dir / name / file).exists() for file in FILES)}
    if not found:
        raise InputError(f"{cache_dir}: holds no prepared case; give the folder that `mttu prepare` filled")
    return sorted(found if manifest is None else found | {case.case_id for case in manifest.cases})


def verify_cache(
    cache_dir: Path, manifest: Manifest | None = None, on_case: Callable[[int, str], None] | None = None
) -> Verification:
    """Reads every prepared case whole and checks it; with a manifest also against its source files.

    Args:
        cache_dir: Cache; may be read-only.
        manifest: Cohort that the cache was prepared from.
        on_case: Called with the number of cases done and the newest one's id.

    Raises:
        InputError: No such folder, no prepared case in it, or another process works in it.
    """
    cases = {} if manifest is None else {case.case_id: case for case in manifest.cases}
    findings: list[CacheFinding] = []
    settings: Counter[str] = Counter()
    with _hold(cache_dir):
        names = list_cases(cache_dir, manifest)
        for done, name in enumerate(names, start=1):
            try:
                cached = open_cached(cache_dir, name)
            except InputError as error:
                findings += [CacheFinding(name, problem, MEND) for problem in _without(error.problems, name)]
            else:
                words = [f"{name}={value}" for name, value in cached.settings.model_dump(mode="json").items()]
                settings[f"{','.join(cached.modalities)}; {', '.join(words)}"] += 1
                findings += check_voxels(cache_dir / name, cached)
                if name in cases:
                    findings += _check_sources(cases[name], cached)
            if on_case is not None:
                on_case(done, name)
    return Verification(len(names), tuple(findings), settings)


def _hold(cache_dir: Path) -> AbstractContextManager[None]:
    """Keeps preparations out; a cache that cannot be written needs no lock."""
    _check_folder(cache_dir)
    return lock_folder(cache_dir) if os.access(cache_dir, os.W_OK) else nullcontext()


def _check_folder(cache_dir: Path) -> None:
    if not cache_dir.is_dir():
        raise InputError(f"{cache_dir}: not found or no folder; give the folder that `mttu prepare` filled")


def _list_folders(cache_dir: Path) -> list[str]:
    return sorted(item.name for item in cache_dir.iterdir() if is_safe_name(item.name) and item.is_dir())


def _without(problems: Sequence[str], case_id: str) -> Iterator[str]:
    """The problems, without what other columns of the table say."""
    for problem in problems:
        yield problem.removeprefix(f"case {case_id}: ").removesuffix(f"; {MEND}")


def check_voxels(folder: Path, cached: CachedCase) -> list[CacheFinding]:
    """Whether a case's image and mask are as they were prepared, by reading both whole.

    Not as maps: a failing disk then raises an error instead of killing the process.
    """
    anew = f"remove {folder} and {MEND}"  # preparation goes by the content hash and would keep it
    problems = []
    if cached.settings_hash != settings_hash(cached.modalities, cached.settings):
        problems.append("its settings are not those that its settings hash stands for")
    for name in (IMAGE, SEG):
        path = folder / name
        if not path.exists():
            continue
        try:
            if hash_file(path) != cached.checksums.get(name):
                problems.append(f"{name} is not as it was written: its checksum differs")
                continue
            problems += _find_impossible(name, np.load(path, allow_pickle=False))
        except DAMAGE as error:
            stop_if_too_many_open(error)
            problems.append(f"{name} cannot be read ({error})")
    return [CacheFinding(cached.case_id, problem, anew) for problem in problems]


def _find_impossible(name: str, voxels: NDArray[Any]) -> list[str]:
    if voxels.dtype.kind == "f":
        count = voxels.size - int(np.isfinite(voxels).sum())
        return [f"{name} has {say_count(count, 'voxel that is', 'voxels that are')} NaN or infinite"] if count else []
    largest = int(voxels.max(initial=0))
    return [f"{name} has class {largest}; the largest is {WHOLE_TUMOUR}"] if largest > WHOLE_TUMOUR else []


def _check_sources(case: Case, cached: CachedCase) -> list[CacheFinding]:
    try:
        if content_hash(case, cached.modalities, cached.settings) == cached.content_hash:
            return []
    except InputError as error:
        mend = "mend the source or write the manifest again"
        return [CacheFinding(case.case_id, problem, mend) for problem in _without(error.problems, case.case_id)]
    changes = [] if cached.sources is None else find_changes(case, cached.modalities, cached.sources, True)[0]
    if case.seg is not None and cached.labels != case.labels:
        changes.append(f"its mask was prepared with labels {cached.labels}, the manifest says {case.labels}")
    unnamed = "its sources or labels are not those that it was prepared from"
    return [CacheFinding(case.case_id, change, MEND) for change in changes or [unnamed]]


def prune_cache(cache_dir: Path, manifests: Sequence[Manifest], remove: bool) -> list[Removal]:
    """Lists, and removes if told to, prepared cases that no manifest names and leftovers of interrupted preparations.

    A folder counts as a prepared case only if it is no link, holds nothing but a case's files, and its description
    names it. Anything else is kept. The manifests are all those that use the cache.

    Raises:
        InputError: No such folder, nothing of a cache in it, another process works in it, or the manifests name none of
            its cases.
    """
    kept = {case.case_id for manifest in manifests for case in manifest.cases}
    with _hold(cache_dir):
        entries = [name for name in _list_folders(cache_dir) if _is_entry(cache_dir / name)]
        if entries and not kept & set(entries):
            raise InputError(
                f"{cache_dir}: the manifests name none of its {len(entries)} prepared cases; are they of this cache? "
                "To remove all of it, remove the folder"
            )
        found = [Removal(name, "in no manifest", _size(cache_dir / name)) for name in entries if name not in kept]
        found += [
            Removal(item.name, "leftover of an interrupted preparation", _size(item))
            for item in sorted(cache_dir.iterdir())
            if item.name.startswith(PREFIX) and _holds_case_files_only(item) and not _is_last_copy(item, kept)
        ]
        if not found and not entries:
            list_cases(cache_dir)  # raises if there are no damaged cases either: this is no cache
        if remove:
            for removal in reversed(found):  # leftovers first: a case takes a leftover's name before it goes
                folder = cache_dir / removal.name
                if not removal.name.startswith(PREFIX):  # so that a kill leaves no partial case
                    folder = folder.rename(cache_dir / f"{PREFIX}{removal.name}")
                shutil.rmtree(folder)
    return found


def _holds_case_files_only(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    ours = {*FILES, f"{PREFIX}{ABOUT}"}  # the last is a leftover of renewing a description
    return all(item.name in ours and item.is_file() and not item.is_symlink() for item in folder.iterdir())


def _is_entry(folder: Path) -> bool:
    if not _holds_case_files_only(folder):
        return False
    try:
        about = read_json(folder / ABOUT)
        return bool(about["case_id"] == folder.name and about["content_hash"] and about["format_version"])
    except DAMAGE as error:
        stop_if_too_many_open(error)
        return False


def _is_last_copy(leftover: Path, kept: set[str]) -> bool:
    """Whether a kill between two renames left a case aside; the next preparation brings it back."""
    name = leftover.name.removeprefix(f"{PREFIX}old-")
    return name in kept and not (leftover.parent / name).exists()


def _size(folder: Path) -> int:
    return sum(item.stat().st_size for item in folder.iterdir())

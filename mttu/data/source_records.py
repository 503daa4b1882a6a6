"""Size, time and content of a case's files when it was prepared, so that later edits are noticed.

A check costs one `stat` per file. If the time alone differs, as after copying a data set, the content decides.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mttu.data.manifest import BRAIN_MASK, SEG, Case
from mttu.errors import raise_if_any, stop_if_too_many_open
from mttu.files import hash_file


@dataclass(frozen=True)
class SourceRecord:
    """One file when the case was prepared."""

    size_bytes: int
    modified_ns: int
    """Time of its last change, in nanoseconds since 1970."""
    sha256: str

    def find_difference(self, path: Path, always_read: bool) -> tuple[str | None, bool]:
        """How the file at a path differs now (None if it does not or is missing), and whether it has another time.

        It is read if its time differs but not its size; with `always_read` also if both are the same, because somebody
        may have reset its time.
        """
        has_other_time = False
        try:
            now = path.stat()
            has_other_time = now.st_mtime_ns != self.modified_ns
            if now.st_size != self.size_bytes:
                return f"{self.size_bytes:,} bytes then, {now.st_size:,} now", has_other_time
            if not has_other_time and not always_read:
                return None, False
            same = _hash(path, now.st_size, now.st_mtime_ns) == self.sha256
        except OSError as error:
            stop_if_too_many_open(error)
            return None, has_other_time  # archived scans
        return None if same else f"{self.size_bytes:,} bytes as then, but others", has_other_time


SourceRecords = Mapping[str, SourceRecord]
"""Role of a file, which is a modality, `seg` or `brain mask`, to what it was."""


@lru_cache(maxsize=1 << 16)
def _hash(path: Path, size_bytes: int, modified_ns: int) -> str:
    """SHA-256 of a file, read once although a command checks its inputs several times."""
    return hash_file(path)


def list_sources(case: Case, modalities: Sequence[str]) -> Iterator[tuple[str, Path | None]]:
    """Yields role and file (None: absent) of all that decides a prepared case, in order."""
    for name in modalities:
        if name in case.images:
            yield name, case.images[name]
    yield SEG, case.seg
    yield BRAIN_MASK, case.brain_mask


def record_sources(case: Case, modalities: Sequence[str]) -> dict[str, SourceRecord]:
    """Reads all source files of a case.

    Raises:
        InputError: Lists the files that cannot be read, and the modalities that the case lacks.
    """
    records: dict[str, SourceRecord] = {}
    problems = [f"case {case.case_id}: the manifest has no {name}" for name in modalities if name not in case.images]
    for role, path in list_sources(case, modalities):
        if path is None:
            continue
        try:
            status = path.stat()  # first, so that a change while it is read will be noticed
            records[role] = SourceRecord(status.st_size, status.st_mtime_ns, hash_file(path))
        except OSError as error:
            stop_if_too_many_open(error)
            problems.append(f"case {case.case_id}: {path} cannot be read ({error.strerror}); restore it")
    raise_if_any(problems)
    return records


def find_changes(
    case: Case, modalities: Sequence[str], records: SourceRecords, always_read: bool = False
) -> tuple[list[str], bool]:
    """Sentences on how the files of a case differ from those that it was prepared from, and whether a time differs.

    A missing file is no difference. See `SourceRecord.find_difference` for `always_read`.
    """
    changes, have_other_times = [], False
    for role, path in list_sources(case, modalities):
        record = records.get(role)
        if path is not None and record is None:
            changes.append(f"was prepared without a {role}, and the manifest has one")
        elif path is None and record is not None:
            changes.append(f"was prepared with a {role}, and the manifest has none")
        elif path is not None and record is not None:
            difference, has_other_time = record.find_difference(path, always_read)
            have_other_times |= has_other_time
            if difference:
                changes.append(f"{role} {path} is not the file that was prepared ({difference})")
    return changes, have_other_times


def to_json(records: SourceRecords) -> dict[str, Any]:
    """Records as JSON values."""
    return {role: asdict(record) for role, record in records.items()}


def from_json(content: Mapping[str, Any]) -> dict[str, SourceRecord]:
    """Undoes `to_json`; raises TypeError or ValueError for anything else."""
    records = {role: SourceRecord(**record) for role, record in content.items()} if isinstance(content, dict) else None
    if records is None or not all(
        isinstance(record.size_bytes, int) and isinstance(record.modified_ns, int) and isinstance(record.sha256, str)
        for record in records.values()
    ):
        raise ValueError("its record of source files is damaged")
    return records

"""What a case's files were when it was prepared: size, time and content of each, so that a later edit is noticed.

Looking costs one `stat` for each file. Where the size is the same and the time is another, as after copying a data set,
the content decides.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mttu.data.manifest import BRAIN_MASK, SEG, Case
from mttu.errors import raise_if_any, stop_if_too_many_open


@dataclass(frozen=True)
class SourceRecord:
    """One file as it was."""

    size_bytes: int
    modified_ns: int
    """Time of its last change, nanoseconds since 1970."""
    sha256: str

    def find_difference(self, path: Path, always_read: bool = False) -> tuple[str | None, bool]:
        """How the file that lies there now differs.

        Args:
            path: Read only where size and time leave a doubt.
            always_read: Read it even so: somebody may have given it its old time again.

        Returns:
            The difference, None if there is none or nothing to compare with; and whether the file has another time, so
            that its content had to be compared.
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
    """SHA-256 of a file; a command checks its inputs several times, and reads a file for that once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_sources(case: Case, modalities: Sequence[str]) -> Iterator[tuple[str, Path | None]]:
    """Yields role and file of everything that decides a prepared case, in order; None where the case has none."""
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
            status = path.stat()  # before it is read: a change while it is read is one to notice
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            stop_if_too_many_open(error)
            problems.append(f"case {case.case_id}: {path} cannot be read ({error.strerror}); restore it")
        else:
            records[role] = SourceRecord(status.st_size, status.st_mtime_ns, sha256)
    raise_if_any(problems)
    return records


def find_changes(
    case: Case, modalities: Sequence[str], records: SourceRecords, always_read: bool = False
) -> tuple[list[str], bool]:
    """How the files of a case differ from those that it was prepared from; a file that is gone is no difference.

    Args:
        case: As the manifest has it now.
        modalities: Channels that it was prepared with.
        records: What was recorded then.
        always_read: See `SourceRecord.find_difference`.

    Returns:
        A sentence for each difference, and whether any file has another time than then.
    """
    changes, have_other_times = [], False
    for role, path in list_sources(case, modalities):
        record = records.get(role)
        if path is None or record is None:
            if path is not None:
                changes.append(f"was prepared without a {role}, and the manifest has one")
            elif record is not None:
                changes.append(f"was prepared with a {role}, and the manifest has none")
        else:
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
    if not isinstance(content, dict):
        raise ValueError("its record of source files is damaged")
    records = {role: SourceRecord(**record) for role, record in content.items()}
    if not all(
        isinstance(record.size_bytes, int) and isinstance(record.modified_ns, int) and isinstance(record.sha256, str)
        for record in records.values()
    ):
        raise ValueError("its record of source files is damaged")
    return records

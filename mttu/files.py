"""Our own files: written whole or not at all, by one process at a time, and measured before they are unpacked.

A file is written under a temporary name beside its target and then renamed. A process that dies leaves the old content
or the new one, and at most a leftover named `.partial-...`, which the next writer of the same target removes.
"""

import csv
import errno
import getpass
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from mttu import PRIVATE
from mttu.errors import InputError, stop_if_too_many_open

PREFIX = ".partial-"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes a file, a whole folder, or a link (not its target), if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def drop_link(path: Path) -> None:
    """Removes a link in place of a working folder: mttu makes no links, so its target is somebody else's."""
    if path.is_symlink():
        path.unlink()


def _partial(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f"{PREFIX}{target.name}"
    remove(partial)
    return partial


def find_byte_names(what: str, names: Iterable[object]) -> list[str]:
    """Problems of names and paths that are no UTF-8: Python can open them, and no text or table can name them."""
    return [
        f"{what} {str(name)!r}: is no UTF-8, and what is written names it; rename it"
        for name in names
        if str(name).encode(errors="replace") != str(name).encode(errors="surrogatepass")
    ]


def find_obstacle(target: Path) -> str | None:
    """Why `target` cannot be written, tested in its nearest existing folder; None if it can."""
    nearest = next(place for place in target.absolute().parents if place.exists())
    if not nearest.is_dir():
        return f"{nearest} is a file; give another folder"
    probe = nearest / f"{PREFIX}probe-{target.name}"[:100]  # permission bits say nothing for root
    try:
        probe.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            probe.rmdir()
    except OSError:
        return f"{nearest} is not writable; allow it, or give another folder"
    return None


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yields a temporary path beside `target`; on success it is flushed to disk and renamed over `target`."""
    partial = _partial(target)
    yield partial
    _sync(partial)
    os.replace(partial, target)
    _sync(target.parent)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yields an empty temporary folder; on success it is renamed to `target`, replacing an older folder there.

    The older folder is moved aside first, because no folder can be renamed over a full one. A kill between the two
    renames leaves no `target`; `recover_folder`, called here first, brings the older one back.
    """
    target = Path(os.path.abspath(target))  # "." has no name that could be renamed; a link stays a link
    recover_folder(target)
    partial = _partial(target)
    partial.mkdir()
    yield partial
    for file in [*sorted(partial.rglob("*")), partial]:
        _sync(file)
    aside = _aside(target)
    if os.path.lexists(target):
        os.replace(target, aside)
    os.replace(partial, target)
    _sync(target.parent)
    remove(aside)


def recover_folder(target: Path) -> None:
    """Repairs what a kill inside `atomic_folder` left: afterwards `target` exists if it was ever written completely."""
    aside = _aside(target)
    if not os.path.lexists(aside):
        return
    if target.exists() or aside.is_symlink():  # the target of a link is not ours
        remove(aside)
    else:
        os.replace(aside, target)


def _aside(target: Path) -> Path:
    return target.parent / f"{PREFIX}old-{target.name}"


def move_into_place(source: Path, target: Path) -> None:
    """Renames a finished file or folder to `target`, in the same folder, which must not exist yet."""
    os.rename(source, target)
    _sync(target.parent)


def write_text(target: Path, text: str) -> None:
    """Writes a text file (UTF-8) whole or not at all."""
    with atomic_file(target) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Reads a JSON file of any origin.

    Raises:
        OSError: Missing or unreadable.
        ValueError: Not JSON, or nested too deeply.
    """
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str | bytes) -> Any:
    """Parses a JSON text; ValueError if it is not JSON or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_versioned(path: Path, version: int, mend: str, earlier: Sequence[int] = (), name: str = "") -> dict[str, Any]:
    """Reads a JSON object that mttu wrote with a `format_version`.

    Args:
        path: File.
        version: Current version.
        mend: What to do about a damaged file or another version.
        earlier: Older versions that can still be read.
        name: File name for the message; the path if not given.

    Raises:
        InputError: Missing, damaged, or of another version.
        RunError: No more files can be opened.
    """
    where = name or str(path)
    try:
        content = dict(read_json(path))
        found = content["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        stop_if_too_many_open(error)
        reason = "missing" if isinstance(error, FileNotFoundError) else "damaged"
        if isinstance(error, OSError) and reason == "damaged":
            raise InputError(f"{where}: cannot be read ({error.strerror}); allow it, or check the disk") from None
        raise InputError(f"{where}: {reason}; {mend}") from None
    if found not in (*earlier, version):
        reads = f"{earlier[0]} to {version}" if earlier else version
        raise InputError(f"{where}: format_version is {found}; this version of mttu reads {reads}; {mend}")
    return content


def write_json(target: Path, content: Any) -> None:
    """Writes a JSON file whole or not at all; refuses NaN, which is not JSON."""
    write_text(target, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def hash_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


LOCK, MARKER, OWNER = ".lock", ".lock-marker", ".lock-owner"
"""The locked file; the file whose existence is the lock on file systems without locks; a note of who holds it."""
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
_MODE = 0o600 if PRIVATE else 0o666
"""Mode of the lock file, which is empty: anyone who may write into the folder may lock it."""


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Holds a folder for this process; the lock ends with the process, however that ends.

    On file systems without locks (Lustre, some NFS) a marker file is the lock. A marker left by a killed process is
    recognised on the same machine; on another machine it has to be removed by hand, as the message says.

    Raises:
        InputError: Another process holds it, or it cannot be locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _acquire(folder)
    try:
        _write_owner(folder)
        yield
    finally:
        (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def _acquire(folder: Path) -> BaseFileLock:
    path = folder / LOCK
    lock: BaseFileLock = FileLock(path, timeout=0, mode=_MODE, fallback_to_soft=False)
    try:
        try:
            lock.acquire()
        except OSError as error:
            if isinstance(error, Timeout) or error.errno not in _NO_LOCKS:
                raise
            path = folder / MARKER
            lock = SoftFileLock(path, timeout=0, mode=_MODE)
            lock.acquire()
    except Timeout:
        stale = f"; if that is gone, remove {path}" if path.name == MARKER else ""
        raise InputError(
            f"{folder}: another mttu is working in this folder{_read_owner(folder)}; wait for it, or use another{stale}"
        ) from None
    except PermissionError:
        if not path.exists():
            raise InputError(f"{folder}: cannot be written by {_user()}; allow it, or use another folder") from None
        raise InputError(
            f"{folder}: {path.name} belongs to {_owner_of(path)} and cannot be opened by {_user()}; let its owner "
            f"run `chmod a+rw {path}`, or use another folder"
        ) from None
    except OSError as error:
        if path.is_symlink():
            raise InputError(f"{path}: is a link, and links are not followed; remove it") from None
        raise InputError(f"{path}: cannot be locked ({error.strerror})") from None
    return lock


def _write_owner(folder: Path) -> None:
    """Writes down who holds the lock, for messages only."""
    content = {"user": _user(), "host": socket.gethostname(), "pid": os.getpid()}
    with suppress(OSError):
        path = folder / OWNER
        path.unlink(missing_ok=True)  # of another user, or a link
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)


def _read_owner(folder: Path) -> str:
    try:
        descriptor = os.open(folder / OWNER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would block
        with os.fdopen(descriptor, "rb") as file:
            content = json.loads(file.read(1000))
        return f" (process {int(content['pid'])} of {content['user']!s:.64} on {content['host']!s:.64})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())  # no such user in this container


def _owner_of(path: Path) -> str:
    try:
        return path.owner()
    except (OSError, KeyError):
        return "another user"


MOST_VALUES = 2**23
"""Most values over all columns: 100,000 cases with 50 Monte Carlo passes have 6 million."""
MOST_TEXT_BYTES = 2**28
_CODECS = {"UNCOMPRESSED", "SNAPPY"}
"""Those that mttu writes. Other codecs compress a page of zeros ten-thousandfold."""
_ENCODINGS = {"PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY", "BIT_PACKED"}
"""Those that mttu writes. Others encode a text by the prefix it shares with the one before it."""
_BREAK = re.compile(r"([;\t\r\n])")
"""Where a program with other separators, or one that ignores quotes, would begin a cell or a row."""
_FORMULA = re.compile(
    r"'*[\x00-\x20\x7f-\xa0\xad\u200b-\u200f\u2028\u2029\u2060\ufeff]*"
    r"[=+\-@\u2212\ufe62\ufe63\ufe66\ufe6b\uff0b\uff0d\uff1d\uff20]"
)
"""Start of a text that a spreadsheet runs as a formula, full-width and small signs and leading invisible characters
included; the apostrophes keep the change reversible."""
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")


def read_parquet(path: Path, lists: Collection[str] = ()) -> Any:
    """Reads a Parquet file that mttu wrote, after checking in its footer that this needs little memory.

    A column of one value per row cannot contain more than its footer says. The length of lists is given only in their
    pages; for them the footer is trusted.

    Args:
        path: File.
        lists: Names of columns that may hold lists of numbers.

    Raises:
        OSError: Missing or unreadable.
        pyarrow.ArrowException: Not a Parquet file, more than `MOST_VALUES` values or `MOST_TEXT_BYTES` of text, or a
            column that is neither text nor numbers.
    """
    file = pq.ParquetFile(path)
    wanted = file.schema_arrow
    _check_types(wanted, lists)
    _check_size(file.metadata)
    texts = [field.name for field in wanted if _is_text(field.type)]
    table = pq.ParquetFile(path, read_dictionary=texts).read()  # keeps each distinct text once
    chunks = [chunk for column in table.columns if pa.types.is_dictionary(column.type) for chunk in column.chunks]
    sizes = (pc.sum(pc.take(pc.binary_length(chunk.dictionary), chunk.indices)).as_py() for chunk in chunks)
    size = sum(size or 0 for size in sizes)
    if size > MOST_TEXT_BYTES:
        raise pa.ArrowInvalid(f"holds {size} bytes of text; at most {MOST_TEXT_BYTES} are read")
    return table.cast(wanted)


def _check_types(schema: Any, lists: Collection[str]) -> None:
    """Checks the types that columns are read as: the stored type does not distinguish text from bytes or decimals."""
    for field in schema:
        kind = field.type
        if pa.types.is_list(kind):
            if field.name not in lists:
                raise pa.ArrowInvalid(f"column {field.name} holds lists")
            kind = kind.value_type
            is_plain = _is_number(kind)
        else:
            is_plain = _is_number(kind) or _is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)
        if not is_plain:
            raise pa.ArrowInvalid(f"column {field.name} is neither text nor numbers, but {field.type}")


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _check_size(metadata: Any) -> None:
    """Checks what the footer says about each column, before anything else is read."""
    _check_counts(metadata.num_rows)
    values = 0
    for group in (metadata.row_group(number) for number in range(metadata.num_row_groups)):
        _check_counts(group.num_rows)
        for column in (group.column(number) for number in range(group.num_columns)):
            _check_counts(column.num_values, column.total_uncompressed_size)
            values += max(column.num_values, group.num_rows)
            if column.compression not in _CODECS:
                raise pa.ArrowInvalid(f"compressed with {column.compression}; mttu writes and reads SNAPPY")
            foreign = sorted(set(column.encodings) - _ENCODINGS)
            if foreign:
                raise pa.ArrowInvalid(f"encoded with {', '.join(foreign)}, which mttu neither writes nor reads")
            if column.total_uncompressed_size > MOST_TEXT_BYTES:
                raise pa.ArrowInvalid(
                    f"unpacks to {column.total_uncompressed_size} bytes; at most {MOST_TEXT_BYTES} are read"
                )
    if max(values, metadata.num_rows * metadata.num_columns) > MOST_VALUES:
        raise pa.ArrowInvalid(f"unpacks to {values} values; at most {MOST_VALUES} are read")


def _check_counts(*counts: int) -> None:
    """Refuses counts below 0: a forged footer could use them to hide large ones in a sum."""
    for count in counts:
        if count < 0:
            raise pa.ArrowInvalid(f"its footer counts {count} of something; restore the file from a copy")


def write_csv(table: Any, path: Path) -> None:
    """Writes an Arrow table; texts and column names pass through `neutralise`."""
    for place, field in enumerate(table.schema):
        if _is_text(field.type):
            texts = [None if text is None else neutralise(text) for text in table.column(place).to_pylist()]
            table = table.set_column(place, field, pa.array(texts, field.type))
    pyarrow.csv.write_csv(table.rename_columns([neutralise(name) for name in table.column_names]), path)


def write_csv_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes rows of values; texts and column names pass through `neutralise`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        for row in (columns, *rows):
            table.writerow([neutralise(value) if isinstance(value, str) else value for value in row])


def neutralise(text: str) -> str:
    """A text for a CSV cell, with an apostrophe before anything that a spreadsheet would run as a formula (OWASP).

    The same holds after each semicolon, tab and line break, where some programs split. Numbers stay as they are.
    """
    parts = _BREAK.split(text)
    return "".join(f"'{part}" if _is_run(parts, place) else part for place, part in enumerate(parts))


def restore(cell: str) -> str:
    """Undoes `neutralise`."""
    parts = _BREAK.split(cell)
    for place, part in enumerate(parts):
        if part.startswith("'"):
            parts[place] = part[1:]
            if not _is_run(parts, place):
                parts[place] = part
    return "".join(parts)


def _is_run(parts: Sequence[str], place: int) -> bool:
    """Whether a part of a text needs an apostrophe; parts at odd places are separators."""
    part = parts[place]
    if place % 2:
        return False
    if place == 0 and len(parts) > 1 and parts[1] != ";" and not part.strip("'"):
        return True  # a tab or a line break at the start
    return _FORMULA.match(part) is not None and not _NUMBER.fullmatch(part.strip())

"""What a file is, by its first bytes, if it is not the image or table that it should be, and what to do."""

import errno
import os
import re
import zlib
from pathlib import Path

from mttu.errors import explain_open_files

ENDINGS = (".nii.gz", ".nii")
"""Endings of the files that are read, in upper or lower case; nibabel would unpack others without a limit."""
LOOKED_AT_BYTES = 1024
"""Enough for every kind here."""
_GZIP = b"\x1f\x8b"
_SIZES = _NIFTI_HEADER, _NIFTI2_HEADER = 348, 540
_FETCH = "fetch it again"
_RESTORE = "restore it from its source"
_CONVERT = "convert it to .nii.gz"
_UNPACK = "unpack it"

_ANNEX = ("it is a pointer of git-annex to the file", "run `git annex get` or `datalad get` there")
_ANNEX_LINK = re.compile(rb"(\.\./)*\.git/annex/objects/")
"""On file systems without links, files hold their targets."""
_WEB_PAGE = re.compile(rb"(<\?xml[^>]*>\s*)?<(!doctype html|html)", re.IGNORECASE)

_STAND_INS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "it is a pointer of Git LFS to the file", "run `git lfs pull` in its repository"),
    (b"/annex/objects/", *_ANNEX),
    (b"PK\x03\x04", "it is a zip archive", _UNPACK),
    (b"BZh", "it is compressed by bzip2", _UNPACK),
    (b"\xfd7zXZ\0", "it is compressed by xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "it is compressed by zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "it is a 7z archive", _UNPACK),
    (b"Rar!", "it is a RAR archive", _UNPACK),
)
_FORMATS: tuple[tuple[bytes, str, str], ...] = (
    (b"NRRD000", "it is NRRD", _CONVERT),
    (b"ObjectType =", "it is MetaImage", _CONVERT),
    (b"NDims =", "it is MetaImage", _CONVERT),
    (b"\0\0\0\1\0\0", "it is a FreeSurfer volume (.mgh, .mgz)", "convert it to .nii.gz, e.g. with mri_convert"),
    (b"\x89HDF\r\n", "it is HDF5", _CONVERT),
    (b"CDF\x01", "it is MINC 1", _CONVERT),
    (b"MATLAB 5.0", "it is a MATLAB file", _CONVERT),
    (b"\x93NUMPY", "it is a NumPy array, which says nothing of spacing and orientation", _CONVERT),
    (b"\x89PNG", "it is a PNG picture", "give the MRI itself"),
    (b"\xff\xd8\xff", "it is a JPEG picture", "give the MRI itself"),
    (b"%PDF", "it is a PDF", "give the MRI itself"),
)


def explain_content(path: Path) -> tuple[str, str] | None:
    """Why a file is not the NIfTI file that its name says, and the cure; None if name and first bytes look right.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(LOOKED_AT_BYTES)
    is_packed = head.startswith(_GZIP)
    inner = _unpack_head(head) if is_packed else head
    if not path.name.lower().endswith(ENDINGS):
        ending = ".nii.gz" if is_packed else ".nii"
        named = "its name ends in neither .nii nor .nii.gz", f"give it a name that ends in {ending}"
        return _explain_head(inner) or named
    says_packed = path.name.lower().endswith(".gz")
    if not is_packed:
        if says_packed and _is_nifti(head):
            return "it is not compressed, though its name says so", f"rename it to {path.name[: -len('.gz')]}"
        return _explain_head(head)
    if inner.startswith(_GZIP):
        return "it is compressed twice", "unpack it once, e.g. with gunzip"
    if not says_packed and _is_nifti(inner):
        return "it is compressed by gzip, though its name does not say so", f"rename it to {path.name}.gz"
    if len(inner) < _NIFTI_HEADER and len(head) < LOOKED_AT_BYTES:
        return f"it ends after {len(head)} bytes, within its header", _RESTORE
    return _explain_head(inner) if inner else ("its compression is damaged at the beginning", _RESTORE)


def explain_refusal(error: OSError) -> str:
    """Why the system refuses a file or folder, and the cure: `cannot be read (Permission denied); allow it (...)`."""
    if error.errno == errno.ELOOP:
        return "is a link that leads back to itself; put the file there"
    if cure := explain_open_files(error):
        return f"cannot be read: {cure}"
    reason = f"cannot be read ({error if error.errno is None else os.strerror(error.errno)})"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{reason}; allow it (chmod a+r, and a+x for the folders above it)"
    return f"{reason}; check the disk or the connection to it"


def _unpack_head(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(head, LOOKED_AT_BYTES)
    except zlib.error:
        return b""


def _find_stand_in(head: bytes) -> tuple[str, str] | None:
    """What stands in place of the file (a pointer, an archive, a web page), and the cure; None if nothing does."""
    for beginning, cause, cure in _STAND_INS:
        if head.startswith(beginning):
            return cause, cure
    if _ANNEX_LINK.match(head):
        return _ANNEX
    if head[257:262] == b"ustar":
        return "it is a tar archive", _UNPACK
    if _WEB_PAGE.match(head.lstrip(b"\xef\xbb\xbf \t\r\n")):
        return "it is a web page, as a failed download leaves", f"{_FETCH}, logged in if need be"
    if head and not head.strip(b"\0"):
        return "it holds nothing but zeros, as an interrupted copy leaves", "copy it again"
    return None


def explain_no_table(head: bytes, give: str) -> tuple[str, str] | None:
    """What a file is that should be a table but isn't, and the cure; None if no known kind begins like this.

    `head` are its first `LOOKED_AT_BYTES`, and `give` is the cure where a file of another kind was given.
    """
    if stand_in := _find_stand_in(head):
        return stand_in
    if _is_nifti(_unpack_head(head) if head.startswith(_GZIP) else head):
        return "it is a NIfTI image", give
    found = _find_format(head)
    return (found[0], give) if found else None


def explain_no_parquet(path: Path, error: Exception, mend: str) -> str:
    """Why a file is no Parquet file, from the error of reading it, and the cure; `mend` if no better one is known."""
    try:
        with path.open("rb") as file:
            head = file.read(LOOKED_AT_BYTES)
    except OSError:
        head = b""
    cause, cure = explain_no_table(head, mend) or (str(error).partition("\n")[0], mend)
    return f"no readable Parquet file ({cause}); {cure}"


def _find_format(head: bytes) -> tuple[str, str] | None:
    """Which other format a file has, and how to make a NIfTI image of it; None if it has no known one."""
    for beginning, cause, cure in _FORMATS:
        if head.startswith(beginning):
            return cause, cure
    if head[128:132] == b"DICM":
        return "it is DICOM", "convert the series to .nii.gz, e.g. with dcm2niix"
    return None


def _explain_head(head: bytes) -> tuple[str, str] | None:
    if kind := _find_stand_in(head) or _find_format(head):
        return kind
    if text := _read_text(head):
        return f"it is a text that begins {text[:30]!r}", f"{_FETCH}, or {_RESTORE}"
    if _header_size(head) and not _is_nifti(head):
        if len(head) < _NIFTI_HEADER:
            return f"it ends after {len(head)} bytes, within its header", _RESTORE
        return "it is an Analyze header without a NIfTI mark", f"{_CONVERT}, together with its .img"
    if head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0":
        return "it is the header of a pair whose voxels are in an .img", f"{_CONVERT}, together with its .img"
    return None if _is_nifti(head) else ("its first bytes are not those of a NIfTI file", _RESTORE)


def _header_size(head: bytes) -> int | None:
    found = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")} & set(_SIZES)
    return found.pop() if found else None


def _is_nifti(head: bytes) -> bool:
    size = _header_size(head)
    if size == _NIFTI_HEADER:
        return head[344:348] in (b"n+1\0", b"ni1\0")
    return size == _NIFTI2_HEADER and head[4:8] in (b"n+2\0", b"ni2\0")


def _read_text(head: bytes) -> str:
    """The first line of a text; empty for anything else."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # not just cut within a character
            return ""
        text = head[: error.start].decode("utf-8-sig")
    text = text.strip()
    first = text.splitlines()[0].strip() if text else ""
    return first if all(sign.isprintable() or sign.isspace() for sign in text) else ""

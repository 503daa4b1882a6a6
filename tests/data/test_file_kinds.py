import gzip
import io
import tarfile

import nibabel as nib
import numpy as np
import pytest
from small_cases import LPS

from mttu.data.file_kinds import explain_content
from mttu.data.volumes import read_volume
from mttu.errors import InputError

IMAGE = nib.Nifti1Image(np.random.default_rng(0).integers(0, 999, (8, 8, 8)).astype(np.int16), LPS)
PLAIN = IMAGE.to_bytes()


def tarred() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("t1.nii"))
    return packed.getvalue()


MGH = nib.freesurfer.MGHImage(np.ones((4, 4, 4), np.float32), LPS).to_bytes()
ANALYZE = nib.AnalyzeHeader().binaryblock
PAIR = PLAIN[:344] + b"ni1\0" + bytes(4)

KINDS = [
    (b"<!DOCTYPE html><html>404", "it is a web page, as a failed download leaves", "fetch it again"),
    (b'{"error": "forbidden"}', 'it is a text that begins \'{"error": "forbidden"}\'', "fetch it again"),
    (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS", "run `git lfs pull`"),
    (b"/annex/objects/MD5E-s1--0.nii.gz\n", "it is a pointer of git-annex", "run `git annex get`"),
    (b"PK\x03\x04" + bytes(99), "it is a zip archive", "unpack it"),
    (tarred(), "it is a tar archive", "unpack it"),
    (b"NRRD0004\ntype: short\n", "it is NRRD", "convert it to .nii.gz"),
    (bytes(128) + b"DICM" + bytes(99), "it is DICOM", "convert the series to .nii.gz"),
    (MGH, "it is a FreeSurfer volume", "convert it to .nii.gz, e.g. with mri_convert"),
    (gzip.compress(MGH), "it is a FreeSurfer volume", "convert it to .nii.gz, e.g. with mri_convert"),
    (b"\x89PNG\r\n\x1a\n" + bytes(99), "it is a PNG picture", "give the MRI itself"),
    (bytes(2000), "it holds nothing but zeros", "copy it again"),
    (gzip.compress(gzip.compress(PLAIN)), "it is compressed twice", "unpack it once"),
    (gzip.compress(PLAIN)[:60], "it ends after 60 bytes, within its header", "restore it from its source"),
    (gzip.compress(ANALYZE), "it is an Analyze header without a NIfTI mark", "convert it to .nii.gz, together with"),
    (gzip.compress(PAIR), "it is the header of a pair", "convert it to .nii.gz, together with its .img"),
    (b"\x01\x02\x80\x81" * 99, "its first bytes are not those of a NIfTI file", "restore it from its source"),
]


@pytest.mark.parametrize(
    ("content", "cause", "cure"),
    [pytest.param(*kind, id=f"{number}, {kind[1][:30]}") for number, kind in enumerate(KINDS)],
)
def test_a_file_is_named_by_its_content(tmp_path, content, cause, cure):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_volume(path, "A")
    (problem,) = caught.value.problems
    assert f"({cause}" in problem
    assert f"); {cure}" in problem


def test_what_is_nifti_has_nothing_to_explain(tmp_path):
    second = nib.Nifti2Image(np.asarray(IMAGE.dataobj), LPS).to_bytes()
    big = nib.Nifti1Image(np.asarray(IMAGE.dataobj), LPS, nib.Nifti1Header(endianness=">")).to_bytes()
    for content in (PLAIN, second, big):
        (tmp_path / "x.nii").write_bytes(content)
        (tmp_path / "x.nii.gz").write_bytes(gzip.compress(content))
        assert explain_content(tmp_path / "x.nii") is explain_content(tmp_path / "x.nii.gz") is None


def test_a_damaged_header_is_told_from_a_damaged_file(tmp_path):
    content = bytearray(PLAIN)
    content[70:72] = np.array([1536], "<i2").tobytes()
    (tmp_path / "x.nii").write_bytes(content)
    with pytest.raises(InputError, match=r"\(data code 1536 not supported\); mend the header, or restore"):
        read_volume(tmp_path / "x.nii", "A")

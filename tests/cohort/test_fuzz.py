"""Damaged files of every kind: whatever the bytes are, a case is read or refused in words, in bounded memory."""

import gzip
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_cases import LPS, draw_volumes, write_case

from mttu.cohort.build import build_cohort
from mttu.cohort.found_cases import CohortRequest
from mttu.data.volumes import LARGEST_VOLUME, read_volume
from mttu.errors import InputError

HEADER = 352
FIELDS = (
    *(0, 4, 40, 42, 44, 46, 48, 70, 72, 76, 80, 84, 88, 108, 112, 116, 123),
    *(252, 254, 256, 260, 280, 296, 312, 344, 348),
)
"""Where the fields of a NIfTI-1 header begin that decide how it is read; 348 is the flag of the extensions."""
VALUES = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.integers(-(2**15), 2**15 - 1).map(lambda value: np.array(value, "<i2").tobytes()),
    st.integers(-(2**31), 2**31 - 1).map(lambda value: np.array(value, "<i4").tobytes()),
    st.floats(width=32).map(lambda value: np.array(value, "<f4").tobytes()),
)
EDITS = st.lists(st.tuples(st.one_of(st.sampled_from(FIELDS), st.integers(0, HEADER + 200)), VALUES), max_size=4)

LARGEST_PEAK = 64 * 2**20
"""Bytes; the files hold a few thousand voxels."""


def small_file() -> bytes:
    return bytes(nib.Nifti1Image(draw_volumes()["flair"], LPS).to_bytes())


def edit(content: bytes, edits: list[tuple[int, bytes]], cut: int | None, packed: bool, packed_cut: int) -> bytes:
    damaged = bytearray(content)
    for place, value in edits:
        damaged[place : place + len(value)] = value
    whole = bytes(damaged[:cut])
    if not packed:
        return whole
    squeezed = gzip.compress(whole, compresslevel=1)
    return squeezed[: len(squeezed) - packed_cut]


def read_or_refuse(path: Path) -> None:
    """Fails on any other exception, on voxels that are not finite, and where memory is not bounded by the file."""
    tracemalloc.start()
    try:
        image = read_volume(path, "A")
    except InputError as error:
        (problem,) = error.problems
        assert problem.startswith(f"case A: {path.name}")
        assert "\n" not in problem
    else:
        voxels = image.get_fdata(dtype=np.float32)
        assert voxels.ndim == 3
        assert voxels.size <= LARGEST_VOLUME
        assert np.isfinite(voxels).all()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < LARGEST_PEAK


def fuzz(folder: Path, number: int) -> None:
    content = small_file()

    @settings(
        max_examples=number,
        deadline=10_000,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        edits=EDITS,
        cut=st.one_of(st.none(), st.integers(0, len(content))),
        packed=st.booleans(),
        packed_cut=st.sampled_from([0, 0, 1, 8, 100]),
    )
    def check(edits: list[tuple[int, bytes]], cut: int | None, packed: bool, packed_cut: int) -> None:
        path = folder / ("x.nii.gz" if packed else "x.nii")
        path.write_bytes(edit(content, edits, cut, packed, packed_cut))
        read_or_refuse(path)

    check()


def test_damaged_headers_and_bytes_are_read_or_refused(tmp_path):
    fuzz(tmp_path, 150)


@pytest.mark.slow
def test_two_thousand_damaged_files_are_read_or_refused(tmp_path):
    fuzz(tmp_path, 2000)


def test_a_file_that_unpacks_to_gigabytes_is_refused_without_unpacking_it(tmp_path):
    path = tmp_path / "x.nii.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(small_file())
        for _ in range(256):
            file.write(bytes(2**20))
    read_or_refuse(path)
    with pytest.raises(InputError, match="holds more than the"):
        read_volume(path, "A")


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(content=st.binary(max_size=600), name=st.sampled_from(["t1", "seg", "brainmask"]))
def test_a_cohort_with_a_file_of_random_bytes_is_refused_for_that_case_alone(tmp_path_factory, content, name):
    root = tmp_path_factory.mktemp("fuzz")
    for case_id in ("A", "B"):
        write_case(root, case_id)
    (root / "B" / f"B_{name}.nii.gz").write_bytes(content)
    cohort = build_cohort(CohortRequest((root,), skip_bad=True))
    assert cohort.manifest is not None
    assert [case.case_id for case in cohort.manifest.cases] == ["A"]

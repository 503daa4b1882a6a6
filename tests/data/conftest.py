"""A builder of small cases on disk, and a user who may not read everything."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_cases import MODALITIES, write_case

from mttu.data.cohort import Case, case_from_folder

MakeCase = Callable[..., Case]


@pytest.fixture
def make_case(tmp_path: Path) -> MakeCase:
    """Builds cases whose files lie below tmp_path: `make_case(case_id, volumes, affine, ending, labels=...)`."""

    def make(*arguments: Any, labels: str = "brats", **named: Any) -> Case:
        return case_from_folder(write_case(tmp_path, *arguments, **named), labels, MODALITIES)

    return make


@pytest.fixture
def without_privileges() -> Iterator[Callable[[], None]]:
    """Takes from root, until the test ends, what lets it read any file: `without_privileges()`; others lack it anyway.

    Capabilities belong to a thread; those that it starts afterwards have the same.
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("capabilities are Linux's")
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    before = (ctypes.c_uint32 * 6)()  # twice: effective, permitted, inheritable

    def call(name: str, data: Any) -> None:
        if getattr(libc, name)(header, data) != 0:
            pytest.skip(f"{name}: {os.strerror(ctypes.get_errno())}")

    def drop() -> None:
        now = (ctypes.c_uint32 * 6)(*before)
        now[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        call("capset", now)

    call("capget", before)
    yield drop
    call("capset", before)

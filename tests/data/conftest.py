"""A builder of small cases on disk."""

from collections.abc import Callable
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

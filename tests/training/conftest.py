"""A small data set of one's own: prepared where it lies, and free to be moved and edited."""

import shutil
from pathlib import Path

import pytest

from mttu.cohort.build import discover
from mttu.config import PrepareSettings
from mttu.data.cache import cache_case
from mttu.data.manifest import read_manifest, write_manifest


@pytest.fixture(scope="session")
def template(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `place` is a copy of."""
    place = tmp_path_factory.mktemp("place") / "template"
    place.mkdir()
    for index in range(4):
        shutil.copytree(phantom_folder / f"phantom_{index:03d}", place / "data" / f"phantom_{index:03d}")
    lines = (phantom_folder / "clinical.csv").read_text().splitlines()
    (place / "clinical.csv").write_text("\n".join(lines[:5]) + "\n")
    write_manifest(discover(place / "data", place / "clinical.csv"), place / "cohort.parquet")
    manifest = read_manifest(place / "cohort.parquet")
    for case in manifest.cases:
        assert cache_case(case, place / "cache", manifest.modalities, PrepareSettings())
    return place


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Path:
    """A folder with data set, manifest and cache of four phantom cases, times of files included."""
    return Path(shutil.copytree(template, tmp_path / "first"))

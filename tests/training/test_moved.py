"""Data set, manifest and cache are moved together to another folder, and everything goes on."""

import shutil

import pytest

from mttu.config import PrepareSettings, override
from mttu.data.cache import cache_case
from mttu.data.cache_upkeep import verify_cache
from mttu.data.cohort import discover, read_manifest, write_manifest
from mttu.data.loaders import PatchDataset, read_volume
from mttu.predict.plan import find_candidates
from mttu.training.inputs import check_inputs, resolve_paths
from mttu.training.run import task_of


@pytest.fixture
def place(phantom_folder, tmp_path):
    """A folder with data set, manifest and cache of four phantom cases, made where it lies."""
    place = tmp_path / "first"
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


def look(tiny, place):
    """Fingerprints of inputs and manifest, and the first patch, read from where the folder lies."""
    changes = {"data.manifest": str(place / "cohort.parquet"), "data.cache_dir": None}
    config = override(tiny, changes | {"network.tasks": ["segmentation"], "train.validation_metric": "dice"})
    inputs, task = check_inputs(config), task_of(config)
    assert resolve_paths(config)[1] == task.cache_dir == place / "cache"
    dataset = PatchDataset(task.train, task.cache_dir, config)
    assert read_volume(dataset.cached[0], config).isfinite().all()
    return inputs.fingerprint, inputs.manifest.fingerprint, dataset[(0, 0, 0)].image.tobytes()


def test_a_moved_folder_is_the_same_data(tiny, place, tmp_path):
    before = look(tiny, place)
    moved = tmp_path / "elsewhere" / "second"
    moved.parent.mkdir()
    place.rename(moved)

    assert look(tiny, moved) == before
    manifest = read_manifest(moved / "cohort.parquet")
    assert manifest.root == moved / "data"
    assert [cache_case(case, moved / "cache", manifest.modalities, PrepareSettings()) for case in manifest.cases] == (
        [False] * 4
    )
    assert verify_cache(moved / "cache", manifest).findings == ()
    candidates, problems = find_candidates([moved / "cohort.parquet"], manifest.modalities)
    assert problems == []
    assert all(path.is_file() for candidate in candidates for path in candidate.case.images.values())
    first = str(place).encode()
    written = [item.read_bytes() for item in (moved / "cache").rglob("*.json")]
    assert len(written) == 4
    assert not any(first in content for content in written)
    assert first not in (moved / "cohort.parquet").read_bytes()

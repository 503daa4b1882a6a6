"""Data set, manifest and cache are moved together to another folder, and everything goes on."""

from mttu.config import PrepareSettings, override
from mttu.data.cache import cache_case
from mttu.data.cache_upkeep import verify_cache
from mttu.data.loaders import PatchDataset, read_prepared
from mttu.data.manifest import read_manifest
from mttu.predict.plan import find_input_cases
from mttu.training.inputs import check_inputs, resolve_paths
from mttu.training.run import task_of


def look(tiny, place):
    """Fingerprints of inputs and manifest, and the first patch, read from where the folder lies."""
    changes = {"data.manifest": str(place / "cohort.parquet"), "data.cache_dir": None}
    config = override(tiny, changes | {"network.tasks": ["segmentation"], "train.validation_metric": "dice"})
    inputs, task = check_inputs(config), task_of(config)
    assert resolve_paths(config)[1] == task.cache_dir == place / "cache"
    dataset = PatchDataset(task.train, task.cache_dir, config)
    assert read_prepared(dataset.cached[0], config).isfinite().all()
    return inputs.fingerprint, inputs.manifest.fingerprint, dataset[(0, 0, 0)].image.tobytes()


def test_a_moved_folder_is_the_same_data(tiny, place, template, tmp_path):
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
    candidates, problems = find_input_cases([moved / "cohort.parquet"], manifest.modalities)
    assert problems == []
    assert all(path.is_file() for candidate in candidates for path in candidate.case.images.values())
    written = [item.read_bytes() for item in (moved / "cache").rglob("*.json")]
    assert len(written) == 4
    for first in (str(place).encode(), str(template).encode()):
        assert not any(first in content for content in written)
        assert first not in (moved / "cohort.parquet").read_bytes()

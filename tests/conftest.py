"""Fixtures that all tests share: a small phantom cohort, real MRI where there is some, one Ray for the session."""

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from empty_pictures import save_empty
from matplotlib.figure import Figure
from small_cases import MODALITIES, case_from_folder, write_case

from mttu.cohort.build import discover
from mttu.config import Config, PrepareSettings, WorkerSettings, override
from mttu.data.cache import cache_case
from mttu.data.manifest import Case, Manifest, write_manifest
from mttu.networks import build_network
from mttu.networks.checkpoint import write_checkpoint
from mttu.phantom import Recipe, write_phantom
from mttu.search.presets import preset

torch.set_num_threads(1)  # the tests' tensors are small, and threads that wait for each other cost more than they do

os.environ.setdefault("RAY_worker_niceness", "0")  # else tests that run beside those on Ray starve its processes
os.environ.pop("MLFLOW_TRACKING_URI", None)  # tests write to their own folders, not to somebody's server

TINY: dict[str, Any] = {
    "network.widths": [4, 4, 8, 8],
    "network.bottleneck.width": 16,
    "network.bottleneck.num_heads": 2,
    "network.bottleneck.mlp_width": 16,
    "network.bottleneck.position_grid": [2, 2, 2],
    "network.idh_head.hidden": [8],
    "patch.size": [16, 16, 16],
    "inference.overlap": 0.0,
    "train.epochs": 3,
    "train.steps_per_epoch": 2,
    "train.global_batch": 2,
    "train.batch_per_worker": 2,
    "train.validate_every": 2,
    "train.checkpoint_every": 1,
    "mc.windows": "sliding",
    "mc.tumour_mask": "predicted",
    "tracking.enabled": False,
    "workers.threads_per_worker": 1,
}
"""A network and a schedule that train in a fraction of a second."""

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start Ray run one after another, in one process: two clusters that start at once starve each other."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if item.get_closest_marker("ray") or "ray_session" in fixtures or "start" in fixtures:
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight cases of 32^3 voxels: 4 train and 2 val, half of them mutant, 1 unlabelled, 1 test. Not to be changed."""
    folder = tmp_path_factory.mktemp("phantom") / "cohort"
    recipe = Recipe(cases=8, size=32, unlabelled_fraction=0.125, test_fraction=0.125, mutant_fraction=0.5)
    write_phantom(folder, recipe)
    return folder


@pytest.fixture(scope="session")
def phantom_manifest(phantom_folder: Path) -> Manifest:
    """The manifest of `phantom_folder`."""
    return discover(phantom_folder, phantom_folder / "clinical.csv")


@pytest.fixture(scope="session")
def phantom_cache(phantom_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared cases of `phantom_manifest`, four modalities, default settings. Not to be changed."""
    folder = tmp_path_factory.mktemp("cache")
    for case in phantom_manifest.cases:
        cache_case(case, folder, phantom_manifest.modalities, PrepareSettings())
    return folder


@pytest.fixture(scope="session")
def manifest_file(phantom_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`phantom_manifest` as a file. Not to be changed."""
    path = tmp_path_factory.mktemp("manifest") / "cohort.parquet"
    write_manifest(phantom_manifest, path)
    return path


@pytest.fixture(scope="session")
def write_tiny() -> Callable[..., Path]:
    """Writes the checkpoint of a tiny network with random weights: `write_tiny(folder, {"mc.passes": 3}, spoil=None)`.

    `spoil` is written over one weight of the IDH head.
    """

    def write(folder: Path, changes: dict[str, Any] | None = None, spoil: float | None = None) -> Path:
        config = override(preset("demo"), {**TINY, "mc.passes": 4, **(changes or {})})
        with torch.random.fork_rng():
            torch.manual_seed(5)
            weights = build_network(config.network).state_dict()
        if spoil is not None:
            weights["idh_head.layers.0.weight"][0, 0] = spoil
        write_checkpoint(folder, weights, config, {})
        return folder

    return write


@pytest.fixture(scope="session")
def tiny_checkpoint(write_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network with random weights, four Monte Carlo passes. Not to be changed."""
    return write_tiny(tmp_path_factory.mktemp("tiny") / "best")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real MRI: MTTU_REAL_DATA, or `../shared/data` beside the repository."""
    folder = Path(os.environ.get("MTTU_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "tcga_lgg").is_dir():
        pytest.skip(f"no real MRI in {folder}; set MTTU_REAL_DATA to a folder that holds tcga_lgg")
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One private Ray for all tests, as the command line starts it: four logical CPUs."""
    from mttu.cluster.session import connect

    with connect(WorkerSettings(num_workers=2, threads_per_worker=2)):
        yield


@pytest.fixture
def tiny_changes() -> dict[str, Any]:
    """What makes the preset demo tiny."""
    return dict(TINY)


@pytest.fixture(scope="session")
def make_tiny(phantom_manifest: Manifest, phantom_cache: Path) -> Callable[[Path], Config]:
    """`tiny` with a manifest and runs in a folder of one's own: `make_tiny(folder)`."""

    def make(folder: Path) -> Config:
        manifest = folder / "cohort.parquet"
        write_manifest(phantom_manifest, manifest)
        paths = {
            "data.manifest": str(manifest),
            "data.cache_dir": str(phantom_cache),
            "output.folder": str(folder / "runs"),
            "output.name": "tiny",
        }
        return override(preset("demo"), {**TINY, **paths})

    return make


@pytest.fixture
def tiny(make_tiny: Callable[[Path], Config], tmp_path: Path) -> Config:
    """Settings of a training that takes a fraction of a second, on the phantom cohort."""
    return make_tiny(tmp_path)


@pytest.fixture(scope="session")
def finished_training(make_tiny: Callable[[Path], Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training of one epoch, without pictures. Not to be changed; `trained` is a copy."""
    from mttu.training.run import launch_locally, run_training

    config = override(make_tiny(tmp_path_factory.mktemp("finished")), {"train.epochs": 1, "output.name": "first"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mttu.training.run.draw_results", lambda *arguments: [])
        return run_training(config, launch_locally)


@pytest.fixture
def trained(finished_training: Path, tmp_path: Path) -> Path:
    """The run folder of a training of one epoch, `first` beside that of `tiny`."""
    return Path(shutil.copytree(finished_training, tmp_path / "runs" / "first"))


@pytest.fixture
def sketches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of trainings are empty files."""
    module = "mttu.self_training.tracking"
    monkeypatch.setattr("mttu.training.run.save_figure", save_empty)
    monkeypatch.setattr("mttu.training.run.draw_results", lambda *arguments: [("learning_curves", Figure())])
    monkeypatch.setattr(f"{module}.save_figure", save_empty)
    monkeypatch.setattr(f"{module}.draw_results", lambda *arguments: [("learning_curves", Figure())])
    monkeypatch.setattr(f"{module}.draw_round", lambda *arguments: {"candidates": Figure()})
    monkeypatch.setattr(f"{module}.draw_summary", lambda *arguments: Figure())


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

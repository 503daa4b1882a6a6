"""A self-training that takes a second or two: a cohort with a pool, and callables that run in this process."""

from dataclasses import replace

import pytest
import torch

from mttu.cohort.build import discover
from mttu.config import PrepareSettings, override
from mttu.data.cache import cache_case
from mttu.data.labels import IDH_MUTANT
from mttu.data.manifest import read_manifest, write_manifest
from mttu.phantom import Recipe, write_phantom
from mttu.pseudo_labels.scoring import score_cases
from mttu.self_training import Callables
from mttu.self_training.evaluation import evaluate_locally
from mttu.training.run import launch_locally

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def pool_folder(tmp_path_factory):
    """Fourteen cases of 24^3 voxels, two without a mask: 4 train, 2 val, 6 unlabelled, 2 test. Not to be changed."""
    folder = tmp_path_factory.mktemp("pool") / "cohort"
    recipe = Recipe(
        cases=14,
        size=24,
        unlabelled_fraction=6 / 14,
        test_fraction=2 / 14,
        mutant_fraction=0.5,
        unlabelled_mutant_fraction=0.5,
        missing_masks=2 / 14,
        difficulty=0.0,
    )
    write_phantom(folder, recipe)
    return folder


@pytest.fixture(scope="session")
def pool_manifest(pool_folder):
    """The manifest of `pool_folder`."""
    return discover(pool_folder, pool_folder / "clinical.csv")


@pytest.fixture(scope="session")
def pool_cache(pool_manifest, tmp_path_factory):
    """The prepared cases of `pool_manifest`. Not to be changed."""
    folder = tmp_path_factory.mktemp("pool-cache")
    for case in pool_manifest.cases:
        cache_case(case, folder, pool_manifest.modalities, PrepareSettings())
    return folder


@pytest.fixture
def make_config(tiny, pool_manifest, pool_cache, tmp_path):
    """Settings of a tiny self-training of two rounds that selects everything it scores: `make_config({...})`."""
    manifest = tmp_path / "pool.parquet"
    write_manifest(pool_manifest, manifest)
    base = {
        "data.manifest": str(manifest),
        "data.cache_dir": str(pool_cache),
        "output.name": "self",
        "patch.size": [24, 24, 24],  # one window holds a case
        "train.epochs": 2,
        "mc.passes": 2,
        "selection.method": "PL",
        "selection.confidence_threshold": 0.9,
        "self_training.rounds": 2,
        "self_training.epochs": 1,
        "self_training.stop_when_unchanged": False,
    }
    return lambda changes=None: override(tiny, {**base, **(changes or {})})


@pytest.fixture(scope="session")
def here():
    """Everything in this process, without Ray."""
    return Callables(launch_locally, lambda plan, on_row: score_cases(plan, CPU, on_row), evaluate_locally)


@pytest.fixture
def few_are_enough(monkeypatch):
    """Two validation cases, one of each class, calibrate."""
    monkeypatch.setattr("mttu.pseudo_labels.prior.LEAST_OF_A_CLASS", 1)
    monkeypatch.setattr("mttu.self_training.algorithm.log_round", lambda *arguments: None)  # pictures take seconds
    monkeypatch.setattr("mttu.self_training.evaluation.log_finish", lambda *arguments: None)


@pytest.fixture
def said(pool_manifest):
    """What the network says: of the pool in order, of validation cases the right class."""
    pool = [case.case_id for case in pool_manifest.split("unlabelled")]
    of_val = {case.case_id: [0.7, 0.8] if case.idh == IDH_MUTANT else [0.3, 0.4] for case in pool_manifest.split("val")}
    of_pool = [0.97, 0.9, 0.85, 0.1, 0.2, 0.3]
    return of_val | {name: [value, value] for name, value in zip(pool, of_pool, strict=True)}


@pytest.fixture
def bare_paths(pool_manifest, tmp_path):
    """Settings of manifest and cache for the cohort of `pool_manifest` without a mask in its pool."""
    cases = tuple(replace(case, seg=None) if case.split == "unlabelled" else case for case in pool_manifest.cases)
    write_manifest(replace(pool_manifest, cases=cases), tmp_path / "bare.parquet")
    for case in read_manifest(tmp_path / "bare.parquet").cases:
        cache_case(case, tmp_path / "bare-cache", pool_manifest.modalities, PrepareSettings())
    return {"data.manifest": str(tmp_path / "bare.parquet"), "data.cache_dir": str(tmp_path / "bare-cache")}

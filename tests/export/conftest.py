"""A checkpoint that knows patients and keeps a calibration, and how commands are run in a process of their own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mttu
from mttu.config import Config, override
from mttu.inference.calibration import describe_windows, fit_kept, write_calibration
from mttu.networks import Network
from mttu.networks.checkpoint import read_checkpoint, write_checkpoint
from mttu.patients import PatientKey, name_patients
from mttu.training.run import launch_locally, run_training

SALT = "0123456789abcdef"
Bundle = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def known_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_checkpoint` as a training writes it: with patients, a metric and a calibration. Not to be changed."""
    folder = tmp_path_factory.mktemp("known") / "best"
    network, config = read_checkpoint(tiny_checkpoint)
    patients = name_patients(["phantom_000"], PatientKey(SALT, n=2))
    write_checkpoint(folder, network.state_dict(), config, {"val/auc": 0.75}, patients)
    kept = fit_kept(
        [0.1, 0.4, 0.3, 0.9], [0, 0, 1, 1], "validation", settings=describe_windows(config), patients=patients
    )
    write_calibration(folder, kept)
    return folder


RIVALS: dict[str, dict[str, Any]] = {
    "unet": {"network.options.channels": [4, 8, 8]},
    "dynunet": {"network.options.channels": [4, 8, 8], "network.tasks": ["segmentation"]},
    "resnet50": {"network.options.widen_factor": 0.0625},
}
"""Small networks other than MTTU-Net: segmentation with our IDH head, segmentation alone, IDH alone."""


@pytest.fixture
def train_rival(tiny: Config, sketches: None) -> Callable[[str], Path]:
    """Trains one of `RIVALS` for a few steps: `train_rival("unet")` gives its checkpoint."""

    def train(kind: str) -> Path:
        changes = {"network.kind": kind, "network.idh_head.hidden": [8], **RIVALS[kind]}
        return run_training(override(tiny, {**changes, "train.epochs": 1}), launch_locally) / "best"

    return train


@pytest.fixture
def run_bundle(tmp_path: Path) -> Bundle:
    """Runs a command of `python -m monai.bundle` in a fresh process and another folder."""
    place = tmp_path / "elsewhere"
    place.mkdir()

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        path = [str(Path(mttu.__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "monai.bundle", *(str(word) for word in words)]
        return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def copy_checkpoint(tmp_path: Path, tiny_checkpoint: Path) -> Callable[..., Path]:
    """A copy of `tiny_checkpoint` whose network has learned these tasks alone."""

    def copy(tasks: list[str]) -> Path:
        folder = tmp_path / "copy" / "_".join(["best", *tasks])
        network: Network = read_checkpoint(tiny_checkpoint)[0]
        shutil.copytree(tiny_checkpoint, folder)
        write_checkpoint(folder, network.state_dict(), read_checkpoint(tiny_checkpoint)[1], {}, learned_tasks=tasks)  # type: ignore[arg-type]
        return folder

    return copy


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """As in the processes that `run_bundle` starts: sums in another order have other last bits."""
    assert torch.get_num_threads() == 1

"""The network of `docs/networks.md` as a package of its own: built, installed as a wheel, listed and trained."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mttu
from mttu.config import override
from mttu.networks.checkpoint import read_checkpoint
from mttu.search.presets import preset

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "mynet"
version = "1.0"

[tool.setuptools]
py-modules = ["mynet"]

"""
SCHEDULE = {
    "patch.size": [16, 16, 16],
    "train.epochs": 1,
    "train.steps_per_epoch": 1,
    "train.global_batch": 2,
    "train.batch_per_worker": 2,
    "inference.overlap": 0.0,
    "tracking.enabled": False,
    "network.idh_head.hidden": [8],
}


def blocks_of(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of installed packages that holds the wheel's alone."""
    source = tmp_path_factory.mktemp("source")
    (module,) = [block for block in blocks_of("python") if block.startswith("# mynet.py")]
    (points,) = [block for block in blocks_of("toml") if "mttu.networks" in block]
    (source / "mynet.py").write_text(module)
    (source / "pyproject.toml").write_text(PROJECT + points)
    wheels, installed = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    call("-m", "build", "--wheel", "--no-isolation", "--outdir", wheels, source)
    (wheel,) = wheels.glob("mynet-1.0-*.whl")
    call("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", installed, wheel)
    return installed


def call(*words, path=()):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *(str(word) for word in words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.ray
def test_a_network_of_another_wheel_is_listed_and_trained(site, manifest_file, phantom_cache, tmp_path, monkeypatch):
    path = [site, Path(mttu.__file__).parents[1]]
    (row,) = json.loads(call("-m", "mttu", "networks", "--only", "mynet", "--json", path=path))
    assert (row["title"], row["source"], row["tasks"]) == ("MyNet", "where it is published", ["segmentation", "idh"])
    assert row["parameters"] == (4 * 8 * 8 + 8) + (8 * 4 * 8 + 4)
    changes = {
        **{"network.kind": "mynet", "network.options.width": 6, **SCHEDULE},
        **{"data.manifest": str(manifest_file), "data.cache_dir": str(phantom_cache)},
        **{"output.folder": str(tmp_path), "output.name": "run", "workers.num_workers": 1},
    }
    words = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in changes.items()]
    call("-m", "mttu", "train", "--preset", "demo", *words, path=path)
    (epoch,) = json.loads((tmp_path / "run" / "finished.json").read_text())["history"]
    assert {"train/loss_segmentation", "train/loss_idh"} < epoch.keys()
    monkeypatch.syspath_prepend(site)
    network, settings = read_checkpoint(tmp_path / "run")
    assert settings.network == override(preset("demo"), {**changes}).network
    assert type(network.body).__name__ == "MyNet"
    assert network.body.down.weight.shape == (6, 4, 2, 2, 2)
    monkeypatch.delitem(sys.modules, "mynet")

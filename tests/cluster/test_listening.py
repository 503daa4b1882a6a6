"""What is open to the network while a command runs: nothing but the loopback interface."""

import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from listening import LOOPBACK, find_listening

from mttu.config import Config, override, to_yaml


@pytest.fixture
def settings_file(tiny: Config, tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(to_yaml(override(tiny, {"workers.num_workers": 2, "train.global_batch": 2, "train.epochs": 2})))
    return path


def watch(arguments: list[str], folder: Path) -> set[tuple[str, str]]:
    """Runs a command in a home folder of its own; all that listened, ever."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "GLOO_"))}
    logs = Path(tempfile.mkdtemp(prefix="logs-", dir="/tmp"))  # the path of a socket must be short
    environment |= {"HOME": str(folder / "home"), "RAY_TMPDIR": str(logs)}
    environment["RAY_AUTH_MODE"] = "token"  # as the pages advise for one's own cluster
    (folder / "home").mkdir()
    log = folder / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mttu", *arguments],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    seen: set[tuple[str, str]] = set()
    logged, shut = False, set[int]()
    while process.poll() is None:
        logged = logged or any(logs.rglob("*.log"))
        shut |= {stat.S_IMODE(path.stat().st_mode) for path in logs.glob("ray-*")}  # Ray opens those that it knows of
        seen |= set(find_listening(process.pid))
        time.sleep(0.1)
    assert process.returncode == 0, log.read_text()[-3000:]
    assert find_listening(process.pid) == []
    assert not list((folder / "home").rglob("*token*"))
    assert logged
    assert shut == {0o700}
    assert list(logs.iterdir()) == []  # logs name cases
    logs.rmdir()
    return seen


def is_open(seen: set[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(one for one in seen if one[0] not in LOOPBACK)


@pytest.mark.slow
@pytest.mark.ray
def test_training_on_two_workers_listens_on_loopback_only(settings_file: Path, tmp_path: Path) -> None:
    seen = watch(["train", "--config", str(settings_file)], tmp_path)
    assert any("gcs_server" in command for _, command in seen)
    assert any("Train" in command for _, command in seen)  # the group of the two workers
    assert is_open(seen) == []


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("command", ["prepare", "score", "self-train", "one worker", "tune"])
def test_every_other_command_that_starts_ray_listens_on_loopback_only(
    command: str, settings_file: Path, manifest_file: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("format_version: 1\nspace:\n  train.seed: [0]\n")
    arguments = {
        "prepare": ["prepare", str(manifest_file), "--cache", str(tmp_path / "cache")],
        "score": [
            "score",
            str(tiny_checkpoint),
            str(manifest_file),
            "--split",
            "val",
            "-o",
            str(tmp_path / "mc.parquet"),
        ],
        "self-train": ["self-train", "--config", str(settings_file), "self_training.rounds=1"],
        "one worker": ["train", "--config", str(settings_file), "workers.num_workers=1"],
        "tune": ["tune", str(space), "--config", str(settings_file), "workers.num_workers=1"],
    }
    seen = watch(arguments[command], tmp_path)
    assert any("gcs_server" in listening for _, listening in seen)
    assert is_open(seen) == []


def test_nothing_is_started_where_ray_was_imported_first() -> None:
    script = (
        "import ray, mttu.cluster.session as session\n"
        "from mttu.config import WorkerSettings\n"
        "with session.connect(WorkerSettings()): pass"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Ray: was imported before mttu" in done.stderr

"""Who may read what mttu writes: those whom the user's umask allows, and with MTTU_PRIVATE nobody else."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mttu.config import override
from mttu.data.cache import cache_case
from mttu.data.findings import Finding, write_findings
from mttu.data.manifest import read_manifest
from mttu.predict import plan_predictions, predict_cases
from mttu.training.run import launch_locally, run_training


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def write_everything(tiny, folder: Path) -> None:
    """All kinds of writers: files and folders that are renamed, checkpoints, tables, masks, pictures."""
    write_findings(folder / "findings.csv", [Finding("note", "", "x")])
    manifest = read_manifest(tiny.data.manifest)
    case = manifest.cases[0]
    cache_case(case, folder / "cache", manifest.modalities, tiny.data.prepare)
    changes = {"train.epochs": 1, "output.folder": str(folder / "runs")}
    run = run_training(override(tiny, changes), launch_locally)
    predict_cases(plan_predictions(run, [case.images["flair"].parent], folder / "predictions"))


def modes(folder: Path) -> dict[str, set[str]]:
    """Modes of folders and of files below one; the lock holds nothing and belongs to all."""
    found: dict[str, set[str]] = {"folders": set(), "files": set()}
    for path in folder.rglob("*"):
        kind = "folders" if path.is_dir() else "files"
        if path.name != ".lock":
            found[kind].add(oct(stat.S_IMODE(path.lstat().st_mode)))
    return found


def test_the_umask_decides_for_every_file_and_folder(tiny, tmp_path, umask, monkeypatch):
    monkeypatch.setattr("mttu.training.run.draw_results", lambda *arguments: [])  # pictures take seconds; one is enough
    umask(0o027)
    (tmp_path / "out").mkdir()
    write_everything(tiny, tmp_path / "out")
    assert modes(tmp_path / "out") == {"folders": {"0o750"}, "files": {"0o640"}}


@pytest.mark.parametrize(("chosen", "expected"), [("1", 0o077), ("true", 0o077), ("0", 0o022), ("", 0o022)])
def test_one_variable_shuts_the_others_out(chosen, expected):
    script = "import os; os.umask(0o022); import mttu; raise SystemExit(os.umask(0))"
    environment = {**os.environ, "MTTU_PRIVATE": chosen}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert done.returncode == expected


@pytest.mark.parametrize("chosen", ["y", "2", "private"])
def test_a_word_that_is_neither_on_nor_off_is_refused(chosen):
    command, environment = [sys.executable, "-c", "import mttu"], {**os.environ, "MTTU_PRIVATE": chosen}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: MTTU_PRIVATE is '{chosen}'; set it to 1, and nobody else may read what mttu writes, or to 0, and the "
        "umask decides\n"
    )

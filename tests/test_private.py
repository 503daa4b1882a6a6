"""Who may read what mttu writes: those whom the user's umask allows, and with MTTU_PRIVATE nobody else."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mttu.config import override, to_yaml
from mttu.data.cache import cache_case
from mttu.data.findings import Finding, write_findings
from mttu.data.manifest import read_manifest
from mttu.phantom import TRUTH_TABLE
from mttu.predict import plan_predictions, predict_cases
from mttu.search.presets import preset
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


def test_the_umask_decides_for_what_training_and_prediction_write(tiny, tmp_path, umask, monkeypatch):
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


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("private", "folders", "files"), [("", "0o750", "0o640"), ("1", "0o700", "0o600")])
def test_every_command_writes_with_the_rights_that_were_asked_for(tmp_path, tiny_changes, private, folders, files):
    """Each command as a person runs it, in a process of its own: nothing is left out of what it writes."""
    ray = Path(tempfile.mkdtemp(prefix="m"))  # short, for the names of sockets
    environment = {**os.environ, "MTTU_PRIVATE": private, "RAY_TMPDIR": str(ray)}
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    out = tmp_path / "out"
    changes = {**tiny_changes, "train.epochs": 1, "mc.passes": 2, "self_training.rounds": 1, "tracking.enabled": True}
    changes |= {"data.manifest": str(out / "m.parquet"), "data.cache_dir": str(out / "cache")}
    changes |= {"output.folder": str(out / "runs"), "output.name": "r", "selection.confidence_threshold": 0.5}
    (tmp_path / "s.yaml").write_text(to_yaml(override(preset("demo"), changes)))
    best, scores = out / "runs" / "r" / "best", out / "scores.parquet"
    commands = [
        ["phantom", out / "ph", "--cases", "10", "--size", "32", "--unlabelled-fraction", "0.3"],
        ["cohort", out / "ph", "--clinical", out / "ph" / "clinical.csv", "-o", out / "m.parquet"],
        ["prepare", out / "m.parquet", "--config", tmp_path / "s.yaml"],
        ["self-train", "--config", tmp_path / "s.yaml"],
        ["score", best, out / "m.parquet", "--split", "unlabelled", "--actors", "0", "-o", scores],
        ["select", scores, "-o", out / "selection", "--truth", out / "ph" / TRUTH_TABLE],
        ["predict", best, out / "m.parquet", "-o", out / "predictions"],
        ["evaluate", out / "predictions", out / "m.parquet", "--resamples", "100", "-o", out / "evaluation"],
        ["ensemble", best, out / "runs" / "r" / "round_0" / "best", "-o", out / "ensemble"],
    ]
    try:
        for command in commands:
            words = [sys.executable, "-m", "mttu", *map(str, command)]
            done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, umask=0o027)
            assert done.returncode == 0, (words, done.stderr)
    finally:
        shutil.rmtree(ray, ignore_errors=True)
    found = {path: oct(stat.S_IMODE(path.lstat().st_mode)) for path in out.rglob("*")}
    lock = "0o600" if private else "0o666"
    allowed = {path: folders if path.is_dir() else lock if path.name == ".lock" else files for path in found}
    assert {str(path): mode for path, mode in found.items() if mode != allowed[path]} == {}
    assert {".parquet", ".csv", ".png", ".pdf", ".json", ".db", ".safetensors", ".npy", ".gz", ".lock"} <= {
        path.suffix or path.name for path in found
    }

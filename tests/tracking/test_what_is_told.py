"""All that MLflow holds of a training on patients: every value of its database, every byte of its artifacts."""

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from mttu.config import Config, override
from mttu.data.manifest import read_manifest, write_manifest
from mttu.networks.checkpoint import read_learned_from
from mttu.training.run import launch_locally, run_training


@pytest.mark.slow
def test_a_training_on_patients_tells_nothing_of_them(tiny: Config) -> None:
    manifest = read_manifest(tiny.data.manifest)
    cases = [replace(case, age=41.375, site="Xanadu") for case in manifest.cases]
    write_manifest(replace(manifest, cases=tuple(cases), synthetic=False), tiny.data.manifest)
    folder = run_training(override(tiny, {"tracking.enabled": True}), launch_locally)
    with sqlite3.connect(folder.parent / "mlflow.db") as database:
        told = "\n".join(database.iterdump())
    (run,) = [path for path in folder.parent.rglob("artifacts") if path.is_dir()]
    kept = {path.relative_to(run).as_posix(): path for path in run.rglob("*") if path.is_file()}
    assert set(kept) == {
        "config.yaml",
        *(f"best/{name}" for name in ("calibration.json", "checkpoint.json", "config.yaml")),
        *(f"best/{name}" for name in ("distribution.json", "weights.safetensors")),
        "pictures/learning_curves.png",
    }
    for path in kept.values():
        told += path.read_bytes().decode("latin-1")
    for case in cases:
        assert case.case_id not in told
        assert case.patient_id not in told
    assert "41.375" not in told
    assert "Xanadu" not in told
    known = read_learned_from(folder)
    assert known is not None
    for digest in known.groups[0][1]:
        assert digest not in told
    assert json.loads(Path(folder / "best" / "calibration.json").read_text())["patients"]  # here it does say

"""Each network other than MTTU-Net through the commands: one epoch, a prediction, its evaluation."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from mttu.config.network import RIVALS
from mttu.search.ablations import changes_of
from mttu.search.presets import preset
from mttu.training.run import launch_locally

SCHEDULE = {
    "train.epochs": 1,
    "train.steps_per_epoch": 1,
    "train.global_batch": 2,
    "train.batch_per_worker": 2,
    "tracking.enabled": False,
    "network.idh_head.hidden": [8],
    "inference.overlap": 0.0,
}
ROWS = [*((kind, "as in Table VI") for kind in RIVALS), ("segresnet", "both tasks"), ("cmsvnet", "idh alone")]
"""Those of Table VI, a network that segments with our IDH head, and one that does both without its decoder."""


def words_of(changes):
    return [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in changes.items()]


def read_table(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture
def undrawn(sketches, monkeypatch):
    """Training on this process, for Ray has tests of its own; and no figures of it and of evaluations."""
    monkeypatch.setattr("mttu.cluster.train.launch_on_ray", launch_locally)
    monkeypatch.setattr("mttu.report.files.draw_pictures", lambda *arguments: {})


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("kind", "wanted"), ROWS)
def test_train_predict_and_evaluate(kind, wanted, run, manifest_file, phantom_manifest, phantom_cache, tmp_path):
    changes = {"network.kind": kind, **changes_of(kind, preset("demo"))}
    tasks = {"both tasks": ["segmentation", "idh"], "idh alone": ["idh"]}.get(wanted, changes["network.tasks"])
    folder, predictions, scores = tmp_path / "runs" / "one", tmp_path / "predictions", tmp_path / "scores"
    places = {
        "data.manifest": str(manifest_file),
        "data.cache_dir": str(phantom_cache),
        "output.folder": str(folder.parent),
        "output.name": folder.name,
    }
    changes |= {"network.tasks": tasks, **SCHEDULE, **places}
    code, _, err = run("train", "--preset", "demo", *words_of(changes))
    assert code == 0, err
    (epoch,) = json.loads((folder / "finished.json").read_text())["history"]
    losses = {f"train/loss_{task}" for task in tasks} | ({"train/loss_idh_per_label"} if "idh" in tasks else set())
    assert {name for name in epoch if name.startswith("train/loss_")} == losses
    code, _, err = run("predict", folder, manifest_file, "-o", predictions, "--split", "test")
    assert code == 0, err
    (case,) = [case for case in phantom_manifest.cases if case.split == "test"]
    (row,) = read_table(predictions / "predictions.csv")
    code, _, err = run("evaluate", predictions, manifest_file, "-o", scores, "--resamples", "50")
    assert code == 0, err
    idh_rows, region_rows = read_table(scores / "case_idh.csv"), read_table(scores / "case_scores.csv")
    if "idh" in tasks:
        assert 0 < float(row["idh_mutant_probability"]) < 1
        assert [one["mutant_probability"] for one in idh_rows] == [row["idh_mutant_probability"]]
    else:
        assert row["idh_mutant_probability"] == ""
        assert idh_rows == []
    if "segmentation" in tasks:
        image, truth = nib.load(predictions / f"{case.case_id}_seg.nii.gz"), nib.load(case.seg)
        found, true = np.asarray(image.dataobj), np.asarray(truth.dataobj) > 0
        assert found.shape == true.shape == (32, 32, 32)
        assert np.array_equal(image.affine, truth.affine)
        assert set(np.unique(found).tolist()) <= {0, 1, 2, 4}
        dice = 2 * np.sum((found > 0) & true) / (np.sum(found > 0) + np.sum(true))
        (whole,) = [one for one in region_rows if one["region"] == "wt"]
        assert float(whole["dice"] or 0) == pytest.approx(dice, abs=1e-6)
    else:
        assert list(predictions.glob("*_seg.nii.gz")) == []
        assert region_rows == []

"""Cross-validation of real, tiny trainings in this process."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file

from mttu.cohort.splits import draw_folds, write_folds
from mttu.config import override
from mttu.data.manifest import read_manifest, write_manifest
from mttu.errors import InputError
from mttu.metrics.calibration import fit_calibration
from mttu.metrics.classification import choose_threshold
from mttu.predict import plan_predictions, predict_cases
from mttu.pseudo_labels.scoring import plan_scoring, score_cases
from mttu.report import evaluate_cases, plan_evaluation
from mttu.training.folds import cross_validate, read_folds_table
from mttu.training.run import launch_locally, run_training

pytestmark = pytest.mark.usefixtures("sketches")


class StoppedError(Exception):
    pass


@pytest.fixture
def short(tiny):
    # with this seed the folds' networks tell the classes apart better than chance, so that something is fitted
    return override(tiny, {"train.epochs": 2, "mc.passes": 2, "train.seed": 1, "data.folds": 2})


def read_weights(folder):
    return load_file(folder / "weights.safetensors")


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def store_as_before(folder, names):
    """Rewrites a cross-validation to what versions without `data.folds` stored of it."""
    marks = [folder / "run.json", *folder.glob("fold_*/run.json")]
    assert len(marks) == 3
    for mark in marks:
        content = json.loads(mark.read_text())
        settings = {name: value for name, value in content["settings"].items() if not name.startswith("data.fold")}
        assert len(settings) == len(content["settings"]) - 2
        content["settings"] = settings | (names if mark == marks[0] else {})
        mark.write_text(json.dumps(content))


def test_folds_are_trained_and_a_stopped_one_goes_on(short, tmp_path, monkeypatch):
    def tell(fold, epoch, metrics):
        told.append((fold, epoch))

    def stop(fold, epoch, metrics):
        tell(fold, epoch, metrics)
        if (fold, epoch) == (2, 1):
            raise StoppedError

    told = []
    with pytest.raises(StoppedError):
        cross_validate(short, launch_locally, show=stop)
    store_as_before(short.output.place, {"folds": 2, "fold seed": 0})
    folder = cross_validate(short, launch_locally, show=tell)
    assert told == [(1, 1), (1, 2), (2, 1), (2, 2)]
    cross_validate(short, launch_locally, show=tell)
    assert told == [(1, 1), (1, 2), (2, 1), (2, 2)]
    rows = {row.metric: row for row in read_folds_table(folder)}
    best = [json.loads((folder / f"fold_{n}" / "best" / "checkpoint.json").read_text())["metrics"] for n in (1, 2)]
    for name in ("val/dice", "val/idh_ce"):
        assert rows[name].values == tuple(metrics[name] for metrics in best)
        assert rows[name].mean == pytest.approx((best[0][name] + best[1][name]) / 2)
    first, second = (read_weights(folder / "ensemble" / f"member_{number}") for number in (1, 2))
    assert not same(first, second)
    write_folds(draw_folds(read_manifest(short.data.manifest), 2), tmp_path / "folds")
    alone = override(
        short, {"data.manifest": str(tmp_path / "folds" / "fold_2.parquet"), "data.folds": 0, "output.name": "alone"}
    )
    assert same(second, read_weights(run_training(alone, launch_locally) / "best"))  # as `mttu split` and `mttu train`
    check_calibration(folder, short.data.manifest, tmp_path, monkeypatch)
    table = score_cases(plan_scoring(folder, short.data.manifest, "test"), torch.device("cpu"))
    assert [row.error for row in table.rows] == [""]
    assert table.about["members"] == 2


def check_calibration(folder, manifest, tmp_path, monkeypatch):
    """What each fold's network says of its own val cases, as `mttu predict` computes it, calibrates the ensemble."""
    monkeypatch.setattr("mttu.predict.cases.draw_overlay", lambda *arguments, **named: Figure())
    rows = pq.read_table(folder / "ensemble" / "out_of_fold.parquet").to_pylist()
    for number in (1, 2):
        fold = read_manifest(folder / "manifests" / f"fold_{number}.parquet")
        write_manifest(replace(fold, cases=fold.split("val")), tmp_path / "val.parquet")
        plan = plan_predictions(folder / f"fold_{number}", [tmp_path / "val.parquet"], tmp_path / f"val_{number}")
        found = {row.case_id: row.idh_mutant_probability for row in predict_cases(plan)}
        assert {row["case_id"]: row["mutant_probability"] for row in rows if row["fold"] == number} == found
    known = [row["mutant_probability"] for row in rows], [row["idh"] for row in rows]
    threshold, temperature = choose_threshold(*known), fit_calibration(*known).temperature
    predict_cases(plan_predictions(folder, [manifest], tmp_path / "all"))
    table = pq.read_table(tmp_path / "all" / "predictions.parquet").to_pylist()
    taught = {case.case_id: case.split in ("train", "val") for case in read_manifest(manifest).cases}
    assert {row["case_id"]: row["learned_from"] for row in table} == taught
    assert {row["case_id"]: row["calibrated_on"] for row in table} == taught
    for row in table:
        assert row["idh_call"] == ("mutant" if row["idh_mutant_probability"] >= threshold else "wild type")
    idh = evaluate_cases(
        plan_evaluation(tmp_path / "all", manifest, tmp_path / "out", num_resamples=2, baselines=False)
    ).summary["idh"]
    assert idh["fitted_on"] == {"cases": "out-of-fold", "num_cases": 6, "notes": []}
    assert idh["at_thresholds"][1]["threshold"] == threshold
    assert idh["calibrations"][0]["temperature"] == temperature


def test_a_folder_is_of_one_kind_and_of_one_draw(short, tmp_path):
    run_training(override(short, {"data.folds": 0}), launch_locally)
    with pytest.raises(InputError, match=r"with other settings or data \(data.folds: 0 -> 2\)"):
        cross_validate(short, launch_locally)
    other = override(short, {"output.name": "folds"})

    def stop(fold, epoch, metrics):
        raise StoppedError

    with pytest.raises(StoppedError):
        cross_validate(other, launch_locally, show=stop)
    with pytest.raises(InputError, match=r"\(data.folds: 2 -> 0\)"):
        run_training(override(other, {"data.folds": 0}), launch_locally)
    for name, message in {"data.fold_seed": "data.fold_seed: 0 -> 1", "optim.lr": r"optim.lr: .* -> 1.0"}.items():
        with pytest.raises(InputError, match=rf"\({message}\)"):
            cross_validate(override(other, {name: 1}), launch_locally)
    with pytest.raises(InputError, match=r"data\.folds: this runs one training"):
        run_training(other, launch_locally)


def test_problems_are_told_before_anything_is_there(short, tmp_path):
    with pytest.raises(InputError, match="IDH mutant patients in train and val for 9 folds; take at most"):
        cross_validate(override(short, {"data.folds": 9}), launch_locally)
    assert not (tmp_path / "runs").exists()

"""Folds over a callable that trains nothing: what is run, kept, refused and summarised."""

import json
import os
import shutil
from pathlib import Path
from statistics import stdev

import pyarrow.csv
import pytest
from held_out_answers import keep_answers

from mttu.cohort.splits import draw_folds
from mttu.data.manifest import read_manifest
from mttu.errors import InputError
from mttu.networks.ensemble import describe_checkpoint, read_members
from mttu.training.folds import FoldsRow, check_each, read_folds_table, run_folds, summarise_folds

AUC = {1: 0.5, 2: 0.75, 3: 1.0}


class StoppedError(Exception):
    pass


@pytest.fixture
def drawn(phantom_manifest):
    return draw_folds(phantom_manifest, 3, seed=1)


@pytest.fixture(scope="module")
def trained(write_tiny, tmp_path_factory):
    """Three checkpoints of different weights, as training would give. Not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    return {number: write_tiny(folder / f"{number}", spoil=float(number)) for number in (1, 2, 3)}


class Trainer:
    """Puts a checkpoint into each fold's folder; stops before that of `stop_at`."""

    def __init__(self, trained, stop_at=None):
        self.trained, self.stop_at, self.called = trained, stop_at, []

    def __call__(self, number, manifest, folder):
        self.called.append((number, [case.case_id for case in read_manifest(manifest).split("val")]))
        if number == self.stop_at:
            raise StoppedError
        shutil.copytree(self.trained[number], folder / "best", dirs_exist_ok=True)
        keep_answers(folder, read_manifest(manifest), lambda case: (0.3 if case.idh else 0.2) + 0.1 * number)
        return {"best": {"val/idh_auc": AUC[number], "val/odd": float("nan") if number == 2 else 2.0}, "last": {}}


def test_each_fold_is_run_once_and_summarised(drawn, trained, tmp_path):
    trainer = Trainer(trained)
    rows = run_folds(drawn, tmp_path, trainer)
    assert trainer.called == [
        (number, [case.case_id for case in fold.split("val")]) for number, fold in enumerate(drawn, 1)
    ]
    auc, odd = rows
    assert auc == FoldsRow("best", "val/idh_auc", 0.75, stdev(AUC.values()), 3, (0.5, 0.75, 1.0))
    assert odd == FoldsRow("best", "val/odd", 2.0, 0.0, 2, (2.0, None, 2.0))
    assert read_folds_table(tmp_path) == rows
    table = pyarrow.csv.read_csv(tmp_path / "folds.csv").to_pylist()
    assert table[0] == {
        "network": "best",
        "metric": "val/idh_auc",
        "mean": 0.75,
        "std": 0.25,
        "num_folds": 3,
        "fold_1": 0.5,
        "fold_2": 0.75,
        "fold_3": 1.0,
    }
    assert table[1]["fold_2"] is None
    members = json.loads((tmp_path / "ensemble" / "ensemble.json").read_text())["members"]
    assert [member["weights_sha256"] for member in members] == [
        describe_checkpoint(tmp_path / f"fold_{number}")["weights_sha256"] for number in (1, 2, 3)
    ]
    assert len(read_members(tmp_path)[0]) == 3
    assert (tmp_path / "folds.json").exists()


def test_a_finished_fold_is_never_run_again(drawn, trained, tmp_path):
    with pytest.raises(StoppedError):
        run_folds(drawn, tmp_path / "broken", Trainer(trained, stop_at=2))
    assert not (tmp_path / "broken" / "folds.json").exists()
    assert not (tmp_path / "broken" / "ensemble").exists()
    trainer = Trainer(trained)
    rows = run_folds(drawn, tmp_path / "broken", trainer)
    assert [number for number, _ in trainer.called] == [2, 3]
    assert rows == run_folds(drawn, tmp_path / "unbroken", Trainer(trained))
    again = Trainer(trained, stop_at=1)
    assert run_folds(drawn, tmp_path / "broken", again) == rows
    assert again.called == []


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_kills_before_a_rename_change_nothing(drawn, trained, tmp_path, monkeypatch, step):
    replaced, replace, kill_at = [], os.replace, None

    def count(source, target):
        replaced.append(target)
        if len(replaced) == kill_at:
            raise StoppedError
        replace(source, target)

    monkeypatch.setattr("mttu.files.os.replace", count)
    expected = run_folds(drawn, tmp_path / "unbroken", Trainer(trained))
    total = len(replaced)
    assert total > 10
    for boundary in range(1, total + 1, step):
        folder = tmp_path / f"killed_{boundary}"
        replaced.clear()
        kill_at = boundary
        with pytest.raises(StoppedError):
            run_folds(drawn, folder, Trainer(trained))
        kill_at = None
        assert run_folds(drawn, folder, Trainer(trained)) == expected, f"killed before rename {boundary}"
        assert (folder / "folds.json").read_bytes() == (tmp_path / "unbroken" / "folds.json").read_bytes()
        about, whole = (describe_checkpoint(place / "ensemble") for place in (folder, tmp_path / "unbroken"))
        assert about["weights_sha256"] == whole["weights_sha256"]
        for name in ("ensemble/calibration.json", "ensemble/out_of_fold.csv", "out_of_fold.csv"):
            assert (folder / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes(), name
        assert not list(folder.rglob(".partial-*"))


def test_other_folds_in_the_folder_are_refused(drawn, phantom_manifest, trained, tmp_path):
    run_folds(drawn, tmp_path, Trainer(trained))
    others = draw_folds(phantom_manifest, 3, seed=2)
    assert [one.fingerprint for one in others] != [one.fingerprint for one in drawn]
    with pytest.raises(InputError, match=r"its folds are not those that are drawn now; another version of scikit-lea"):
        run_folds(others, tmp_path, Trainer(trained))
    with pytest.raises(InputError, match="manifests does not hold the 2 folds that it was started with"):
        run_folds(drawn[:2], tmp_path, Trainer(trained))


def test_a_finished_fold_that_was_changed_is_refused(drawn, trained, tmp_path):
    run_folds(drawn, tmp_path, Trainer(trained))
    shutil.copytree(trained[3], tmp_path / "fold_2" / "best", dirs_exist_ok=True)
    with pytest.raises(InputError, match="fold_2: its weights are not those that the fold was finished with; restore"):
        run_folds(drawn, tmp_path, Trainer(trained))
    (tmp_path / "fold_2" / "best" / "weights.safetensors").unlink()
    with pytest.raises(InputError, match="fold_2: its weights are not those"):
        run_folds(drawn, tmp_path, Trainer(trained))
    (tmp_path / "fold_1.json").write_text("{")
    with pytest.raises(InputError, match=r"fold_1\.json: damaged; restore it from a copy, or remove fold_1\.json and"):
        run_folds(drawn, tmp_path, Trainer(trained))


def test_a_fold_without_a_checkpoint_is_not_finished(drawn, tmp_path):
    with pytest.raises(InputError, match=r"fold_1: checkpoint\.json, config\.yaml, weights\.safetensors not found"):
        run_folds(drawn, tmp_path, lambda number, manifest, folder: {})
    assert not (tmp_path / "fold_1.json").exists()


def test_problems_of_all_folds_come_at_once(drawn):
    def check(manifest):
        if manifest is not drawn[1]:
            raise InputError("has no mask")
        return manifest

    with pytest.raises(InputError) as caught:
        check_each(drawn, check)
    assert caught.value.problems == ["fold 1: has no mask", "fold 3: has no mask"]
    assert check_each(drawn[1:2], check) == [drawn[1]]


def test_a_metric_that_few_folds_define():
    alone, nowhere = summarise_folds([{"a": {"x": 0.25, "y": float("inf")}}, {"b": {}}])
    assert alone == FoldsRow("a", "x", 0.25, None, 1, (0.25, None))
    assert nowhere == FoldsRow("a", "y", None, None, 0, (None, None))


@pytest.mark.parametrize("text", ["{", "[]", '{"format_version": 1}', '{"format_version": 1, "rows": [{"mean": 1}]}'])
def test_a_damaged_table_is_refused(tmp_path: Path, text: str):
    (tmp_path / "folds.json").write_text(text)
    with pytest.raises(InputError, match="damaged; remove it and run the same command again"):
        read_folds_table(tmp_path)
    (tmp_path / "folds.json").write_text('{"format_version": 3, "rows": []}')
    with pytest.raises(InputError, match="format_version is 3; this version of mttu reads 1"):
        read_folds_table(tmp_path)

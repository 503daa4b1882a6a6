"""Runs that an earlier version began are finished as if it had never been another (`tests/fixtures/format_1`)."""

import json
import zipfile
from pathlib import Path

import pytest
import torch

from mttu.cli.settings import read_given, resolve_run
from mttu.config import Config, flatten
from mttu.config.changeable import list_changeable
from mttu.config.earlier import GONE, MOVED, NEWER, complete
from mttu.networks.checkpoint import read_checkpoint
from mttu.pseudo_labels.scoring import score_cases
from mttu.search.presets import EARLIER_PRESETS, PRESETS
from mttu.self_training import Callables, run_self_training
from mttu.self_training.evaluation import evaluate_locally
from mttu.training.run import FORMAT_VERSION, MARK, launch_locally, run_training

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
EXPECTED = json.loads((FIXTURES / "format_1" / "expected.json").read_text())
HERE = Callables(launch_locally, lambda plan, on_row: score_cases(plan, torch.device("cpu"), on_row), evaluate_locally)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """The folder as a user has it, with both runs stopped half-way."""
    folder = tmp_path_factory.mktemp("old") / "study"
    with zipfile.ZipFile(FIXTURES / "format_1" / "runs.zip") as archive:
        archive.extractall(folder)
    return folder


def as_then(old, name):
    """Settings by the words of the command that the run was begun with."""
    places = [f"data.manifest={old}/cohort.parquet", f"output.folder={old}/runs", f"output.name={name}"]
    return resolve_run(EXPECTED["preset"], read_given(None, [*EXPECTED["arguments"], *places]), fresh=False)


def assert_history(found, expected):
    """Within 50 times of what types of CPU were seen to differ by, a few voxels of a Dice aside."""
    assert len(found) == len(expected)
    for row, then in zip(found, expected, strict=True):
        for name, value in then.items():
            assert row[name] == pytest.approx(value, abs=2e-3 if "dice" in name else 1e-4), name


def test_a_training_goes_on(old, capsys, monkeypatch):
    monkeypatch.setattr("mttu.training.run.draw_results", lambda *arguments: [])  # pictures take seconds
    epochs = []
    folder = run_training(as_then(old, "training"), launch_locally, show=lambda epoch, metrics: epochs.append(epoch))
    assert epochs == [3, 4]
    assert "train.batch_size=2 is taken as train.global_batch=2" in capsys.readouterr().err
    assert_history(json.loads((folder / "finished.json").read_text())["history"], EXPECTED["training"])
    metrics = json.loads((folder / "best" / "checkpoint.json").read_text())["metrics"]
    assert metrics["epoch"] == EXPECTED["best_epoch"]
    assert json.loads((folder / MARK).read_text())["format_version"] == 1  # what it was begun with stays written
    config = read_checkpoint(old / "runs" / "training" / "train" / "epoch_00002")[1]
    assert (config.train.global_batch, config.train.batch_per_worker) == (2, 2)


def test_a_self_training_goes_on(old, monkeypatch):
    monkeypatch.setattr("mttu.self_training.algorithm.log_round", lambda *arguments: None)
    monkeypatch.setattr("mttu.self_training.evaluation.log_finish", lambda *arguments: None)
    trained = []

    def train(config, folder, on_epoch, on_start):
        trained.append(folder.name)
        return launch_locally(config, folder, on_epoch, on_start)

    folder = run_self_training(as_then(old, "self"), Callables(train, HERE.score, HERE.evaluate))
    assert trained == ["working-round_1"]
    for number in (0, 1):
        found = json.loads((folder / f"round_{number}" / "history.json").read_text())["history"]
        assert_history(found, EXPECTED["self"][str(number)])
    assert (folder / "finished.json").exists()


@pytest.mark.parametrize("name", ["training", "self"])
def test_every_setting_that_old_runs_lack_has_the_value_of_then(old, name):
    """Fails where a setting was added or went, and `mttu.config.earlier` does not know of it."""
    stored = json.loads((old / "runs" / name / MARK).read_text())["settings"]
    completed, now = complete(stored), flatten(Config().model_dump(mode="json"))
    lacking = {setting for setting in now if setting not in completed and not setting.startswith(list_changeable())}
    assert lacking == set()
    assert GONE.keys() | MOVED.keys() >= {setting for setting in stored if setting not in now}
    assert set(MOVED.values()) <= now.keys()
    assert set(NEWER) <= set(now)


def test_every_earlier_format_says_what_its_presets_were():
    assert sorted(EARLIER_PRESETS) == list(range(1, FORMAT_VERSION))
    for presets in EARLIER_PRESETS.values():
        assert set(presets) <= set(PRESETS)

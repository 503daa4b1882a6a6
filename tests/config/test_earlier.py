"""Settings of earlier versions: under today's names, with the values of then; the user is told."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from mttu.cli import app
from mttu.cli.folds import without_folds_of_rounds
from mttu.cli.settings import read_given, resolve, resolve_run
from mttu.config import Config, PrepareSettings, earlier, load_stored_config, override, to_yaml
from mttu.data import cache
from mttu.errors import InputError
from mttu.search.presets import preset
from mttu.training.run import MARK, differences, identify


def batches(config):
    return config.train.global_batch, config.train.batch_per_worker


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train.batch_size=2"], (2, 2)),
        (["train.batch_size=2", "workers.num_workers=4"], (8, 2)),
        (["workers.num_workers=2", "train.batch_size=1"], (2, 1)),
    ],
)
def test_an_earlier_batch_size_is_taken_and_said(arguments, expected, capsys):
    assert batches(resolve("paper", read_given(None, arguments))) == expected
    size = next(argument for argument in arguments if argument.startswith("train.batch_size"))
    assert capsys.readouterr().err == (
        f"argument: {size} is taken as train.global_batch={expected[0]}, for all workers together, and "
        f"train.batch_per_worker={expected[1]}; please write these two\n"
    )


def test_a_files_batch_size_counts_for_the_workers_of_the_command_line(tmp_path, capsys):
    path = tmp_path / "my.yaml"
    path.write_text("train:\n  batch_size: 3\n  epochs: 7\n")
    config = resolve("paper", read_given(path, ["workers.num_workers=2"]))
    assert batches(config) == (6, 3)
    assert config.train.epochs == 7
    assert f"{path}: train.batch_size=3 is taken as train.global_batch=6" in capsys.readouterr().err
    assert batches(resolve("paper", read_given(path, ["train.global_batch=12"]))) == (12, 3)


def test_the_earlier_names_of_folds_are_taken_and_said(tmp_path, capsys):
    config = resolve("paper", read_given(None, ["self_training.folds=3", "self_training.fold_seed=7"]))
    assert (config.data.folds, config.data.fold_seed) == (3, 7)
    said = capsys.readouterr().err
    assert "argument: self_training.folds is now data.folds; please write that\n" in said
    assert "argument: self_training.fold_seed is now data.fold_seed; please write that\n" in said
    twice = r"argument: self_training\.folds is now data\.folds; leave it out, because the new name is given too"
    with pytest.raises(InputError, match=twice):
        resolve("paper", read_given(None, ["self_training.folds=3", "data.folds=3"]))
    path = tmp_path / "config.yaml"
    path.write_text("self_training:\n  folds: 3\n  fold_seed: 7\n")
    assert load_stored_config(path) == Config()  # weights are those of one fold
    with pytest.raises(InputError, match=r"settings: self_training\.folds: is now data\.folds"):
        override(Config(), {"self_training.folds": 3})


def test_a_plain_training_leaves_the_folds_of_a_self_training_out_as_before():
    given = read_given(None, ["self_training.folds=3", "self_training.fold_seed=7", "optim.lr=0.5"])
    assert resolve("paper", without_folds_of_rounds(given)) == override(Config(), {"optim.lr": 0.5})
    words = ["train", "--print-config", "self_training.folds=3"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    assert "argument: self_training.folds has no effect on `mttu train`, as before; data.folds would" in result.output
    assert yaml.safe_load(result.stdout[result.stdout.index("data:") :])["data"]["folds"] == 0


def test_the_seed_of_folds_decides_nothing_without_folds():
    one, other = (identify(override(Config(), {"data.fold_seed": seed}), "abc") for seed in (0, 3))
    assert differences(one, other) == []
    one, other = (identify(override(Config(), {"data.folds": 2, "data.fold_seed": seed}), "abc") for seed in (0, 3))
    assert differences(one, other) == ["data.fold_seed: 0 -> 3"]


@pytest.mark.parametrize("prefix", ["", "self_training."], ids=["training", "self-training"])
def test_a_cross_validation_of_then_goes_on_with_its_own_folds_alone(prefix):
    seed = "fold seed" if not prefix else "self_training.fold_seed"
    now = identify(override(Config(), {"data.folds": 3}), "abc")
    kept = {name: value for name, value in now["settings"].items() if not name.startswith("data.fold")}
    then = {**now, "settings": {**kept, f"{prefix}folds": 3, seed: 0}}
    assert differences(then, now) == []
    for changes, said in (({"data.folds": 4}, "data.folds: 3 -> 4"), ({}, "data.folds: 3 -> 0")):
        assert differences(then, identify(override(Config(), changes), "abc")) == [said]
    alone = {**now, "settings": kept}  # that was no cross-validation
    assert differences(alone, identify(Config(), "abc")) == []
    assert differences(alone, now) == ["data.folds: 0 -> 3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.batch_size=2", "train.global_batch=4"], "leave it out, because train.global_batch is given too"),
        (["train.batch_size=x"], "is now two settings; set train.global_batch (patches of a step, over all workers"),
        (["train.batch_size=2.5"], "found '2.5'"),
    ],
)
def test_a_batch_size_that_cannot_be_taken_is_refused(arguments, message):
    with pytest.raises(InputError) as caught:
        resolve("paper", read_given(None, arguments))
    assert message in str(caught.value)
    assert str(caught.value).startswith("argument: train.batch_size: is now two settings; ")


@pytest.mark.parametrize("workers", ["abc", "0"])
def test_a_wrong_number_of_workers_is_not_blamed_on_the_batch(workers, capsys):
    with pytest.raises(InputError) as caught:
        resolve("paper", read_given(None, ["train.batch_size=2", f"workers.num_workers={workers}"]))
    [problem] = caught.value.problems
    assert problem.startswith("argument: workers.num_workers: ")
    assert problem.endswith(f"found '{workers}'")
    assert capsys.readouterr().err == ""


def stored_then(config, num_workers, batch):
    """What format 1 kept of a run."""
    identity = identify(override(config, {"workers.num_workers": num_workers}), "abc")
    new = ("train.global_batch", "train.batch_per_worker")
    settings = {name: value for name, value in identity["settings"].items() if name not in new}
    return {**identity, "format_version": 1, "settings": {**settings, "train.batch_size": batch}}


def test_an_old_run_counts_as_its_global_batch():
    config = override(preset("demo"), {"workers.num_workers": 2, "train.global_batch": 6, "train.batch_per_worker": 3})
    now = identify(config, "abc")
    assert differences(stored_then(config, 2, 3), now) == []
    assert differences(stored_then(config, 2, 4), now) == [
        "train.batch_per_worker: 4 -> 3",
        "train.global_batch: 8 -> 6",
    ]
    future = {**stored_then(config, 2, 3), "format_version": 99}
    assert differences(future, now) == ["format_version: 99 -> 2"]


def test_a_setting_that_an_old_run_lacks_counts_as_its_value_then(monkeypatch):
    config = preset("demo")
    old = stored_then(config, 1, 4)
    del old["settings"]["optim.lr"]
    monkeypatch.setattr(earlier, "NEWER", {"optim.lr": config.optim.lr, "mc.passes": 3})  # the latter is free to change
    assert differences(old, identify(config, "abc")) == []
    changed = identify(override(config, {"optim.lr": 0.5}), "abc")
    assert differences(old, changed) == [f"optim.lr: {config.optim.lr} -> 0.5"]


def test_settings_from_before_there_was_a_kind_are_of_our_network(tmp_path):
    config = override(preset("demo"), {"network.bottleneck.kind": "convolution"})
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config).replace("  kind: mttu-net\n", ""))
    assert "mttu-net" not in path.read_text().replace("name: mttu-net", "")
    assert load_stored_config(path) == config
    now = identify(config, "abc")
    then = {**now, "settings": {name: value for name, value in now["settings"].items() if name != "network.kind"}}
    assert differences(then, now) == []
    other = identify(override(config, {"network.kind": "unet"}), "abc")
    assert "network.kind: mttu-net -> unet" in differences(then, other)


def test_an_old_checkpoint_has_the_settings_of_then(tmp_path, monkeypatch):
    lines = to_yaml(override(Config(), {"workers.num_workers": 2})).splitlines()
    lines = [line for line in lines if line.strip().split(":")[0] not in {"global_batch", "batch_per_worker", "power"}]
    lines.insert(lines.index("train:") + 1, "  batch_size: 3")
    lines.remove("  poly_power: 0.9")
    path = tmp_path / "config.yaml"
    path.write_text("\n".join(lines))
    monkeypatch.setattr(earlier, "NEWER", {"optim.poly_power": 0.25})
    config = load_stored_config(path)
    assert batches(config) == (6, 3)
    assert config.optim.poly_power == 0.25


def test_a_prepared_case_of_then_is_still_true(monkeypatch):
    settings = PrepareSettings()
    monkeypatch.setattr(earlier, "NEWER", {"data.prepare.margin_voxels": settings.margin_voxels})
    stored = {name: value for name, value in settings.model_dump(mode="json").items() if name != "margin_voxels"}
    assert earlier.complete_section(cache.PREPARE, stored) == settings.model_dump(mode="json")
    before = cache.settings_hash(["flair"], settings)
    assert before != cache.settings_hash(["flair"], PrepareSettings(margin_voxels=9))
    monkeypatch.setattr(earlier, "NEWER", {"data.prepare.margin_voxels": 9})  # the hash goes without the value of then
    assert cache.settings_hash(["flair"], PrepareSettings(margin_voxels=9)) == before


@pytest.mark.parametrize(
    ("name", "workers", "expected"), [("paper", 1, (2, 2)), ("paper", 2, (4, 2)), ("demo", 2, (8, 4))]
)
def test_an_old_run_goes_on_with_its_preset_of_then(tmp_path, capsys, name, workers, expected):
    given = read_given(None, [f"output.folder={tmp_path}", "output.name=old", f"workers.num_workers={workers}"])
    now = resolve_run(name, given, fresh=False)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / MARK).write_text(json.dumps({"format_version": 1}))
    config = resolve_run(name, given, fresh=False)
    assert batches(config) == expected
    told = capsys.readouterr().err
    if batches(now) == expected:
        assert told == ""
    else:
        assert f"{tmp_path / 'old'}: was begun by an earlier version, whose preset {name} had " in told
        assert f"train.global_batch={expected[0]} (now 4)" in told
    assert resolve_run(name, given, fresh=True) == now
    asked = read_given(None, ["train.global_batch=16"])
    assert resolve_run(name, [*given, *asked], fresh=False).train.global_batch == 16


def test_the_command_line_takes_it():
    result = CliRunner().invoke(app, ["train", "--print-config", "train.batch_size=3"])
    assert result.exit_code == 0
    train = yaml.safe_load(result.stdout)["train"]
    assert (train["global_batch"], train["batch_per_worker"]) == (3, 3)

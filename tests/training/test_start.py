"""Training that starts from weights of an earlier one."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from mttu.config import Config, override
from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.data.manifest import write_manifest
from mttu.errors import InputError
from mttu.networks.checkpoint import write_checkpoint
from mttu.training.held_out import read_held_out
from mttu.training.loop import counted_labels
from mttu.training.run import launch_locally, run_training
from mttu.training.start import check_start, digest_weights, identify_start, load_start
from mttu.training.state import create_state

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("sketches")


@pytest.fixture
def first(trained):
    """The run folder to start from."""
    return trained


@pytest.fixture
def kept(tiny, first):
    """Settings of a training that goes on with its optimiser."""
    [checkpoint] = (first / "train").glob("epoch_*")
    return start(tiny, checkpoint, **{"train.start_optimiser": "kept"})


def start(tiny, first, **changes):
    return override(tiny, {"train.start_from": str(first), **changes})


def test_weights_come_over_and_the_rest_is_fresh(tiny, first):
    state = create_state(tiny, CPU)
    load_start(state, start(tiny, first), CPU)
    weights = load_file(first / "best" / "weights.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.network.state_dict().items())
    assert state.optimizer.state_dict()["state"] == {}
    assert (state.epoch, state.history, state.best) == (0, [], None)


def test_the_optimiser_and_task_weights_come_over_if_kept(kept):
    state = create_state(kept, CPU)
    load_start(state, kept, CPU)
    content = torch.load(kept.train.start_from / "state.pt", weights_only=True)
    moments = state.optimizer.state_dict()["state"]
    assert moments.keys() == content["optimizer"]["state"].keys() != set()
    assert torch.equal(moments[0]["exp_avg"], content["optimizer"]["state"][0]["exp_avg"])
    for name, value in content["weighting"].items():
        assert torch.equal(state.weighting.state_dict()[name], value)


def test_what_a_kept_state_holds_identifies_it_and_not_how_it_was_saved(kept):
    path = kept.train.start_from / "state.pt"
    before, content = identify_start(kept), torch.load(path, weights_only=True)
    torch.save({name: content[name] for name in reversed(content)}, path)
    assert identify_start(kept) == before
    content["optimizer"]["state"][0]["exp_avg"].view(-1)[0] += 1
    torch.save(content, path)
    assert identify_start(kept) != before


def test_what_does_not_fit_is_refused_with_each_difference(tiny, first, tmp_path):
    assert check_start(start(tiny, first)) == []
    wider = start(tiny, first, **{"network.idh_head.hidden": [4], "network.dropout.stem": 0.5})
    dropout, hidden = check_start(wider)
    assert "was trained with network.dropout.stem=0.2, now it is 0.5; set it back, or start from other" in dropout
    assert "was trained with network.idh_head.hidden=[8], now it is [4]" in hidden
    with pytest.raises(InputError, match=r"network\.dropout\.stem=0\.2"):
        run_training(wider, launch_locally)
    [problem] = check_start(start(tiny, first, **{"train.start_optimiser": "kept"}))
    assert "has no state.pt, which train.start_optimiser=kept needs; name a training checkpoint" in problem
    [problem] = check_start(start(tiny, tmp_path / "gone"))
    assert problem.startswith(f"train.start_from: checkpoint {tmp_path / 'gone'}: checkpoint.json")
    with pytest.raises(InputError, match="start_optimiser is kept but start_from is not set"):
        override(Config(), {"train.start_optimiser": "kept"})


def test_a_network_for_one_size_starts_from_weights_of_this_size_alone(tiny, tmp_path):
    options = {"feature_size": 4, "hidden_size": 24, "mlp_dim": 8}
    small = {"network.kind": "unetr", "network.options": options, "network.idh_head.hidden": [8]}
    config = override(tiny, {**small, "patch.size": [16, 16, 16]})
    write_checkpoint(tmp_path / "best", create_state(config, CPU).network.state_dict(), config, {})
    assert check_start(start(config, tmp_path)) == []
    [problem] = check_start(start(config, tmp_path, **{"patch.size": [32, 16, 16]}))
    assert "patch.size=[16, 16, 16], and unetr takes no other; now it is [32, 16, 16]; set it back" in problem


def test_a_run_is_the_same_wherever_its_start_lies_and_another_from_other_weights(tiny, first):
    config = start(tiny, first)
    folder = run_training(config, launch_locally)
    moved = first.rename(first.with_name("moved"))
    assert identify_start(start(tiny, moved)) == f"weights {digest_weights(moved)}"
    assert run_training(start(tiny, moved), launch_locally) == folder
    with pytest.raises(InputError, match=r"train\.start_from: weights [0-9a-f]{64} -> None"):
        run_training(tiny, launch_locally)


@pytest.mark.parametrize(("setting", "counted"), [("true", [1, 0, -1]), ("true+pseudo", [1, 0, -1, 1, 0])])
def test_class_weights_count_pseudo_labels_only_if_asked_for(tiny, phantom_manifest, setting, counted):
    one = phantom_manifest.cases[0]
    cases = [replace(one, idh=idh) for idh in (IDH_MUTANT, IDH_WILD, -1)]
    cases += [replace(one, idh=idh, pseudo_label=True) for idh in (IDH_MUTANT, IDH_WILD)]
    assert counted_labels(cases, override(tiny, {"self_training.class_weights": setting})) == counted


def test_the_start_is_kept_where_no_epoch_is_better(tiny, first):
    spoiling = {"optim.lr": 1.0, "train.epochs": 2, "train.keep_start": True, "train.validate_every": 1}
    run = run_training(start(tiny, first, **spoiling, **{"output.name": "kept"}), launch_locally)
    assert digest_weights(run) == digest_weights(first)
    history = json.loads((run / "finished.json").read_text())["history"]
    assert [row["epoch"] for row in history] == [0, 1, 2]
    assert "train/loss" not in history[0]
    assert history[0]["val/score"] == max(row["val/score"] for row in history)
    chosen = json.loads((run / "best" / "checkpoint.json").read_text())["metrics"]
    assert (chosen["epoch"], chosen["val/score"]) == (0, history[0]["val/score"])
    dropped = run_training(
        start(tiny, first, **{**spoiling, "train.keep_start": False, "output.name": "dropped"}), launch_locally
    )
    assert digest_weights(dropped) != digest_weights(first)
    assert json.loads((dropped / "finished.json").read_text())["history"] == history[1:]
    assert read_held_out(run) == read_held_out(first)


def test_a_training_without_a_start_keeps_none(tiny):
    changes = {"train.epochs": 1, "output.name": "none"}
    plain = run_training(override(tiny, changes), launch_locally)
    asked = run_training(override(tiny, {**changes, "train.keep_start": True, "output.name": "asked"}), launch_locally)
    assert digest_weights(plain) == digest_weights(asked)


def test_a_start_that_lacks_a_task_is_not_kept(tiny, phantom_manifest, tmp_path):
    """Its IDH head is random, and would be kept as one that has learned."""
    cases = tuple(replace(case, idh=IDH_UNKNOWN) for case in phantom_manifest.cases)
    write_manifest(replace(phantom_manifest, cases=cases), tmp_path / "unknown.parquet")
    changes = {"data.manifest": str(tmp_path / "unknown.parquet"), "train.validation_metric": "dice"}
    lacks = run_training(override(tiny, {**changes, "train.epochs": 1, "output.name": "lacks"}), launch_locally)
    config = start(tiny, lacks, **{"train.keep_start": True, "train.epochs": 1, "optim.lr": 1.0})
    history = json.loads((run_training(config, launch_locally) / "finished.json").read_text())["history"]
    assert [row["epoch"] for row in history] == [1]

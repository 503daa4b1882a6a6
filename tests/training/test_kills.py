"""A training killed at any write or rename goes on, by the same command, to the bits of an unbroken run."""

import json
import shutil

import pytest
import torch
from boundaries import BOUNDARIES, KilledError, differences
from safetensors.torch import load_file

from mttu.config import override
from mttu.training.run import launch_locally, run_training

pytestmark = pytest.mark.usefixtures("sketches")


def outcome(folder):
    """What must not depend on kills: best weights, everything in the last checkpoint, the history."""
    newest = sorted((folder / "train").glob("epoch_*"))[-1]
    state = torch.load(newest / "state.pt", weights_only=True)
    history = json.loads((folder / "finished.json").read_text())["history"]
    return {
        "best": load_file(folder / "best" / "weights.safetensors"),
        "state": state,
        "history": history,
        "calibration": [(folder / name).read_bytes() for name in ("held_out.json", "best/calibration.json")],
        "files": sorted(path.name for path in folder.iterdir() if path.name != ".lock"),
    }


def run_killed_everywhere(config, tmp_path, step):
    folder = config.output.folder / config.output.name
    folder.parent.mkdir(exist_ok=True)  # else the first run has one boundary more than the others
    with BOUNDARIES.watch(folder):
        run_training(config, launch_locally)
        total = BOUNDARIES.count
    expected = outcome(folder)
    assert total > 25
    tried = range(1, total + 1, step)
    for boundary in tried:
        shutil.rmtree(folder)
        with pytest.raises(KilledError), BOUNDARIES.watch(folder, kill_at=boundary):
            run_training(config, launch_locally)
        run_training(config, launch_locally)
        assert not differences(expected, outcome(folder)), f"killed at boundary {boundary} of {total}"
    return len(tried)


def test_kills_at_some_boundaries(tiny, tmp_path):
    assert run_killed_everywhere(override(tiny, {"train.epochs": 2}), tmp_path, step=11) >= 3


def test_kills_where_the_start_is_kept(tiny, tmp_path):
    """The start is validated before the first epoch, and the best weights until one is better."""
    first = run_training(override(tiny, {"train.epochs": 1, "output.name": "first"}), launch_locally)
    changes = {"train.start_from": str(first), "train.keep_start": True, "train.epochs": 1, "optim.lr": 1.0}
    assert run_killed_everywhere(override(tiny, changes), tmp_path, step=20) >= 2


@pytest.mark.slow
def test_kills_at_every_boundary(tiny, tmp_path):
    assert run_killed_everywhere(tiny, tmp_path, step=1) > 40


@pytest.mark.slow
def test_kills_at_some_boundaries_of_another_network(tiny, tmp_path):
    """Batch norm, whose running statistics go on with the weights, and an IDH head of its own."""
    options = {"widths": [4, 4, 8, 8, 8], "convolutions": [1, 1, 1, 1, 1], "hidden": [8]}
    changes = {"network.kind": "cmsvnet", "network.options": options, "train.epochs": 2}
    assert run_killed_everywhere(override(tiny, changes), tmp_path, step=11) >= 3

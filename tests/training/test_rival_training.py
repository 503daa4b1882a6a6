"""A network other than MTTU-Net from `network.kind` to predictions, scores and pseudo-labels."""

import json

import pytest
import torch

from mttu.config import override
from mttu.errors import InputError
from mttu.networks.checkpoint import read_checkpoint
from mttu.predict import plan_predictions, predict_cases
from mttu.pseudo_labels.scoring import plan_scoring, score_cases
from mttu.training.run import MARK, launch_locally, run_training
from mttu.training.state import create_state

pytestmark = pytest.mark.usefixtures("sketches")

CPU = torch.device("cpu")
UNET = {"network.kind": "unet", "network.options.channels": [4, 8, 8], "network.idh_head.hidden": [8]}


def test_train_predict_and_score_a_unet(tiny, phantom_folder, tmp_path):
    config = override(tiny, {**UNET, "train.epochs": 2})
    folder = run_training(config, launch_locally)
    network, settings = read_checkpoint(folder)
    assert settings.network == config.network
    start = create_state(config, CPU).network.state_dict()
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, start[name])}
    assert moved == set(start)
    case = sorted(path for path in phantom_folder.iterdir() if path.is_dir())[0]
    (row,) = predict_cases(plan_predictions(folder, [case], tmp_path / "out", "brats", {}, "cpu", None))
    assert row.error == ""
    assert 0 < row.idh_mutant_probability < 1
    table = score_cases(plan_scoring(folder, config.data.manifest, "unlabelled", {"mc.passes": 3}), CPU)
    (scored,) = table.rows
    assert len(set(scored.mutant_probabilities)) == 3
    assert json.loads((folder / MARK).read_text())["settings"]["network.kind"] == "unet"
    assert run_training(config, launch_locally) == folder  # nothing is left to do
    with pytest.raises(InputError, match=r"network\.options\.channels: \[4, 8, 8\] -> \[4, 8, 16\]"):
        run_training(override(config, {"network.options.channels": [4, 8, 16]}), launch_locally)


def test_a_patch_that_the_network_cannot_take_stops_nothing_halfway(tiny):
    with pytest.raises(InputError, match=r"patch\.size: dynunet takes images whose H, W and D are multiples of 32"):
        run_training(override(tiny, {"network.kind": "dynunet"}), launch_locally)
    assert not (tiny.output.folder / tiny.output.name).exists()

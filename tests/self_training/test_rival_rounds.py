"""Self-training of a network other than MTTU-Net."""

import pytest
from safetensors.torch import load_file

from mttu.errors import InputError
from mttu.self_training import inputs, run_self_training
from mttu.self_training.inputs import check_self_training

UNET = {"network.kind": "unet", "network.options.channels": [4, 8, 8], "network.idh_head.hidden": [8]}


@pytest.mark.usefixtures("sketches")
def test_a_unet_with_our_idh_head_goes_through_a_round(make_config, here):
    folder = run_self_training(make_config({**UNET, "self_training.rounds": 1}), here)
    first, second = (load_file(folder / f"round_{number}" / "best" / "weights.safetensors") for number in (0, 1))
    assert "body.network.model.0.conv.unit0.conv.weight" in first
    assert any(not bool((first[name] == second[name]).all()) for name in first)


def test_a_network_without_dropout_is_refused_before_the_first_round(make_config, here):
    changes = {"network.kind": "resnet50", "train.validation_metric": "dice_minus_ce"}
    with pytest.raises(InputError, match=r"no dropout there has a probability above 0 .* network\.idh_head\.levels"):
        run_self_training(make_config(changes), here)


def test_checks_before_the_rounds_compute_no_weights(make_config, monkeypatch):
    checked = []

    def keep(network, config):
        checked.append({parameter.device.type for parameter in network.parameters()})
        return []

    monkeypatch.setattr(inputs, "find_scoring_problems", keep)
    check_self_training(make_config(UNET))
    assert checked == [{"meta"}]
    with pytest.raises(InputError, match=r"network\.options\.passes: no such option of unet") as refusal:
        check_self_training(make_config({**UNET, "network.options.passes": 3}))
    assert len(refusal.value.problems) == len(checked) == 1

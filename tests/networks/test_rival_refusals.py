"""What networks other than MTTU-Net refuse: options, sizes."""

import pytest
import torch
from small_rivals import build, settings_of
from torch import nn

from mttu.config import Config, RivalSettings, override
from mttu.config.network import RIVALS
from mttu.errors import InputError
from mttu.networks import build_network
from mttu.networks.build import blaming, find_network_problems


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("vnet", {"in_channels": 3}, r"network\.in_channels: vnet repeats .* 1, 2, 4, 8 or 16; found 3"),
        ("unet", {"options": {"width": 3}}, r"network\.options\.width: no such option of unet; known there: channels"),
        ("unet", {"options": {"channels": 3}}, r"network\.options\.channels: unet: .* tuple; found 3"),
        ("unet", {"idh_head": {"levels": ["L9"]}}, r"idh_head\.levels: unet has no L9; it has L1, L2, L3, L4, L5"),
        ("swinunetr", {"options": {"feature_size": 16}}, r"feature_size: swinunetr: .* multiple of 12; found 16"),
        (
            "densenet121",
            {"options": {"block_config": [1, 2]}},
            r"block_config: .* at least 4 .*; found \(1, 2\)",
        ),
    ],
)
def test_what_a_network_cannot_do_is_refused_with_a_sentence(name, changes, said):
    with torch.device("meta"), pytest.raises(InputError, match=said):
        build_network(settings_of(name, **{"options": {}, "idh_head": {}, **changes}), (32, 32, 32))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("unet", "channels", [0, 8]),
        ("unet", "channels", [8] * 9),
        ("unet", "num_res_units", -1),
        ("unet", "num_res_units", True),
        ("unet", "dropout", True),
        ("unet", "dropout", "AlphaDropout"),
        ("vnet", "dropout", 1),
        ("dmfnet", "dilations", [0]),
        ("dmfnet", "dilations", [1.5]),
        ("dmfnet", "dilations", []),
        ("dmfnet", "stem_width", 2),
        ("unetr", "feature_size", 0),
        ("seresnet101", "layers", [1, 1, 4096, 1]),
        ("densenet121", "growth_rate", 0),
        ("densenet121", "init_features", 0),
        ("resnet50", "widen_factor", 0.01),
        ("sgpnet-style", "widths", [8]),
        ("sgpnet-style", "units", 0),
        ("cmsvnet", "convolutions", [0, 1, 1, 1, 1]),
        ("cmsvnet", "passes", 0),
        ("cmsvnet", "passes", 1.5),
        ("cmsvnet", "passes", 4096),
        ("ma-mtln", "blocks", [0, 0, 0, 0]),
        ("ma-mtln", "norm_groups", 1),
        ("dynunet", "channels", [8]),
        ("segresnet", "init_filters", 0),
        ("swinunetr", "norm", "layer"),
    ],
)
def test_an_option_that_means_nothing_is_refused_before_anything_is_built(name, option, value, monkeypatch):
    monkeypatch.setattr(nn.Module, "__init__", lambda module: pytest.fail("built"))
    with pytest.raises(InputError, match=rf"^network\.options\.{option}: {name}: .*; found "):
        build_network(RivalSettings(kind=name, tasks=RIVALS[name], options={option: value}), (32, 32, 32))


def test_options_that_do_not_fit_together_are_refused_and_our_own_mistakes_are_not():
    said = r"network\.options: ma-mtln refuses .*'norm_groups': 6.* \(num_channels .* divisible by num_groups .*\)"
    with torch.device("meta"), pytest.raises(InputError, match=said):
        build_network(settings_of("ma-mtln", options={"norm_groups": 6}))
    for options, error in (({}, ZeroDivisionError), ({"dropout": 0.5}, InputError)):
        with pytest.raises(error), blaming(settings_of("unet", options=options)):
            _ = 1 / 0


@pytest.mark.parametrize(
    ("name", "options", "smallest"),
    [
        ("unet", {"channels": [4, 8, 8]}, 8),
        ("dynunet", {"channels": [4, 8, 8]}, 8),
        ("swinunetr", {"feature_size": 12}, 64),
        ("swinunetr", {"feature_size": 12, "norm": "batch"}, 32),
    ],
)
def test_an_instance_norm_sees_more_than_one_voxel(name, options, smallest):
    with torch.device("meta"), torch.inference_mode():
        network = build_network(settings_of(name, options=options), trace=False).eval()
        network(torch.empty(1, 4, *[smallest] * 3))
        with pytest.raises(InputError, match=rf"multiples of {network.stride}.*; found"):
            network(torch.empty(1, 4, *[smallest // 2] * 3))
        if smallest > network.stride:
            with pytest.raises(ValueError, match="more than 1 spatial element"):
                network.body.segment(network.body.encode(torch.empty(1, 4, *[network.stride] * 3)))


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("unetr", (32, 32, 24), "patch.size: unetr cuts it into cubes of 16 voxels"),
        ("vnet", (32, 32, 24), "patch.size: vnet takes images whose H, W and D are multiples of 16; found"),
        (
            "unet",
            (16, 32, 32),
            "patch.size: unet takes images whose H, W and D are multiples of 16, at least 32",
        ),
        ("mttu-net", (32, 32, 24), None),
        ("unet", (32, 32, 48), None),
    ],
)
def test_a_patch_that_does_not_fit_is_found_before_training(name, size, said):
    config = override(Config(), {"network.kind": name, "patch.size": size})
    problems = find_network_problems(config)
    assert [problem[: len(said)] for problem in problems] == [said] if said else problems == []


def test_an_image_that_does_not_fit_is_refused():
    network = build("unet")
    for shape, said in (
        ((1, 4, 16, 16), "found 4 axes"),
        ((1, 3, 16, 16, 16), "found 3 channels"),
        ((1, 4, 16, 16, 18), r"multiples of 4, at least 8; found \(16, 16, 18\)"),
    ):
        with pytest.raises(InputError, match=said):
            network(torch.zeros(shape))


def test_a_network_for_one_size_refuses_others():
    said = r"unetr takes images of \(32, 16, 16\) alone, the patch\.size that it was built for; found \(32, 32, 16\)"
    with torch.device("meta"):
        network = build_network(settings_of("unetr"), (32, 16, 16), trace=False)
    with pytest.raises(InputError, match=said):
        network(torch.zeros(1, 4, 32, 32, 16))

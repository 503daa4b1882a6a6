"""Each network other than MTTU-Net at its smallest, for tests."""

import torch

from mttu.config import RivalSettings
from mttu.config.network import RIVALS
from mttu.networks import build_network

SMALL = {
    "unet": ({"channels": (4, 8, 8), "dropout": 0.1}, (16, 16, 16)),
    "vnet": ({}, (16, 16, 16)),
    "dmfnet": ({"stem_width": 8, "width": 16, "groups": 4}, (32, 16, 16)),
    "unetr": ({"feature_size": 4, "hidden_size": 12, "mlp_dim": 16, "num_heads": 3, "dropout": 0.1}, (32, 16, 16)),
    "seresnet101": ({"layers": (1, 1, 1, 1)}, (16, 16, 16)),
    "densenet121": ({"init_features": 8, "growth_rate": 4, "block_config": (1, 2, 1, 1)}, (32, 32, 32)),
    "resnet50": ({"widen_factor": 0.0625}, (16, 16, 16)),
    "sgpnet-style": ({"widths": (4, 4, 8, 8, 8), "units": 1}, (32, 16, 16)),
    "cmsvnet": ({"widths": (4, 4, 8, 8, 8), "convolutions": (1, 1, 1, 1, 1)}, (32, 16, 16)),
    "ma-mtln": (
        {
            "stem_width": 8,
            "trunk_widths": (8, 8, 8, 8),
            "blocks": (1, 1, 1, 1),
            "cardinality": 2,
            "width": 8,
            "norm_groups": 4,
        },
        (32, 32, 32),
    ),
    "dynunet": ({"channels": (4, 8, 8)}, (16, 16, 16)),
    "segresnet": ({"init_filters": 8}, (16, 16, 16)),
    "swinunetr": ({"feature_size": 12, "norm": "batch"}, (32, 32, 32)),
}
"""Smallest options, and an image size."""


def settings_of(name, **changes):
    given = {"idh_head": {"hidden": (8,)}, "tasks": RIVALS[name], "options": SMALL[name][0]}
    return RivalSettings.model_validate({"kind": name, **given, **changes})


def build(name, **changes):
    torch.manual_seed(0)
    return build_network(settings_of(name, **changes), SMALL[name][1])


def draw(name, batch=2):
    return torch.randn(batch, 4, *SMALL[name][1], generator=torch.Generator().manual_seed(1))

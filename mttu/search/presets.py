"""Presets: named settings as lines of data, from the paper's network to one of minutes."""

from collections.abc import Mapping
from typing import Any

from mttu.config import Config, override
from mttu.errors import InputError

_SMALL_NETWORK: dict[str, Any] = {
    "network.widths": [8, 16, 32, 64],
    "network.blocks": [1, 1, 1, 2],
    "network.bottleneck.width": 128,
    "network.bottleneck.num_layers": 2,
    "network.bottleneck.num_heads": 4,
    "network.bottleneck.mlp_width": 256,
    "network.bottleneck.position_grid": [8, 8, 8],
    "network.idh_head.hidden": [64, 16],
    "loss.segmentation": "dice_ce",  # Dice alone may never predict a rare class
    "loss.include_background": True,  # Dice of the foreground alone did not get past "tumour everywhere"
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "robust": {
        "loss.segmentation": "dice_ce",  # Dice alone may never predict a rare class
        "augment.foreground_crop_probability": 1 / 3,  # as in nnU-Net
        "optim.clip_norm": 12.0,  # as in nnU-Net: far above a usual step, it stops one bad batch
    },
    "small": {
        **_SMALL_NETWORK,
        "patch.size": [64, 64, 64],
        "train.epochs": 200,
        "train.global_batch": 2,
        "optim.lr": 1e-3,
        "augment.foreground_crop_probability": 0.5,
        "inference.overlap": 0.25,
    },
    "demo": {
        **_SMALL_NETWORK,
        "network.bottleneck.width": 64,
        "network.bottleneck.num_layers": 1,
        "network.bottleneck.mlp_width": 128,
        "network.bottleneck.position_grid": [4, 4, 4],
        "patch.size": [32, 32, 32],
        "train.epochs": 30,
        "train.steps_per_epoch": 8,
        "train.validate_every": 5,
        "train.checkpoint_every": 5,
        "train.global_batch": 4,
        "train.batch_per_worker": 4,
        "optim.lr": 2e-3,
        "augment.foreground_crop_probability": 0.5,
        "inference.overlap": 0.25,
        # One window at the tumour, as in training: ten passes over all windows would take most of the time.
        "mc.windows": "tumour",
        "mc.tumour_mask": "given",
        # A network of minutes is never as sure as the paper's: its 0.9 and 0.05 would select next to nothing here.
        "selection.confidence_threshold": 0.75,
        "selection.uncertainty_threshold": 0.2,
        "self_training.epochs": 8,
        "self_training.lr": 1e-3,
    },
    "pool": {
        "teacher.masks": True,
        "selection.calibrate": "temperature+bias",
        "selection.prior": "detect",
        "selection.rule": "rank",
        "self_training.labels": "soft",
        # as many true labels in a step as without a pool, which thins them out otherwise
        "train.global_batch": 8,
        "train.quotas": {"labelled": 4, "pseudo": 2, "unlabelled": 2},
    },
}
"""`paper`: as published, for GPUs; `robust`: the same network and sizes, for other data; `small`: for real MRI on a
laptop; `demo`: for the phantom in minutes; `pool`: self-training beyond the paper, beside any of the others."""

EARLIER_PRESETS: Mapping[int, Mapping[str, Mapping[str, Any]]] = {
    1: {
        "paper": {"train.batch_size": 2},  # of a worker: on one it was a global batch of 2
        "small": {"train.batch_size": 2, "loss.segmentation": "dice"},
        "demo": {"train.batch_size": 4, "loss.segmentation": "dice"},
    }
}
"""Where presets differed when a run folder had this format (`mttu.training.run`), by the settings' names at that time:
a run goes on with the preset that it was begun with."""


def earlier_preset(name: str, format_version: int) -> Mapping[str, Any]:
    """Where a preset differed at a format version; empty for a newer preset or the current format."""
    return EARLIER_PRESETS.get(format_version, {}).get(name, {})


def preset(name: str) -> Config:
    """The paper's settings with a preset's overrides, or with those of several, `small+pool`, one after the other.

    Raises:
        InputError: Unknown name; lists the known ones.
    """
    config = Config()
    for part in name.split("+"):
        if part not in PRESETS:
            raise InputError(f"preset {part!r}: unknown; choose one of {', '.join(PRESETS)}, or several: small+pool")
        config = override(config, PRESETS[part], f"preset {part}")
    return config

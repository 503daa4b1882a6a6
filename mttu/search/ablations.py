"""Every row of the paper's ablation tables by name, as a line of data: what differs from the paper's network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from mttu.config import Config, NetworkSettings
from mttu.config.network import BOTH, OURS, Task
from mttu.data.manifest import MODALITIES
from mttu.errors import InputError, raise_if_any


@dataclass(frozen=True)
class Ablation:
    """A row of a table of the paper."""

    table: str
    """`II` to `VII`, `VI-semi`, `focal` (section V-C.4) or `modalities` (section VI)."""
    row: str
    """As the paper names it."""
    changes: Mapping[str, Any]
    """Dotted settings; those of the paper's own row are the defaults."""
    asks: str
    """The question that the row answers beside the paper's own."""
    small: Mapping[str, Any] = field(default_factory=dict)
    """Further settings where MTTU-Net is smaller than the paper's, so that the row is smaller alike."""


TABLES: Mapping[str, str] = {
    "II": "How deep should the transformer be, and is it better than convolution?",
    "III": "Does one network for both tasks beat one network for each?",
    "IV": "Which feature levels should the IDH classifier read?",
    "V": "How should the two losses be balanced?",
    "focal": "Does focal loss do better (section V-C.4)?",
    "modalities": "Which MRI sequences are needed (section VI)?",
    "VI": "How do other networks do, trained alike on the labelled cases?",
    "VI-semi": "How do networks do with additional data, with its masks (dagger) or with pseudo-labels (UPS)?",
    "VII": "Which pseudo-labels help?",
}
"""Tables by the name that a command takes, with what each asks."""


def _list_levels() -> dict[str, Ablation]:
    sets = {"5": ["F5"], "2-5": ["F2", "F5"], "3-5": ["F3", "F5"], "4-5": ["F4", "F5"], "3-4-5": ["F3", "F4", "F5"]}
    asks = "which levels hold what the IDH status shows in"
    return {
        f"levels-{name}": Ablation("IV", f"level {name.replace('-', ', ')}", {"network.idh_head.levels": levels}, asks)
        for name, levels in sets.items()
    }


def _list_modalities() -> dict[str, Ablation]:
    subsets = [subset for count in range(1, 5) for subset in combinations(MODALITIES, count)]
    return {
        f"modalities-{'-'.join(subset)}": Ablation(
            "modalities",
            " + ".join(subset),
            {"data.modalities": list(subset), "network.in_channels": len(subset)},
            "what is lost without the other sequences",
        )
        for subset in subsets
    }


_SEGMENTATION: tuple[Task, ...] = ("segmentation",)
_IDH: tuple[Task, ...] = ("idh",)
_PAPERS, _TODAYS = "to whom the paper compares itself", "what would be chosen today, not in the paper"
_NETWORKS: Mapping[str, tuple[str, tuple[Task, ...], str]] = {
    "unet": ("3D U-Net", _SEGMENTATION, _PAPERS),
    "vnet": ("V-Net", _SEGMENTATION, _PAPERS),
    "dmfnet": ("DMFNet", _SEGMENTATION, _PAPERS),
    "unetr": ("UNETR", _SEGMENTATION, _PAPERS),
    "seresnet101": ("SENet101", _IDH, _PAPERS),
    "densenet121": ("DenseNet121", _IDH, _PAPERS),
    "resnet50": ("ResNet50", _IDH, _PAPERS),
    "sgpnet-style": ("SGPNet-style", BOTH, "after SGPNet, to which the paper compares itself"),
    "cmsvnet": ("CMSVNet", BOTH, _PAPERS),
    "ma-mtln": ("MA-MTLN", BOTH, _PAPERS),
    "dynunet": ("nnU-Net (DynUNet)", _SEGMENTATION, _TODAYS),
    "segresnet": ("SegResNet", _SEGMENTATION, _TODAYS),
    "swinunetr": ("SwinUNETR", _SEGMENTATION, _TODAYS),
    OURS: ("MTTU-Net", BOTH, "the paper's network"),
}
"""Networks of Table VI by `network.kind`: title, the tasks that each does by itself, and why it is there."""
_SMALL: Mapping[str, Mapping[str, Any]] = {
    "unet": {"channels": [8, 16, 32, 64, 128]},
    "dmfnet": {"stem_width": 16, "width": 64},
    "unetr": {"feature_size": 8, "hidden_size": 192, "mlp_dim": 768},
    "seresnet101": {"layers": [1, 1, 6, 1]},
    "densenet121": {"init_features": 32, "growth_rate": 16, "block_config": [3, 6, 12, 8]},
    "resnet50": {"widen_factor": 0.5},
    "sgpnet-style": {"widths": [8, 16, 32, 64, 128], "hidden": [64]},
    "cmsvnet": {"widths": [8, 16, 32, 64, 128], "hidden": [64]},
    "ma-mtln": {"stem_width": 32, "trunk_widths": [64, 128, 256, 256], "width": 32, "blocks": [1, 2, 3, 1]},
    "dynunet": {"channels": [16, 32, 64, 128, 160]},
    "segresnet": {"init_filters": 16},
    "swinunetr": {"feature_size": 12, "norm": "batch"},
}
"""Options that make a network smaller than published, where MTTU-Net is; V-Net has none. Small networks are not equally
small: MTTU-Net has 1.3 million parameters in the preset demo, SENet101 27, ResNet50 12, the others 1 to 9."""
_WITH_DROPOUT: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "seresnet101": ("", {}),
    "densenet121": (", dropout 0.2", {"network.options.dropout": 0.2}),
    OURS: ("", {}),
}
"""Those with an IDH head of their own and dropout before it, which UPS needs, with what turns the dropout on."""


def _small_options(kind: str) -> dict[str, Any]:
    return {f"network.options.{name}": value for name, value in _SMALL.get(kind, {}).items()}


def _list_networks() -> dict[str, Ablation]:
    rows: dict[str, Ablation] = {}
    additional: dict[str, Ablation] = {}
    for kind, (title, tasks, asks) in _NETWORKS.items():
        changes = {"network.kind": kind, "network.tasks": list(tasks)}
        small = _small_options(kind)
        rows[f"{OURS}-vi" if kind == OURS else kind] = Ablation("VI", title, changes, asks, small)
        if "segmentation" in tasks:
            more = f"{asks}, with the masks of additional data"
            method = {**changes, "selection.method": "direct"}
            additional[f"{kind}-direct"] = Ablation("VI-semi", f"{title} (dagger)", method, more, small)
    for kind, (note, options) in _WITH_DROPOUT.items():
        title, tasks, asks = _NETWORKS[kind]
        changes = {"network.kind": kind, "network.tasks": list(tasks), **options, "selection.method": "UPS"}
        additional[f"{kind}-ups"] = Ablation(
            "VI-semi",
            f"{title}{note} (UPS)",
            changes,
            f"{asks}, with pseudo-labels of additional data",
            _small_options(kind),
        )
    return {**rows, **additional}


ABLATIONS: Mapping[str, Ablation] = {
    **{
        f"layers-{count}": Ablation(
            "II",
            f"L = {count}",
            {"network.bottleneck.kind": "transformer", "network.bottleneck.num_layers": count},
            f"whether {count} transformer layers are enough",
        )
        for count in range(1, 7)
    },
    "conv": Ablation(
        "II",
        "Conv",
        {"network.bottleneck.kind": "convolution", "network.bottleneck.num_blocks": 4},
        "whether four convolution blocks do what the transformer does",
    ),
    "clsnet": Ablation("III", "ClsNet", {"network.tasks": ["idh"]}, "IDH status without segmentation"),
    "segnet": Ablation("III", "SegNet", {"network.tasks": ["segmentation"]}, "segmentation without IDH status"),
    "mttu-net": Ablation("III", "MTTU-Net", {"network.tasks": ["segmentation", "idh"]}, "both tasks together"),
    **_list_levels(),
    "pcgrad": Ablation(
        "V",
        "PCGrad",
        {"loss.task_weighting": "pcgrad"},
        "whether conflicting gradients of the tasks should be projected",
    ),
    "equal-weights": Ablation(
        "V", "equal weights", {"loss.task_weighting": "equal"}, "whether the losses need weights at all"
    ),
    "uncertainty-weights": Ablation(
        "V", "uncertainty weights", {"loss.task_weighting": "uncertainty"}, "learned weights (eq. 15)"
    ),
    "focal-segmentation": Ablation(
        "focal", "focal loss for Dice", {"loss.segmentation": "focal", "loss.idh": "cross_entropy"}, "focal for voxels"
    ),
    "focal-idh": Ablation(
        "focal", "focal loss for cross entropy", {"loss.segmentation": "dice", "loss.idh": "focal"}, "focal for IDH"
    ),
    "focal-both": Ablation(
        "focal", "focal loss for both", {"loss.segmentation": "focal", "loss.idh": "focal"}, "focal for both tasks"
    ),
    "no-focal": Ablation(
        "focal", "MTTU-Net", {"loss.segmentation": "dice", "loss.idh": "cross_entropy"}, "the paper's own losses"
    ),
    **_list_modalities(),
    **_list_networks(),
    "no-pseudo-labels": Ablation(
        "VII", "MTTU-Net", {"selection.method": "none"}, "the labelled cases alone, for as many rounds"
    ),
    "direct": Ablation(
        "VII", "MTTU-Net (dagger)", {"selection.method": "direct"}, "the masks of the pool without pseudo-labels"
    ),
    "pl": Ablation("VII", "PL", {"selection.method": "PL"}, "every pseudo-label"),
    "cpl": Ablation("VII", "CPL", {"selection.method": "CPL"}, "confident pseudo-labels"),
    "ups": Ablation("VII", "UPS", {"selection.method": "UPS"}, "confident and certain pseudo-labels"),
}
"""Rows by name. `layers-0` of earlier versions is `network.bottleneck.num_layers=0`, which the paper does not have."""

PAPERS_ROW: Mapping[str, str] = {
    "II": "layers-4",
    "III": "mttu-net",
    "IV": "levels-4-5",
    "V": "uncertainty-weights",
    "focal": "no-focal",
    "modalities": "modalities-flair-t1ce-t1-t2",
    "VI": "mttu-net-vi",
    "VI-semi": "mttu-net-ups",
    "VII": "ups",
}
"""The row of each table that the others are compared with."""


def rows_of(table: str) -> list[str]:
    """Names of the rows of a table, in the paper's order.

    Raises:
        InputError: Unknown table; lists the known ones.
    """
    if table not in TABLES:
        raise InputError(f"table {table!r}: unknown; choose one of {', '.join(TABLES)}")
    return [name for name, one in ABLATIONS.items() if one.table == table]


def changes_of(name: str, base: Config) -> dict[str, Any]:
    """Settings of a row of a study whose rows all start from the same settings."""
    one = ABLATIONS[name]
    return {**one.changes, **(one.small if is_small(base) else {})}


def is_small(base: Config) -> bool:
    """Whether MTTU-Net is narrower than the paper's, as in the presets small and demo."""
    return isinstance(base.network, NetworkSettings) and sum(base.network.widths) < sum(NetworkSettings().widths)


def combine(names: Sequence[str]) -> dict[str, Any]:
    """The changes of several ablations together.

    Raises:
        InputError: Unknown names, or two that change the same setting differently; lists all.
    """
    problems = [f"ablation {name!r}: unknown; `mttu ablations` lists them" for name in names if name not in ABLATIONS]
    changes: dict[str, Any] = {}
    owner: dict[str, str] = {}
    for name in [name for name in names if name in ABLATIONS]:
        for setting, value in ABLATIONS[name].changes.items():
            if setting in changes and changes[setting] != value:
                problems.append(
                    f"ablations {owner[setting]} and {name}: both change {setting} (to {changes[setting]} and "
                    f"{value}); give one of them"
                )
            changes[setting], owner[setting] = value, name
    raise_if_any(problems)
    return changes

"""Settings of the network; the defaults are the paper's MTTU-Net (section III-A).

Any other network is named by `network.kind`, see `mttu.networks.rivals`; what it can be is known here by name alone,
so that reading settings imports no network.
"""

from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, TypeAdapter, field_validator, model_validator

from mttu.config.schema import Positive, Probability, Settings

Width = Annotated[int, Field(ge=1, le=2**16)]
"""Channels; the bound stops an untrusted file from asking for a network too large for any machine."""
Few = Annotated[int, Field(ge=1, le=64)]
Level = Literal["F1", "F2", "F3", "F4", "F5"]
Task = Literal["segmentation", "idh"]
Activation = Literal["none", "relu", "leaky_relu", "gelu"]
BOTH: tuple[Task, ...] = ("segmentation", "idh")

OURS = "mttu-net"
RIVALS: Mapping[str, tuple[Task, ...]] = {
    "unet": BOTH,
    "vnet": BOTH,
    "dmfnet": BOTH,
    "unetr": BOTH,
    "seresnet101": ("idh",),
    "densenet121": ("idh",),
    "resnet50": ("idh",),
    "sgpnet-style": BOTH,
    "cmsvnet": BOTH,
    "ma-mtln": BOTH,
    "dynunet": BOTH,
    "segresnet": BOTH,
    "swinunetr": BOTH,
}
"""Networks other than MTTU-Net that come with this package, and the tasks that each can do: Table VI, then three that
are chosen today."""
PLUG_INS = "mttu.networks"
"""Group of the entry points by which other packages add networks."""


class DropoutSettings(Settings):
    """Dropout probability of each place. Not stated in the paper; chosen as in the authors' release."""

    stem: Probability = 0.2
    """Whole channels after the first convolution (Dropout3d)."""
    embedding: Probability = 0.1
    """Tokens after the position embedding is added."""
    attention: Probability = 0.1
    """Attention map, after its softmax."""
    projection: Probability = 0.1
    """Output projection of the attention."""
    branch: Probability = 0.1
    """Attention branch before its residual sum."""
    mlp: Probability = 0.1
    """After each of the two linear layers of the MLP."""
    head: Probability = 0.2
    """Pooled features before the first linear layer of the IDH head."""


class TransformerSettings(Settings):
    """Transformer bottleneck (section III-A.1, eq. 2-8)."""

    kind: Literal["transformer"] = "transformer"
    """Tag of the union: self-attention over the tokens of F4."""
    width: Width = 512
    """Token width d (section III-A.1)."""
    num_layers: Annotated[int, Field(ge=0, le=6)] = 4
    """Number L of transformer layers; 4 is the paper's choice (Table II, section V-C.1). With 0 only the projection is
    left."""
    num_heads: Positive = 8
    """Attention heads. Not stated in the paper; chosen as in the authors' release."""
    mlp_width: Width = 4096
    """Hidden width of the MLP. Not stated in the paper; chosen as in the authors' release."""
    position_grid: tuple[Few, Few, Few] = (16, 16, 16)
    """Token grid that the position embedding is learned on: patch size / 8 per axis. It is interpolated for other
    sizes."""

    @model_validator(mode="after")
    def _check_heads(self) -> "TransformerSettings":
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        return self


class ConvolutionSettings(Settings):
    """Convolution bottleneck: the transformer replaced by convolution blocks (Table II, row Conv)."""

    kind: Literal["convolution"] = "convolution"
    """Tag of the union: norm-activation-convolution blocks in place of self-attention."""
    width: Width = 512
    """Channels of F5."""
    num_blocks: Annotated[int, Field(ge=0, le=6)] = 4
    """Number of convolution blocks; 4 in the paper (section V-C.1)."""


class IdhHeadSettings(Settings):
    """Multi-scale IDH classifier (section III-A.3, eq. 10-12)."""

    levels: tuple[Level, ...] = ("F4", "F5")
    """Feature levels that are pooled (average and max) and concatenated; F4 and F5 in the paper (Table IV)."""
    hidden: Annotated[tuple[Width, ...], Field(max_length=16)] = (512, 32)
    """Widths of the hidden linear layers (section III-A.3)."""
    activation: Activation = "none"
    """Activation between the linear layers. Not stated in the paper; none, as in the authors' release."""

    @model_validator(mode="after")
    def _check_levels(self) -> "IdhHeadSettings":
        if not self.levels or len(set(self.levels)) != len(self.levels):
            raise ValueError(f"levels {self.levels} must be a non-empty tuple without repeats")
        return self


class NetworkSettings(Settings):
    """MTTU-Net: CNN encoder, bottleneck, decoder and IDH head (section III-A, Fig. 1)."""

    kind: Literal["mttu-net"] = "mttu-net"
    """Tag of the union: the paper's network."""
    in_channels: Positive = 4
    """MRI modalities in, stacked as channels; equals the number of `data.modalities`."""
    widths: tuple[Width, Width, Width, Width] = (16, 32, 64, 128)
    """Channels of F1 to F4 (eq. 1: 2^(level+3))."""
    blocks: tuple[Few, Few, Few, Few] = (1, 2, 2, 4)
    """Residual blocks per level. Not stated in the paper; chosen as in the authors' release."""
    bottleneck: Annotated[TransformerSettings | ConvolutionSettings, Field(discriminator="kind")] = (
        TransformerSettings()
    )
    """What turns F4 into F5: the transformer, or convolution blocks (Table II)."""
    idh_head: IdhHeadSettings = IdhHeadSettings()
    """The IDH classifier."""
    tasks: tuple[Task, ...] = ("segmentation", "idh")
    """Tasks that the network has a head for; with one alone it is SegNet or ClsNet (Table III)."""
    dropout: DropoutSettings = DropoutSettings()
    """Dropout probabilities, place by place."""

    @field_validator("tasks")
    @classmethod
    def _check_tasks(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        return _named_once(tasks)


_LARGEST_OPTION, _MOST_NUMBERS, _LONGEST_OPTION = 4096, 16, 64


def _named_once(tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    if not tasks or len(set(tasks)) != len(tasks):
        raise ValueError(f"tasks {tasks} must name 'segmentation', 'idh' or both, once each")
    return tasks


class RivalHeadSettings(Settings):
    """IDH head of a network other than MTTU-Net."""

    levels: Annotated[tuple[str, ...], Field(min_length=1, max_length=16)] | None = None
    """Feature levels that our IDH head (section III-A.3) pools and concatenates, by the names that the network gives
    them; null: the network's own IDH head where it has one, else our head on its two deepest levels."""
    hidden: Annotated[tuple[Width, ...], Field(max_length=16)] = (512, 32)
    """Widths of the hidden linear layers of our head (section III-A.3)."""
    activation: Activation = "none"
    """Activation between the linear layers of our head."""

    @model_validator(mode="after")
    def _check_levels(self) -> "RivalHeadSettings":
        if self.levels is not None and len(set(self.levels)) != len(self.levels):
            raise ValueError(f"levels {self.levels} must be without repeats")
        return self


def _read_option(value: Any) -> Any:
    """A number or truth value that the command line gives as text; the network, not the settings, knows the type."""
    if isinstance(value, str) and len(value) <= _LONGEST_OPTION:
        for read in (int, float):
            with suppress(ValueError):
                value = read(value)
                break
        value = {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value
    several = isinstance(value, list | tuple) and len(value) <= _MOST_NUMBERS
    numbers = all(_is_bounded(one) for one in value) if several else _is_bounded(value)
    if numbers or isinstance(value, bool) or (isinstance(value, str) and len(value) <= _LONGEST_OPTION):
        return value
    raise ValueError(
        f"expected a number from {-_LARGEST_OPTION} to {_LARGEST_OPTION}, up to {_MOST_NUMBERS} such numbers, true, "
        f"false, or a text of up to {_LONGEST_OPTION} characters"
    )


def _is_bounded(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST_OPTION


Option = Annotated[bool | int | float | str | tuple[int | float, ...], BeforeValidator(_read_option)]
"""Bounded, as widths are: an untrusted file could ask for a network too large for any machine."""


class RivalSettings(Settings):
    """A network other than MTTU-Net: those of Table VI, others of this package, or one that another package adds."""

    kind: str
    """Tag of the union: name of the network; `mttu networks` lists them."""
    in_channels: Positive = 4
    """MRI modalities in, stacked as channels; equals the number of `data.modalities`."""
    tasks: tuple[Task, ...] = BOTH
    """Tasks that the network has a head for; a classifier does idh alone."""
    idh_head: RivalHeadSettings = RivalHeadSettings()
    """The IDH classifier."""
    dropout: Probability = 0.2
    """Dropout probability of our IDH head: pooled features before the first linear layer. Other dropout is an option of
    the network."""
    options: dict[str, Option] = Field(default_factory=dict, max_length=32)
    """Options of the network itself by name, such as its widths; `mttu networks` lists them with their defaults."""

    @field_validator("kind")
    @classmethod
    def _check_kind(cls, kind: str) -> str:
        if kind not in RIVALS and kind not in (added := list_plug_ins()):
            raise ValueError(f"{kind!r} is unknown; known: {', '.join((OURS, *RIVALS, *sorted(added)))}")
        return kind

    @field_validator("tasks")
    @classmethod
    def _check_tasks(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        return _named_once(tasks)

    @model_validator(mode="after")
    def _check_able(self) -> "RivalSettings":
        able = RIVALS.get(self.kind, BOTH)
        if not set(self.tasks) <= set(able):
            raise ValueError(f"tasks {self.tasks}: {self.kind} does {' and '.join(able)} alone; set tasks=[{able[0]}]")
        return self


def list_plug_ins() -> list[str]:
    """Names of the networks that installed packages add; nothing of these packages is imported."""
    return sorted({point.name for point in entry_points(group=PLUG_INS)} - RIVALS.keys() - {OURS})


def _name_member(content: Any) -> str:
    kind = content.get("kind", OURS) if isinstance(content, Mapping) else getattr(content, "kind", OURS)
    return OURS if kind == OURS else "rival"


AnyNetwork = Annotated[
    Annotated[NetworkSettings, Tag(OURS)] | Annotated[RivalSettings, Tag("rival")], Discriminator(_name_member)
]
_ANY_NETWORK: TypeAdapter[NetworkSettings | RivalSettings] = TypeAdapter(AnyNetwork)


def parse_network(text: str) -> NetworkSettings | RivalSettings:
    """Settings of a network from their JSON."""
    return _ANY_NETWORK.validate_json(text)


def start_of_kind(name: str, kind: Any, before: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings that a member of a union starts from where its `kind` is set; None for an unknown one.

    They are its defaults, but for what the members share: the width of a bottleneck, the modalities of a network, and
    those of its tasks that the new one can do.

    Args:
        name: Dotted name of the union, e.g. `network.bottleneck`.
        kind: The new tag.
        before: Settings of the member before.
    """
    start: Settings
    if name == "network.bottleneck":
        if kind not in ("transformer", "convolution"):
            return None
        start = TransformerSettings() if kind == "transformer" else ConvolutionSettings()
        return {**start.model_dump(mode="json"), "width": before["width"]}
    if kind == OURS:
        start = NetworkSettings()
    elif isinstance(kind, str) and (kind in RIVALS or kind in list_plug_ins()):
        start = RivalSettings.model_construct(kind=kind)
    else:
        return None
    able = RIVALS.get(kind, BOTH)
    tasks = [task for task in before["tasks"] if task in able] or list(able)
    return {**start.model_dump(mode="json"), "in_channels": before["in_channels"], "tasks": tasks}

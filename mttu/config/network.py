"""Settings of the network; the defaults are the paper's MTTU-Net (section III-A)."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mttu.config.schema import Positive, Probability, Settings

Width = Annotated[int, Field(ge=1, le=2**16)]
"""Channels; the bound stops an untrusted file from asking for a network too large for any machine."""
Few = Annotated[int, Field(ge=1, le=64)]
Level = Literal["F1", "F2", "F3", "F4", "F5"]
Task = Literal["segmentation", "idh"]


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
    activation: Literal["none", "relu", "leaky_relu", "gelu"] = "none"
    """Activation between the linear layers. Not stated in the paper; none, as in the authors' release."""

    @model_validator(mode="after")
    def _check_levels(self) -> "IdhHeadSettings":
        if not self.levels or len(set(self.levels)) != len(self.levels):
            raise ValueError(f"levels {self.levels} must be a non-empty tuple without repeats")
        return self


class NetworkSettings(Settings):
    """MTTU-Net: CNN encoder, bottleneck, decoder and IDH head (section III-A, Fig. 1)."""

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

    @model_validator(mode="after")
    def _check_tasks(self) -> "NetworkSettings":
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks {self.tasks} must name 'segmentation', 'idh' or both, once each")
        return self

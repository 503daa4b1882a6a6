"""Decoder and segmentation head (section III-A.2, eq. 9). Axes are (B, C, H, W, D)."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mttu.networks.blocks import PreActivatedConv, ResidualBlock
from mttu.networks.convolution import Conv3d, conv3d

NUM_LABELS = 4
"""Background, necrosis, edema, enhancing tumour."""


class UpStep(nn.Module):
    """Doubles the axes and fuses the encoder's level of that size.

    The paper's order is: reduce, upsample, concatenate, fuse. Nothing bends between upsample and fuse, so their weights
    are multiplied first and the two halves of fuse are added: the same sum without two tensors of the largest size.

    Args:
        in_channels: Channels of the level below.
        channels: Channels of this level, in the encoder too.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.reduce = Conv3d(in_channels, channels, kernel_size=1)
        self.upsample = nn.ConvTranspose3d(channels, channels, kernel_size=2, stride=2)
        self.fuse = Conv3d(2 * channels, channels, kernel_size=1)
        self.block = ResidualBlock(channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Maps x (B, in_channels, H/2, W/2, D/2) and skip (B, channels, H, W, D) to (B, channels, H, W, D)."""
        from_skip, from_below = self.fuse.weight.chunk(2, dim=1)  # each (channels, channels, 1, 1, 1)
        weight, bias = _fuse_after_upsample(self.upsample, from_below.flatten(1), self.fuse.bias)
        x = F.conv_transpose3d(self.reduce(x), weight, bias, stride=2)
        x = conv3d(skip, from_skip, None).add_(x)
        out: Tensor = self.block(x)
        return out


def _fuse_after_upsample(
    upsample: nn.ConvTranspose3d, fuse_weight: Tensor, fuse_bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the transposed convolution that equals `upsample`, then a 1x1x1 convolution."""
    with torch.autocast(fuse_weight.device.type, enabled=False):
        weight = torch.einsum("ioxyz,po->ipxyz", upsample.weight, fuse_weight)
        bias = torch.addmv(cast(Tensor, fuse_bias), fuse_weight, cast(Tensor, upsample.bias))
    return weight, bias


class Decoder(nn.Module):
    """From F5 back to full resolution, with skip connections from F3, F2 and F1.

    Args:
        widths: Channels of F1 to F4; the entry narrows F5 to the last.
        in_channels: Channels of F5.
    """

    def __init__(self, widths: Sequence[int], in_channels: int) -> None:
        super().__init__()
        w1, w2, w3, w4 = widths
        self.entry = nn.Sequential(PreActivatedConv(in_channels, w4), PreActivatedConv(w4, w4), ResidualBlock(w4))
        self.up3 = UpStep(w4, w3)
        self.up2 = UpStep(w3, w2)
        self.up1 = UpStep(w2, w1)
        self.segmentation_head = Conv3d(w1, NUM_LABELS, kernel_size=1)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, 4, H, W, D) from F1, F2, F3 and F5; softmax is the caller's."""
        x = self.entry(features["F5"])  # (B, 128, H/8, W/8, D/8)
        x = self.up3(x, features["F3"])  # (B, 64, H/4, W/4, D/4)
        x = self.up2(x, features["F2"])  # (B, 32, H/2, W/2, D/2)
        x = self.up1(x, features["F1"])  # (B, 16, H, W, D)
        logits: Tensor = self.segmentation_head(x)
        return logits

"""Decoder and segmentation head (section III-A.2, eq. 9). Axes are (B, C, H, W, D)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mttu.networks.blocks import PreActivatedConv, ResidualBlock

NUM_LABELS = 4
"""Background, necrosis, edema, enhancing tumour."""


class UpStep(nn.Module):
    """Doubles the axes and fuses the encoder's level of that size.

    Args:
        in_channels: Channels of the level below.
        channels: Channels of this level, in the encoder too.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv3d(in_channels, channels, kernel_size=1)
        self.upsample = nn.ConvTranspose3d(channels, channels, kernel_size=2, stride=2)
        self.fuse = nn.Conv3d(2 * channels, channels, kernel_size=1)
        self.block = ResidualBlock(channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Maps x (B, in_channels, H/2, W/2, D/2) and skip (B, channels, H, W, D) to (B, channels, H, W, D)."""
        x = self.upsample(self.reduce(x))
        x = self.fuse(torch.cat([skip, x], dim=1))
        return self.block(x)


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
        self.segmentation_head = nn.Conv3d(w1, NUM_LABELS, kernel_size=1)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, 4, H, W, D) from F1, F2, F3 and F5; softmax is the caller's."""
        x = self.entry(features["F5"])  # (B, 128, H/8, W/8, D/8)
        x = self.up3(x, features["F3"])  # (B, 64, H/4, W/4, D/4)
        x = self.up2(x, features["F2"])  # (B, 32, H/2, W/2, D/2)
        x = self.up1(x, features["F1"])  # (B, 16, H, W, D)
        return self.segmentation_head(x)

"""CNN encoder and decoder: feature levels F1 to F4, and the way back to segmentation (section III-A.1-2, eq. 1 and 9).

Axes are (B, C, H, W, D).
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mttu.networks.autocast import without_autocast
from mttu.networks.batch_norm import BatchNorm3d
from mttu.networks.cpu.convolution import Conv3d, conv3d
from mttu.networks.cpu.steps import pre_activated_conv, two_pre_activated_convs

NEGATIVE_SLOPE = 0.01


class PreActivatedConv(nn.Module):
    """Convolution block of section III-A.1: batch norm, LeakyReLU, 3x3x3 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = BatchNorm3d(in_channels)
        self.conv = Conv3d(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W, D) to (B, out_channels, H, W, D)."""
        return pre_activated_conv(x, self.norm, self.conv, NEGATIVE_SLOPE)


class ResidualBlock(nn.Module):
    """Residual block of section III-A.1: two convolution blocks and the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = PreActivatedConv(channels, channels)
        self.conv2 = PreActivatedConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape (B, channels, H, W, D)."""
        first, second = (self.conv1.norm, self.conv1.conv), (self.conv2.norm, self.conv2.conv)
        out = two_pre_activated_convs(x, first, second, NEGATIVE_SLOPE)  # conv2(conv1(x))
        return out.add_(x)  # in place: no backward pass needs the convolution's own output


LEVELS = ("F1", "F2", "F3", "F4")
"""Names of the encoder's feature levels; each halves the axes of the one before."""


class Level(nn.Module):
    """One feature level: a strided convolution that halves the axes (none on level 1), then residual blocks."""

    def __init__(self, in_channels: int, channels: int, num_blocks: int, *, halves: bool) -> None:
        super().__init__()
        self.down = Conv3d(in_channels, channels, kernel_size=3, stride=2, padding=1) if halves else nn.Identity()
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(num_blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W, D) to (B, channels, H/2, W/2, D/2), or the same axes on level 1."""
        return self.blocks(self.down(x))


class Encoder(nn.Module):
    """Stem and one to four feature levels; dropout drops whole channels of the stem's output.

    The stem's dropout is the network's first, so the stem's output is the same in every Monte Carlo pass.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], blocks: Sequence[int], stem_dropout: float) -> None:
        super().__init__()
        self.stem = Conv3d(in_channels, widths[0], kernel_size=3, padding=1)
        self.stem_dropout = nn.Dropout3d(stem_dropout)
        above = (widths[0], *widths)
        self.levels = nn.ModuleList(
            Level(above[index], width, num_blocks, halves=index > 0)
            for index, (width, num_blocks) in enumerate(zip(widths, blocks, strict=True))
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Maps an image (B, in_channels, H, W, D) to its levels, F1 (B, 16, H, W, D) to F4 (B, 128, H/8, W/8, D/8)."""
        return self.extract(self.stem(image))

    def extract(self, stem: Tensor) -> dict[str, Tensor]:
        """The levels from the stem's output (B, widths[0], H, W, D), stem dropout included."""
        features, x = {}, self.stem_dropout(stem)
        for name, level in zip(LEVELS, self.levels, strict=False):
            features[name] = x = level(x)
        return features


NUM_LABELS = 4
"""Background, necrosis, edema, enhancing tumour."""


class UpStep(nn.Module):
    """Doubles the axes and fuses the encoder's level of that size.

    The paper's order is: reduce, upsample, concatenate, fuse. Upsample and fuse are both linear, so their weights are
    multiplied first and the two halves of fuse are added: the same sum without two tensors of the largest size.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.reduce = Conv3d(in_channels, channels, kernel_size=1)
        self.upsample = nn.ConvTranspose3d(channels, channels, kernel_size=2, stride=2)
        self.fuse = Conv3d(2 * channels, channels, kernel_size=1)
        self.block = ResidualBlock(channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Maps x (B, in_channels, H/2, W/2, D/2) and skip (B, channels, H, W, D) to (B, channels, H, W, D)."""
        # block(fuse(cat([skip, upsample(reduce(x))]))), with the weights of upsample and fuse multiplied first
        skip_weight, below_weight = self.fuse.weight.chunk(2, dim=1)  # each (channels, channels, 1, 1, 1)
        weight, bias = _fuse_after_upsample(self.upsample, below_weight.flatten(1), self.fuse.bias)
        x = F.conv_transpose3d(self.reduce(x), weight, bias, stride=2)  # (B, channels, H, W, D)
        x = conv3d(skip, skip_weight, None).add_(x)
        return self.block(x)


def _fuse_after_upsample(
    upsample: nn.ConvTranspose3d, fuse_weight: Tensor, fuse_bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the transposed convolution that equals `upsample`, then a 1x1x1 convolution."""
    with without_autocast(fuse_weight):
        weight = torch.einsum("ioxyz,po->ipxyz", upsample.weight, fuse_weight)
        bias = torch.addmv(cast(Tensor, fuse_bias), fuse_weight, cast(Tensor, upsample.bias))
    return weight, bias


class Decoder(nn.Module):
    """From F5 back to full resolution, with skip connections from F3, F2 and F1; F5 is first narrowed to F4's width."""

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
        return self.segmentation_head(x)

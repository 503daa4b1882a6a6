"""DMFNet, the dilated multi-fiber network (Chen, Liu, Ding, Zheng, Li; MICCAI 2019; arXiv:1904.03355).

As published: all of it (units, widths, groups, dilations, learnable branch weights that start at 1, Kaiming
initialisation, batch norm). Published size: 3.88 million parameters, 27.04 G multiply-adds at 128^3. The convolutions
alone are 26.36 G of that; two operations per normalised and one per upsampled value make up the rest. Here they are
26.13 G: the head comes before the last upsampling, which gives the same logits.
From the authors' code, of which nothing is copied: a unit's shortcuts are pre-activated like its other convolutions.
Unverified: that the segmentation head has a bias.
In training a rank needs more than one voxel per channel at E4: an image of 32^3 or two samples of 16^3.
The network segments only; an IDH head can read its two deepest encoder levels.

Axes are (B, C, H, W, D). With the default options and a 128^3 patch:
    image (B, 4, 128^3) -> E1 (B, 32, 64^3), E2 (B, 128, 32^3), E3 (B, 256, 16^3), E4 (B, 256, 8^3) -> (B, 4, 128^3)
"""

from collections.abc import Mapping
from functools import reduce
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mttu.networks.batch_norm import BatchNorm3d
from mttu.networks.rivals.options import Few, Width

Multiplexed = Annotated[Width, Field(ge=4)]
"""Channels that a multiplexer reduces to a quarter."""


def pre_activated(
    in_channels: int,
    out_channels: int,
    kernel: int | tuple[int, int, int],
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: int | tuple[int, int, int] = 0,
    groups: int = 1,
) -> nn.Sequential:
    """Batch norm, ReLU, convolution without bias."""
    conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(BatchNorm3d(in_channels), nn.ReLU(inplace=True), conv)


class DilatedBranches(nn.Module):
    """Parallel grouped 3x3x3 convolutions, one per dilation, summed with learnable weights that start at 1."""

    def __init__(
        self, in_channels: int, out_channels: int, groups: int, stride: int, dilations: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            pre_activated(in_channels, out_channels, 3, stride=stride, dilation=d, padding=d, groups=groups)
            for d in dilations
        )
        self.weights = nn.Parameter(torch.ones(len(dilations)))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W, D) to (B, out_channels, H, W, D), or to half of each axis with stride 2."""
        weighted = (weight * branch(x) for weight, branch in zip(self.weights, self.branches, strict=True))
        return reduce(torch.add, weighted)


class MultiFiberUnit(nn.Module):
    """MF unit: multiplexer, two grouped convolutions, shortcut; with dilations, the DMF unit.

    The multiplexer is two 1x1x1 convolutions that mix the channels of all groups ("fibers"). The first grouped
    convolution is 3x3x3 and has the stride, or is `DilatedBranches`; the second is 3x3x1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, groups: int, stride: int = 1, dilations: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)
        self.multiplexer = nn.Sequential(
            pre_activated(in_channels, in_channels // 4, 1), pre_activated(in_channels // 4, middle, 1)
        )
        self.grouped1: nn.Module = (
            DilatedBranches(middle, out_channels, groups, stride, dilations)
            if dilations
            else pre_activated(middle, out_channels, 3, stride=stride, padding=1, groups=groups)
        )
        self.grouped2 = pre_activated(out_channels, out_channels, (3, 3, 1), padding=(1, 1, 0), groups=groups)
        self.shortcut: nn.Module = (
            nn.Identity()
            if in_channels == out_channels and stride == 1
            else pre_activated(in_channels, out_channels, stride, stride=stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W, D) to (B, out_channels, H, W, D), or to half of each axis with stride 2."""
        return self.grouped2(self.grouped1(self.multiplexer(x))) + self.shortcut(x)


class DmfNet(nn.Module):
    """DMFNet.

    Args:
        in_channels: Channels of the image, one per modality.
        num_classes: Channels of the segmentation logits.
        stem_width: Channels of E1.
        width: Channels of E2; E3 and E4 have twice as many. `stem_width` and `width` are multiples of `groups`.
        groups: Fibers: groups of the grouped convolutions.
        dilations: One branch of a DMF unit each.
    """

    stride = smallest = 16
    own_idh = False

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 4,
        *,
        stem_width: Multiplexed = 32,
        width: Multiplexed = 128,
        groups: Few = 16,
        dilations: Annotated[tuple[Few, ...], Field(min_length=1)] = (1, 2, 3),
    ) -> None:
        super().__init__()
        deep, deepest = 2 * width, 3 * width
        self.widths: Mapping[str, int] = {"E3": deep, "E4": deep}
        self.encoder = nn.ModuleDict(
            {
                "E1": nn.Conv3d(in_channels, stem_width, 3, stride=2, padding=1, bias=False),
                "E2": nn.Sequential(
                    MultiFiberUnit(stem_width, width, groups, 2, dilations),
                    *(MultiFiberUnit(width, width, groups, 1, dilations) for _ in range(2)),
                ),
                "E3": nn.Sequential(
                    MultiFiberUnit(width, deep, groups, 2, dilations),
                    *(MultiFiberUnit(deep, deep, groups, 1, dilations) for _ in range(2)),
                ),
                "E4": nn.Sequential(
                    MultiFiberUnit(deep, deepest, groups, 2),
                    MultiFiberUnit(deepest, deepest, groups),
                    MultiFiberUnit(deepest, deep, groups),
                ),
            }
        )
        self.decoder = nn.ModuleDict(
            {
                "E3": MultiFiberUnit(2 * deep, deep, groups),
                "E2": MultiFiberUnit(deep + width, width, groups),
                "E1": MultiFiberUnit(width + stem_width, stem_width, groups),
            }
        )
        self.head = nn.Conv3d(stem_width, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight)

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """Levels E1 to E4 by name from the image (B, in_channels, H, W, D)."""
        features, x = {}, image
        for name, level in self.encoder.items():
            features[name] = x = level(x)
        return features

    def segment(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, num_classes, H, W, D); softmax is the caller's."""
        x = features["E4"]
        for name, unit in self.decoder.items():
            x = unit(torch.cat([_double(x), features[name]], dim=1))
        return _double(self.head(x))  # as published the other way round; the two commute, and this one is cheaper


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)

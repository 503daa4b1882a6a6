"""SGPNet-style network: what is known of SGPNet, on a residual 3D U-Net.

Wang, Wang, Guo, Zhang, Yang; Computational Intelligence and Neuroscience 2021, 5520281; doi:10.1155/2021/5520281.
Only title and abstract were at hand, so this is not SGPNet and is shown as "SGPNet-style" everywhere.

As published: one 3D network with a shared trunk for segmentation and IDH, residual units, and output blocks that read
hierarchical features for the two tasks.
Unverified: depth, widths, norm, where the classifier leaves the trunk, its layers, the loss.
Our choice: a U-Net of five levels, two residual units (two 3x3x3 convolutions with batch norm and ReLU) on each, as in
He et al. (CVPR 2016, doi:10.1109/CVPR.2016.90); the IDH output block reads the average of each encoder level; the
segmentation output block is a 1x1x1 convolution on the decoder's last level, which skip connections join to the rest.
In training a rank needs more than one voxel per channel at E5: an image of 32^3 or two samples of 16^3.

Axes are (B, C, H, W, D). With the default options and a 128^3 patch:
    image (B, 4, 128^3) -> E1 (B, 16, 128^3), E2 (B, 32, 64^3), E3 (B, 64, 32^3), E4 (B, 128, 16^3), E5 (B, 256, 8^3)
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from mttu.networks.batch_norm import BatchNorm3d
from mttu.networks.rivals.options import Few, Hidden, Levels
from mttu.networks.rivals.pooled_classifier import PooledClassifier


class ResidualUnit(nn.Module):
    """Two 3x3x3 convolutions with batch norm and ReLU, and a shortcut: 1x1x1 convolution if the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(in_channels, channels, 3, stride=stride, padding=1, bias=False),
            BatchNorm3d(channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
            BatchNorm3d(channels),
        )
        self.shortcut: nn.Module = (
            nn.Identity()
            if in_channels == channels and stride == 1
            else nn.Sequential(nn.Conv3d(in_channels, channels, 1, stride=stride, bias=False), BatchNorm3d(channels))
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W, D) to (B, channels, H, W, D), or to half of each axis with stride 2."""
        return self.activation(self.layers(x) + self.shortcut(x))


class UpLevel(nn.Module):
    """Doubles the axes by a transposed convolution, appends the encoder's level of that size, then residual units."""

    def __init__(self, in_channels: int, channels: int, units: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(in_channels, channels, 2, stride=2)
        self.units = _chain(2 * channels, channels, units, stride=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Maps x (B, in_channels, H/2, W/2, D/2) and skip (B, channels, H, W, D) to (B, channels, H, W, D)."""
        return self.units(torch.cat([self.up(x), skip], dim=1))


def _chain(in_channels: int, channels: int, units: int, stride: int) -> nn.Sequential:
    first = ResidualUnit(in_channels, channels, stride)
    return nn.Sequential(first, *(ResidualUnit(channels, channels) for _ in range(units - 1)))


class SgpNetStyle(nn.Module):
    """SGPNet-style network.

    Args:
        in_channels: Channels of the image, one per modality.
        num_classes: Channels of the segmentation logits.
        widths: Channels of the levels E1, E2, ..., two or more; each level halves the axes of the one before.
        units: Residual units per level, in the encoder and in the decoder.
        hidden: Widths of the IDH output block's hidden layers.
    """

    own_idh = True

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 4,
        *,
        widths: Levels = (16, 32, 64, 128, 256),
        units: Few = 2,
        hidden: Hidden = (128,),
    ) -> None:
        super().__init__()
        self.stride = self.smallest = 2 ** (len(widths) - 1)
        self.levels = tuple(f"E{index + 1}" for index in range(len(widths)))
        self.widths: Mapping[str, int] = dict(list(zip(self.levels, widths, strict=True))[-2:])
        self.encoder = nn.ModuleList([_chain(in_channels, widths[0], units, stride=1)])
        self.encoder.extend(_chain(above, channels, units, stride=2) for above, channels in pairwise(widths))
        self.decoder = nn.ModuleList(UpLevel(below, channels, units) for below, channels in pairwise(widths[::-1]))
        self.segmentation_output = nn.Conv3d(widths[0], num_classes, 1)
        self.idh_output = PooledClassifier(widths, hidden)

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """Levels E1, E2, ... by name from the image (B, in_channels, H, W, D)."""
        features, x = {}, image
        for name, level in zip(self.levels, self.encoder, strict=True):
            features[name] = x = level(x)
        return features

    def segment(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, num_classes, H, W, D); softmax is the caller's."""
        x = features[self.levels[-1]]
        for level, name in zip(self.decoder, self.levels[-2::-1], strict=True):
            x = level(x, features[name])
        return self.segmentation_output(x)

    def classify(self, features: Mapping[str, Tensor]) -> Tensor:
        """IDH logits (B, 2), float32; softmax is the caller's."""
        return self.idh_output([features[name] for name in self.levels])

"""CMSVNet, a V-Net with a multi-scale classifier and iterative refinement.

Zhou et al., Medical Image Analysis 70 (2021) 101918; doi:10.1016/j.media.2020.101918; breast tumours in ultrasound.
The paper was not at hand: what follows is from a review of it and from re-implementations.

As published: V-Net with four levels of down- and up-sampling, 3x3x3 convolutions with batch norm and ReLU, 2x2x2
convolutions of stride 2 between levels, skip connections; the classifier on the averages of stages 4, 5 and 6 (last
encoder stage, deepest stage, first decoder stage); N = 2 passes, the second with the tumour probability of the first.
Unverified: widths and numbers of convolutions (V-Net's own here), V-Net's residual sums (kept here), one hidden layer
of 128 in the classifier, and no normalisation of the averages before it (a re-implementation has one).
Our choice:
- The map is one more input channel, zero in the first pass (a re-implementation adds it to the image instead); it is
  the probability of the whole tumour, one minus that of the background.
- Losses see the last pass only, so gradients run back through the map (a re-implementation cuts them and takes losses
  on each pass): nothing else would train the first pass, whose input differs. So both tasks depend on the whole V-Net.
- Each batch norm serves all passes, so its running statistics mix those of the first, whose map is zero, and those of
  the later ones; in training each pass is normalised by its own.
- V-Net's first residual sum repeats an image of one channel; here a 1x1x1 convolution maps the image's channels.
In training a rank needs more than one voxel per channel at stage 5: an image of 32^3 or two samples of 16^3.

Axes are (B, C, H, W, D). With the default options and a 128^3 patch:
    image (B, 4, 128^3) -> S1 (B, 16, 128^3), S2 (B, 32, 64^3), S3 (B, 64, 32^3), S4 (B, 128, 16^3), S5 (B, 256, 8^3)
    S5, S4 -> S6 (B, 256, 16^3);  S6, S3, S2, S1 -> logits (B, 4, 128^3);  S4, S5, S6 -> logits (B, 2)
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mttu.networks.batch_norm import BatchNorm3d
from mttu.networks.rivals.options import Few, Hidden, Width
from mttu.networks.rivals.pooled_classifier import PooledClassifier


def normed(conv: nn.Conv3d | nn.ConvTranspose3d) -> nn.Sequential:
    """The convolution, batch norm and ReLU."""
    return nn.Sequential(conv, BatchNorm3d(conv.out_channels), nn.ReLU(inplace=True))


class Stage(nn.Module):
    """V-Net's stage: 3x3x3 convolutions, and the stage's input added before the last ReLU."""

    def __init__(self, in_channels: int, channels: int, num_convolutions: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in in [in_channels] + [channels] * (num_convolutions - 1):
            layers += normed(nn.Conv3d(fan_in, channels, 3, padding=1, bias=False))
        self.layers = nn.Sequential(*layers[:-1])  # the last ReLU is after the sum
        self.shortcut = nn.Identity() if in_channels == channels else nn.Conv3d(in_channels, channels, 1)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W, D) to (B, channels, H, W, D)."""
        return self.activation(self.layers(x) + self.shortcut(x))


class UpStage(nn.Module):
    """Doubles the axes by a transposed convolution, appends the encoder's stage of that size, then a stage."""

    def __init__(self, in_channels: int, skip_channels: int, num_convolutions: int) -> None:
        super().__init__()
        self.up = normed(nn.ConvTranspose3d(in_channels, skip_channels, 2, stride=2, bias=False))
        self.stage = Stage(2 * skip_channels, 2 * skip_channels, num_convolutions)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Maps x (B, in_channels, H/2, W/2, D/2) and skip (B, C, H, W, D) to (B, 2C, H, W, D)."""
        return self.stage(torch.cat([self.up(x), skip], dim=1))


ENCODER_STAGES = ("S1", "S2", "S3", "S4", "S5")
_FIVE = Field(min_length=5, max_length=5)


class CmsvNet(nn.Module):
    """CMSVNet.

    Args:
        in_channels: Channels of the image, one per modality.
        num_classes: Channels of the segmentation logits; the first is the background.
        widths: Channels of stages S1 to S5; a decoder stage has twice those of the encoder stage of its size.
        convolutions: Number of convolutions of S1 to S5; a decoder stage has those of the encoder stage of its size.
        hidden: Widths of the classifier's hidden layers.
        passes: Number of passes, at least 1; with 1 there is no refinement and no channel for the map.
    """

    stride = smallest = 16
    own_idh = True
    idh_levels = ("S4", "S5", "S6")

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 4,
        *,
        widths: Annotated[tuple[Width, ...], _FIVE] = (16, 32, 64, 128, 256),
        convolutions: Annotated[tuple[Few, ...], _FIVE] = (1, 2, 3, 3, 3),
        hidden: Hidden = (128,),
        passes: Few = 2,
    ) -> None:
        super().__init__()
        self.widths: Mapping[str, int] = {"S4": widths[3], "S5": widths[4]}
        self.passes = passes
        self.encoder = nn.ModuleList([Stage(in_channels + (passes > 1), widths[0], convolutions[0])])
        for (above, channels), count in zip(pairwise(widths), convolutions[1:], strict=True):
            down = normed(nn.Conv3d(above, channels, 2, stride=2, bias=False))
            self.encoder.append(nn.Sequential(down, Stage(channels, channels, count)))
        self.up6 = UpStage(widths[4], widths[3], convolutions[3])
        self.up7 = UpStage(2 * widths[3], widths[2], convolutions[2])
        self.up8 = UpStage(2 * widths[2], widths[1], convolutions[1])
        self.up9 = UpStage(2 * widths[1], widths[0], convolutions[0])
        self.head = nn.Conv3d(2 * widths[0], num_classes, 1)
        self.classifier = PooledClassifier([widths[3], widths[4], 2 * widths[3]], hidden)

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """Stages S1 to S6 of the last pass by name from the image (B, in_channels, H, W, D)."""
        if self.passes == 1:
            return self._run_pass(image)
        tumour = torch.zeros_like(image[:, :1])
        for _ in range(self.passes - 1):
            logits = self.segment(self._run_pass(torch.cat([image, tumour], dim=1)))
            tumour = logits.float().softmax(dim=1)[:, 1:].sum(dim=1, keepdim=True).to(image.dtype)
        return self._run_pass(torch.cat([image, tumour], dim=1))

    def _run_pass(self, x: Tensor) -> dict[str, Tensor]:
        features = {}
        for name, stage in zip(ENCODER_STAGES, self.encoder, strict=True):
            features[name] = x = stage(x)
        features["S6"] = self.up6(x, features["S4"])
        return features

    def segment(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, num_classes, H, W, D); softmax is the caller's."""
        x = self.up7(features["S6"], features["S3"])
        x = self.up8(x, features["S2"])
        x = self.up9(x, features["S1"])
        return self.head(x)

    def classify(self, features: Mapping[str, Tensor]) -> Tensor:
        """IDH logits (B, 2), float32; softmax is the caller's."""
        return self.classifier([features[name] for name in self.idh_levels])

"""Classifier on globally average-pooled feature levels, as CMSVNet, MA-MTLN and SGPNet-style have one."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from mttu.networks.autocast import without_autocast
from mttu.networks.mttu_net import NUM_CLASSES


class PooledClassifier(nn.Module):
    """Global average pooling of each level, concatenated; linear layers with ReLU between; in float32 under autocast.

    `widths` holds the channels of each level, `hidden` the widths of the hidden layers.
    """

    def __init__(self, widths: Sequence[int], hidden: Sequence[int] = ()) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise([sum(widths), *hidden, NUM_CLASSES]):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Logits (B, 2), float32, from levels of any size (B, C, H, W, D); softmax is the caller's."""
        pooled = torch.cat([level.float().mean(dim=(2, 3, 4)) for level in levels], dim=1)
        with without_autocast(pooled):
            return self.layers(pooled)

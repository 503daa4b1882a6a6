"""Classifier on globally average-pooled feature levels, as CMSVNet, MA-MTLN and SGPNet-style have one."""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn

NUM_CLASSES = 2
"""0: wild type, 1: mutant."""


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
        device = pooled.device.type
        available = torch.amp.is_autocast_available(device)  # not on the meta device, where operations are counted
        with torch.autocast(device, enabled=False) if available else nullcontext():
            return self.layers(pooled)

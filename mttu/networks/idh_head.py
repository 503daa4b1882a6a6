"""IDH classifier over pooled feature levels (section III-A.3, eq. 10-12)."""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from mttu.config.network import IdhHeadSettings

NUM_CLASSES = 2
"""0: wild type, 1: mutant."""
_ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "gelu": nn.GELU}


class IdhHead(nn.Module):
    """Global average and max pooling of each level, concatenated; dropout; linear layers.

    All of it is computed in float32, under autocast too: a mean over 4096 tokens and a logit that a threshold cuts have
    no use for eight bits of mantissa, and the arithmetic that this saves is next to nothing.

    Args:
        settings: Levels, hidden widths and activation.
        widths: Channels of each level by name; more levels than used are fine.
        dropout: Probability on the pooled features.
    """

    def __init__(self, settings: IdhHeadSettings, widths: Mapping[str, int], dropout: float) -> None:
        super().__init__()
        self.feature_levels = settings.levels
        self.dropout = nn.Dropout(dropout)
        sizes = [2 * sum(widths[name] for name in settings.levels), *settings.hidden, NUM_CLASSES]
        layers: list[nn.Module] = [nn.Linear(sizes[0], sizes[1])]
        for fan_in, fan_out in pairwise(sizes[1:]):
            if settings.activation != "none":
                layers.append(_ACTIVATIONS[settings.activation]())
            layers.append(nn.Linear(fan_in, fan_out))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, 2) from levels of any size (B, C, H, W, D); softmax is the caller's."""
        return self.classify(self.pool(features))

    def pool(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Average and maximum (B, 2C), float32, of each level that the head reads and that is given."""
        return {
            name: torch.cat([pool(features[name].float(), dim=(2, 3, 4)) for pool in (torch.mean, torch.amax)], dim=1)
            for name in self.feature_levels
            if name in features
        }

    def classify(self, pooled: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, 2), float32, from the pooled levels (B, 2C)."""
        joined = torch.cat([pooled[name] for name in self.feature_levels], dim=1)
        with torch.autocast(joined.device.type, enabled=False):
            logits: Tensor = self.layers(self.dropout(joined))
        return logits

"""Multi-head self-attention (section III-A.1, eq. 3-5). Shapes: B batch, N tokens, C width, H heads, E = C / H."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mttu.networks.dropout_attention import dropout_attention


class SelfAttention(nn.Module):
    """Multi-head self-attention with dropout on the attention map, scaled by the square root of the head's width.

    Args:
        width: Token width, a multiple of `num_heads`.
        num_heads: Attention heads.
        attention_dropout: Probability on the attention map, after its softmax.
        projection_dropout: Probability on the output projection.
    """

    def __init__(self, width: int, num_heads: int, attention_dropout: float, projection_dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_dropout = nn.Dropout(attention_dropout)
        self.projection = nn.Linear(width, width)
        self.projection_dropout = nn.Dropout(projection_dropout)
        self.map_seeds: Sequence[int] | None = None
        """Seeds of the dropout on the map, one per sample, which then is on in any mode; see `pass_dropout`."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Keeps the shape (B, N, C)."""
        batch, length, width = tokens.shape
        qkv: Tensor = self.qkv(tokens).view(batch, length, 3, self.num_heads, width // self.num_heads)
        if self.map_seeds is None:
            mixed = _mix(qkv, self.attention_dropout.p if self.attention_dropout.training else 0.0)  # (B, N, H, E)
        else:
            samples = zip(torch.split(qkv, 1), self.map_seeds, strict=True)
            mixed = torch.cat([_mix(sample, self.attention_dropout.p, seed) for sample, seed in samples])
        out: Tensor = self.projection_dropout(self.projection(mixed.reshape(batch, length, width)))
        return out


def _mix(qkv: Tensor, probability: float, seed: int | None = None) -> Tensor:
    """Attention (B, N, H, E) of (B, N, 3, H, E); without a seed torch's own generators draw the dropout."""
    if probability and qkv.device.type == "cpu":  # the CPU's fused kernel takes no dropout
        return dropout_attention(qkv, probability, seed)
    if seed is not None:
        torch.manual_seed(seed)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, N, E)
    return F.scaled_dot_product_attention(query, key, value, dropout_p=probability).transpose(1, 2)

"""Bottleneck: F4 to F5, by transformer layers (eq. 3-5) or by convolution blocks (section III-A.1, Table II).

Axes are (B, C, H, W, D); tokens are (B, N, C) with N = H * W * D; within attention also H heads and E = C / H.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mttu.config.network import ConvolutionSettings, DropoutSettings, TransformerSettings
from mttu.networks.cnn import PreActivatedConv
from mttu.networks.cpu.dropout import attention
from mttu.networks.cpu.steps import gelu_dropout_linear


class SelfAttention(nn.Module):
    """Multi-head self-attention, its scores divided by sqrt(E); dropout on the attention weights."""

    def __init__(self, width: int, num_heads: int, attention_dropout: float, projection_dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_dropout = nn.Dropout(attention_dropout)
        self.projection = nn.Linear(width, width)
        self.projection_dropout = nn.Dropout(projection_dropout)
        self.map_seeds: Sequence[int] | None = None
        """Dropout seeds for the attention weights, one per sample; if set, dropout is on even in evaluation mode. See
        `drop_by_pass`."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Keeps the shape (B, N, C)."""
        batch, length, width = tokens.shape
        qkv = self.qkv(tokens).view(batch, length, 3, self.num_heads, width // self.num_heads)  # (B, N, 3, H, E)
        probability = self.attention_dropout.p
        if self.map_seeds is None:  # training and plain prediction
            heads = attention(qkv, probability if self.attention_dropout.training else 0.0)  # (B, N, H, E)
        else:  # Monte Carlo: each sample of the batch is a pass with a dropout mask of its own
            samples = zip(torch.split(qkv, 1), self.map_seeds, strict=True)
            heads = torch.cat([attention(sample, probability, seed) for sample, seed in samples])
        return self.projection_dropout(self.projection(heads.reshape(batch, length, width)))


class PositionEmbedding(nn.Module):
    """Learnable position embedding on a token grid, zero at the start (eq. 2)."""

    def __init__(self, grid: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.grid = grid
        self.embedding = nn.Parameter(torch.zeros(1, prod(grid), width))

    def forward(self, grid: tuple[int, int, int]) -> Tensor:
        """The embedding (1, N, C) for a token grid; interpolated trilinearly if the grid is not the learned one."""
        if grid == self.grid:
            return self.embedding
        volume = self.embedding.transpose(1, 2).reshape(1, -1, *self.grid)  # (1, C, H, W, D)
        volume = F.interpolate(volume, size=grid, mode="trilinear", align_corners=False)
        return volume.flatten(2).transpose(1, 2)


class Mlp(nn.Module):
    """Two linear layers with GELU between, dropout after each (eq. 7)."""

    def __init__(self, width: int, hidden_width: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden_width)
        self.dropout1 = nn.Dropout(dropout)
        self.linear2 = nn.Linear(hidden_width, width)
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Keeps the shape (B, N, C)."""
        hidden = self.linear1(tokens)  # (B, N, K)
        # dropout2(linear2(dropout1(gelu(hidden))))
        return self.dropout2(gelu_dropout_linear(hidden, self.dropout1, self.linear2))


class TransformerLayer(nn.Module):
    """Pre-norm transformer layer (eq. 6-7)."""

    def __init__(self, settings: TransformerSettings, dropout: DropoutSettings) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(settings.width)
        self.attention = SelfAttention(settings.width, settings.num_heads, dropout.attention, dropout.projection)
        self.branch_dropout = nn.Dropout(dropout.branch)
        self.norm2 = nn.LayerNorm(settings.width)
        self.mlp = Mlp(settings.width, settings.mlp_width, dropout.mlp)

    def forward(self, tokens: Tensor) -> Tensor:
        """Keeps the shape (B, N, C)."""
        tokens = tokens + self.branch_dropout(self.attention(self.norm1(tokens)))
        return tokens + self.mlp(self.norm2(tokens))


class TransformerBottleneck(nn.Module):
    """Projection to tokens, position embedding, transformer layers, final norm. With no layers, only the projection."""

    def __init__(self, settings: TransformerSettings, in_channels: int, dropout: DropoutSettings) -> None:
        super().__init__()
        self.project = PreActivatedConv(in_channels, settings.width)
        if settings.num_layers:
            self.position = PositionEmbedding(settings.position_grid, settings.width)
            self.embedding_dropout = nn.Dropout(dropout.embedding)
            self.layers = nn.Sequential(*(TransformerLayer(settings, dropout) for _ in range(settings.num_layers)))
            self.final_norm = nn.LayerNorm(settings.width)
        self.num_layers = settings.num_layers

    def forward(self, f4: Tensor) -> Tensor:
        """Maps F4 (B, in_channels, H, W, D) to F5 (B, width, H, W, D)."""
        return self.transform(self.embed(f4), f4.shape[2:]) if self.num_layers else self.project(f4)

    def embed(self, f4: Tensor) -> Tensor:
        """Tokens (B, N, C) with their position: everything before the first dropout."""
        volume: Tensor = self.project(f4)
        height, width, depth = volume.shape[2:]
        return volume.flatten(2).transpose(1, 2) + self.position((height, width, depth))

    def transform(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """F5 (B, C, H, W, D) from the tokens of `embed` and their grid (H, W, D)."""
        tokens = self.final_norm(self.layers(self.embedding_dropout(tokens)))
        # view then permute: transpose then view gives a batch of one strides that make batch norm misread its gradient
        return tokens.view(len(tokens), *grid, -1).permute(0, 4, 1, 2, 3)


class ConvolutionBottleneck(nn.Module):
    """Projection to the width of F5, then convolution blocks in place of the transformer (Table II, row Conv)."""

    def __init__(self, settings: ConvolutionSettings, in_channels: int) -> None:
        super().__init__()
        self.project = PreActivatedConv(in_channels, settings.width)
        self.blocks = nn.Sequential(
            *(PreActivatedConv(settings.width, settings.width) for _ in range(settings.num_blocks))
        )

    def forward(self, f4: Tensor) -> Tensor:
        """Maps F4 (B, in_channels, H, W, D) to F5 (B, width, H, W, D)."""
        return self.blocks(self.project(f4))


def build_bottleneck(
    settings: TransformerSettings | ConvolutionSettings, in_channels: int, dropout: DropoutSettings
) -> TransformerBottleneck | ConvolutionBottleneck:
    """The bottleneck that the settings' tag names; `in_channels` is the number of channels of F4."""
    if isinstance(settings, TransformerSettings):
        return TransformerBottleneck(settings, in_channels, dropout)
    return ConvolutionBottleneck(settings, in_channels)

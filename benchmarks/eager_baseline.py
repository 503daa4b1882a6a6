"""The yardstick of `benchmarks/network.py`: MTTU-Net as a plain reading of the paper, and nothing more.

Frozen: never made faster, so that ratios of different dates compare. Contiguous tensors, one module per layer of the
paper, attention maps in memory, paper settings only. Parameters are created in the order of the project's network, so
that weights are copied by position. Axes are (B, C, H, W, D).
"""

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Twice norm, activation, convolution; plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*pre_activated_conv(channels, channels), *pre_activated_conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape (B, channels, H, W, D)."""
        return x + self.layers(x)


def pre_activated_conv(in_channels: int, out_channels: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return nn.BatchNorm3d(in_channels), nn.LeakyReLU(0.01), nn.Conv3d(in_channels, out_channels, 3, padding=1)


class Attention(nn.Module):
    """Multi-head self-attention that holds the whole attention map."""

    def __init__(self, width: int, num_heads: int, attention_dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_dropout = nn.Dropout(attention_dropout)
        self.projection = nn.Linear(width, width)
        self.projection_dropout = nn.Dropout(0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Keeps the shape (B, N, C)."""
        batch, length, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-2, -1) * (width // self.num_heads) ** -0.5
        mixed = self.attention_dropout(scores.softmax(dim=-1)) @ value
        mixed = mixed.transpose(1, 2).reshape(batch, length, width)
        return self.projection_dropout(self.projection(mixed))


class TransformerLayer(nn.Module):
    """Pre-norm attention and MLP, each with its residual."""

    def __init__(self, width: int, num_heads: int, mlp_width: int, attention_dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads, attention_dropout)
        self.branch_dropout = nn.Dropout(0.1)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_width), nn.GELU(), nn.Dropout(0.1), nn.Linear(mlp_width, width), nn.Dropout(0.1)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Keeps the shape (B, N, C)."""
        tokens = tokens + self.branch_dropout(self.attention(self.norm1(tokens)))
        return tokens + self.mlp(self.norm2(tokens))


class UpStep(nn.Module):
    """Narrow, double the axes, concatenate the skip, narrow, residual block."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv3d(in_channels, channels, 1)
        self.upsample = nn.ConvTranspose3d(channels, channels, 2, stride=2)
        self.fuse = nn.Conv3d(2 * channels, channels, 1)
        self.block = ResidualBlock(channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Maps x at half the axes, and the skip, to (B, channels, H, W, D)."""
        x = self.upsample(self.reduce(x))
        return self.block(self.fuse(torch.cat([skip, x], dim=1)))


class EagerBaseline(nn.Module):
    """MTTU-Net with the paper's settings.

    Args:
        size: Edge of the cubic patch in voxels.
        attention_dropout: Probability on the attention map.
    """

    def __init__(self, size: int = 128, attention_dropout: float = 0.1) -> None:
        super().__init__()
        self.stem = nn.Conv3d(4, 16, 3, padding=1)
        self.stem_dropout = nn.Dropout3d(0.2)
        self.level1 = ResidualBlock(16)
        self.level2 = nn.Sequential(nn.Conv3d(16, 32, 3, stride=2, padding=1), *(ResidualBlock(32) for _ in range(2)))
        self.level3 = nn.Sequential(nn.Conv3d(32, 64, 3, stride=2, padding=1), *(ResidualBlock(64) for _ in range(2)))
        self.level4 = nn.Sequential(nn.Conv3d(64, 128, 3, stride=2, padding=1), *(ResidualBlock(128) for _ in range(4)))
        self.project = nn.Sequential(*pre_activated_conv(128, 512))
        self.position = nn.ParameterList([torch.zeros(1, (size // 8) ** 3, 512)])
        self.embedding_dropout = nn.Dropout(0.1)
        self.layers = nn.Sequential(*(TransformerLayer(512, 8, 4096, attention_dropout) for _ in range(4)))
        self.final_norm = nn.LayerNorm(512)
        self.entry = nn.Sequential(*pre_activated_conv(512, 128), *pre_activated_conv(128, 128), ResidualBlock(128))
        self.up3, self.up2, self.up1 = UpStep(128, 64), UpStep(64, 32), UpStep(32, 16)
        self.segmentation_head = nn.Conv3d(16, 4, 1)
        self.idh_head = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 512), nn.Linear(512, 32), nn.Linear(32, 2))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Maps an image (B, 4, H, W, D) to `seg_logits` (B, 4, H, W, D) and `idh_logits` (B, 2)."""
        f1 = self.level1(self.stem_dropout(self.stem(image)))
        f2 = self.level2(f1)
        f3 = self.level3(f2)
        f4 = self.level4(f3)
        volume = self.project(f4)
        tokens = self.embedding_dropout(volume.flatten(2).transpose(1, 2) + self.position[0])
        tokens = self.final_norm(self.layers(tokens))
        f5 = tokens.transpose(1, 2).reshape(volume.shape)
        x = self.up3(self.entry(f5), f3)
        x = self.up2(x, f2)
        x = self.up1(x, f1)
        pooled = [pool(level, dim=(2, 3, 4)) for level in (f4, f5) for pool in (torch.mean, torch.amax)]
        return {"seg_logits": self.segmentation_head(x), "idh_logits": self.idh_head(torch.cat(pooled, dim=1))}

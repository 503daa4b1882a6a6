"""CNN encoder: feature levels F1 to F4 (section III-A.1, eq. 1). Axes are (B, C, H, W, D)."""

from collections.abc import Sequence

from torch import Tensor, nn

from mttu.networks.blocks import ResidualBlock
from mttu.networks.convolution import Conv3d

LEVELS = ("F1", "F2", "F3", "F4")
"""Names of the encoder's feature levels; each halves the axes of the one before."""


class Level(nn.Module):
    """One feature level: a strided convolution that halves the axes (none on level 1), then residual blocks.

    Args:
        in_channels: Channels of the level above.
        channels: Channels of this level.
        num_blocks: Residual blocks.
        halves: Whether the level starts with the strided convolution.
    """

    def __init__(self, in_channels: int, channels: int, num_blocks: int, *, halves: bool) -> None:
        super().__init__()
        self.down = Conv3d(in_channels, channels, kernel_size=3, stride=2, padding=1) if halves else nn.Identity()
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(num_blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W, D) to (B, channels, H/2, W/2, D/2), or the same axes on level 1."""
        x = self.down(x)
        x = self.blocks(x)
        return x


class Encoder(nn.Module):
    """Stem and feature levels.

    The stem is apart from the rest because its dropout is the network's first: what lies before it is the same in
    every Monte Carlo pass.

    Args:
        in_channels: Modalities.
        widths: Channels of each level that is built; one to four of them.
        blocks: Residual blocks of each level.
        stem_dropout: Probability that a whole channel of the stem is dropped.
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
        x = self.stem_dropout(stem)
        features = {}
        for name, level in zip(LEVELS, self.levels, strict=False):
            x = level(x)
            features[name] = x
        return features

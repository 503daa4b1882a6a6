"""Building blocks of encoder and decoder. Axes are (B, C, H, W, D)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mttu.networks.lean_conv import lean_pre_activated_conv

NEGATIVE_SLOPE = 0.01


class PreActivatedConv(nn.Module):
    """Convolution block of section III-A.1: batch norm, LeakyReLU, 3x3x3 convolution.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(in_channels)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W, D) to (B, out_channels, H, W, D)."""
        if torch.is_grad_enabled() and _is_plain_cpu(x) and isinstance(self.norm, nn.BatchNorm3d):  # not SyncBatchNorm
            return lean_pre_activated_conv(x, self.norm, self.conv, NEGATIVE_SLOPE)
        out: Tensor = self.conv(F.leaky_relu(self.norm(x), NEGATIVE_SLOPE, inplace=True))
        return out


class ResidualBlock(nn.Module):
    """Residual block of section III-A.1: two convolution blocks and the identity.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = PreActivatedConv(channels, channels)
        self.conv2 = PreActivatedConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape (B, channels, H, W, D)."""
        out: Tensor = self.conv2(self.conv1(x))
        return out.add_(x)  # in place: no backward pass needs the convolution's own output


def _is_plain_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")

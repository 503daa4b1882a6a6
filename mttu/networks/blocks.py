"""Building blocks of encoder and decoder. Axes are (B, C, H, W, D)."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mttu.networks.batch_norm import BatchNorm3d
from mttu.networks.convolution import Conv3d, conv3d
from mttu.networks.lean_conv import lean_pre_activated_conv

NEGATIVE_SLOPE = 0.01


def trains_on_cpu(x: Tensor) -> bool:
    """Whether to take the steps that spare memory on the CPU: gradients wanted, and no autocast."""
    return torch.is_grad_enabled() and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


class PreActivatedConv(nn.Module):
    """Convolution block of section III-A.1: batch norm, LeakyReLU, 3x3x3 convolution.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = BatchNorm3d(in_channels)
        self.conv = Conv3d(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W, D) to (B, out_channels, H, W, D)."""
        if trains_on_cpu(x):
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
        if torch.is_grad_enabled() or self.conv2.norm.training:
            out: Tensor = self.conv2(self.conv1(x))
        else:  # conv1 and the norm of conv2 are one convolution: a pass over memory less
            activated = F.leaky_relu(self.conv1.norm(x), NEGATIVE_SLOPE, inplace=True)
            normalised = conv3d(activated, *_norm_after_conv(self.conv1.conv, self.conv2.norm), padding=1)
            out = self.conv2.conv(F.leaky_relu(normalised, NEGATIVE_SLOPE, inplace=True))
        return out.add_(x)  # in place: no backward pass needs the convolution's own output


def _norm_after_conv(conv: nn.Conv3d, norm: nn.BatchNorm3d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that equals `conv`, then `norm` with its running statistics."""
    mean, variance, bias = (cast(Tensor, values) for values in (norm.running_mean, norm.running_var, conv.bias))
    scale = norm.weight / (variance + norm.eps).sqrt()
    return conv.weight * scale.view(-1, 1, 1, 1, 1), (bias - mean) * scale + norm.bias

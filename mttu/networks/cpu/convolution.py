"""3D convolution that uses oneDNN for a single small window as well.

On a CPU, PyTorch 2.13 hands a float32 convolution of one sample to oneDNN only where channels times height times width
exceed 20480; below that it unfolds the input, which takes several times longer and more memory
(`ConvParams::use_mkldnn` in ATen/native/Convolution.cpp). Prediction runs one window at a time, so small networks, and
the deep levels of large ones, pay for this.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv3d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0) -> Tensor:
    """As `torch.nn.functional.conv3d`; the kernel is chosen for speed, so last bits may differ from it.

    x is (B, C_in, H, W, D), the weight (C_out, C_in, K, K, K); stride and padding are the same along each axis.
    """
    if _falls_short_of_onednn(x):
        return torch.ops.aten.mkldnn_convolution(x, weight, bias, [padding] * 3, [stride] * 3, [1] * 3, 1)
    return F.conv3d(x, weight, bias, stride=stride, padding=padding)


def _falls_short_of_onednn(x: Tensor) -> bool:
    return (
        len(x) == 1
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and bool(torch.backends.mkldnn.enabled)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and not torch.is_grad_enabled()  # for its backward pass PyTorch would choose again
        and not torch.is_autocast_enabled("cpu")
    )


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` computed by `conv3d`, for the same stride and padding along each axis."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W, D) to (B, out_channels, H', W', D')."""
        return conv3d(x, self.weight, self.bias, int(self.stride[0]), int(self.padding[0]))

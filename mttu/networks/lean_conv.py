"""Batch norm, LeakyReLU and convolution as one step that keeps only its input for the backward pass.

The three modules in a row keep three tensors of the input's size. Here the normalised and activated tensor is made
again in the backward pass: two cheap passes over memory in place of two thirds of the memory. For the CPU, where
fresh memory is also what costs time, so elementwise steps overwrite what nobody needs any more.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mttu.errors import InputError


def lean_pre_activated_conv(x: Tensor, norm: nn.BatchNorm3d, conv: nn.Conv3d, negative_slope: float) -> Tensor:
    """`conv(leaky_relu(norm(x)))`, running statistics included; the same values and gradients with less memory.

    Args:
        x: (B, C, H, W, D) on the CPU.
        norm: Batch norm with affine parameters and running statistics, in training or evaluation mode.
        conv: Convolution with a bias and zero padding.
        negative_slope: Slope of the LeakyReLU, above 0.

    Raises:
        InputError: The batch holds one value per channel, which has no variance to train with.
    """
    running_mean, running_var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    if norm.training:
        if x.numel() == x.shape[1]:
            raise InputError(
                f"batch norm in training: found {tuple(x.shape)}, one value per channel; give a larger patch or batch"
            )
        cast(Tensor, norm.num_batches_tracked).add_(1)
        momentum = cast(float, norm.momentum)
        mean, variance = torch.batch_norm_update_stats(x.detach(), running_mean, running_var, momentum)
    else:
        mean, variance = running_mean.clone(), running_var  # cloned: a later training step changes it in place
    inverse_std = (variance + norm.eps).rsqrt()
    out: Tensor = _LeanPreActivatedConv.apply(  # type: ignore[no-untyped-call]
        x,
        norm.weight,
        norm.bias,
        conv.weight,
        conv.bias,
        mean,
        inverse_std,
        conv.padding,
        negative_slope,
        norm.training,
    )
    return out


class _LeanPreActivatedConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor,
        offset: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        inverse_std: Tensor,
        padding: tuple[int, ...],
        negative_slope: float,
        batch_statistics: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, gain, offset, weight, mean, inverse_std)
        ctx.padding, ctx.negative_slope, ctx.batch_statistics = padding, negative_slope, batch_statistics
        return F.conv3d(_activate(x, gain, offset, mean, inverse_std, negative_slope), weight, bias, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, offset, weight, mean, inverse_std = ctx.saved_tensors
        activated = _activate(x, gain, offset, mean, inverse_std, ctx.negative_slope)
        ones, zeros = [1] * 3, [0] * 3
        grad, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad_out, activated, weight, [weight.shape[0]], ones, ctx.padding, ones, False, zeros, 1, [True] * 3
        )
        torch.ops.aten.leaky_relu_backward.grad_input(grad, activated, ctx.negative_slope, True, grad_input=grad)
        del activated
        _, grad_gain, grad_offset = torch.ops.aten.native_batch_norm_backward(
            grad, x, gain, None, None, mean, inverse_std, True, 0.0, [False, True, True]
        )
        scale = gain * inverse_std
        grad.mul_(_per_channel(scale))
        if ctx.batch_statistics:  # mean and variance depend on x, too
            count = x.numel() // x.shape[1]
            slope = -scale * inverse_std * grad_gain / count
            grad.addcmul_(x, _per_channel(slope)).sub_(_per_channel(scale * grad_offset / count + slope * mean))
        return grad, grad_gain, grad_offset, grad_weight, grad_bias, None, None, None, None, None


def _activate(
    x: Tensor, gain: Tensor, offset: Tensor, mean: Tensor, inverse_std: Tensor, negative_slope: float
) -> Tensor:
    scale = gain * inverse_std
    normalised = torch.addcmul(_per_channel(offset - mean * scale), x, _per_channel(scale))
    return F.leaky_relu_(normalised, negative_slope)


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1, 1)

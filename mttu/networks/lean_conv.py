"""Batch norm, LeakyReLU and convolution as one step that keeps only its input for the backward pass.

The three modules in a row keep three tensors of the input's size. Here the normalised and activated tensor is made
again in the backward pass: two cheap passes over memory in place of two thirds of the memory. CPU only.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def lean_pre_activated_conv(x: Tensor, norm: nn.BatchNorm3d, conv: nn.Conv3d, negative_slope: float) -> Tensor:
    """`conv(leaky_relu(norm(x)))`, running statistics included; the same values and gradients with less memory.

    Args:
        x: (B, C, H, W, D) on the CPU.
        norm: Batch norm with affine parameters and running statistics, in training or evaluation mode.
        conv: Convolution with bias and zero padding, one group.
        negative_slope: Slope of the LeakyReLU, above 0.
    """
    if norm.training:
        norm.num_batches_tracked.add_(1)
    out: Tensor = _LeanPreActivatedConv.apply(x, norm.weight, norm.bias, conv.weight, conv.bias, norm, conv, negative_slope)
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
        norm: nn.BatchNorm3d,
        conv: nn.Conv3d,
        negative_slope: float,
    ) -> Tensor:
        if norm.training:
            _check_more_than_one_value(x)
            mean, variance = torch.batch_norm_update_stats(x, norm.running_mean, norm.running_var, norm.momentum)
        else:
            mean, variance = norm.running_mean.clone(), norm.running_var.clone()  # a later step may change them
        inverse_std = (variance + norm.eps).rsqrt()
        activated = _activate(x, gain, offset, mean, inverse_std, negative_slope)
        ctx.save_for_backward(x, gain, offset, weight, mean, inverse_std)
        ctx.batch_statistics = norm.training
        ctx.stride, ctx.padding, ctx.dilation = conv.stride, conv.padding, conv.dilation
        ctx.negative_slope = negative_slope
        return F.conv3d(activated, weight, bias, conv.stride, conv.padding, conv.dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, offset, weight, mean, inverse_std = ctx.saved_tensors
        activated = _activate(x, gain, offset, mean, inverse_std, ctx.negative_slope)
        grad, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad_out, activated, weight, [weight.shape[0]], ctx.stride, ctx.padding, ctx.dilation, False, [0, 0, 0], 1,
            [True, True, True],
        )  # fmt: skip
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
            grad.add_(_per_channel(-scale * grad_offset / count - slope * mean))
            grad.addcmul_(x, _per_channel(slope))
        return grad, grad_gain, grad_offset, grad_weight, grad_bias, None, None, None


def _activate(
    x: Tensor, gain: Tensor, offset: Tensor, mean: Tensor, inverse_std: Tensor, negative_slope: float
) -> Tensor:
    scale = gain * inverse_std
    normalised = torch.addcmul(_per_channel(offset - mean * scale), x, _per_channel(scale))
    return F.leaky_relu_(normalised, negative_slope)


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1, 1)

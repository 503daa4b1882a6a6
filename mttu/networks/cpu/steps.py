"""Steps of the network: norm to convolution, and GELU to linear layer, with a kernel chosen by device and mode.

When gradients are needed on a CPU, a step saves only its input for the backward pass. Separate modules would save three
tensors as large as the input, or as the transformer's hidden layer. Here intermediate values are recomputed in the
backward pass: cheap passes over memory save two thirds of it. Allocating memory also costs time on a CPU, so
elementwise steps work in place.
Shapes of the linear step: M tokens, K hidden width, C width.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mttu.errors import InputError
from mttu.networks.batch_norm import (
    BatchNorm3d,
    SumOverRanks,
    join_axes,
    measure_batch,
    per_channel,
    sum_gradients,
    trace_statistics,
)
from mttu.networks.cpu.convolution import conv3d
from mttu.networks.cpu.dropout import MaskStream, draw_seed


def trains_on_cpu(x: Tensor) -> bool:
    """Whether to take the steps that save memory: on the CPU, with gradients, without autocast."""
    return torch.is_grad_enabled() and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def pre_activated_conv(x: Tensor, norm: BatchNorm3d, conv: nn.Conv3d, negative_slope: float) -> Tensor:
    """`conv(leaky_relu(norm(x)))` of x (B, C, H, W, D), running statistics included."""
    if trains_on_cpu(x):
        return lean_pre_activated_conv(x, norm, conv, negative_slope)
    return conv(activate(x, norm, negative_slope))


def activate(x: Tensor, norm: BatchNorm3d, negative_slope: float) -> Tensor:
    """`leaky_relu(norm(x))` of x (B, C, H, W, D), running statistics included."""
    if not x.is_cuda or (norm.training and norm.sum_over_ranks is not None):
        return F.leaky_relu(norm(x), negative_slope, inplace=True)
    if norm.training:
        cast(Tensor, norm.num_batches_tracked).add_(1)
    mean, variance, momentum = norm.running_mean, norm.running_var, cast(float, norm.momentum)
    joined = F.batch_norm(join_axes(x), mean, variance, norm.weight, norm.bias, norm.training, momentum, norm.eps)
    # in place before the axes are parted: autograd would copy the gradient of what is changed through a view
    return F.leaky_relu(joined, negative_slope, inplace=True).view(x.shape)


def two_pre_activated_convs(
    x: Tensor, first: tuple[BatchNorm3d, nn.Conv3d], second: tuple[BatchNorm3d, nn.Conv3d], negative_slope: float
) -> Tensor:
    """`pre_activated_conv` twice, the first 3x3x3 with padding 1.

    Without gradients and training, the second norm is folded into the first convolution.
    """
    (norm1, conv1), (norm2, conv2) = first, second
    if torch.is_grad_enabled() or norm2.training:
        return pre_activated_conv(pre_activated_conv(x, norm1, conv1, negative_slope), norm2, conv2, negative_slope)
    mean, variance, bias = (cast(Tensor, values) for values in (norm2.running_mean, norm2.running_var, conv1.bias))
    scale = norm2.weight / (variance + norm2.eps).sqrt()
    weight, bias = conv1.weight * scale.view(-1, 1, 1, 1, 1), (bias - mean) * scale + norm2.bias
    activated = activate(x, norm1, negative_slope)
    return conv2(F.leaky_relu_(conv3d(activated, weight, bias, padding=1), negative_slope))


def gelu_dropout_linear(hidden: Tensor, dropout: nn.Dropout, linear: nn.Linear) -> Tensor:
    """`linear(dropout(gelu(hidden)))`, from (B, N, K) to (B, N, C)."""
    if not trains_on_cpu(hidden):
        return linear(dropout(F.gelu(hidden)))
    probability = dropout.p if dropout.training else 0.0
    out = lean_gelu_dropout_linear(hidden.flatten(0, 1), linear.weight, linear.bias, probability)
    return out.view(*hidden.shape[:2], -1)


def lean_pre_activated_conv(x: Tensor, norm: BatchNorm3d, conv: nn.Conv3d, negative_slope: float) -> Tensor:
    """`conv(leaky_relu(norm(x)))`, running statistics included; the same values and gradients with less memory.

    The convolution has a bias and zero padding, the slope is above 0.

    Raises:
        InputError: The batch holds one value per channel, which has no variance to train with.
    """
    count: Tensor | int | None = None
    if norm.training:
        if x.numel() == x.shape[1] and norm.sum_over_ranks is None:
            raise InputError(
                f"batch norm in training: found {tuple(x.shape)}, one value per channel; give a larger patch or batch"
            )
        cast(Tensor, norm.num_batches_tracked).add_(1)
        mean, variance, count = measure_batch(x.detach(), norm)
    else:
        mean = cast(Tensor, norm.running_mean).clone()  # a later training step changes it in place
        variance = cast(Tensor, norm.running_var)
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
        count,
        norm.sum_over_ranks,
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
        count: Tensor | int | None,
        sum_over_ranks: SumOverRanks | None,
    ) -> Tensor:
        ctx.save_for_backward(x, gain, offset, weight, mean, inverse_std)
        ctx.padding, ctx.negative_slope, ctx.count, ctx.sum_over_ranks = padding, negative_slope, count, sum_over_ranks
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
        grad_gain, grad_offset = sum_gradients(grad, x, gain, mean, inverse_std)
        scale = gain * inverse_std
        grad.mul_(per_channel(scale))
        if ctx.count is not None:  # mean and variance depend on x too
            sums = torch.stack([grad_gain, grad_offset])
            if ctx.sum_over_ranks is not None:
                sums = ctx.sum_over_ranks(sums)
            slope, shift = trace_statistics(scale, mean, inverse_std, sums, ctx.count)
            grad.addcmul_(x, per_channel(slope)).sub_(per_channel(shift))
        return grad, grad_gain, grad_offset, grad_weight, grad_bias, None, None, None, None, None, None


def _activate(
    x: Tensor, gain: Tensor, offset: Tensor, mean: Tensor, inverse_std: Tensor, negative_slope: float
) -> Tensor:
    scale = gain * inverse_std
    normalised = torch.addcmul(per_channel(offset - mean * scale), x, per_channel(scale))
    return F.leaky_relu_(normalised, negative_slope)


CHUNK = 512
"""Tokens at a time."""


def lean_gelu_dropout_linear(hidden: Tensor, weight: Tensor, bias: Tensor, probability: float) -> Tensor:
    """`linear(dropout(gelu(hidden)))` from (M, K) to (M, C): the same values and gradients with less memory."""
    seed = draw_seed() if probability else 0
    out: Tensor = _LeanGeluDropoutLinear.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, probability, seed
    )
    return out


class _LeanGeluDropoutLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, probability: float, seed: int) -> Tensor:
        out = hidden.new_empty(len(hidden), len(weight))
        masks = MaskStream(min(CHUNK, len(hidden)), hidden.shape[1], probability, seed, hidden.dtype)
        for rows in _chunks(hidden):
            activated = F.gelu(hidden[rows])
            if probability:
                activated.mul_(masks.draw(len(activated)))
            torch.addmm(bias, activated, weight.t(), out=out[rows])
        ctx.save_for_backward(hidden, weight)
        ctx.probability, ctx.seed = probability, seed
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        masks = MaskStream(min(CHUNK, len(hidden)), hidden.shape[1], ctx.probability, ctx.seed, hidden.dtype)
        for rows in _chunks(hidden):
            activated, grad = F.gelu(hidden[rows]), grad_hidden[rows]
            torch.mm(grad_out[rows], weight, out=grad)
            if ctx.probability:
                mask = masks.draw(len(activated))
                activated.mul_(mask)
                grad.mul_(mask)
            grad_weight.addmm_(grad_out[rows].t(), activated)
            torch.ops.aten.gelu_backward.grad_input(grad, hidden[rows], grad_input=grad)
        return grad_hidden, grad_weight, grad_out.sum(0), None, None


def _chunks(hidden: Tensor) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, len(hidden), CHUNK)]

"""Batch norm over the samples of all ranks: global sums by one all-reduce in the forward pass and one in the backward.

torch's own `SyncBatchNorm` works on GPUs only and waits for the device in each layer; here nothing is read back.
Axes are (B, C, H, W, D).
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SumOverRanks = Callable[[Tensor], Tensor]


class BatchNorm3d(nn.BatchNorm3d):
    """torch's batch norm; once `synchronise` has said how to add up over ranks, in training that of all ranks.

    In evaluation mode, and with one rank, it is torch's to the bit, and nothing is sent.
    """

    sum_over_ranks: SumOverRanks | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape (B, C, H, W, D)."""
        if not self.training or self.sum_over_ranks is None:
            return super().forward(x)
        cast(Tensor, self.num_batches_tracked).add_(1)
        mean, variance, count = measure_batch(x.detach(), self)
        synchronised: Tensor = _SynchronisedNorm.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, mean, variance, count, self.eps, self.sum_over_ranks
        )
        return synchronised


def synchronise(network: nn.Module, sum_over_ranks: SumOverRanks) -> None:
    """Makes all batch norms of a network take the statistics of the global batch, in place.

    Every rank must run the same layers in the same order; `sum_over_ranks` adds detached tensors up, the same bits on
    each rank.
    """
    for module in network.modules():
        if isinstance(module, BatchNorm3d):
            module.sum_over_ranks = sum_over_ranks


def join_axes(x: Tensor) -> Tensor:
    """(B, C, H * W, D), without a copy where channels are last.

    On a GPU torch measures and normalises images of four axes with kernels for channels last, of five without.
    """
    return x.flatten(2, 3)


def measure_batch(x: Tensor, norm: BatchNorm3d) -> tuple[Tensor, Tensor, Tensor | int]:
    """Mean and biased variance of each channel over the batch, of all ranks if synchronised; running ones follow.

    Each rank measures its own samples in float32 or better, and the sums over ranks are in double precision, so that a
    mean far from zero costs no digit of the variance (compare the pairwise update of Chan, Golub and LeVeque, 1979).

    Args:
        x: (B, C, H, W, D), without gradient.
        norm: Whose running statistics are updated, with torch's unbiased variance.

    Returns:
        Mean (C,), variance (C,) and the number of values per channel, a tensor () where ranks had to add it up.
    """
    own = x.numel() // x.shape[1]
    x = join_axes(x) if x.is_cuda else x
    running_mean, running_var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    momentum = cast(float, norm.momentum)
    if norm.sum_over_ranks is None:
        return *torch.batch_norm_update_stats(x, running_mean, running_var, momentum), own
    unused = running_mean.clone(), running_var.clone()  # their type is that of the result: float32 under autocast, too
    mean, variance = (values.double() for values in torch.batch_norm_update_stats(x, *unused, 0.0))
    sums = torch.cat([own * mean, own * (variance + mean.square()), mean.new_full((1,), own)])
    sums = norm.sum_over_ranks(sums)
    mean, mean_square = (sums[:-1] / sums[-1]).chunk(2)
    count = sums[-1]
    variance = (mean_square - mean.square()).clamp(min=0)
    running_mean.lerp_(mean.to(running_mean), momentum)
    running_var.lerp_((variance * (count / (count - 1))).to(running_var), momentum)
    return mean.to(running_mean), variance.to(running_var), count


class _SynchronisedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor,
        offset: Tensor,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
        sum_over_ranks: SumOverRanks,
    ) -> Tensor:
        ctx.save_for_backward(x, gain, mean, (variance + eps).rsqrt(), count)
        ctx.sum_over_ranks = sum_over_ranks
        return F.batch_norm(x, mean, variance, gain, offset, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, mean, inverse_std, count = ctx.saved_tensors
        channels_last = x.is_contiguous(memory_format=torch.channels_last_3d)
        grad = grad.contiguous(memory_format=torch.channels_last_3d if channels_last else torch.contiguous_format)
        grad_gain, grad_offset = sum_gradients(grad, x, gain, mean, inverse_std)
        sums = ctx.sum_over_ranks(torch.stack([grad_gain, grad_offset]))
        if x.is_cuda:  # the same sum as below in one pass over memory
            grad_x = torch.batch_norm_backward_elemt(
                grad, x, mean, inverse_std, gain, sums[1], sums[0] / inverse_std, count.int()[None]
            )
        else:
            scale = gain * inverse_std
            slope, shift = trace_statistics(scale, mean, inverse_std, sums, count)
            grad_x = (x * per_channel(slope)).sub_(per_channel(shift)).add_(grad * per_channel(scale)).to(x.dtype)
        return grad_x, grad_gain, grad_offset, None, None, None, None, None


def sum_gradients(grad: Tensor, x: Tensor, gain: Tensor, mean: Tensor, inverse_std: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (C,) of gain and offset from that of the norm's output, over this rank's samples."""
    _, grad_gain, grad_offset = torch.ops.aten.native_batch_norm_backward(
        grad, x, gain, None, None, mean, inverse_std, True, 0.0, [False, True, True]
    )
    return grad_gain, grad_offset


def trace_statistics(
    scale: Tensor, mean: Tensor, inverse_std: Tensor, sums: Tensor, count: Tensor | int
) -> tuple[Tensor, Tensor]:
    """What mean and variance, which depend on x too, add to the gradient of x: slope * x - shift, (C,) each.

    `scale` (C,) is gain over standard deviation, `sums` (2, C) are the gradients of gain and offset over all samples,
    `count` is the number of values per channel.
    """
    slope = -scale * inverse_std * sums[0] / count
    return slope, scale * sums[1] / count + slope * mean


def per_channel(values: Tensor) -> Tensor:
    """(C,) as (1, C, 1, 1, 1)."""
    return values.view(1, -1, 1, 1, 1)

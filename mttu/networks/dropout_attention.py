"""Self-attention with dropout on its map, for the CPU, where the fused kernel takes no dropout.

The map is made for a few queries at a time, in buffers that stay in the processor's cache, and made again in the
backward pass, so that it never lies in memory as a whole (8 x 4096^2 numbers per layer for the paper's patch). The
dropout mask is made again too, from its seed. Shapes: B batch, N tokens, H heads, E width of a head.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 512
"""Queries at a time."""
_STEPS = 2**16


def dropout_attention(qkv: Tensor, probability: float) -> Tensor:
    """Softmax attention with dropout on the map: `dropout(softmax(Q K^T / sqrt(E))) V`.

    The mask's seed comes from torch's global generator, so `torch.manual_seed` decides it. The mask compares 16-bit
    random integers, which are cheap, with the probability rounded to a multiple of 2^-16; kept weights are scaled by
    that rounded probability, so that the expectation is exact.

    Args:
        qkv: (B, N, 3, H, E), query, key and value on the third axis; on the CPU. Computed in float32 at least.
        probability: Probability that a weight of the map is dropped, 0 to below 1.

    Returns:
        (B, N, H, E), of the type of `qkv`.
    """
    seed = int(torch.randint(2**62, ()))
    with torch.autocast("cpu", enabled=False):
        wide = qkv if qkv.dtype == torch.float64 else qkv.float()
        out: Tensor = _DropoutAttention.apply(wide, probability, seed)  # type: ignore[no-untyped-call]
    return out.to(qkv.dtype)


class _DropoutAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, probability: float, seed: int) -> Tensor:
        batch, length, _, heads, width = qkv.shape
        out = qkv.new_empty(batch, length, heads, width)
        masks = _Masks(qkv, probability, seed)
        weights = qkv.new_empty(min(CHUNK, length), length)
        for sample in range(batch):
            for head in range(heads):
                query, key, value = qkv[sample, :, :, head].unbind(1)  # each (N, E)
                scaled_query = query * width**-0.5
                for rows in _chunks(length):
                    _attention_map(scaled_query[rows], key, out=weights[: rows.stop - rows.start])
                    dropped = weights[: rows.stop - rows.start].mul_(masks.draw(rows))
                    out[sample, rows, head] = (dropped @ value).mul_(masks.scale)
        ctx.save_for_backward(qkv, out)
        ctx.probability, ctx.seed = probability, seed
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None, None]:
        qkv, out = ctx.saved_tensors
        batch, length, _, heads, width = qkv.shape
        grad_qkv = torch.empty_like(qkv)
        masks = _Masks(qkv, ctx.probability, ctx.seed)
        buffers = qkv.new_empty(2, min(CHUNK, length), length)
        row_dots = (grad_out * out).sum(-1, keepdim=True)  # (B, N, H, 1)
        for sample in range(batch):
            for head in range(heads):
                query, key, value = qkv[sample, :, :, head].unbind(1)
                scaled_query = query * width**-0.5
                grad_key, grad_value = torch.zeros_like(scaled_query), torch.zeros_like(scaled_query)
                for rows in _chunks(length):
                    weights, work = buffers[:, : rows.stop - rows.start]
                    keep = masks.draw(rows)
                    _attention_map(scaled_query[rows], key, out=weights)
                    grad_mixed = grad_out[sample, rows, head] * masks.scale  # (rows, E)
                    torch.mul(weights, keep, out=work)
                    grad_value.addmm_(work.t(), grad_mixed)
                    torch.mm(grad_mixed, value.t(), out=work)  # gradient of the dropped map, then of the scores
                    work.mul_(keep).sub_(row_dots[sample, rows, head]).mul_(weights)
                    grad_key.addmm_(work.t(), scaled_query[rows])
                    grad_qkv[sample, rows, 0, head] = (work @ key).mul_(width**-0.5)
                grad_qkv[sample, :, 1, head] = grad_key
                grad_qkv[sample, :, 2, head] = grad_value
        return grad_qkv, None, None


class _Masks:
    """Draws the mask chunk by chunk, in one fixed order: the same seed gives the same masks."""

    def __init__(self, like: Tensor, probability: float, seed: int) -> None:
        length = like.shape[1]
        dropped_steps = min(round(probability * _STEPS), _STEPS - 1)
        self.scale = _STEPS / (_STEPS - dropped_steps)
        self._threshold = dropped_steps - _STEPS // 2  # the integers are signed
        self._generator = torch.Generator().manual_seed(seed)
        self._bits = torch.empty(-(-min(CHUNK, length) * length // 4), dtype=torch.int64)  # four integers each
        self._keep = like.new_empty(min(CHUNK, length), length)

    def draw(self, rows: slice) -> Tensor:
        """1 where a weight is kept, 0 where it is dropped: (rows, N), overwritten by the next draw."""
        keep = self._keep[: rows.stop - rows.start]
        self._bits.random_(-(2**63), None, generator=self._generator)  # the full range: 64 random bits
        integers = self._bits.view(torch.int16)[: keep.numel()].view_as(keep)
        return torch.ge(integers, self._threshold, out=keep)


def _chunks(length: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK, length)) for start in range(0, length, CHUNK))


def _attention_map(scaled_query: Tensor, key: Tensor, out: Tensor) -> None:
    torch.mm(scaled_query, key.t(), out=out)
    torch.softmax(out, dim=-1, out=out)

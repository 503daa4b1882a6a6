"""Seeded dropout, and attention with dropout on its weights, with a kernel for each device.

On a CPU, masks are redrawn from their seed instead of being kept, and the fused attention kernel does not support
dropout: the map is computed for a few queries at a time, in buffers that stay in the processor's cache, and again in
the backward pass, so that it is never in memory as a whole (8 x 4096^2 numbers per layer for the paper's patch).
Shapes: B batch, N tokens, H heads, E width of a head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_STEPS = 2**16


def draw_seed() -> int:
    """A seed from torch's global generator, so that `torch.manual_seed` decides every mask."""
    return int(torch.randint(2**62, ()))


class MaskStream:
    """Masks of at most `rows` x `columns` in a fixed order, which the seed decides.

    A mask compares 16-bit random integers, which are cheap, with the probability (0 to below 1), rounded to a multiple
    of 2^-16. Kept elements are scaled by that rounded probability, so the expectation is exact.
    """

    def __init__(self, rows: int, columns: int, probability: float, seed: int, dtype: torch.dtype) -> None:
        dropped_steps = min(round(probability * _STEPS), _STEPS - 1)
        self._scale = _STEPS / (_STEPS - dropped_steps)
        self._threshold = dropped_steps - _STEPS // 2  # the integers are signed
        self._generator = torch.Generator().manual_seed(seed)
        self._bits = torch.empty(-(-rows * columns // 4), dtype=torch.int64)  # four 16-bit integers in each
        self._mask = torch.empty(rows, columns, dtype=dtype)

    def draw(self, rows: int) -> Tensor:
        """The next mask (rows, columns): 0 where dropped, 1 / (1 - p) where kept; the draw after overwrites it."""
        mask = self._mask[:rows]
        self._bits.random_(-(2**63), None, generator=self._generator)  # the full range: 64 random bits
        integers = self._bits.view(torch.int16)[: mask.numel()].view_as(mask)
        return torch.ge(integers, self._threshold, out=mask).mul_(self._scale)


CHUNK = 512
"""Queries, or tokens, at a time."""


def drop_sample(sample: Tensor, probability: float, seed: int, whole_channels: bool) -> Tensor:
    """Dropout of one sample (1, C, H, W, D), (1, N, C) or (1, C), whose mask the seed decides.

    On a GPU this reseeds torch's generator there.
    """
    if sample.device.type != "cpu":
        _reseed(sample.device, seed)
        return (F.dropout3d if whole_channels else F.dropout)(sample, probability, training=True)
    if whole_channels:
        mask = MaskStream(1, sample.shape[1], probability, seed, sample.dtype).draw(1)
        return sample * mask.view(1, -1, 1, 1, 1)
    rows = sample.flatten(0, -2)
    out = torch.empty_like(rows, memory_format=torch.contiguous_format)
    masks = MaskStream(min(CHUNK, len(rows)), rows.shape[1], probability, seed, sample.dtype)
    for part, target in zip(torch.split(rows, CHUNK), torch.split(out, CHUNK), strict=True):
        torch.mul(part, masks.draw(len(part)), out=target)
    return out.view(sample.shape)


def _reseed(device: torch.device, seed: int) -> None:
    """Reseeds torch's generator of this device alone: `torch.manual_seed` would take longer than a layer on a GPU."""
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
    else:
        torch.manual_seed(seed)


def attention(qkv: Tensor, probability: float, seed: int | None = None) -> Tensor:
    """Attention (B, N, H, E) of (B, N, 3, H, E), dropout on its weights: seeded, or from torch's generators."""
    if probability and qkv.device.type == "cpu":
        return dropout_attention(qkv, probability, seed)
    if seed is not None:
        _reseed(qkv.device, seed)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, N, E)
    return F.scaled_dot_product_attention(query, key, value, dropout_p=probability).transpose(1, 2)


def dropout_attention(qkv: Tensor, probability: float, seed: int | None = None) -> Tensor:
    """Softmax attention with dropout on the map: `dropout(softmax(Q K^T / sqrt(E))) V`.

    Args:
        qkv: (B, N, 3, H, E), query, key and value on the third axis; on the CPU. Computed in float32 at least.
        probability: Probability that a weight of the map is dropped, 0 to below 1.
        seed: Decides the masks; drawn from torch's generator if not given.

    Returns:
        (B, N, H, E), of the type of `qkv`.
    """
    with torch.autocast("cpu", enabled=False):
        wide = qkv if qkv.dtype == torch.float64 else qkv.float()
        out: Tensor = _DropoutAttention.apply(  # type: ignore[no-untyped-call]
            wide, probability, draw_seed() if seed is None else seed
        )
    return out.to(qkv.dtype)


class _DropoutAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, probability: float, seed: int) -> Tensor:
        batch, length, _, heads, width = qkv.shape
        out = qkv.new_empty(batch, length, heads, width)
        masks = MaskStream(min(CHUNK, length), length, probability, seed, qkv.dtype)
        buffer = qkv.new_empty(min(CHUNK, length), length)
        for sample in range(batch):
            for head in range(heads):
                query, key, value = qkv[sample, :, :, head].unbind(1)  # each (N, E)
                for rows, scaled_query in _chunks(query):
                    weights = _attention_map(scaled_query, key, buffer)
                    weights.mul_(masks.draw(len(scaled_query)))
                    out[sample, rows, head] = weights @ value
        ctx.save_for_backward(qkv, out)
        ctx.probability, ctx.seed = probability, seed
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None, None]:
        qkv, out = ctx.saved_tensors
        batch, length, _, heads, width = qkv.shape
        grad_qkv = torch.empty_like(qkv)
        masks = MaskStream(min(CHUNK, length), length, ctx.probability, ctx.seed, qkv.dtype)
        buffers = qkv.new_empty(2, min(CHUNK, length), length)
        row_dots = (grad_out * out).sum(-1, keepdim=True)  # (B, N, H, 1)
        for sample in range(batch):
            for head in range(heads):
                query, key, value = qkv[sample, :, :, head].unbind(1)
                grad_key, grad_value = key.new_zeros(length, width), key.new_zeros(length, width)
                for rows, scaled_query in _chunks(query):
                    mask = masks.draw(len(scaled_query))
                    weights = _attention_map(scaled_query, key, buffers[0])
                    work = buffers[1, : len(scaled_query)]
                    grad_mixed = grad_out[sample, rows, head]  # (rows, E)
                    torch.mul(weights, mask, out=work)
                    grad_value.addmm_(work.t(), grad_mixed)
                    torch.mm(grad_mixed, value.t(), out=work)  # gradient of the dropped map, then of the scores
                    work.mul_(mask).sub_(row_dots[sample, rows, head]).mul_(weights)
                    grad_key.addmm_(work.t(), scaled_query)
                    grad_qkv[sample, rows, 0, head] = (work @ key).mul_(width**-0.5)
                grad_qkv[sample, :, 1, head] = grad_key
                grad_qkv[sample, :, 2, head] = grad_value
        return grad_qkv, None, None


def _chunks(query: Tensor) -> list[tuple[slice, Tensor]]:
    """Row ranges, and the queries of each divided by the square root of their width."""
    scaled = query * query.shape[1] ** -0.5
    starts = range(0, len(query), CHUNK)
    return [(slice(start, start + CHUNK), part) for start, part in zip(starts, scaled.split(CHUNK), strict=True)]


def _attention_map(scaled_query: Tensor, key: Tensor, buffer: Tensor) -> Tensor:
    """Softmax of the scores (rows, N), written to the buffer's first rows."""
    weights = buffer[: len(scaled_query)]
    torch.mm(scaled_query, key.t(), out=weights)
    return torch.softmax(weights, dim=-1, out=weights)

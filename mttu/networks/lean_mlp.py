"""GELU, dropout and linear layer as one step that keeps only its input for the backward pass, for the CPU.

The modules in a row keep three tensors of the hidden width, the widest ones of the transformer. Here what lies between
is made a few tokens at a time, in memory that stays in the processor's cache, and made again in the backward pass.
Shapes: M tokens, K hidden width, C width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mttu.networks.dropout_masks import MaskStream, draw_seed

CHUNK = 512
"""Tokens at a time."""


def lean_gelu_dropout_linear(hidden: Tensor, weight: Tensor, bias: Tensor, probability: float) -> Tensor:
    """`linear(dropout(gelu(hidden)))`: the same values and gradients with less memory.

    Args:
        hidden: (M, K), on the CPU.
        weight: (C, K).
        bias: (C,).
        probability: Probability that a value is dropped, 0 to below 1.

    Returns:
        (M, C).
    """
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

"""Dropout masks that are drawn again from their seed in place of being kept, for the CPU."""

import torch
from torch import Tensor

_STEPS = 2**16


def draw_seed() -> int:
    """A seed from torch's global generator, so that `torch.manual_seed` decides every mask."""
    return int(torch.randint(2**62, ()))


class MaskStream:
    """Masks of at most `rows` x `columns` in one fixed order: the same seed gives the same masks.

    A mask compares 16-bit random integers, which are cheap, with the probability rounded to a multiple of 2^-16. Kept
    elements are scaled by that rounded probability: the expectation is exact.

    Args:
        rows: Largest number of rows of a mask.
        columns: Columns of every mask.
        probability: Probability that an element is dropped, 0 to below 1.
        seed: From `draw_seed`.
        dtype: Type of the masks.
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

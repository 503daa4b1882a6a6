"""What a network has to offer so that it can be trained, predicted and scored like MTTU-Net.

Axes are (B, C, H, W, D).
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class Body(Protocol):
    """A `torch.nn.Module` with these members; one that cannot segment, or has no IDH head of its own, lacks the method.

    Three more are optional: `smallest`, the least H, W and D; `idh_levels`, names of the features that `classify`
    reads, so that scoring keeps no others; and `transformer`, the name of the submodule whose dropout
    `mc.active_dropout=transformer+head` means.

    Built as `Body(in_channels, **options)`; what it cannot do with these it refuses with `mttu.errors.InputError`. It
    also runs on torch's `meta` device, in evaluation mode: parameters and multiply-adds are found there. A parameter
    that evaluation mode does not use, such as that of an auxiliary head, is frozen, in training too. Batch norm is
    `torch.nn.BatchNorm3d` with running statistics, a momentum and learned gain and offset. Monte Carlo passes know
    dropout as a module, `torch.nn.Dropout` or `torch.nn.Dropout3d`; other classes are refused there, and functions
    such as `torch.nn.functional.dropout` cannot be seen.
    """

    stride: int
    """H, W and D are multiples of it."""
    widths: Mapping[str, int]
    """Channels of each feature level that an IDH head can read, by name, the deepest last."""
    own_idh: bool
    """Whether it has an IDH head of its own (`classify`)."""

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """Features by name, those of `widths` among them, from an image (B, in_channels, H, W, D)."""
        ...

    def segment(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, 4, H, W, D) from the features of `encode`; softmax is the caller's."""
        ...

    def classify(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, 2), wild type and mutant, from the features of `encode`; where `own_idh`."""
        ...

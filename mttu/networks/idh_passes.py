"""The way from image to IDH logits, cut at the first active dropout: what lies before it is the same in every pass.

The decoder is not on this way. Axes are (B, C, H, W, D); tokens (B, N, C).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mttu.config.scoring import ActiveDropout
from mttu.errors import InputError
from mttu.networks.bottleneck import TransformerBottleneck
from mttu.networks.mttu_net import MttuNet
from mttu.networks.pass_dropout import drop_by_pass, find_places


@dataclass(frozen=True)
class Shared:
    """What all passes of a window share, a batch of one; `stem` or `tokens` is what the first dropout works on."""

    stem: Tensor | None
    """(1, widths[0], H, W, D) before the stem's dropout; None if that dropout is off."""
    tokens: Tensor | None
    """(1, N, C) before the embedding's dropout; None if F5 is shared too, or not yet there."""
    grid: tuple[int, ...]
    """Tokens per axis."""
    pooled: dict[str, Tensor]
    """Pooled levels (1, 2C), float32, before the first active dropout."""


class IdhPasses:
    """Monte Carlo passes of one network.

    Args:
        network: In evaluation mode, with an IDH head.
        active: Where dropout is on.

    Raises:
        InputError: The network has no IDH head, or no dropout there that drops anything.
    """

    def __init__(self, network: MttuNet, active: ActiveDropout) -> None:
        if network.idh_head is None:
            raise InputError("the network has no IDH head (network.tasks); nothing can be scored")
        self.network, self.head = network, network.idh_head
        self.places = find_places(network, active)
        if not self.places:
            raise InputError(
                f"mc.active_dropout={active}: no dropout there has a probability above 0 (network.dropout), so all "
                "passes would be equal; choose a larger part, or a network trained with dropout"
            )
        self._from_stem = self.places[0].startswith("encoder.")
        self._from_tokens = self.places[0].startswith("bottleneck.")

    @torch.inference_mode()  # here too, for a graph that is kept changes last bits
    def share(self, image: Tensor) -> Shared:
        """Computes what lies before the first active dropout.

        Args:
            image: One window (1, in_channels, H, W, D); H, W and D are multiples of 8.
        """
        network = self.network
        if self._from_stem:
            stem = network.encoder.stem(image.contiguous(memory_format=torch.channels_last_3d))
            return Shared(stem, None, (), {})
        if self._from_tokens and isinstance(network.bottleneck, TransformerBottleneck):
            features = network.encoder(image.contiguous(memory_format=torch.channels_last_3d))
            f4 = features["F4"]
            return Shared(None, network.bottleneck.embed(f4), tuple(f4.shape[2:]), self.head.pool(features))
        return Shared(None, None, (), self.head.pool(network.encode(image)))

    def finish(self, shared: Shared, copies: int = 1) -> Tensor:
        """Logits (copies, 2) of as many copies; with `drop_by_pass` around it, each copy is a pass of its own."""
        network, pooled = self.network, shared.pooled
        if shared.stem is not None:
            features = network.encoder.extract(_repeat(shared.stem, copies))
            if network.bottleneck is not None:
                features["F5"] = network.bottleneck(features["F4"])
            return self.head.classify(self.head.pool(features))
        if shared.tokens is not None and isinstance(network.bottleneck, TransformerBottleneck):
            f5 = network.bottleneck.transform(_repeat(shared.tokens, copies), shared.grid)
            pooled = pooled | self.head.pool({"F5": f5})
        return self.head.classify({name: _repeat(level, copies) for name, level in pooled.items()})

    def run(self, shared: Shared, keys: Sequence[str]) -> Tensor:
        """Logits (len(keys), 2) of the named passes, as one batch."""
        with drop_by_pass(self.network, self.places, keys):
            return self.finish(shared, len(keys))


def _repeat(tensor: Tensor, copies: int) -> Tensor:
    return tensor if len(tensor) == copies else tensor.expand(copies, *tensor.shape[1:])

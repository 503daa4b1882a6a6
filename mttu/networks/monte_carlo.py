"""Monte Carlo passes to the IDH logits: the samples of a batch are passes, each with masks of its own (section IV-B).

The seed of a mask comes from the pass and from the place of the dropout in the network. So a pass has the same masks
wherever and however often it is computed, in any batch, and whatever was computed before it.

Everything before the first active dropout is the same in every pass and is computed once; the decoder never runs. Of
other networks than MTTU-Net only the features before the IDH head are shared, where no dropout before them is active.
Axes are (B, C, H, W, D); tokens (B, N, C).
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mttu.config.scoring import ActiveDropout
from mttu.errors import InputError
from mttu.networks.bottleneck import SelfAttention, TransformerBottleneck
from mttu.networks.build import Network
from mttu.networks.cpu.dropout import drop_sample
from mttu.networks.mttu_net import IdhHead
from mttu.networks.rivals.rival import Rival

_PARTS: dict[ActiveDropout, tuple[str, ...]] = {
    "all": ("encoder.", "bottleneck.", "idh_head."),
    "transformer+head": ("bottleneck.", "idh_head."),
    "head": ("idh_head.",),
}


def find_places(network: Network, active: ActiveDropout) -> tuple[str, ...]:
    """Names of the active dropout modules with a probability above 0, in the order of the forward pass.

    Of another network than MTTU-Net, only those that the IDH logits depend on.

    Raises:
        InputError: The network is another one without the part that is asked for, or with dropout of another kind, or
            that has no samples.
    """
    if isinstance(network, Rival):
        return _find_rival_places(network, active)
    return tuple(
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Dropout | nn.Dropout3d) and module.p > 0 and name.startswith(_PARTS[active])
    )


def _find_rival_places(network: Rival, active: ActiveDropout) -> tuple[str, ...]:
    reach = network.reach
    places = reach.head_dropouts if active == "head" else reach.dropouts
    if active == "transformer+head":
        prefix = network.transformer
        if prefix is None:
            raise InputError(
                f"mc.active_dropout=transformer+head: {network.title} has no transformer; choose all or head"
            )
        places = tuple(name for name in places if name.startswith(prefix) or name in reach.head_dropouts)
    places = tuple(name for name in places if network.get_submodule(name).p)
    foreign = [name for name in places if type(network.get_submodule(name)) not in (nn.Dropout, nn.Dropout3d)]
    if foreign:
        raise InputError(
            f"mc.active_dropout={active}: dropout {foreign[0]} of {network.title} is a "
            f"{type(network.get_submodule(foreign[0])).__name__}; a pass has masks for torch.nn.Dropout and Dropout3d "
            "alone; set its probability to 0, or choose head"
        )
    mixed = [name for name in places if name in reach.mixed_dropouts]
    if mixed:
        raise InputError(
            f"mc.active_dropout={active}: dropout {mixed[0]} of {network.title} mixes the samples of a batch, so a "
            "pass cannot have masks of its own; set its probability to 0, or choose head"
        )
    return places


def name_pass(seed: int, case_id: str, number: int, member: int = 1) -> str:
    """Key of one pass of one case, which decides all its masks, the same for every window of the case.

    Args:
        seed: Seed of the masks.
        case_id: The case.
        number: Number of the pass, from 0.
        member: Number of the member in an ensemble, from 1. Each has its own masks: channels of members that start from
            the same initial weights have related meanings, and the same masks would make them err alike. The first
            member has the masks of a single network.
    """
    return json.dumps([seed, case_id, number] if member == 1 else [seed, case_id, number, member])


def mask_seed(key: str, place: str) -> int:
    """Seed of the mask of a pass at a place, 0 to 2^62 - 1."""
    return int.from_bytes(hashlib.blake2b(f"{key}\n{place}".encode(), digest_size=8).digest(), "big") >> 2


@contextmanager
def drop_by_pass(network: Network, places: Sequence[str], keys: Sequence[str]) -> Iterator[None]:
    """Turns dropout on at some places while the body runs; sample i of every batch gets the masks of `keys[i]`.

    No gradient is kept in the body. On a GPU this reseeds torch's generators: fork them around it.

    Args:
        network: In evaluation mode, which it stays in: batch norm keeps its running statistics.
        places: See `find_places`.
        keys: One per sample of the batch, see `name_pass`.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())  # masks are applied in place
        for place in places:
            module = network.get_submodule(place)
            seeds = [mask_seed(key, place) for key in keys]
            parent = network.get_submodule(place.rpartition(".")[0])
            if isinstance(parent, SelfAttention) and module is parent.attention_dropout:
                parent.map_seeds = seeds
                stack.callback(setattr, parent, "map_seeds", None)
            else:
                stack.callback(module.register_forward_hook(_hook(seeds)).remove)
        yield


def _hook(seeds: Sequence[int]) -> Any:
    def drop_samples(module: nn.Dropout | nn.Dropout3d, _: Any, output: Tensor) -> Tensor:
        samples = zip(torch.split(output, 1), seeds, strict=True)
        dropped = [drop_sample(sample, module.p, seed, isinstance(module, nn.Dropout3d)) for sample, seed in samples]
        return dropped[0] if len(dropped) == 1 else torch.cat(dropped)

    return drop_samples


@dataclass(frozen=True)
class Shared:
    """What all passes of a window share, a batch of one; `stem` or `tokens` goes into the first active dropout."""

    stem: Tensor | None
    """(1, widths[0], H, W, D) before the stem's dropout; None if that dropout is off."""
    tokens: Tensor | None
    """(1, N, C) before the embedding's dropout; None if F5 is shared too, or not computed yet."""
    grid: tuple[int, ...]
    """Tokens per axis."""
    pooled: dict[str, Tensor]
    """Pooled levels (1, 2C), float32, before the first active dropout; what another network's own IDH head reads."""
    image: Tensor | None = None
    """(1, in_channels, H, W, D) of another network than MTTU-Net with dropout before its IDH head."""


class IdhPasses:
    """Monte Carlo passes of one network.

    Args:
        network: In evaluation mode, with an IDH head.
        active: Where dropout is on.

    Raises:
        InputError: The network has no IDH head, or no dropout there that drops anything.
    """

    def __init__(self, network: Network, active: ActiveDropout) -> None:
        if network.idh_head is None:
            raise InputError("the network has no IDH head (network.tasks); nothing can be scored")
        self.network, self.head = network, network.idh_head
        self.places = find_places(network, active)
        if not self.places:
            raise InputError(
                f"mc.active_dropout={active}: no dropout there has a probability above 0 (network.dropout), so all "
                f"passes would be equal; choose a larger part, or a network trained with dropout{_propose(network)}"
            )
        self._from_stem = self.places[0].startswith("encoder.")
        self._from_tokens = self.places[0].startswith("bottleneck.")

    @torch.inference_mode()  # here too: with gradients another kernel is used, and last bits differ
    def share(self, image: Tensor) -> Shared:
        """Computes everything before the first active dropout, for one window (1, in_channels, H, W, D)."""
        network = self.network
        if isinstance(network, Rival):
            if self.places[0] not in network.reach.head_dropouts:
                return Shared(None, None, (), {}, image)
            return Shared(None, None, (), self.head.pool(network.encode(image)))
        if self._from_stem:
            stem = network.encoder.stem(image.contiguous(memory_format=torch.channels_last_3d))
            return Shared(stem, None, (), {})
        if self._from_tokens and isinstance(network.bottleneck, TransformerBottleneck):
            features = network.encoder(image.contiguous(memory_format=torch.channels_last_3d))
            f4 = features["F4"]
            return Shared(None, network.bottleneck.embed(f4), tuple(f4.shape[2:]), self.head.pool(features))
        return Shared(None, None, (), self.head.pool(network.encode(image)))

    def finish(self, shared: Shared, copies: int = 1) -> Tensor:
        """Logits (copies, 2) of as many copies; with `drop_by_pass` around it, each copy is a separate pass."""
        network, pooled = self.network, shared.pooled
        if isinstance(network, Rival):
            if shared.image is not None:
                pooled = self.head.pool(network.encode(_repeat(shared.image, copies)))
            return self.head.classify({name: _repeat(level, copies) for name, level in pooled.items()})
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


def _propose(network: Network) -> str:
    if not isinstance(network, Rival) or isinstance(network.idh_head, IdhHead):
        return ""
    return " (network.options.dropout where it has that option; or our IDH head, by network.idh_head.levels)"


def _repeat(tensor: Tensor, copies: int) -> Tensor:
    return tensor if len(tensor) == copies else tensor.expand(copies, *tensor.shape[1:])

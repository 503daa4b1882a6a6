"""Builds the network that the settings name."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from mttu.config import Config, NetworkSettings, RivalSettings
from mttu.config.batches import share_batch
from mttu.errors import InputError, collecting, raise_if_any
from mttu.networks.mttu_net import MttuNet
from mttu.networks.rivals.options import find_option_problems
from mttu.networks.rivals.registry import find_entry, find_origin
from mttu.networks.rivals.rival import Rival

Network = MttuNet | Rival


def build_network(
    settings: NetworkSettings | RivalSettings, patch_size: Sequence[int] | None = None, *, trace: bool = True
) -> Network:
    """Builds a network, or the part of it that the settings ask for, with fresh weights.

    Draws from torch's global random generator: seed it for reproducible weights.

    Args:
        settings: Of MTTU-Net, or of another network.
        patch_size: `patch.size`; a network that is built for one image size needs it.
        trace: Whether to run a network other than MTTU-Net once without computing anything, which finds out whether its
            logits have the right shapes and freezes the parameters that none depend on; its state dict is the same.

    Raises:
        InputError: A network other than MTTU-Net refuses its options, the number of modalities or the patch size, or
            cannot be run.
    """
    if isinstance(settings, NetworkSettings):
        return MttuNet(settings)
    entry = find_entry(settings.kind)
    able = tuple(entry.tasks)
    if not set(settings.tasks) <= set(able):
        raise InputError(
            f"network.tasks: {list(settings.tasks)}: {settings.kind} does {' and '.join(able)} alone; set "
            f"network.tasks=[{able[0]}]"
        )
    options: dict[str, Any] = dict(settings.options)
    if entry.one_size and patch_size is None:
        raise InputError(f"patch.size: {settings.kind} is built for one image size; say which")
    size = tuple(patch_size) if entry.one_size and patch_size is not None else None
    with blaming(settings):
        raise_if_any(find_option_problems(settings.kind, entry.build, options))
        options |= {} if size is None else {"patch_size": size}
        network = Rival(settings, entry.build(settings.in_channels, **options), size)
        if trace:
            network.freeze_unreached()
    return network


@contextmanager
def blaming(settings: NetworkSettings | RivalSettings) -> Iterator[None]:
    """Whatever a network raises becomes an `InputError` that names its options, or the package that adds it.

    An error of one of this package's with default options is a mistake here, and stays what it is.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # whatever a foreign package raises
        kind = settings.kind
        options = {} if isinstance(settings, NetworkSettings) else settings.options
        origin = "" if isinstance(settings, NetworkSettings) else find_origin(kind)
        if origin:
            told = f"network.kind: {kind}: {origin}, network.options {options}: {type(error).__name__}: {error}"
            raise InputError(f"{told}; mend or remove the package, or change the options") from error
        if options:
            raise InputError(f"network.options: {kind} refuses {options} ({error})") from error
        raise


def find_network_problems(config: Config) -> list[str]:
    """Says why the network of the settings cannot be built or fed with patches; nothing if it can."""
    if isinstance(config.network, NetworkSettings):
        return []
    problems: list[str] = []
    with collecting(problems), blaming(config.network), torch.device("meta"):
        network = build_network(config.network, config.patch.size)
        assert isinstance(network, Rival)
        problems += [f"patch.size: {problem}" for problem in network.explain_size(config.patch.size)]
        problems += [] if problems else _try_batch(network, config)
    return problems


def _try_batch(network: Rival, config: Config) -> list[str]:
    """Says why a network on `meta` cannot be trained on a worker's batch: its norms may see too few voxels.

    Raises:
        Exception: Whatever else the network raises in training mode.
    """
    try:
        batch = share_batch(config.train, config.workers.num_workers).micro_batch_size
    except InputError:  # told with the other problems of the batch
        return []
    size = config.patch.size
    try:
        network.train()(torch.empty(batch, config.network.in_channels, *size))
    except ValueError as error:
        if "more than 1" not in str(error):  # what torch says of a norm
            raise
        return [f"patch.size: {size}, {batch} at once: {network.title} cannot learn from so few voxels ({error})"]
    return []

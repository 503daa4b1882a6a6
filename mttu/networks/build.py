"""Builds the network that the settings name."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from mttu.config import Config, NetworkSettings, RivalSettings
from mttu.config.batches import share_batch
from mttu.errors import InputError, collecting, raise_if_any
from mttu.networks.mttu_net import MttuNet
from mttu.networks.rivals.registry import Entry, find_entry
from mttu.networks.rivals.rival import Rival

Network = MttuNet | Rival


def build_network(settings: NetworkSettings | RivalSettings, patch_size: Sequence[int] | None = None) -> Network:
    """Builds a network, or the part of it that the settings ask for, with fresh weights.

    Draws from torch's global random generator: seed it for reproducible weights.

    Args:
        settings: Of MTTU-Net, or of another network.
        patch_size: `patch.size`; a network that is built for one image size needs it.

    Raises:
        InputError: A network other than MTTU-Net refuses its options, the number of modalities or the patch size.
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
    _check_options(settings, entry)
    if entry.one_size:
        if patch_size is None:
            raise InputError(f"patch.size: {settings.kind} is built for one image size; say which")
        options["patch_size"] = tuple(patch_size)
    try:
        body = entry.build(settings.in_channels, **options)
    except InputError:
        raise
    except (TypeError, ValueError, IndexError, ZeroDivisionError, RuntimeError) as error:
        if not settings.options:
            raise
        raise InputError(f"network.options: {settings.kind} refuses {settings.options} ({error})") from error
    return Rival(settings, body, patch_size if entry.one_size else None)


def _check_options(settings: RivalSettings, entry: Entry) -> None:
    described = list(inspect.signature(entry.build).parameters.values())[1:]
    known = [one.name for one in described if one.name not in ("num_classes", "patch_size")]
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in described):
        return
    raise_if_any(
        [
            f"network.options.{name}: no such option of {settings.kind}; known there: {', '.join(known) or 'none'}"
            for name in settings.options
            if name not in known
        ]
    )


def find_network_problems(config: Config) -> list[str]:
    """Says why the network of the settings cannot be built or fed with patches; nothing if it can."""
    if isinstance(config.network, NetworkSettings):
        return []
    problems: list[str] = []
    with collecting(problems), torch.device("meta"):
        network = build_network(config.network, config.patch.size)
        assert isinstance(network, Rival)
        problems += [f"patch.size: {problem}" for problem in network.explain_size(config.patch.size)]
        problems += [] if problems else _try_batch(network, config)
    return problems


def _try_batch(network: Rival, config: Config) -> list[str]:
    """Says why a network on `meta` cannot be trained on a worker's batch: its norms may see too few voxels."""
    try:
        batch = share_batch(config.train, config.workers.num_workers).micro_batch_size
    except InputError:  # told with the other problems of the batch
        return []
    size = config.patch.size
    try:
        network.train()(torch.empty(batch, config.network.in_channels, *size))
    except (ValueError, RuntimeError) as error:
        return [f"patch.size: {size}, {batch} at once: {network.title} cannot learn from so few voxels ({error})"]
    return []

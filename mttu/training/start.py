"""Where a training starts: random weights, or those of an earlier one (Algorithm 1, line 6)."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mttu.config import Config, flatten
from mttu.config.network import Task
from mttu.data.labels import IDH_UNKNOWN, knows_parts
from mttu.data.manifest import Case
from mttu.errors import InputError
from mttu.files import hash_file
from mttu.networks import Network
from mttu.networks.checkpoint import (
    find_checkpoint,
    read_checkpoint,
    read_learned_from,
    read_learned_parts,
    read_learned_tasks,
)
from mttu.networks.rivals.rival import Rival
from mttu.patients import KnownPatients
from mttu.training.state import FORMAT_VERSION, STATE, TrainingState, load_optimizer

_DECISIVE = ("network.", "data.modalities")
"""Prefixes of the settings that must equal those of the training whose weights are loaded."""
_DECISIVE_OF_STATE = ("loss.task_weighting", "optim.amsgrad")
"""The same, where the optimiser's state is loaded too."""


def digest_weights(folder: Path) -> str:
    """SHA-256 of the weights file of a checkpoint, or of a run or training checkpoint with `best` inside."""
    return hash_file(find_checkpoint(folder) / "weights.safetensors")


def _digest_kept(path: Path) -> str:
    """SHA-256 of the values of task weights and optimiser state; the file's bytes depend on how it was saved."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key, item in sorted(value.items(), key=lambda pair: str(pair[0])):
                digest.update(f"{key}:".encode())
                add(item)
        elif isinstance(value, list):
            for item in value:
                add(item)
        elif isinstance(value, torch.Tensor):
            digest.update(value.contiguous().numpy().tobytes())
        else:
            digest.update(f"{value!r};".encode())

    add([content["weighting"], content["optimizer"]])
    return digest.hexdigest()


def identify_start(config: Config) -> str | None:
    """Digests of the weights that a training starts from, and of the state if that is kept; None for random weights."""
    start = config.train.start_from
    if start is None:
        return None
    kept = f", state {_digest_kept(start / STATE)}" if config.train.start_optimiser == "kept" else ""
    return f"weights {digest_weights(start)}{kept}"


def check_start(config: Config) -> list[str]:
    """Why a training cannot start from `train.start_from`; empty if it can, or if that is not set."""
    start = config.train.start_from
    if start is None:
        return []
    try:
        network, trained = read_checkpoint(start)
    except InputError as error:
        return [f"train.start_from: {problem}" for problem in error.problems]
    kept = config.train.start_optimiser == "kept"
    before, now = (flatten(one.model_dump(mode="json")) for one in (trained, config))
    decisive = (*_DECISIVE, *_DECISIVE_OF_STATE) if kept else _DECISIVE
    problems = [
        f"train.start_from {start}: was trained with {name}={before.get(name)}, now it is {now.get(name)}; "
        "set it back, or start from other weights"
        for name in sorted(before.keys() | now.keys())
        if name.startswith(decisive) and before.get(name) != now.get(name)
    ]
    if isinstance(network, Rival) and network.size not in (None, config.patch.size):
        problems.append(
            f"train.start_from {start}: was trained with patch.size={list(trained.patch.size)}, and {network.title} "
            f"takes no other; now it is {list(config.patch.size)}; set it back, or start from other weights"
        )
    if kept and not (start / STATE).is_file():
        problems.append(
            f"train.start_from {start}: has no {STATE}, which train.start_optimiser=kept needs; name a training "
            "checkpoint (train/epoch_...), or set train.start_optimiser=fresh"
        )
    return problems


def read_start_patients(config: Config) -> KnownPatients | None:
    """The patients that the weights to start from were trained on, none for random weights; None where unknown."""
    start = config.train.start_from
    return KnownPatients() if start is None else read_learned_from(start)


def find_labelled_tasks(config: Config, train: Sequence[Case]) -> frozenset[Task]:
    """Tasks for which at least one training case has a label or a pseudo-label."""
    has_label = {
        "segmentation": any(case.seg is not None for case in train),
        "idh": any(case.idh != IDH_UNKNOWN for case in train),
    }
    return frozenset(task for task in config.network.tasks if has_label[task])


def find_learned_tasks(config: Config, train: Sequence[Case]) -> frozenset[Task]:
    """Tasks whose head will have seen a label, in these cases or in the training of `train.start_from`.

    Raises:
        InputError: The checkpoint to start from cannot be read.
    """
    start = config.train.start_from
    before: frozenset[Task] = frozenset() if start is None else read_learned_tasks(start)
    return find_labelled_tasks(config, train) | before


def start_has_learned_all(config: Config, network: Network) -> bool:
    """Whether the weights of `train.start_from` have learned all that the network counts as having learned after it.

    Raises:
        InputError: The checkpoint cannot be read.
    """
    learned = (find_learned_tasks(config, ()), find_learned_parts(config, ()))
    return learned == (network.learned_tasks, network.learned_parts)


def find_learned_parts(config: Config, train: Sequence[Case]) -> bool:
    """Whether any mask, of these cases or of those that `train.start_from` learned from, shows the parts of a tumour.

    True without any mask: then there is no segmentation whose parts could mislead.
    """
    conventions = {case.labels for case in train if case.seg is not None}
    tells = any(knows_parts(one) for one in conventions)
    start = config.train.start_from
    if start is not None and "segmentation" in read_learned_tasks(start):
        return read_learned_parts(start) or tells
    return tells or not conventions


def load_start(state: TrainingState, config: Config, device: torch.device) -> None:
    """Fills a fresh state with the weights that training starts from, and with optimiser and task weights if kept.

    A teacher starts from the same weights, whether or not there was one before.

    The epoch stays 0, so the learning rate starts over.

    Raises:
        InputError: The checkpoint cannot be read here, or is of another format version.
    """
    start = config.train.start_from
    if start is None:
        return
    network, _ = read_checkpoint(start)
    state.network.load_state_dict(network.state_dict())
    if state.teacher is not None:
        state.teacher.restart(state.network)
    if config.train.start_optimiser == "kept":
        content = torch.load(start / STATE, map_location=device, weights_only=True)
        if content["format_version"] != FORMAT_VERSION:
            raise InputError(
                f"train.start_from {start}: {STATE} has format_version {content['format_version']}; this version of "
                f"mttu reads {FORMAT_VERSION}; set train.start_optimiser=fresh"
            )
        state.weighting.load_state_dict(content["weighting"])
        load_optimizer(state.optimizer, content["optimizer"])

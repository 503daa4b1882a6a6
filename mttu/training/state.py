"""Everything needed to resume, in one object: network, teacher, task weights, optimiser, epoch, history, best weights.

Random states need no storage: crops and augmentation are drawn from (seed, epoch, position), dropout from a generator
that is seeded by (seed, epoch, rank) at the start of each epoch, and the learning rate is a function of the epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from mttu.config import Config
from mttu.errors import InputError
from mttu.losses import TaskWeighting
from mttu.networks import Network, build_network
from mttu.networks.checkpoint import write_checkpoint
from mttu.patients import KnownPatients
from mttu.training.held_out import HeldOut, read_held_out, write_held_out
from mttu.training.teacher import Teacher

FORMAT_VERSION = 1
BEST = "best"
STATE = "state.pt"


@dataclass
class Best:
    """The epoch of the largest validation metric; the last epoch where there is nothing to validate on."""

    epoch: int
    score: float
    metrics: Mapping[str, float]
    weights: Mapping[str, Tensor]
    held_out: tuple[HeldOut, ...] | None = None
    """Predictions by these weights for the validation cases of known IDH status; None without an IDH head, and where an
    older version did not save them."""


@dataclass
class TrainingState:
    """See the module docstring; `epoch` counts finished epochs."""

    network: Network
    weighting: TaskWeighting
    optimizer: torch.optim.Adam
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: Best | None = None
    learned_from: KnownPatients | None = None
    """Patients the weights were trained on, in this training or before; None if the initial weights do not record
    theirs, and on ranks other than 0, which write nothing."""
    teacher: Teacher | None = None
    """Masks for cases without one; None without `teacher.masks`."""

    def finish_epoch(
        self, metrics: Mapping[str, float], score: float | None, held_out: tuple[HeldOut, ...] | None = None
    ) -> None:
        """Counts an epoch and keeps its weights if its score is the largest so far; the first of equals stays."""
        self.epoch += 1
        self.keep(metrics, score, held_out)

    def keep(self, metrics: Mapping[str, float], score: float | None, held_out: tuple[HeldOut, ...] | None) -> None:
        """Records the current epoch, 0 for the start, see `finish_epoch`."""
        self.history.append({"epoch": self.epoch, **metrics})
        if score is not None and (self.best is None or score > self.best.score):
            weights = {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}
            self.best = Best(self.epoch, score, dict(metrics), weights, held_out)


def derive_seed(*numbers: int) -> int:
    """One well-mixed 63-bit seed from several small numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def create_state(config: Config, device: torch.device) -> TrainingState:
    """A fresh state; weights depend on the seed only."""
    torch.manual_seed(derive_seed(config.train.seed))
    network = build_network(config.network, config.patch.size).to(device)
    weighting = TaskWeighting(config.network.tasks, config.loss).to(device)
    groups: list[dict[str, Any]] = [{"params": list(network.parameters())}]
    if sigmas := list(weighting.parameters()):
        groups.append({"params": sigmas, "weight_decay": 0.0})  # weight decay on log(sigma) would act as a prior
    optim = config.optim
    optimizer = torch.optim.Adam(
        groups, lr=optim.lr, weight_decay=optim.weight_decay, amsgrad=optim.amsgrad, fused=True
    )
    teacher = Teacher(network) if config.teacher.masks else None
    return TrainingState(network, weighting, optimizer, teacher=teacher)


def write_state(state: TrainingState, config: Config, folder: Path) -> None:
    """Fills an existing folder with the state and, under `best`, the checkpoint that a user takes away."""
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "network": state.network.state_dict(),
        "weighting": state.weighting.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "epoch": state.epoch,
        "history": state.history,
    }
    if state.teacher is not None:
        content["teacher"] = state.teacher.state_dict()
    if state.best is not None:
        content["best"] = {"epoch": state.best.epoch, "score": state.best.score, "metrics": dict(state.best.metrics)}
        (folder / BEST).mkdir()
        metrics = {"epoch": state.best.epoch, **state.best.metrics}
        learned = (state.learned_from, state.network.learned_tasks, state.network.learned_parts)
        write_checkpoint(folder / BEST, state.best.weights, config, metrics, *learned)
        if state.best.held_out is not None:
            write_held_out(folder, state.best.held_out)
    torch.save(content, folder / STATE)


def load_optimizer(optimizer: torch.optim.Adam, content: dict[str, Any]) -> None:
    """Fills an optimiser from its state dict, which is on the parameters' device in any memory layout.

    Each moment is laid out like its parameter: on a GPU weights of convolutions are channels last, and the fused step
    pairs values by their place in memory, so with a different layout each weight would be updated with another weight's
    moments.
    """
    optimizer.load_state_dict(content)
    for parameter, slots in optimizer.state.items():
        for name, value in slots.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                slots[name] = torch.empty_like(parameter).copy_(value)


def read_state(state: TrainingState, folder: Path, device: torch.device) -> None:
    """Fills a fresh state from a folder that `write_state` filled.

    Raises:
        InputError: The folder is of another format version, or holds no teacher where there is one in the settings.
    """
    content = torch.load(folder / STATE, map_location=device, weights_only=True)
    if content["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"checkpoint {folder.name}: format_version is {content['format_version']}; this version of mttu resumes "
            f"{FORMAT_VERSION}; start anew with --fresh"
        )
    state.network.load_state_dict(content["network"])
    state.weighting.load_state_dict(content["weighting"])
    load_optimizer(state.optimizer, content["optimizer"])
    state.epoch, state.history = content["epoch"], content["history"]
    if state.teacher is not None:
        if "teacher" not in content:
            raise InputError(
                f"checkpoint {folder.name}: holds no teacher, which teacher.masks=true goes on with; set "
                "teacher.masks=false, or start anew with --fresh"
            )
        state.teacher.load_state_dict(content["teacher"])
    if "best" in content:
        weights = load_file(folder / BEST / "weights.safetensors")
        state.best = Best(weights=weights, held_out=read_held_out(folder), **content["best"])

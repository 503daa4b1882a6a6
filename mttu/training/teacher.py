"""A mean teacher (Tarvainen and Valpola, NeurIPS 2017): masks for training cases without one, which are never kept.

The teacher is a moving average of the network in training. What it says of a patch exists while the loss of that step
is computed; no file, manifest or table ever holds it, and where masks are counted such a case has none.
"""

from collections.abc import Mapping
from copy import deepcopy
from math import exp
from typing import Any

import torch
from torch import Tensor

from mttu.config import Config
from mttu.data.loaders import Batch
from mttu.inference.device import choose_precision
from mttu.inference.windows import FLIPS
from mttu.losses import TEACHER, teacher_sums
from mttu.networks import Network
from mttu.training.runtime import prepare_for_device, sum_over_ranks


def weigh_teacher(config: Config, epoch: int) -> float:
    """Weight of the teacher's loss after `epoch` finished epochs, see `TeacherSettings.ramp_share`."""
    settings = config.teacher
    ramp = settings.ramp_share * config.train.epochs
    return settings.weight * (exp(-5 * (1 - epoch / ramp) ** 2) if epoch < ramp else 1.0)


def add_to_segmentation(
    losses: Mapping[str, Tensor], labelled: Mapping[str, bool]
) -> tuple[Mapping[str, Tensor], Mapping[str, bool]]:
    """Losses and labels by task: the teacher's loss as a part of the segmentation loss."""
    if not labelled.get(TEACHER):
        return losses, labelled
    parts = [losses[name] for name in ("segmentation", TEACHER) if labelled[name]]
    return {**losses, "segmentation": torch.stack(parts).sum()}, {**labelled, "segmentation": True}


class Teacher:
    """A moving average of a network over its optimiser steps; always in evaluation mode, so it draws no random number.

    Running statistics of batch norm are averaged like weights: those of averaged weights are, to first order, the
    average of theirs, while the network's newest belong to its newest weights. Counts are copied.
    """

    def __init__(self, student: Network) -> None:
        self.network = deepcopy(student).eval().requires_grad_(False)
        self.steps = 0
        self._seen: Tensor | None = None
        """Sure voxels and all of the brain, of this rank since the epoch began; (2,) float64."""

    def restart(self, student: Network) -> None:
        """Begins again with the student's weights."""
        self.network.load_state_dict(student.state_dict())
        self.steps = 0

    def prepare(self, device: torch.device) -> None:
        """Lays weights out as the student's are; in evaluation mode batch norm has nothing to tell other ranks."""
        prepare_for_device(self.network, device, world_size=1)

    @torch.no_grad()
    def follow(self, student: Network, decay: float) -> None:
        """Takes the student's weights into the average, after its optimiser step; see `TeacherSettings.decay`."""
        self.steps += 1
        new = 1 - min(1 - 1 / (self.steps + 1), decay)
        pairs: list[tuple[Tensor, Tensor]] = list(zip(self.network.parameters(), student.parameters(), strict=True))
        for own, theirs in zip(self.network.buffers(), student.buffers(), strict=True):
            if own.is_floating_point():
                pairs.append((own, theirs))
            else:
                own.copy_(theirs)
        torch._foreach_lerp_([own for own, _ in pairs], [theirs for _, theirs in pairs], new)

    def compare(self, image: Tensor, logits: Tensor, has_seg: Tensor, config: Config) -> Tensor:
        """`teacher_sums` of the samples without a mask; zeros if each has one; see `supervise`."""
        places = [place for place, has in enumerate(has_seg.tolist()) if not has]
        if not places:
            return torch.zeros(3, device=logits.device)
        bare = torch.stack([image[place] for place in places])
        own = torch.stack([logits[place] for place in places])
        inside = (bare != 0).any(dim=1)  # as in augment_batch
        sums = teacher_sums(own, self._segment(bare, config), inside, config.teacher.confidence)
        seen = sums[1:].detach().double()
        self._seen = seen if self._seen is None else self._seen + seen
        return sums

    @torch.no_grad()
    def _segment(self, image: Tensor, config: Config) -> Tensor:
        """Label probabilities (N, K, H, W, D), float32: the mean over `teacher.flips` orientations."""
        precision = choose_precision(config.train.precision, image.device)
        flips = FLIPS[: config.teacher.flips]

        def segment(axes: tuple[int, ...]) -> Tensor:
            with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                logits = self.network(image.flip(axes))["seg_logits"]
            return logits.float().softmax(dim=1).flip(axes)  # type: ignore[no-any-return]

        total = segment(flips[0])
        for axes in flips[1:]:
            total += segment(axes)
        return total.div_(len(flips))

    def describe_epoch(self, metrics: Mapping[str, float], config: Config, epoch: int) -> dict[str, float]:
        """The epoch's metrics, with the loss as it is before it is weighted, and the share of sure voxels in the brains
        of cases without a mask, over all ranks; neither where there was no such case. Every rank has to call it.
        """
        device = next(self.network.parameters()).device
        seen = torch.zeros(2, dtype=torch.float64, device=device) if self._seen is None else self._seen
        self._seen = None
        sure, inside = sum_over_ranks(seen).tolist()
        name = f"train/loss_{TEACHER}"
        found = {name: metrics[name] / weigh_teacher(config, epoch)} if name in metrics else {}
        return {**metrics, **found, **({"train/teacher_sure": sure / inside} if inside else {})}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"network": self.network.state_dict(), "steps": self.steps}

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """The reverse of `state_dict`."""
        self.network.load_state_dict(content["network"])
        self.steps = content["steps"]


def supervise(
    teacher: Teacher | None, image: Tensor, outputs: Mapping[str, Tensor], batch: Batch, config: Config, epoch: int
) -> Tensor | None:
    """The sums behind the teacher's loss, that loss times its weight (`weigh_teacher`); None without a teacher.

    Args:
        teacher: Of the network in training.
        image: (B, C, H, W, D), augmented, 0 in all modalities outside of the brain.
        outputs: The network's for these images; `seg_logits` (B, K, H, W, D).
        batch: Where the images are from, on the host, so that nothing waits for the device.
        config: Settings of teacher and precision.
        epoch: Number of finished epochs.

    Returns:
        (3,) see `mttu.losses.teacher_sums`; they add up over micro-batches and ranks.
    """
    if teacher is None:
        return None
    total, *counts = teacher.compare(image, outputs["seg_logits"], batch.has_seg, config)
    return torch.stack([weigh_teacher(config, epoch) * total, *counts])

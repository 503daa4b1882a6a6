"""Gradients of a step task by task, for PCGrad (Table V): projected where the tasks conflict, once per step.

Each task's gradient is that of the global batch: added up over micro-batches, averaged over ranks, and only then
projected, because the projection is not linear.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mttu.losses import project_conflicts
from mttu.networks import Network
from mttu.training.runtime import sum_over_ranks


class TaskGradients:
    """Collects the gradients of a step's micro-batches, then writes the step's gradient into the parameters."""

    def __init__(self, network: Network) -> None:
        self.parameters: dict[str, list[nn.Parameter]] = {
            task: list(network.parameters_of(task)) for task in sorted(network.tasks)
        }
        self.sums: dict[str, list[Tensor]] = {}

    def add(self, losses: Mapping[str, Tensor], labelled: Mapping[str, bool]) -> None:
        """Adds the gradients of one micro-batch; `losses` are those of `mttu.training.loop.task_losses`."""
        tasks = [task for task in self.parameters if labelled[task]]
        for task in tasks:
            keep = task != tasks[-1]  # the next task goes back through the same graph
            found = torch.autograd.grad(losses[task], self.parameters[task], retain_graph=keep)
            if task in self.sums:
                torch._foreach_add_(self.sums[task], found)
            else:
                self.sums[task] = list(found)

    def write(self, world_size: int, seed: int) -> float | None:
        """Sets the `grad` of every parameter that a labelled task reaches, the same bits on every rank.

        Args:
            world_size: Number of ranks; gradients are averaged over them.
            seed: Of the step, see `project_conflicts`.

        Returns:
            Cosine of the angle between the gradients of two tasks, below 0 where they conflict; None if fewer than two
            tasks have a label in the step, or a gradient is zero.
        """
        averaged: dict[str, dict[nn.Parameter, Tensor]] = {}
        for task, gradients in self.sums.items():
            flat = sum_over_ranks(torch.cat([gradient.flatten() for gradient in gradients])) / world_size
            pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
            averaged[task] = dict(zip(self.parameters[task], pieces, strict=True))
        self.sums = {}
        for pieces_of in averaged.values():
            for parameter, piece in pieces_of.items():
                _set_gradient(parameter, piece)
        if len(averaged) < 2:
            return None
        first, *rest = averaged.values()
        shared = [parameter for parameter in first if all(parameter in other for other in rest)]
        joined = [torch.cat([pieces_of[parameter] for parameter in shared]) for pieces_of in averaged.values()]
        step = torch.split(project_conflicts(joined, seed), [parameter.numel() for parameter in shared])
        for parameter, piece in zip(shared, step, strict=True):
            _set_gradient(parameter, piece)
        cosine = torch.nn.functional.cosine_similarity(joined[0], joined[1], dim=0, eps=0.0)
        return float(cosine) if bool(cosine.isfinite()) else None


def _set_gradient(parameter: nn.Parameter, values: Tensor) -> None:
    """Lays the gradient out like its parameter, because the fused optimiser step reads memory in its order."""
    parameter.grad = torch.empty_like(parameter).copy_(values.view(parameter.shape))

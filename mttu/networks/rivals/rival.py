"""A network of another architecture with what MTTU-Net offers: tasks, IDH head, features, parameters of a task.

Axes are (B, C, H, W, D).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from mttu.config.network import RivalSettings, Task
from mttu.errors import InputError, raise_if_any
from mttu.networks.autocast import without_autocast
from mttu.networks.batch_norm import BatchNorm3d
from mttu.networks.cnn import NUM_LABELS
from mttu.networks.mttu_net import NUM_CLASSES, IdhHead
from mttu.networks.rivals.body import Body

_TRACED_BATCH = 3
"""Unlikely to be the size of any other axis."""


class OwnIdhHead:
    """The IDH head that a body brings along, in the shape of `IdhHead`; its parameters are the body's.

    All of it is computed in float32, under autocast too.
    """

    def __init__(self, body: Body) -> None:
        self.body = body
        self.levels: Sequence[str] | None = getattr(body, "idh_levels", None)

    def pool(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The features that the head reads, in float32: what it does with them is its own."""
        return {name: features[name].float() for name in self.levels or features}

    def classify(self, pooled: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, 2), float32."""
        features = dict(pooled)
        with without_autocast(next(iter(features.values()))):
            return self.body.classify(features)

    def __call__(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, 2), float32, from the features of `Rival.encode`."""
        return self.classify(self.pool(features))


@dataclass(frozen=True)
class Reach:
    """What the logits of each task depend on."""

    parameters: Mapping[Task, set[str]]
    """Names of the parameters, by task."""
    dropouts: tuple[str, ...]
    """Names of the dropout modules that the IDH logits depend on, in the order of the forward pass."""
    head_dropouts: tuple[str, ...]
    """Those of them that the IDH head runs."""
    mixed_dropouts: frozenset[str]
    """Those of them whose input does not have the samples on its first axis, so that none can get masks of its own."""


class Rival(nn.Module):
    """A body with an IDH head of its own, or with ours on some of its feature levels.

    Only what the tasks need is run. Batch norm takes the statistics of all ranks, as MTTU-Net's does.
    """

    def __init__(self, settings: RivalSettings, body: Body, size: Sequence[int] | None = None) -> None:
        """Puts head and body together.

        Args:
            settings: Tasks, and the IDH head.
            body: Built with `settings.options`.
            size: The only image size (H, W, D) that the body takes; None: any multiple of its stride.

        Raises:
            InputError: The head is to read a level that the body does not have, or a batch norm of the body cannot take
                the statistics of all ranks.
        """
        super().__init__()
        self.tasks = frozenset(settings.tasks)
        self.learned_tasks = self.tasks
        """See `MttuNet.learned_tasks`."""
        self.learned_parts = True
        """See `MttuNet.learned_parts`."""
        self.in_channels = settings.in_channels
        self.title = settings.kind
        self.stride = body.stride
        self.smallest: int = max(getattr(body, "smallest", 0), self.stride)
        """The least H, W and D."""
        self.size = None if size is None else tuple(size)
        """The only H, W and D, if there is one."""
        _share_batch_norms(settings.kind, cast(nn.Module, body))
        self.body = body
        self.idh_head: IdhHead | OwnIdhHead | None = None
        if "idh" in self.tasks:
            self.idh_head = _build_head(settings, body)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Maps images to logits, one entry per task.

        Args:
            image: (B, in_channels, H, W, D); H, W and D are multiples of `stride`.

        Returns:
            `seg_logits` (B, 4, H, W, D) and `idh_logits` (B, 2).

        Raises:
            InputError: The number of axes or channels, or a size, is wrong.
        """
        return self.run_heads(self.encode(image))

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """The body's features by name; takes and raises the same as `forward`."""
        self._check(image)
        return self.body.encode(image)

    def run_heads(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The logits from the features, as `forward` returns them."""
        logits = {}
        if "segmentation" in self.tasks:
            logits["seg_logits"] = self.body.segment(features)
        if self.idh_head is not None:
            logits["idh_logits"] = self.idh_head(features)
        return logits

    def parameters_of(self, task: Task) -> Iterator[nn.Parameter]:
        """The parameters that the task's logits depend on; none if the network does not have the task."""
        names = self.reach.parameters.get(task, set())
        yield from (parameter for name, parameter in self.named_parameters() if name in names)

    @cached_property
    def reach(self) -> Reach:
        """What the logits depend on, found by going back from them through the graph of a forward pass on `meta`.

        Raises:
            InputError: Logits have the wrong shape.
        """
        return _trace(self)

    def freeze_unreached(self) -> None:
        """Sets `requires_grad` to False where no logits depend on a parameter: no gradient will ever reach it."""
        for name, parameter in self.named_parameters():
            if not any(name in names for names in self.reach.parameters.values()):
                parameter.requires_grad_(False)

    @property
    def transformer(self) -> str | None:
        """Prefix of the names of the modules of the transformer; None without one."""
        name = getattr(self.body, "transformer", None)
        return None if name is None else f"body.{name}."

    def explain_size(self, size: Sequence[int]) -> list[str]:
        """Says why images (H, W, D) cannot be fed; nothing if they can."""
        found = tuple(size)
        if self.size is not None:
            fits, wanted = found == self.size, f"of {self.size} alone, the patch.size that it was built for"
        else:
            fits = all(axis >= self.smallest and axis % self.stride == 0 for axis in found)
            wanted = f"whose H, W and D are multiples of {self.stride}"
            wanted += f", at least {self.smallest}" if self.smallest > self.stride else ""
        return [] if fits else [f"{self.title} takes images {wanted}; found {found}; crop or pad them (patch.size)"]

    def _check(self, image: Tensor) -> None:
        found = tuple(image.shape)
        if image.ndim != 5:
            raise_if_any([f"image: found {image.ndim} axes {found}; expected five, (batch, channel, H, W, D)"])
        problems = []
        if image.shape[1] != self.in_channels:
            problems.append(
                f"image: found {image.shape[1]} channels in {found}; the network takes {self.in_channels}, "
                "one per modality, on the second axis"
            )
        raise_if_any([*problems, *(f"image: {problem}" for problem in self.explain_size(found[2:]))])


def _share_batch_norms(kind: str, body: nn.Module) -> None:
    """Makes torch's batch norms ours: the same numbers, but synchronised over ranks."""
    norms = {name: module for name, module in body.named_modules() if isinstance(module, _BatchNorm)}
    plain = (nn.BatchNorm3d, BatchNorm3d)
    for name, norm in norms.items():
        if type(norm) not in plain or norm.running_mean is None or norm.momentum is None or norm.weight is None:
            raise InputError(
                f"network.kind: {kind}: batch norm {name} is {norm!r}, which cannot take the statistics of all ranks; "
                "expected torch.nn.BatchNorm3d with running statistics, a momentum, gain and offset"
            )
        norm.__class__ = BatchNorm3d


def _build_head(settings: RivalSettings, body: Body) -> IdhHead | OwnIdhHead:
    levels = settings.idh_head.levels
    if levels is None and body.own_idh:
        return OwnIdhHead(body)
    if not body.widths:
        raise InputError(f"network.idh_head: {settings.kind} has no feature levels that our IDH head could read")
    chosen = levels or tuple(body.widths)[-2:]
    unknown = [name for name in chosen if name not in body.widths]
    if unknown:
        raise InputError(
            f"network.idh_head.levels: {settings.kind} has no {', '.join(unknown)}; it has {', '.join(body.widths)}"
        )
    return IdhHead(settings.idh_head, {name: body.widths[name] for name in chosen}, settings.dropout)


def _trace(network: Rival) -> Reach:
    """Runs the network on `meta` tensors, where nothing is computed, and follows the graph back from the logits."""
    modes = [(module, module.training) for module in network.modules()]
    places: dict[nn.Module, str] = {
        module: name for name, module in network.named_modules() if isinstance(module, _DropoutNd)
    }
    passed: list[tuple[str, Any]] = []
    before_head: set[str] = set()
    mixed: set[str] = set()

    def mark(module: nn.Module, _: Any, output: Tensor) -> Tensor:
        marked = output.clone()  # a node of its own in the graph
        passed.append((places[module], marked.grad_fn))
        if len(output) != _TRACED_BATCH:
            mixed.add(places[module])
        return marked

    network.eval()
    size = network.size or (max(2 * network.stride, network.smallest),) * 3
    hooks = [module.register_forward_hook(mark) for module in places]
    logits: dict[Task, Tensor] = {}
    try:
        with _on_meta(network) as names, torch.inference_mode(False), torch.enable_grad():
            features = network.encode(torch.empty(_TRACED_BATCH, network.in_channels, *size, device="meta"))
            if "segmentation" in network.tasks:
                logits["segmentation"] = network.body.segment(features)
            if network.idh_head is not None:
                before_head = {name for name, _ in passed}
                logits["idh"] = network.idh_head(features)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    expected = {"segmentation": (_TRACED_BATCH, NUM_LABELS, *size), "idh": (_TRACED_BATCH, NUM_CLASSES)}
    raise_if_any(
        [
            f"network.kind: {network.title}: logits of {task} have the shape {tuple(values.shape)} for {_TRACED_BATCH} "
            f"images of {tuple(size)}; expected {expected[task]}"
            for task, values in logits.items()
            if tuple(values.shape) != expected[task]
        ]
    )
    parameters: dict[Task, set[str]] = {}
    reached: list[str] = []
    for task, values in logits.items():
        nodes = _walk(values.grad_fn)
        parameters[task] = {names[node.variable] for node in nodes if hasattr(node, "variable")}
        if task == "idh":
            reached = list(dict.fromkeys(name for name, node in passed if node in nodes))
    in_head = tuple(name for name in reached if name not in before_head)
    return Reach(parameters, tuple(reached), in_head, frozenset(mixed & set(reached)))


@contextmanager
def _on_meta(network: nn.Module) -> Iterator[dict[Tensor, str]]:
    """Puts `meta` tensors in the place of all parameters and buffers; yields those of the parameters with their names.

    `torch.func.functional_call` does not put them back where a module is in two places, as in MONAI's DynUNet.
    """
    stores: list[dict[str, Any]] = [store for one in network.modules() for store in (one._parameters, one._buffers)]
    before = [dict(store) for store in stores]
    leaves: dict[Tensor, Tensor] = {}
    with torch.inference_mode(False):
        for tensor in (one for store in before for one in store.values() if one is not None):
            learned = isinstance(tensor, nn.Parameter)
            leaves[tensor] = torch.empty_like(tensor, device="meta", requires_grad=learned)
    names = {leaves[parameter]: name for name, parameter in network.named_parameters()}
    try:
        for store in stores:
            store.update({key: None if tensor is None else leaves[tensor] for key, tensor in store.items()})
        yield names
    finally:
        for store, kept in zip(stores, before, strict=True):
            store.update(kept)


def _walk(root: Any) -> set[Any]:
    """All nodes of a graph of gradients."""
    nodes, waiting = {root}, [root]
    while waiting:
        found = {node for node, _ in waiting.pop().next_functions if node is not None} - nodes
        nodes |= found
        waiting += found
    return nodes

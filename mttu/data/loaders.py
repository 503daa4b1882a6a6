"""Patches of cached cases as batches: memory-mapped, in an order that depends on seed and epoch only."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mttu.config import Config
from mttu.config.batches import share_batch
from mttu.config.network import Task
from mttu.data.augment import Augmentation, draw_augmentation, rotation_margin
from mttu.data.cache import CachedCase, open_cached
from mttu.data.labels import knows_parts
from mttu.data.manifest import Case
from mttu.data.quotas import draw_by_kind, kind_of, share_quotas

GPU_LOADER_WORKERS = 4
"""Processes that read patches for one GPU if the settings do not say how many: a step needs less time than reading."""
_ORDER, _SAMPLE = 1, 2
"""Last number of a seed, one per purpose; not 0, because for NumPy [1, 2] and [1, 2, 0] are the same seed."""
Voxel = TypeVar("Voxel", bound=np.generic)


@dataclass(frozen=True)
class Batch:
    """Patches that one rank processes at once, before augmentation: its share of a step, or a part of it."""

    image: Tensor
    """(B, C, H', W', D) float16, z-scores inside the brain, 0 outside; each patch with its margin for rotation, see
    `mttu.data.augment.rotation_margin`."""
    seg: Tensor
    """(B, H', W', D) uint8 classes; 0 where there is no mask."""
    has_seg: Tensor
    """(B,) bool."""
    only_wt: Tensor
    """(B,) bool; the mask shows only the whole tumour, not its parts."""
    idh: Tensor
    """(B,) 1 mutant, 0 wild type, -1 unknown."""
    case_ids: tuple[str, ...]
    """For error messages."""
    augmentations: tuple[Augmentation, ...] = field(repr=False)
    """To apply to each patch."""
    idh_terms: Tensor | None = None
    """(B, 2) how much the terms of wild type and mutant count in the IDH loss, see `Case.idh_terms`; None without any
    soft label, where `idh` says it all."""

    def pin_memory(self) -> "Batch":
        """A copy in page-locked memory, from which a GPU reads while the host works on; torch's loader calls it."""
        return self._map(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> "Batch":
        """A copy on another device, the image as float32 there (half the bytes travel); see `pin_memory`."""
        moved = self._map(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(moved, image=moved.image.float())

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in tensors.items()}
        return replace(self, **changed)


@dataclass(frozen=True)
class Patch:
    """A crop of one case, with the margin for its rotation."""

    image: NDArray[np.float16]
    seg: NDArray[np.uint8]
    has_seg: bool
    only_wt: bool
    idh: int
    case_id: str
    augmentation: Augmentation
    idh_terms: tuple[float, float]
    """See `Case.idh_terms`."""
    has_soft_label: bool


def epoch_order(num_cases: int, num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Case index of each position of an epoch: all cases, reshuffled for each pass, up to `num_samples`."""
    generator = np.random.default_rng([seed, epoch, _ORDER])
    rounds = -(-num_samples // num_cases)
    return np.concatenate([generator.permutation(num_cases) for _ in range(rounds)])[:num_samples]


def draw_start(
    cached: CachedCase, size: Sequence[int], foreground_probability: float, generator: np.random.Generator
) -> tuple[int, int, int]:
    """First voxel of a crop on each axis; negative where the volume is smaller than the patch.

    With `foreground_probability` the crop is centred on a random tumour voxel.
    """
    shape = cached.image.shape[1:]
    low = [min(0, extent - side) for extent, side in zip(shape, size, strict=True)]
    high = [max(0, extent - side) for extent, side in zip(shape, size, strict=True)]
    start = generator.integers(low, high, endpoint=True)
    wants_foreground = generator.random() < foreground_probability
    if wants_foreground and cached.seg is not None:
        foreground = np.flatnonzero(cached.seg)
        if len(foreground):
            voxel = np.unravel_index(int(foreground[generator.integers(len(foreground))]), cached.seg.shape)
            start = np.clip(np.array(voxel) - np.array(size) // 2, low, high)
    x, y, z = start.tolist()
    return x, y, z


def crop(volume: NDArray[Voxel], start: Sequence[int], size: Sequence[int]) -> NDArray[Voxel]:
    """Cuts (..., H, W, D) to `size` on the last three axes, reads no other voxels; 0 outside the volume."""
    inside, target = [], []
    for first, side, extent in zip(start, size, volume.shape[-3:], strict=True):
        low, high = max(0, first), min(extent, first + side)
        inside.append(slice(low, high))
        target.append(slice(low - first, high - first))
    patch = np.zeros((*volume.shape[:-3], *size), dtype=volume.dtype)
    patch[..., target[0], target[1], target[2]] = volume[..., inside[0], inside[1], inside[2]]
    return patch


def read_prepared(cached: CachedCase, config: Config) -> Tensor:
    """A whole prepared case as (C, H, W, D) float32, its channels as the settings name them."""
    cached.will_need()
    return torch.from_numpy(np.asarray(cached.image, dtype=np.float32)[cached.channels(config.data.modalities)])


class PatchDataset(Dataset[Patch]):
    """Random patches of cached cases; an item is identified by (epoch, position, case index) and can be reproduced
    exactly.

    Args:
        cases: Cases in the order of their indices.
        cache_dir: Cache of the prepared cases.
        config: Patches, augmentation and seed.
        opened: The prepared cases in the same order; opened here if not given.
    """

    def __init__(
        self, cases: Sequence[Case], cache_dir: Path, config: Config, opened: Sequence[CachedCase] | None = None
    ) -> None:
        self.cases = tuple(cases)
        self.config = config
        self.cached = [open_cached(cache_dir, case.case_id) for case in cases] if opened is None else list(opened)
        self.channels = [cached.channels(config.data.modalities) for cached in self.cached]
        self.margin = rotation_margin(config.patch.size, config.augment.rotation_degrees)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, key: tuple[int, int, int]) -> Patch:
        """Reads one patch and its margin, by epoch, position in it and index of the case."""
        epoch, position, index = key
        case, cached, settings = self.cases[index], self.cached[index], self.config.augment
        seed = [self.config.train.seed, epoch, position, _SAMPLE]  # the same for any rank and number of ranks
        generator = np.random.default_rng(seed)
        size = self.config.patch.size
        start = draw_start(cached, size, settings.foreground_crop_probability, generator)
        first = [begin - beyond for begin, beyond in zip(start, self.margin, strict=True)]
        extent = [side + 2 * beyond for side, beyond in zip(size, self.margin, strict=True)]
        cached.will_need(first, extent)
        image = crop(cached.image, first, extent)[self.channels[index]]
        seg = np.zeros(extent, np.uint8) if cached.seg is None else crop(cached.seg, first, extent)
        augmentation = draw_augmentation(settings, len(image), generator)
        has_seg = cached.seg is not None
        only_wt = has_seg and not knows_parts(case.labels)  # not from the voxels, because a crop may contain no tumour
        label = (case.idh_terms, case.idh_weight is not None)
        return Patch(image, seg, has_seg, only_wt, case.idh, case.case_id, augmentation, *label)


def collate(patches: Sequence[Patch]) -> Batch:
    """Stacks patches to a batch."""
    soft = any(patch.has_soft_label for patch in patches)
    return Batch(
        image=torch.from_numpy(np.stack([patch.image for patch in patches])),
        seg=torch.from_numpy(np.stack([patch.seg for patch in patches])),
        has_seg=torch.tensor([patch.has_seg for patch in patches]),
        only_wt=torch.tensor([patch.only_wt for patch in patches]),
        idh=torch.tensor([patch.idh for patch in patches]),
        case_ids=tuple(patch.case_id for patch in patches),
        augmentations=tuple(patch.augmentation for patch in patches),
        idh_terms=torch.tensor([patch.idh_terms for patch in patches]) if soft else None,
    )


def steps_per_epoch(num_cases: int, config: Config, samples: int | None = None) -> int:
    """Optimiser steps of an epoch: as set, or enough to see `num_cases` cases once.

    Each step has `samples` of them; all of its global batch if that is not given.
    """
    return config.train.steps_per_epoch or -(-num_cases // (samples or config.train.global_batch))


def order_of_steps(cases: Sequence[Case], config: Config, epoch: int) -> NDArray[np.int64]:
    """Case index of each sample of an epoch, (steps, samples of the global batch).

    From one order of all cases, or with `train.quotas` from one for each kind of case, see `mttu.data.quotas`.
    """
    train = config.train
    if train.quotas.total:
        kinds = [kind_of(case) for case in cases]
        shares = share_quotas(train.quotas, Counter(kinds))
        leading = next(iter(shares))
        steps = steps_per_epoch(kinds.count(leading), config, shares[leading])
        return draw_by_kind(kinds, shares, steps, train.seed, epoch)
    steps = steps_per_epoch(len(cases), config)
    return epoch_order(len(cases), steps * train.global_batch, train.seed, epoch).reshape(steps, -1)


def labelled_tasks_of_steps(dataset: PatchDataset, epoch: int) -> list[frozenset[Task]]:
    """For each optimiser step of an epoch, the tasks that its global batch has a label for.

    Derived from the order of cases alone: nothing is read, and all ranks agree.
    """
    with_label: dict[Task, NDArray[np.bool_]] = {
        "segmentation": np.array([cached.seg is not None for cached in dataset.cached]),
        "idh": np.array([any(map(np.float32, case.idh_terms)) for case in dataset.cases]),  # float32, as in batches
    }
    return [
        frozenset(task for task, has_label in with_label.items() if has_label[indices].any())
        for indices in order_of_steps(dataset.cases, dataset.config, epoch)
    ]


def idh_weight_of_steps(dataset: PatchDataset, epoch: int, class_weights: Sequence[float]) -> float:
    """Weight of the IDH labels of a global batch, true, pseudo and soft: the sum of class weight times g (eq. 20), as
    the mean over those steps of an epoch that have any label, 0 without; see `labelled_tasks_of_steps`.
    """
    terms = np.array([case.idh_terms for case in dataset.cases], np.float32) @ np.asarray(class_weights, np.float32)
    counts = [float(terms[indices].sum()) for indices in order_of_steps(dataset.cases, dataset.config, epoch)]
    counts = [count for count in counts if count]
    return sum(counts) / len(counts) if counts else 0.0


def build_loader(
    dataset: PatchDataset, epoch: int, rank: int, world_size: int, device: torch.device | None = None
) -> DataLoader[Patch]:
    """Micro-batches of one epoch (from 0) for one rank; those of a step, over all ranks, are its global batch.

    Position p of the epoch's order belongs to step p // `train.global_batch` for any number of ranks and micro-batches.
    Batches for a GPU, given as `device`, are put into page-locked memory.
    """
    on_gpu = device is not None and device.type == "cuda"
    train = dataset.config.train
    shares = share_batch(train, world_size)
    size = shares.micro_batch_size
    order = order_of_steps(dataset.cases, dataset.config, epoch)
    starts = [
        step * train.global_batch + rank * shares.per_worker + micro_batch * size
        for step in range(len(order))
        for micro_batch in range(shares.micro_batches)
    ]
    batches = [[(epoch, at, int(order.flat[at])) for at in range(first, first + size)] for first in starts]
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=(GPU_LOADER_WORKERS if on_gpu else 0) if train.loader_workers is None else train.loader_workers,
        pin_memory=on_gpu,
    )

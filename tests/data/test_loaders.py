from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mttu.config import override
from mttu.data.cache import open_cached
from mttu.data.loaders import (
    PatchDataset,
    build_loader,
    crop,
    draw_start,
    epoch_order,
    idh_weight_of_steps,
    labelled_tasks_of_steps,
    read_prepared,
    steps_per_epoch,
)


@pytest.fixture
def train_cases(phantom_manifest):
    return phantom_manifest.split("train")


@pytest.fixture
def dataset(tiny, train_cases, phantom_cache):
    return PatchDataset(train_cases, phantom_cache, tiny)


def test_every_case_comes_once_before_any_comes_twice():
    order = epoch_order(5, 12, seed=0, epoch=3)
    assert Counter(order[:5].tolist()) == Counter(order[5:10].tolist()) == Counter(range(5))
    assert len(order) == 12
    assert order.tolist() == epoch_order(5, 12, seed=0, epoch=3).tolist()
    assert order.tolist() != epoch_order(5, 12, seed=0, epoch=4).tolist()
    assert order.tolist() != epoch_order(5, 12, seed=1, epoch=3).tolist()


@pytest.mark.parametrize(("global_batch", "expected"), [(1, 118), (2, 59), (4, 30), (8, 15)])
def test_an_epoch_sees_every_case(tiny, global_batch, expected):
    config = override(tiny, {"train.steps_per_epoch": None, "train.global_batch": global_batch})
    assert steps_per_epoch(118, config) == expected


def test_crop_cuts_and_pads():
    volume = np.arange(4 * 5 * 6).reshape(1, 4, 5, 6)
    inside = crop(volume, (1, 2, 3), (2, 2, 3))
    assert np.array_equal(inside, volume[:, 1:3, 2:4, 3:6])
    padded = crop(volume, (-1, 0, 4), (6, 5, 4))
    assert padded.shape == (1, 6, 5, 4)
    assert np.array_equal(padded[:, 1:5, :, :2], volume[:, :, :, 4:6])
    assert padded.sum() == volume[:, :, :, 4:6].sum()


def volume_of(shape, voxel=None):
    seg = np.zeros(shape, np.uint8)
    if voxel is not None:
        seg[voxel] = 1
    return SimpleNamespace(image=np.zeros((1, *shape), np.float16), seg=seg)


def test_starts_cover_all_places_and_may_pad():
    generator = np.random.default_rng(0)
    starts = np.array([draw_start(volume_of((10, 8, 4)), (8, 8, 8), 0.0, generator) for _ in range(300)])
    assert set(starts[:, 0]) == {0, 1, 2}
    assert set(starts[:, 1]) == {0}
    assert set(starts[:, 2]) == {-4, -3, -2, -1, 0}


def test_foreground_crops_hold_the_tumour():
    generator = np.random.default_rng(0)
    cached = volume_of((40, 40, 40), voxel=(35, 3, 20))
    for _ in range(20):
        start = np.array(draw_start(cached, (8, 8, 8), 1.0, generator))
        assert ((start <= (35, 3, 20)) & (start + 8 > (35, 3, 20))).all()
    bare = volume_of((40, 40, 40))
    starts = {draw_start(bare, (8, 8, 8), 1.0, generator) for _ in range(20)}
    assert len(starts) == 20


def test_patches_replay(dataset):
    one, two = dataset[(2, 5, 1)], dataset[(2, 5, 1)]
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.seg, two.seg)
    assert one.augmentation == two.augmentation
    assert one.augmentation != dataset[(3, 5, 1)].augmentation
    assert one.augmentation != dataset[(2, 6, 1)].augmentation


def test_a_rotation_changes_no_draw_and_its_margin_lies_around_the_same_crop(tiny, train_cases, phantom_cache):
    still = PatchDataset(train_cases, phantom_cache, override(tiny, {"augment.rotation_degrees": 0}))
    turning = PatchDataset(train_cases, phantom_cache, tiny)
    for position in range(8):
        plain, wide = still[(0, position, 1)], turning[(0, position, 1)]
        assert plain.image.shape == (4, 16, 16, 16)
        assert np.array_equal(wide.image[:, 2:-2, 2:-2], plain.image)
        assert np.array_equal(wide.seg[2:-2, 2:-2], plain.seg)
        assert replace(wide.augmentation, angle_degrees=0.0) == plain.augmentation


@pytest.mark.parametrize("steps", [3, None])
@pytest.mark.parametrize(("world_size", "held"), [(1, 2), (1, 1), (2, 2), (2, 1), (4, 4)])
def test_the_batches_of_a_step_together_are_the_global_batch(tiny, train_cases, phantom_cache, world_size, held, steps):
    """For any number of ranks, the patches of each step, in order, are those of one worker."""
    cases = [*train_cases, *train_cases[:2]]  # six, so that an epoch is no multiple of the batch
    config = override(tiny, {"train.global_batch": 4, "train.batch_per_worker": 4, "train.steps_per_epoch": steps})
    alone = list(build_loader(PatchDataset(cases, phantom_cache, config), 0, 0, 1))
    dataset = PatchDataset(cases, phantom_cache, override(config, {"train.batch_per_worker": held}))
    ranks = [list(build_loader(dataset, 0, rank, world_size)) for rank in range(world_size)]
    count = 4 // world_size // min(held, 4 // world_size)  # micro-batches of a rank in a step
    assert [len(rank) for rank in ranks] == [count * len(alone)] * world_size
    assert len(alone) == (steps or 2)
    for step, batch in enumerate(alone):
        parts = [part for rank in ranks for part in rank[step * count : (step + 1) * count]]
        assert batch.case_ids == sum((part.case_ids for part in parts), ())
        assert torch.equal(batch.image, torch.cat([part.image for part in parts]))
        assert batch.augmentations == sum((part.augmentations for part in parts), ())


def test_labelled_tasks_of_steps_are_those_of_the_batches_of_all_ranks(tiny, train_cases, phantom_cache):
    config = override(tiny, {"train.steps_per_epoch": 12})
    cases = [replace(case, idh=case.idh if index == 0 else -1) for index, case in enumerate(train_cases)]
    dataset = PatchDataset(cases, phantom_cache, config)
    dataset.cached = [replace(one, seg=one.seg if index == 1 else None) for index, one in enumerate(dataset.cached)]
    for epoch in (0, 1):
        ranks = [list(build_loader(dataset, epoch, rank, 2)) for rank in (0, 1)]
        expected = []
        for parts in zip(*ranks, strict=True):
            found = {"segmentation": torch.cat([part.has_seg for part in parts])}
            found["idh"] = torch.cat([part.idh for part in parts]) >= 0
            expected.append({task for task, has_label in found.items() if has_label.any()})
        assert labelled_tasks_of_steps(dataset, epoch) == expected
        assert {frozenset(tasks) for tasks in expected} > {frozenset(), frozenset({"idh"}), frozenset({"segmentation"})}


def test_soft_labels_travel_in_batches_and_one_without_weight_is_no_label(tiny, train_cases, phantom_cache):
    labels = [(-1, {}), (1, {"idh_probability": 0.75, "idh_weight": 0.5, "pseudo_label": True}), (0, {})]
    labels.append((0, {"idh_probability": 0.5, "idh_weight": 1e-60, "pseudo_label": True}))  # 0 in single precision
    cases = [replace(case, idh=idh, **soft) for case, (idh, soft) in zip(train_cases, labels, strict=True)]
    config = override(tiny, {"train.global_batch": 1, "train.steps_per_epoch": 4})
    dataset = PatchDataset(cases, phantom_cache, config)
    terms = {batch.case_ids[0]: batch.idh_terms for batch in build_loader(dataset, 0, 0, 1)}
    unknown, soft, hard, nothing = (terms[case.case_id] for case in cases)
    assert unknown is None
    assert hard is None
    assert torch.equal(soft, torch.tensor([[0.125, 0.375]]))
    assert torch.equal(nothing, torch.zeros(1, 2))
    tasks = dict(zip(terms, labelled_tasks_of_steps(dataset, 0), strict=True))
    assert ["idh" in tasks[case.case_id] for case in cases] == [False, True, True, False]
    # of the two steps that have any: g = 0.5 with p = 0.75, and a wild type
    assert idh_weight_of_steps(dataset, 0, (0.4, 0.6)) == pytest.approx((0.125 * 0.4 + 0.375 * 0.6 + 0.4) / 2)
    [both] = build_loader(
        PatchDataset(
            cases,
            phantom_cache,
            override(config, {"train.global_batch": 4, "train.steps_per_epoch": 1, "train.batch_per_worker": 4}),
        ),
        0,
        0,
        1,
    )
    known = {case.case_id: case.idh_terms for case in cases}
    assert torch.equal(both.idh_terms, torch.tensor([known[name] for name in both.case_ids]))
    assert sorted(known.values()) == [(0.0, 0.0), (5e-61, 5e-61), (0.125, 0.375), (1.0, 0.0)]
    assert torch.equal(both.to(torch.device("cpu")).idh_terms, both.idh_terms)


def test_batches_carry_labels_and_travel_as_float16(dataset, train_cases):
    [batch, *_] = build_loader(dataset, 0, 0, 1)
    assert batch.image.dtype == torch.float16
    assert batch.to(torch.device("cpu")).image.dtype == torch.float32
    assert batch.image.shape == (2, 4, 20, 20, 16)  # 7.5 (cos 10 + sin 10) - 7.5 = 1.19: a margin of 2
    assert batch.seg.shape == (2, 20, 20, 16)
    known = {case.case_id: case.idh for case in train_cases}
    assert batch.idh.tolist() == [known[case_id] for case_id in batch.case_ids]
    assert batch.has_seg.all()


def test_channels_follow_the_settings(tiny, train_cases, phantom_cache):
    changes = {"data.modalities": ["t2", "flair"], "network.in_channels": 2}
    swapped = override(tiny, changes)
    patch = PatchDataset(train_cases, phantom_cache, swapped)[(0, 0, 0)]
    whole = PatchDataset(train_cases, phantom_cache, tiny)[(0, 0, 0)]
    assert np.array_equal(patch.image, whole.image[[3, 0]])
    cached = open_cached(phantom_cache, train_cases[0].case_id)
    assert torch.equal(read_prepared(cached, swapped), read_prepared(cached, tiny)[[3, 0]])


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("cpu", False)])
def test_batches_for_a_gpu_are_pinned_by_torchs_loader(dataset, monkeypatch, device, pinned):
    """Works without a GPU: torch's own function pins a batch, and each tensor is followed."""
    seen = []

    def pin(tensor):
        seen.append(tensor)
        return tensor.clone()

    loader = build_loader(dataset, 0, 0, 1, torch.device(device))
    assert loader.pin_memory is pinned
    [batch, *_] = build_loader(dataset, 0, 0, 1)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    moved = torch.utils.data._utils.pin_memory.pin_memory(batch)
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    assert len(seen) == len(tensors) == 5
    for name, value in tensors.items():
        found = getattr(moved, name)
        assert found is not value, name
        assert torch.equal(found, value), name
    assert (moved.case_ids, moved.augmentations) == (batch.case_ids, batch.augmentations)

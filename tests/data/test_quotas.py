"""Batch quotas: shares and places by hand and for all small quotas, orders by counting."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mttu.config import Config, override
from mttu.config.training import QuotaSettings
from mttu.data.loaders import PatchDataset, build_loader, epoch_order, labelled_tasks_of_steps, order_of_steps
from mttu.data.quotas import KINDS, describe_quotas, draw_by_kind, kind_of, mix_kinds, share_quotas
from mttu.errors import InputError

HEAD = "train.quotas: with the cases of split train, each step holds"


def quotas(labelled, pseudo, unlabelled):
    return QuotaSettings(labelled=labelled, pseudo=pseudo, unlabelled=unlabelled)


def with_quotas(config, *counts):
    changes = {f"train.quotas.{kind}": count for kind, count in zip(KINDS, counts, strict=True)}
    tasks = {} if counts[0] else {"network.tasks": ["segmentation"]}  # an IDH head needs true labels
    return override(config, {**changes, **tasks, "train.global_batch": sum(counts)})


@pytest.fixture
def mixed(phantom_manifest):
    """Two labelled cases, one with a pseudo-label, three of unknown status."""
    cases = phantom_manifest.cases[:6]
    return [
        replace(case, split="train", idh=idh, pseudo_label=pseudo)
        for case, idh, pseudo in zip(
            cases, (1, -1, 0, -1, 0, -1), (False, False, False, False, True, False), strict=True
        )
    ]


def test_the_kind_of_a_case(mixed):
    named = [kind_of(case) for case in mixed]
    assert named == ["labelled", "unlabelled", "labelled", "unlabelled", "pseudo", "unlabelled"]


@pytest.mark.parametrize(
    ("wanted", "cases", "expected"),
    [
        ((2, 1, 1), (9, 9, 9), {"labelled": 2, "pseudo": 1, "unlabelled": 1}),
        ((2, 0, 2), (9, 9, 9), {"labelled": 2, "unlabelled": 2}),
        ((2, 1, 1), (9, 0, 0), {"labelled": 4}),
        ((2, 1, 1), (9, 0, 9), {"labelled": 3, "unlabelled": 1}),  # 4 * 2/3 = 2.67, 4 * 1/3 = 1.33
        ((3, 2, 3), (9, 0, 9), {"labelled": 4, "unlabelled": 4}),
        ((1, 3, 1), (1, 0, 1), {"labelled": 3, "unlabelled": 2}),  # 2.5 each: the first of equals
        ((5, 4, 3), (0, 1, 1), {"pseudo": 7, "unlabelled": 5}),  # 12 * 4/7 = 6.86, 12 * 3/7 = 5.14
        ((4, 0, 0), (1, 1, 1), {"labelled": 4}),
    ],
)
def test_a_share_without_cases_goes_to_the_others_by_largest_remainder(wanted, cases, expected):
    assert share_quotas(quotas(*wanted), dict(zip(KINDS, cases, strict=True))) == expected


def test_quotas_that_no_case_fits_are_refused():
    with pytest.raises(InputError) as caught:
        share_quotas(quotas(0, 2, 2), {"labelled": 7})
    assert str(caught.value) == (
        "train.quotas: no case of split train is pseudo-labelled or unlabelled (there are 7 labelled, 0 "
        "pseudo-labelled, 0 unlabelled); give another kind a quota"
    )


@pytest.mark.parametrize(
    ("shares", "expected"),
    [((2, 0, 2), "lulu"), ((2, 1, 1), "lpul"), ((1, 1, 2), "ulpu"), ((3, 0, 1), "lull"), ((4, 2, 2), "lpulplul")],
)
def test_places_by_hand(shares, expected):
    found = mix_kinds({kind: share for kind, share in zip(KINDS, shares, strict=True) if share})
    assert "".join(kind[0] for kind in found) == expected


def test_no_rank_and_no_micro_batch_has_a_single_kind_for_all_quotas_up_to_12():
    """Unless a kind has more than half of the batch."""
    for batch in range(2, 13):
        for shares in itertools.product(range(batch + 1), repeat=3):
            if sum(shares) != batch:
                continue
            places = mix_kinds({kind: share for kind, share in zip(KINDS, shares, strict=True) if share})
            assert [places.count(kind) for kind in KINDS] == list(shares)
            if max(shares) <= batch / 2:
                assert all(one != two for one, two in itertools.pairwise(places)), shares


@settings(max_examples=60, deadline=None)
@given(
    wanted=st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(0, 3)),
    cases=st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9)),
    steps=st.integers(1, 6),
    seed=st.integers(0, 2**63 - 1),
)
def test_every_batch_meets_the_quotas_and_cases_of_a_kind_are_seen_equally_often(wanted, cases, steps, seed):
    kinds = [kind for kind, count in zip(KINDS, cases, strict=True) for _ in range(count)]
    shares = share_quotas(quotas(*wanted), Counter(kinds))
    seen = Counter()
    for epoch in range(4):
        order = draw_by_kind(kinds, shares, steps, seed, epoch)
        assert order.shape == (steps, sum(wanted))
        for batch in order:
            assert Counter(kinds[index] for index in batch) == shares
            seen.update(batch.tolist())
            for kind in shares:
                counts = [seen[index] for index, one in enumerate(kinds) if one == kind]
                assert max(counts) - min(counts) <= 1
        assert np.array_equal(order, draw_by_kind(kinds, shares, steps, seed, epoch))  # of seed and epoch alone


def test_passes_follow_each_other_over_the_epochs_and_differ_by_seed_and_kind():
    kinds, shares = ["labelled"] * 40 + ["unlabelled"] * 40, {"labelled": 2, "unlabelled": 2}
    orders = [draw_by_kind(kinds, shares, 10, 7, epoch) for epoch in range(4)]
    columns = [order[:, [0, 2]].flatten() for order in orders]  # labelled, unlabelled, labelled, unlabelled
    first, second = np.concatenate(columns[:2]), np.concatenate(columns[2:])
    assert sorted(first) == sorted(second) == list(range(40))
    assert first.tolist() != second.tolist()
    others = np.concatenate([order[:, [1, 3]].flatten() for order in orders[:2]]) - 40
    assert sorted(others) == list(range(40))
    assert others.tolist() != first.tolist()
    expected = np.random.default_rng([7, 0, 0, 3]).permutation(40)
    assert first.tolist() == expected.tolist()
    assert draw_by_kind(kinds, shares, 10, 8, 0).tolist() != orders[0].tolist()


@pytest.mark.parametrize(
    ("counts", "kinds", "steps"),
    [((2, 1, 1), "llluuu", 1), ((1, 1, 2), "lllpuu", 3), ((0, 1, 3), "llpppu", 3), ((2, 2, 0), "uuulll", 1)],
)
def test_an_epoch_sees_every_labelled_case_or_every_case_of_the_next_kind(tiny, mixed, counts, kinds, steps):
    like = {kind_of(case)[0]: case for case in mixed}
    cases = [like[kind] for kind in kinds]
    config = override(with_quotas(tiny, *counts), {"train.steps_per_epoch": None})
    assert order_of_steps(cases, config, 0).shape == (steps, 4)
    assert order_of_steps(cases, override(config, {"train.steps_per_epoch": 7}), 0).shape == (7, 4)


@pytest.mark.parametrize(("world_size", "held"), [(1, 1), (1, 2), (2, 2), (2, 1), (4, 4)])
def test_batches_of_any_number_of_ranks_and_micro_batches_are_those_of_one(
    tiny, mixed, phantom_cache, world_size, held
):
    config = override(with_quotas(tiny, 2, 1, 1), {"train.batch_per_worker": 4, "train.steps_per_epoch": 3})
    alone = PatchDataset(mixed, phantom_cache, config)
    dataset = PatchDataset(mixed, phantom_cache, override(config, {"train.batch_per_worker": held}))
    kinds = {case.case_id: kind_of(case) for case in mixed}
    for epoch in (0, 3):
        ranks = [list(build_loader(dataset, epoch, rank, world_size)) for rank in range(world_size)]
        count = 4 // world_size // min(held, 4 // world_size)
        for step, batch in enumerate(build_loader(alone, epoch, 0, 1)):
            parts = [part for rank in ranks for part in rank[step * count : (step + 1) * count]]
            assert batch.case_ids == sum((part.case_ids for part in parts), ())
            assert batch.augmentations == sum((part.augmentations for part in parts), ())
            assert Counter(kinds[name] for name in batch.case_ids) == {"labelled": 2, "pseudo": 1, "unlabelled": 1}
            assert all(len({kinds[name] for name in part.case_ids}) > 1 for part in parts if len(part.case_ids) > 1)
        assert labelled_tasks_of_steps(dataset, epoch) == [{"segmentation", "idh"}] * 3


def test_without_quotas_the_order_is_that_of_all_cases(tiny, mixed):
    config = override(tiny, {"train.steps_per_epoch": 3, "train.global_batch": 4})
    assert config.train.quotas == quotas(0, 0, 0)
    expected = epoch_order(6, 12, config.train.seed, 5).reshape(3, 4)
    assert np.array_equal(order_of_steps(mixed, config, 5), expected)


def test_quotas_have_to_add_up_to_the_global_batch():
    with pytest.raises(InputError) as caught:
        override(Config(), {"train.quotas.labelled": 2, "train.quotas.unlabelled": 1})
    assert str(caught.value) == (
        "settings: train: quotas: labelled 2 + pseudo 0 + unlabelled 1 = 3, but global_batch is 4; they must add up to "
        "it, or all be 0"
    )
    with pytest.raises(InputError, match=r"train\.quotas\.pseudo: .* greater than or equal to 0, found -1"):
        override(Config(), {"train.quotas.pseudo": -1})
    assert override(Config(), {"train.quotas": {"labelled": 3, "unlabelled": 1}}).train.quotas == quotas(3, 0, 1)


def test_what_quotas_make_of_the_cases_is_said(tiny, mixed):
    assert describe_quotas(mixed, tiny) == []
    # without quotas, of 15 batches of 2 of 6 cases, 3 have two of the three cases without a label
    assert describe_quotas(mixed, with_quotas(tiny, 1, 1, 0)) == [
        f"{HEAD} 1 labelled, 1 pseudo-labelled; 0% of the steps have no IDH label, without quotas about 20% would have "
        "none",
        "train.quotas: 3 cases are never seen, because the quota is 0: 3 unlabelled",
    ]
    only = [case for case in mixed if kind_of(case) == "unlabelled"]
    [sentence] = describe_quotas(only, with_quotas(tiny, 2, 1, 1))
    assert sentence == (
        f"{HEAD} 4 unlabelled (no case is labelled or pseudo-labelled, so that share goes to the others); 100% of the "
        "steps have no IDH label, without quotas about 100% would have none"
    )
    segmentation = override(
        with_quotas(tiny, 2, 0, 0), {"network.tasks": ["segmentation"], "train.validation_metric": "dice"}
    )
    assert describe_quotas(mixed[:1], segmentation) == [f"{HEAD} 2 labelled"]

import pytest

from mttu.config import Config, override
from mttu.config.batches import describe_accumulation, share_batch
from mttu.errors import InputError
from mttu.search.presets import preset


def share(total, held, num_workers):
    train = override(Config(), {"train.global_batch": total, "train.batch_per_worker": held}).train
    shares = share_batch(train, num_workers)
    assert num_workers * shares.micro_batches * shares.micro_batch_size == total
    assert shares.per_worker == total // num_workers
    return shares.micro_batches, shares.micro_batch_size


@pytest.mark.parametrize(
    ("total", "held", "num_workers", "expected"),
    [
        (4, 2, 1, (2, 2)),
        (4, 2, 2, (1, 2)),  # the paper
        (4, 2, 4, (1, 1)),
        (4, 8, 1, (1, 4)),
        (4, 1, 2, (2, 1)),
        (12, 4, 2, (2, 3)),  # a share of 6 in equal parts of at most 4
        (5, 4, 1, (5, 1)),
    ],
)
def test_a_share_is_taken_in_the_fewest_equal_parts(total, held, num_workers, expected):
    assert share(total, held, num_workers) == expected


@pytest.mark.parametrize(
    ("num_workers", "reason", "near"), [(3, "does not divide", 3), (8, "is more than", 8), (6, "is more than", 6)]
)
def test_workers_that_cannot_share_the_batch_are_refused_with_the_cure(num_workers, reason, near):
    with pytest.raises(InputError) as caught:
        share_batch(Config().train, num_workers)
    assert str(caught.value) == (
        f"workers.num_workers: {num_workers} {reason} train.global_batch (4), whose patches are split equally over "
        f"all workers; set workers.num_workers to 1, 2 or 4, or train.global_batch to a multiple of {num_workers}, "
        f"such as {near}, which is another recipe: other steps an epoch, and a learning rate that was chosen for "
        "another batch"
    )


def test_accumulation_is_called_a_change_of_recipe():
    assert describe_accumulation(Config().train, 2) is None
    assert describe_accumulation(Config().train, 1) == (
        "a change of recipe: the 4 patches of a step are taken in 2 micro-batches of 2 on one worker; losses and "
        "gradients are those of all 4, but batch norm sees 2 at a time; train.batch_per_worker=4 avoids it, if it fits"
    )
    uneven = override(Config(), {"train.global_batch": 12, "train.batch_per_worker": 4})
    said = describe_accumulation(uneven.train, 2)
    assert "2 micro-batches of 3 on each of 2 workers, the largest equal part up to train.batch_per_worker=4; " in said
    assert "batch norm sees 6 at a time; train.batch_per_worker=6 avoids it" in said


@pytest.mark.parametrize(("name", "expected"), [("small", (2, 2)), ("demo", (4, 4))])
def test_presets_for_one_worker_accumulate_nothing(name, expected):
    train = preset(name).train
    assert (train.global_batch, train.batch_per_worker) == expected
    assert describe_accumulation(train, 1) is None

"""Gradients of micro-batches add up to those of one large batch; the first pass leaves no trace."""

import math
from dataclasses import replace

import pytest
import torch
from test_ranks import ONLY_WT, SOFT_TERMS, assert_close, global_batch, in_parts, take_step, trace_of

from mttu.config import override
from mttu.errors import RunError
from mttu.training import loop
from mttu.training.loop import fit
from mttu.training.run import task_of
from mttu.training.runtime import LocalRuntime


def settings(held, changes=None):
    return override(in_parts(held), changes or {})


def split(batch_of, held):
    return [batch_of(first, first + held) for first in range(0, 4, held)]


@pytest.mark.parametrize(
    ("changes", "masks", "held"),
    [
        ({}, "second rank", 1),
        ({}, "none", 2),
        ({"loss.dice_pool": "sample"}, "both ranks", 2),
        ({"loss.segmentation": "focal", "loss.idh": "focal"}, "second rank", 2),
        ({"loss.segmentation": "dice_ce"}, "second rank", 2),
        ({"loss.task_weighting": "equal"}, "every mask", 1),
        ({"loss.task_weighting": "pcgrad"}, "second rank", 1),
    ],
)
def test_gradients_of_micro_batches_are_those_of_one_large_batch(tmp_path, changes, masks, held):
    """Frozen batch norm, no dropout; unequal counts of IDH labels, and of masks of both kinds; sigmas included."""

    def batch_of(first, stop):
        return global_batch(first, stop, ONLY_WT[masks])

    runtime = LocalRuntime(tmp_path)
    whole, expected = take_step(settings(4, changes), runtime, [batch_of(0, 4)])
    found, metrics = take_step(settings(held, changes), runtime, split(batch_of, held))
    assert metrics == pytest.approx(expected, rel=1e-5)
    assert_close(trace_of(found), trace_of(whole))


@pytest.mark.parametrize("kind", ["cross_entropy", "focal"])
def test_soft_labels_of_micro_batches_have_the_gradients_of_one_large_batch(tmp_path, kind):
    """The first micro-batch has a soft label, the second only hard ones and hence no terms."""
    runtime, changes = LocalRuntime(tmp_path), {"loss.idh": kind}
    soft = replace(global_batch(0, 4), idh_terms=SOFT_TERMS)
    whole, expected = take_step(settings(4, changes), runtime, [soft])
    parts = [replace(global_batch(0, 2), idh_terms=SOFT_TERMS[:2]), global_batch(2, 4)]
    found, metrics = take_step(settings(2, changes), runtime, parts)
    assert metrics == pytest.approx(expected, rel=1e-5)
    assert_close(trace_of(found), trace_of(whole))
    hard, _ = take_step(settings(4, changes), runtime, [global_batch(0, 4)])
    assert not torch.allclose(trace_of(hard)["idh_head.layers.0.weight"], trace_of(whole)["idh_head.layers.0.weight"])


def test_the_first_pass_leaves_no_trace(tmp_path, monkeypatch):
    """Both passes see the same masks of dropout, and running statistics move once for each micro-batch."""
    seen, task_sums = [], loop.task_sums

    def record(*arguments):
        sums = task_sums(*arguments)
        seen.append(torch.cat([part.detach() for part in sums.values()]))
        return sums

    monkeypatch.setattr(loop, "task_sums", record)
    torch.manual_seed(3)
    dropout = {f"network.dropout.{place}": 0.3 for place in ("stem", "embedding", "attention", "branch", "mlp", "head")}
    state, _ = take_step(settings(2, dropout), LocalRuntime(tmp_path), split(global_batch, 2), frozen=False)
    first, second = seen[:2], seen[2:]
    assert len(second) == 2
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    counts = {int(value) for name, value in state.network.state_dict().items() if name.endswith("num_batches_tracked")}
    assert counts == {2}


def test_the_case_is_named_whichever_micro_batch_it_is_in(tmp_path):
    parts = split(global_batch, 1)
    parts[2].image[0, 0, 0, 0, 0] = math.nan
    with pytest.raises(RunError, match=r"epoch 1, step 1: the loss is nan; stopped before .* Cases: c\. "):
        take_step(settings(1), LocalRuntime(tmp_path), parts)


def test_a_training_in_micro_batches_takes_as_many_steps_and_resumes(tiny, tmp_path):
    config = override(tiny, {"train.batch_per_worker": 1, "train.epochs": 2, "train.steps_per_epoch": None})

    def kill(epoch, metrics):
        if epoch == 1:
            raise KeyboardInterrupt

    task = replace(task_of(config), val=())
    unbroken = fit(task, LocalRuntime(tmp_path / "unbroken"))
    with pytest.raises(KeyboardInterrupt):
        fit(task, LocalRuntime(tmp_path / "killed", on_report=kill))
    state = fit(task, LocalRuntime(tmp_path / "killed"))
    steps = {int(slots["step"]) for slots in state.optimizer.state_dict()["state"].values()}
    assert steps == {2 * 2}  # two epochs of four cases, two in a step
    assert state.history == unbroken.history
    weights, expected = state.network.state_dict(), unbroken.network.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)

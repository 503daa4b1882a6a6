"""What a state is after it was written and read."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from mttu.config import override
from mttu.training.loop import fit
from mttu.training.run import task_of
from mttu.training.runtime import LocalRuntime
from mttu.training.start import load_start
from mttu.training.state import create_state, read_state, write_state

CPU = torch.device("cpu")


def take_step(state, seed):
    """An update by made-up gradients."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in [*state.network.parameters(), *state.weighting.parameters()]:
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
    state.optimizer.step()


def lay_out(tensor, channels_last):
    if tensor.ndim != 5:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last_3d if channels_last else torch.contiguous_format)


def weights_of(state):
    return {name: parameter.detach().clone() for name, parameter in state.network.named_parameters()}


def create(config, channels_last):
    state = create_state(config, CPU)
    if channels_last:
        state.network.to(memory_format=torch.channels_last_3d)
    return state


def train(config, channels_last):
    """A state after two updates, and its weights after the next one."""
    state = create(config, channels_last)
    for seed in (1, 2):
        take_step(state, seed)
    state.finish_epoch({}, 0.0)
    unbroken = deepcopy(state)
    take_step(unbroken, 3)
    return state, weights_of(unbroken)


@pytest.mark.parametrize("read", ["resume", "start"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_moments_of_another_memory_layout_give_the_same_update(tiny, tmp_path, channels_last, read):
    """As a GPU, whose layout is channels last, leaves them to a CPU, and the other way round."""
    state, expected = train(tiny, channels_last)
    for slots in state.optimizer.state.values():
        for name, value in slots.items():
            slots[name] = lay_out(value, not channels_last)
    write_state(state, tiny, tmp_path)
    resumed = create(tiny, channels_last)
    if read == "resume":
        read_state(resumed, tmp_path, CPU)
    else:
        kept = override(tiny, {"train.start_from": str(tmp_path), "train.start_optimiser": "kept"})
        load_start(resumed, kept, CPU)
    take_step(resumed, 3)
    found = weights_of(resumed)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


class ChannelsLast(LocalRuntime):
    """Lays weights out as on a GPU."""

    def prepare(self, network):
        return super().prepare(network).to(memory_format=torch.channels_last_3d)


def test_a_resume_into_weights_that_prepare_lays_out_keeps_the_bits(tiny, tmp_path):
    task = replace(task_of(override(tiny, {"train.epochs": 2, "train.steps_per_epoch": 1})), val=())
    first = replace(task, config=override(task.config, {"train.epochs": 1}))
    unbroken = fit(task, ChannelsLast(tmp_path / "unbroken"))
    fit(first, ChannelsLast(tmp_path / "resumed"))
    expected = weights_of(unbroken)
    found = weights_of(fit(task, ChannelsLast(tmp_path / "resumed")))
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []

"""Batch norm of several ranks, here threads, against torch's on the whole batch."""

import threading
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mttu.config import Config, override
from mttu.networks import cnn
from mttu.networks.batch_norm import BatchNorm3d, synchronise
from mttu.networks.bottleneck import TransformerBottleneck
from mttu.networks.cnn import PreActivatedConv
from mttu.networks.cpu import steps

PARTS = (1, 4)
"""Samples of each rank."""


class NoHostRead(TorchDispatchMode):
    """Refuses what reads a value back, for which a GPU would be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.name() not in {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal"}
        return func(*args, **(kwargs or {}))


class Ranks:
    """Runs the same work in a thread per rank; `sent[rank]` counts what a rank added to the others' tensors."""

    def __init__(self, count):
        self.barrier, self.tensors, self.sent = threading.Barrier(count, timeout=60), [None] * count, [0] * count

    def run(self, work):
        with ThreadPoolExecutor(len(self.sent)) as pool:
            return list(pool.map(work, range(len(self.sent))))

    def sum_of(self, rank):
        def add(tensor):
            assert not tensor.requires_grad
            self.tensors[rank] = tensor
            self.sent[rank] += 1
            self.barrier.wait()
            total = torch.stack(self.tensors).sum(dim=0)
            self.barrier.wait()
            return total

        return add


def take_step(module, x, slope, dtype=None):
    """Output, gradient of the input, gradients of the parameters, running statistics."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        out = module(x)
    (out * slope).sum().backward()
    return out.detach(), x.grad, [parameter.grad for parameter in module.parameters()], list(module.buffers())


def step_of_ranks(module, x, slope, dtype=None):
    """The same of several ranks, put together as if one had done it; and how often each rank sent something."""
    ranks, cuts = Ranks(len(PARTS)), (x.split(PARTS), slope.split(PARTS))

    def work(rank):
        twin = deepcopy(module)
        synchronise(twin, ranks.sum_of(rank))
        with NoHostRead():
            return take_step(twin, cuts[0][rank], cuts[1][rank], dtype)

    outs, grads, parameters, buffers = zip(*ranks.run(work), strict=True)
    assert all(torch.equal(*pair) for pair in zip(*buffers, strict=True))
    return torch.cat(outs), torch.cat(grads), [sum(pair) for pair in zip(*parameters, strict=True)], buffers[0], ranks


def inputs(shift=0.5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(sum(PARTS), 3, 4, 3, 2, generator=generator, dtype=dtype) * torch.tensor([1.0, 3.0, 0.1]).to(
        dtype
    ).view(1, 3, 1, 1, 1)
    return x + shift, torch.randn(sum(PARTS), 2, 4, 3, 2, generator=generator, dtype=dtype)


def plain_block(block):
    norm = nn.BatchNorm3d(3).to(block.norm.weight.dtype)
    norm.load_state_dict(block.norm.state_dict())
    return nn.Sequential(norm, nn.LeakyReLU(cnn.NEGATIVE_SLOPE), deepcopy(block.conv))


@pytest.fixture
def block():
    torch.manual_seed(0)
    block = PreActivatedConv(3, 2)
    nn.init.normal_(block.norm.weight)
    nn.init.normal_(block.norm.bias)
    return block


@pytest.mark.parametrize("lean", [True, False])
def test_ranks_of_unequal_batches_equal_one_process(block, lean, monkeypatch):
    if not lean:
        monkeypatch.setattr(steps, "trains_on_cpu", lambda x: False)
    x, slope = inputs()
    expected = take_step(plain_block(block.double()), x, slope)
    *found, ranks = step_of_ranks(block, x, slope)
    torch.testing.assert_close(found, list(expected), rtol=1e-9, atol=1e-9)
    assert ranks.sent == [2, 2]  # once forward, once backward


@pytest.mark.parametrize("lean", [True, False])
def test_a_mean_far_from_zero_costs_no_digit_of_the_variance(block, lean, monkeypatch):
    if not lean:
        monkeypatch.setattr(steps, "trains_on_cpu", lambda x: False)
    x, slope = inputs(shift=1000.0, dtype=torch.float32)
    _, _, _, buffers, _ = step_of_ranks(block, x, slope)
    _, running_var, _ = buffers
    expected = 0.9 + 0.1 * x.double().transpose(0, 1).flatten(1).var(dim=1)
    torch.testing.assert_close(running_var.double(), expected, rtol=1e-6, atol=0)


def test_statistics_are_float32_under_autocast(block):
    x, slope = inputs(dtype=torch.float32)
    narrow = x.bfloat16().float()
    reference = nn.BatchNorm3d(3)
    reference.load_state_dict(block.norm.state_dict())
    expected = take_step(reference, narrow, slope[:, :1])
    found = step_of_ranks(block.norm, x.bfloat16(), slope[:, :1], torch.bfloat16)
    assert found[0].dtype == found[1].dtype == torch.bfloat16
    assert all(gradient.dtype == torch.float32 for gradient in found[2])
    torch.testing.assert_close(found[3], expected[3], rtol=1e-6, atol=1e-6)
    for one, two in zip((*found[:2], *found[2]), (*expected[:2], *expected[2]), strict=True):
        torch.testing.assert_close(one.float(), two, rtol=2e-2, atol=2e-2)


def test_evaluation_and_frozen_norms_send_nothing(block):
    x, slope = inputs(dtype=torch.float32)
    block.eval()
    expected = take_step(deepcopy(block), x, slope)
    *found, ranks = step_of_ranks(block, x, slope)
    assert ranks.sent == [0, 0]
    torch.testing.assert_close(found, list(expected))


def test_alone_it_is_torch_s_to_the_bit():
    own, torch_s = BatchNorm3d(3), nn.BatchNorm3d(3)
    assert own.state_dict().keys() == torch_s.state_dict().keys()
    x, slope = inputs(dtype=torch.float32)
    for _ in range(2):
        found, expected = (take_step(norm, x, slope[:, :1]) for norm in (own, torch_s))
        for one, two in zip(
            (*found[:2], *found[2], *found[3]), (*expected[:2], *expected[2], *expected[3]), strict=True
        ):
            assert torch.equal(one, two)
        own.eval(), torch_s.eval()


@pytest.mark.parametrize("samples", [1, 2])
def test_one_sample_s_tokens_give_the_gradients_of_any_layout(samples, monkeypatch):
    """A kernel of torch's misreads a gradient beside the strides that transposed tokens of one sample have."""
    settings = override(Config(), {"network.bottleneck.width": 16, "network.bottleneck.num_heads": 2}).network
    torch.manual_seed(0)
    bottleneck = TransformerBottleneck(settings.bottleneck, 8, settings.dropout).double().eval()
    block = PreActivatedConv(16, 3).double()
    tokens = torch.randn(samples, 8, 16, dtype=torch.float64)
    for lean in (True, False):
        monkeypatch.setattr(steps, "trains_on_cpu", lambda x, lean=lean: lean)
        found = []
        for lay_out in (lambda f5: f5, torch.Tensor.contiguous):
            block.zero_grad()
            block(lay_out(bottleneck.transform(tokens, (2, 2, 2)))).square().sum().backward()
            found.append([parameter.grad.clone() for parameter in block.parameters()])
        torch.testing.assert_close(*found)

"""Rearranged steps of the network against the plain order of the paper."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from mttu.config import Config, override
from mttu.errors import InputError
from mttu.networks import build_network
from mttu.networks.batch_norm import BatchNorm3d
from mttu.networks.cnn import PreActivatedConv, ResidualBlock, UpStep
from mttu.networks.cpu import steps
from mttu.networks.cpu.steps import lean_pre_activated_conv


def randomise(module, scale=0.3):
    """Weights, gains and running statistics away from their special first values."""
    for values in (*module.parameters(), *module.buffers()):
        if values.is_floating_point():
            with torch.no_grad():
                values.add_(torch.rand_like(values), alpha=scale)
    return module.double()


def gradients(out, inputs):
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return torch.autograd.grad((out * weight).sum(), inputs)


@pytest.mark.parametrize("training", [True, False])
def test_gradient_of_lean_convolution(training):
    torch.manual_seed(0)
    norm, conv = randomise(BatchNorm3d(2)).train(training), randomise(nn.Conv3d(2, 3, 3, padding=1))
    x = torch.randn(1, 2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    parameters = [*norm.parameters(), *conv.parameters()]
    assert gradcheck(lambda *_: lean_pre_activated_conv(x, norm, conv, 0.01), (x, *parameters))


def test_one_value_per_channel_cannot_be_normalised():
    block = PreActivatedConv(2, 3)
    with pytest.raises(InputError, match=r"found \(1, 2, 1, 1, 1\), one value per channel"):
        block(torch.randn(1, 2, 1, 1, 1))


@pytest.mark.parametrize("chunk", [2, 512])
def test_lean_mlp_step_equals_the_plain_one(chunk, monkeypatch):
    monkeypatch.setattr(steps, "CHUNK", chunk)
    torch.manual_seed(0)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 8), (3, 8), (3,))]
    lean, plain = steps.lean_gelu_dropout_linear(*inputs, 0.0), F.linear(F.gelu(inputs[0]), *inputs[1:])
    torch.testing.assert_close(lean, plain)
    torch.testing.assert_close(gradients(lean, inputs), gradients(plain, inputs))

    def with_drops(*tensors):
        torch.manual_seed(3)  # the same mask at each call
        return steps.lean_gelu_dropout_linear(*tensors, 0.4)

    assert gradcheck(with_drops, inputs)
    assert not torch.allclose(with_drops(*inputs), plain)


def test_up_step_equals_upsample_concatenate_fuse():
    torch.manual_seed(0)
    step = randomise(UpStep(6, 4)).eval()
    x, skip = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 6, 2, 3, 2), (2, 4, 4, 6, 4)))
    plain = step.block(step.fuse(torch.cat([skip, step.upsample(step.reduce(x))], dim=1)))
    found = step(x, skip)
    torch.testing.assert_close(found, plain)
    parameters = list(step.parameters())
    torch.testing.assert_close(gradients(found, parameters), gradients(plain, parameters))


def test_residual_block_without_gradients_equals_the_one_with():
    torch.manual_seed(0)
    block = randomise(ResidualBlock(3)).eval()
    x = torch.randn(1, 3, 4, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        found = block(x)
    torch.testing.assert_close(found, block(x).detach())


def test_bfloat16_autocast_trains_close_to_float32():
    torch.manual_seed(0)
    settings = override(Config(), {"network.bottleneck.position_grid": [2, 2, 2], "network.bottleneck.num_layers": 1})
    network = build_network(settings.network)
    image = torch.randn(2, 4, 16, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(image)
    (half["seg_logits"].float().square().mean() + half["idh_logits"].float().square().sum()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    network.eval()
    with torch.no_grad():
        expected = network(image)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(image)
    assert (half["idh_logits"].softmax(1) - expected["idh_logits"].softmax(1)).abs().max() < 0.01


def test_network_equals_the_benchmark_baseline(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "benchmarks"), *sys.path])
    from eager_baseline import EagerBaseline

    torch.manual_seed(0)
    network = randomise(
        build_network(override(Config(), {"network.bottleneck.position_grid": [2, 2, 2]}).network), 1e-3
    )
    baseline = EagerBaseline(size=16).double()
    names = baseline.state_dict()
    baseline.load_state_dict(dict(zip(names, network.state_dict().values(), strict=True)))
    image = torch.randn(1, 4, 16, 16, 16, dtype=torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # the IDH head's, which would round here
    found, expected = network.eval()(image), baseline.eval()(image)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
    parameters = list(network.parameters()), list(baseline.parameters())
    sums = [sum(values.square().mean() for values in logits.values()) for logits in (found, expected)]
    for one, two in zip(*(torch.autograd.grad(s, p) for s, p in zip(sums, parameters, strict=True)), strict=True):
        torch.testing.assert_close(one, two)

"""Kernels for a CPU and rearranged steps of the network, against plain modules in the order of the paper."""

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
from mttu.networks.cpu.convolution import Conv3d, conv3d
from mttu.networks.cpu.dropout import MaskStream, dropout_attention
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


@pytest.mark.parametrize("training", [True, False])
def test_lean_convolution_equals_three_modules(training):
    torch.manual_seed(0)
    norms = [nn.BatchNorm3d(3).double(), BatchNorm3d(3).double()]
    for norm in norms:
        norm.load_state_dict({**norm.state_dict(), "weight": torch.tensor([1.2, 0.7, -0.4]).double()})
        norm.running_mean.fill_(0.3)
        norm.train(training)
    conv = nn.Conv3d(3, 5, 3, padding=1).double()
    x = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    plain = conv(F.leaky_relu(norms[0](x), 0.01))
    lean = lean_pre_activated_conv(x, norms[1], conv, 0.01)
    torch.testing.assert_close(lean, plain)
    weight = torch.randn_like(plain)
    for norm, out in zip(norms, (plain, lean), strict=True):
        inputs = [x, *norm.parameters(), *conv.parameters()]
        norm.found = torch.autograd.grad((out * weight).sum(), inputs)
    for one, two in zip(norms[0].found, norms[1].found, strict=True):
        torch.testing.assert_close(one, two)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(norms[0], name), getattr(norms[1], name))


def attention_of(qkv):
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def test_attention_without_drops_is_attention():
    qkv = torch.randn(2, 9, 3, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(dropout_attention(qkv, 0.0), attention_of(qkv))


def test_gradient_of_attention_with_drops():
    qkv = torch.randn(1, 5, 3, 2, 3, dtype=torch.float64, requires_grad=True)

    def run(tensor):
        torch.manual_seed(3)  # the same mask at each call
        return dropout_attention(tensor, 0.4)

    assert gradcheck(run, (qkv,))


def test_attention_with_drops_has_the_right_mean_and_obeys_the_seed():
    qkv = torch.randn(1, 16, 3, 2, 4, dtype=torch.float64)
    torch.manual_seed(0)
    runs = torch.stack([dropout_attention(qkv, 0.3) for _ in range(2000)])
    expected = attention_of(qkv)
    standard_error = runs.std(0) / 2000**0.5
    assert ((runs.mean(0) - expected).abs() < 5 * standard_error + 1e-4).all()
    torch.manual_seed(0)
    assert torch.equal(dropout_attention(qkv, 0.3), runs[0])
    assert not torch.equal(runs[0], runs[1])


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_masks_drop_what_they_should_and_repeat(probability):
    stream = MaskStream(64, 256, probability, seed=5, dtype=torch.float32)
    masks = torch.stack([stream.draw(64).clone() for _ in range(20)])
    dropped = (masks == 0).float().mean().item()
    assert dropped == pytest.approx(probability, abs=0.003)
    kept = masks[masks != 0]
    assert kept.unique().numel() == 1
    assert kept[0].item() == pytest.approx(1 / (1 - probability), rel=1e-4)
    again = MaskStream(64, 256, probability, seed=5, dtype=torch.float32)
    assert all(torch.equal(mask, again.draw(64)) for mask in masks)
    other = MaskStream(64, 256, probability, seed=6, dtype=torch.float32)
    assert not torch.equal(masks[0], other.draw(64))


@pytest.mark.parametrize(("channels", "kernel", "stride", "padding"), [(5, 3, 1, 1), (5, 3, 2, 1), (7, 1, 1, 0)])
@pytest.mark.parametrize("batch", [1, 2])
def test_it_is_the_convolution_for_small_windows_and_batches(batch, channels, kernel, stride, padding):
    torch.manual_seed(0)
    x = torch.randn(batch, channels, 9, 8, 7).contiguous(memory_format=torch.channels_last_3d)
    weight, bias = torch.randn(6, channels, *[kernel] * 3), torch.randn(6)
    expected = F.conv3d(x.double(), weight.double(), bias.double(), stride=stride, padding=padding)
    with torch.no_grad():
        assert torch.allclose(conv3d(x, weight, bias, stride, padding).double(), expected, atol=1e-4)
        without = conv3d(x, weight, None, stride, padding) + bias.view(1, -1, 1, 1, 1)
        assert torch.allclose(without.double(), expected, atol=1e-4)


def test_a_small_window_stays_channels_last_and_training_is_pytorchs_own():
    convolution = Conv3d(4, 8, kernel_size=3, padding=1)
    x = torch.randn(1, 4, 8, 8, 8).contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        assert convolution(x).is_contiguous(memory_format=torch.channels_last_3d)  # as oneDNN leaves it
    assert torch.equal(convolution(x), F.conv3d(x, convolution.weight, convolution.bias, padding=1))
    convolution(x).sum().backward()
    assert convolution.weight.grad is not None

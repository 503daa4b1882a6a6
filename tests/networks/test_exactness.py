"""The CPU's own kernels against the plain modules they stand for."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from mttu.networks.batch_norm import BatchNorm3d
from mttu.networks.cpu.dropout import MaskStream, dropout_attention
from mttu.networks.cpu.steps import lean_pre_activated_conv


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

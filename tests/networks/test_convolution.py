import pytest
import torch
from torch.nn import functional as F

from mttu.networks.cpu.convolution import Conv3d, conv3d


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

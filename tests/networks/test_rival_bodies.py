import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mttu.networks.batch_norm import BatchNorm3d
from mttu.networks.rivals.cmsvnet import CmsvNet
from mttu.networks.rivals.dmfnet import DilatedBranches, DmfNet, MultiFiberUnit
from mttu.networks.rivals.ma_mtln import (
    AdaptiveSpatialAttention,
    MaMtln,
    ResNextBlock,
    SqueezeExcitation,
    VisualAttention,
    WeightedSum,
)
from mttu.networks.rivals.pooled_classifier import PooledClassifier
from mttu.networks.rivals.sgpnet import SgpNetStyle

IN_CHANNELS = 2
SMALL = {
    "DMFNet": lambda: DmfNet(IN_CHANNELS, stem_width=8, width=8, groups=2),
    "CMSVNet": lambda: CmsvNet(IN_CHANNELS, widths=(4, 4, 4, 4, 8), convolutions=(1, 1, 2, 1, 1), hidden=(8,)),
    "CMSVNet, one pass": lambda: CmsvNet(
        IN_CHANNELS, widths=(4, 4, 4, 4, 8), convolutions=(1, 1, 2, 1, 1), hidden=(8,), passes=1
    ),
    "MA-MTLN": lambda: MaMtln(
        IN_CHANNELS,
        stem_width=8,
        trunk_widths=(8, 8, 16, 16),
        blocks=(1, 2, 1, 1),
        cardinality=2,
        width=8,
        norm_groups=4,
    ),
    "SGPNet-style": lambda: SgpNetStyle(IN_CHANNELS, widths=(4, 4, 4, 4, 8), units=1, hidden=(8,)),
}


@pytest.fixture(params=SMALL)
def network(request):
    torch.manual_seed(3)
    return SMALL[request.param]()


def idh_output(network, features):
    """What IDH depends on: the network's own logits, or the deepest level that a head can read."""
    return network.classify(features) if network.own_idh else features[list(network.widths)[-1]]


def test_logits_and_levels_have_the_stated_shapes(network):
    image = torch.randn(1, IN_CHANNELS, 32, 48, 32)
    assert all(size % network.stride == 0 and size >= network.smallest for size in image.shape[2:])
    with torch.no_grad():
        features = network.encode(image)
        assert network.segment(features).shape == (1, 4, 32, 48, 32)
        if network.own_idh:
            assert network.classify(features).shape == (1, 2)
    for name, width in network.widths.items():
        assert features[name].shape[1] == width
    deepest = list(network.widths)[-1]
    assert features[deepest].shape[2:] == tuple(size // network.stride for size in image.shape[2:])
    assert hasattr(network, "classify") == network.own_idh


@pytest.mark.parametrize("name", ["DMFNet", "CMSVNet", "SGPNet-style", "MA-MTLN"])
def test_the_smallest_image_is_accepted(name):
    network = SMALL[name]()
    size = network.smallest
    with torch.no_grad():
        features = network.encode(torch.randn(2, IN_CHANNELS, size, size, size))  # in training mode
        assert network.segment(features).shape == (2, 4, size, size, size)


def test_works_under_autocast(network):
    with torch.autocast("cpu", torch.bfloat16):
        features = network.encode(torch.randn(2, IN_CHANNELS, *[network.smallest] * 3))
        segmentation, idh = network.segment(features), idh_output(network, features)
    assert segmentation.dtype == torch.bfloat16
    if network.own_idh:
        assert idh.dtype == torch.float32  # a logit near a threshold is not rounded
    (segmentation.float().square().sum() + idh.float().square().sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def measure(build, size=128):
    """Parameters, and G multiply-adds of the convolutions and linear layers; at 128^3 without computing anything."""
    device = "meta" if size == 128 else "cpu"
    with torch.device(device), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = build(4).eval()
        features = network.encode(torch.empty(1, 4, size, size, size))
        network.segment(features)
        if network.own_idh:
            network.classify(features)
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() / 2e9


@pytest.mark.parametrize(
    ("build", "size", "parameters", "multiply_adds"),
    [
        (CmsvNet, 128, 14_780_886, 451.173),
        (MaMtln, 32, 9_488_638, 1.7165),  # dear on the meta device; all but the linear layers is a 64th
        pytest.param(MaMtln, 128, 9_488_638, 109.836, marks=pytest.mark.slow),
        (SgpNetStyle, 128, 11_692_150, 235.116),
    ],
)
def test_counts(build, size, parameters, multiply_adds):
    assert measure(build, size) == (parameters, pytest.approx(multiply_adds, abs=5e-4))


def test_dmfnet_has_the_published_size():
    normalised = []

    def build(in_channels):
        network = DmfNet(in_channels)
        for module in network.modules():
            if isinstance(module, BatchNorm3d):
                module.register_forward_hook(lambda module, inputs, output: normalised.append(output.numel()))
        return network

    parameters, multiply_adds = measure(build)
    assert (parameters, multiply_adds) == (3_875_894, pytest.approx(26.128, abs=5e-4))
    assert parameters == pytest.approx(3.88e6, rel=0.02)
    assert multiply_adds == pytest.approx(27.04, rel=0.05)
    # The published figure to its last digit: the head at full resolution, two operations for each normalised value and
    # one for each upsampled value are counted, too.
    head = 32 * 4 * (128**3 - 64**3)
    upsampled = 256 * 16**3 + 256 * 32**3 + 128 * 64**3 + 32 * 128**3
    assert multiply_adds + (head + 2 * sum(normalised) + upsampled) / 1e9 == pytest.approx(27.04, abs=0.005)


def test_dilated_branches_are_summed_with_weights_that_start_at_one():
    branches = DilatedBranches(1, 1, groups=1, stride=1, dilations=(1, 2, 3)).eval()
    assert branches.weights.tolist() == [1, 1, 1]
    assert branches.weights.requires_grad
    for branch in branches.branches:
        nn.init.ones_(branch[-1].weight)
    point = torch.zeros(1, 1, 9, 9, 9)
    point[0, 0, 4, 4, 4] = 1
    with torch.no_grad():
        branches.weights.copy_(torch.tensor([1.0, 10.0, 100.0]))
        out = branches(point)[0, 0]
    offsets = {(0, 0, 0): 111, (1, 1, 0): 1, (0, -2, 2): 10, (3, 3, -3): 100, (1, 2, 0): 0, (4, 0, 0): 0}
    found = [out[4 + x, 4 + y, 4 + z].item() for x, y, z in offsets]
    np.testing.assert_allclose(found, list(offsets.values()), rtol=1e-4)


def test_multi_fiber_unit_by_hand():
    unit = MultiFiberUnit(8, 16, groups=2, stride=2, dilations=(1, 2, 3))
    norms = 2 * (8 + 2 + 3 * 8 + 16 + 8)  # two of the multiplexer, three branches, second grouped one, shortcut
    convolutions = 8 * 2 + 2 * 8 + 3 * 27 * 8 * 16 // 2 + 9 * 16 * 16 // 2 + 8 * 8 * 16
    assert sum(parameter.numel() for parameter in unit.parameters()) == norms + convolutions + 3
    with torch.no_grad():
        x = torch.randn(1, 8, 4, 6, 4)
        assert unit(x).shape == (1, 16, 2, 3, 2)
        plain = MultiFiberUnit(8, 8, groups=2)
        plain.grouped2[-1].weight.zero_()
        torch.testing.assert_close(plain(x), x)  # the shortcut is the identity


@pytest.mark.parametrize(
    ("name", "head", "factor"),
    [("DMFNet", "head", 2), ("MA-MTLN", "segmentation.head", 4)],
)
def test_a_head_before_the_upsampling_gives_the_published_logits(name, head, factor):
    network = SMALL[name]()
    module, inputs = network.get_submodule(head), []
    module.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with torch.no_grad():
        logits = network.segment(network.encode(torch.randn(1, IN_CHANNELS, 32, 32, 32)))
        published = module(F.interpolate(inputs[0], scale_factor=factor, mode="trilinear"))
    torch.testing.assert_close(logits, published, rtol=1e-4, atol=1e-5)


def test_cmsvnet_feeds_the_tumour_probability_back():
    network = SMALL["CMSVNet"]()
    inputs, logits = [], []
    network.encoder[0].register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    network.head.register_forward_hook(lambda module, args, output: logits.append(output))
    image = torch.randn(1, IN_CHANNELS, 32, 32, 32)
    with torch.no_grad():
        features = network.encode(image)
    assert [len(inputs), len(logits)] == [2, 1]
    for x in inputs:
        assert torch.equal(x[:, :IN_CHANNELS], image)
    assert not inputs[0][:, IN_CHANNELS:].any()
    tumour = 1 - logits[0].double().exp()[:, :1] / logits[0].double().exp().sum(1, keepdim=True)
    torch.testing.assert_close(inputs[1][:, IN_CHANNELS:].double(), tumour, rtol=0, atol=1e-6)
    assert sorted(features) == ["S1", "S2", "S3", "S4", "S5", "S6"]
    with torch.no_grad():
        changed = features | {name: torch.zeros_like(features[name]) for name in ("S1", "S2", "S3")}
        assert torch.equal(network.classify(changed), network.classify(features))


def test_pooled_classifier_by_hand():
    classifier = PooledClassifier([2, 1], hidden=[3])
    levels = [torch.randn(2, 2, 2, 3, 4), torch.randn(2, 1, 1, 1, 2)]
    pooled = np.concatenate([level.numpy().mean((2, 3, 4)) for level in levels], axis=1)
    weight1, bias1, weight2, bias2 = (parameter.detach().numpy() for parameter in classifier.parameters())
    expected = np.maximum(pooled @ weight1.T + bias1, 0) @ weight2.T + bias2
    np.testing.assert_allclose(classifier(levels).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_weighted_sum_by_hand():
    add = WeightedSum(3)
    assert add.weights.tolist() == [1, 1, 1]
    with torch.no_grad():
        add.weights.copy_(torch.tensor([1.0, 3.0, -2.0]))  # a weight below zero counts as zero
        found = add(*(torch.full((1, 1, 1, 1, 1), value) for value in (2.0, -1.0, 100.0))).item()
    mean = (1 * 2 - 3 * 1) / 4.0001
    assert found == pytest.approx(mean / (1 + np.exp(-mean)), rel=1e-5)


def test_visual_attention_by_hand():
    attention = VisualAttention(2, (1, 3, 5, 7))
    kernels = [[(m.kernel_size[0], m.dilation[0]) for m in branch[:-1]] for branch in attention.branches]
    assert kernels == [
        [(1, 1), (3, 1)],
        [(3, 1), (3, 3)],
        [(3, 1), (3, 1), (3, 5)],
        [(3, 1), (3, 1), (3, 1), (3, 7)],
    ]
    x = torch.randn(1, 2, 4, 4, 4)
    with torch.no_grad():
        for branch in attention.branches:
            branch[-2].weight.zero_()
            branch[-2].bias.zero_()  # each gate is a half
        attention.mix.weight.fill_(1)
        attention.mix.bias.zero_()
        total = 4 * 0.5 * x.sum(1, keepdim=True) + x
        torch.testing.assert_close(attention(x), torch.where(total > 0, total, 0.25 * total))


def test_residual_block_excites_before_the_sum():
    x = torch.randn(2, 8, 4, 4, 4)
    excite = SqueezeExcitation(8)
    block = ResNextBlock(8, 8, cardinality=2, norm_groups=4, stride=1, dilation=2)
    with torch.no_grad():
        excite.layers[2].weight.zero_()
        excite.layers[2].bias.fill_(np.log(3))  # sigmoid of it is 3/4
        torch.testing.assert_close(excite(x), 0.75 * x)
        block.layers[-1].layers[2].bias.fill_(-1e4)
        torch.testing.assert_close(block(x), torch.where(x > 0, x, 0.25 * x))


@pytest.mark.parametrize("halvings", [0, 2])
def test_adaptive_spatial_attention_weighs_scale_and_fusion(halvings):
    spatial = AdaptiveSpatialAttention(4, norm_groups=4, halvings=halvings)
    refined = []
    spatial.refine.register_forward_pre_hook(lambda module, args: refined.append(args[0]))
    scale, fused = torch.randn(1, 4, 3, 3, 3), torch.randn(1, 4, *[3 * 2**halvings] * 3)
    with torch.no_grad():
        spatial.weigh.weight.zero_()
        spatial.weigh.bias.copy_(torch.tensor([np.log(3), 0]))  # shares 3/4 and 1/4
        spatial.attention[-2].weight.zero_()
        spatial.attention[-2].bias.zero_()  # both gates are a half
        assert spatial(scale, fused).shape == scale.shape
        for _ in range(halvings):
            fused = spatial.halve(fused)
    expected = torch.cat([scale, (0.5 * 0.75 * scale + 0.5 * 0.25 * fused) * fused], dim=1)
    torch.testing.assert_close(refined[0], expected)

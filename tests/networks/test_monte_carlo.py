"""Monte Carlo passes: masks that belong to seed, case, pass and place; the shared form against the naive one."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from mttu.config import override
from mttu.errors import InputError
from mttu.networks import build_network
from mttu.networks.cpu import dropout
from mttu.networks.cpu.dropout import MaskStream
from mttu.networks.monte_carlo import IdhPasses, drop_by_pass, find_places, mask_seed, name_pass
from mttu.search.ablations import ABLATIONS
from mttu.search.presets import preset

NETWORK = {
    "network.widths": [4, 4, 8, 8],
    "network.blocks": [1, 1, 1, 1],
    "network.bottleneck.width": 16,
    "network.idh_head.hidden": [8],
}
TRANSFORMER = {
    "network.bottleneck.num_layers": 2,
    "network.bottleneck.num_heads": 2,
    "network.bottleneck.mlp_width": 24,
    "network.bottleneck.position_grid": [2, 2, 2],
}
KEYS = [name_pass(7, "case", number) for number in range(3)]


def build(ablation="layers-2", **dropout):
    settings = dict(ABLATIONS[ablation].changes if ablation in ABLATIONS else {"network.bottleneck.num_layers": 0})
    transformer = settings.get("network.bottleneck.kind") != "convolution"
    changes = {**settings, **NETWORK, **(TRANSFORMER if transformer else {})}
    if "network.bottleneck.num_layers" in settings:
        changes["network.bottleneck.num_layers"] = settings["network.bottleneck.num_layers"]
    changes |= {f"network.dropout.{name}": value for name, value in dropout.items()}
    torch.manual_seed(1)
    network = build_network(override(preset("demo"), changes).network).eval()
    for module in network.modules():  # running statistics that are not those of a fresh network
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return network


def draw_window(seed=0, size=16):
    return torch.randn(1, 4, size, size, size, generator=torch.Generator().manual_seed(seed))


@contextmanager
def recorded_masks() -> Iterator[list[tuple[int, torch.Tensor]]]:
    """Seed and zero pattern of every mask that is drawn while the body runs."""
    drawn = []

    class Recorder:
        def __init__(self, rows, columns, probability, seed, dtype):
            self.stream, self.seed = MaskStream(rows, columns, probability, seed, dtype), seed

        def draw(self, rows):
            mask = self.stream.draw(rows)
            drawn.append((self.seed, mask == 0))
            return mask

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dropout, "MaskStream", Recorder)
        yield drawn


def naive(network, places, window, keys):
    """A full forward of the network, decoder and all, pass after pass."""
    logits = []
    for key in keys:
        with drop_by_pass(network, places, [key]):
            logits.append(network(window)["idh_logits"])
    return torch.cat(logits)


def assert_same_masks(found, expected):
    """A batch draws place by place, not pass by pass; the masks of one seed come in the same order."""
    found, expected = (sorted(masks, key=lambda mask: mask[0]) for masks in (found, expected))
    assert [seed for seed, _ in found] == [seed for seed, _ in expected]
    assert all(torch.equal(one[1], two[1]) for one, two in zip(found, expected, strict=True))


@pytest.mark.parametrize("ablation", ["layers-2", "no layers", "conv", "clsnet", "levels-2-5", "levels-3-4-5"])
@pytest.mark.parametrize("active", ["all", "transformer+head", "head"])
@torch.inference_mode()
def test_shared_form_has_the_masks_and_logits_of_the_naive_one(ablation, active):
    network, window = build(ablation), draw_window()
    passes = IdhPasses(network, active)
    with recorded_masks() as expected_masks:
        expected = naive(network, passes.places, window, KEYS)
    with recorded_masks() as one_by_one_masks:
        shared = passes.share(window)
        one_by_one = torch.cat([passes.run(shared, [key]) for key in KEYS])
    with recorded_masks() as batch_masks:
        batch = passes.run(shared, KEYS)
    assert len(expected_masks) >= 3 * len(passes.places)
    for found in (one_by_one_masks, batch_masks):
        assert_same_masks(found, expected_masks)
    torch.testing.assert_close(one_by_one, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(batch, expected, rtol=0, atol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 1e-4  # the passes differ
    torch.testing.assert_close(passes.finish(shared)[0], network(window)["idh_logits"][0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("ablation", "active"),
    [
        ("layers-2", "all"),
        ("layers-2", "transformer+head"),
        ("layers-2", "head"),
        ("conv", "all"),
        ("levels-2-5", "transformer+head"),
    ],
)
@torch.inference_mode()
def test_under_bfloat16_too_the_shared_form_is_the_naive_one_bit_by_bit(ablation, active):
    network, window = build(ablation), draw_window()
    passes = IdhPasses(network, active)
    with torch.autocast("cpu", torch.bfloat16):
        expected = naive(network, passes.places, window, KEYS)
        shared = passes.share(window)
        one_by_one = torch.cat([passes.run(shared, [key]) for key in KEYS])
        without, plain = passes.finish(shared), network(window)["idh_logits"]
    assert {level.dtype for level in shared.pooled.values()} <= {torch.float32}
    assert expected.dtype == one_by_one.dtype == plain.dtype == torch.float32
    assert torch.equal(one_by_one, expected)
    assert torch.equal(without, plain)
    assert (expected[0] - expected[1]).abs().max() > 1e-4


@torch.inference_mode()
def test_a_pass_has_the_same_masks_in_every_window():
    network = build()
    passes = IdhPasses(network, "all")
    patterns = []
    for seed in (0, 1):
        with recorded_masks() as masks:
            passes.run(passes.share(draw_window(seed)), KEYS[:1])
        patterns.append(masks)
    assert [seed for seed, _ in patterns[0]] == [seed for seed, _ in patterns[1]]
    assert all(torch.equal(one[1], two[1]) for one, two in zip(*patterns, strict=True))
    seeds = [seed for seed, _ in patterns[0]]
    assert len(set(seeds)) == len(passes.places)


def test_seed_case_and_pass_decide_the_masks():
    names = [name_pass(0, "a", 0), name_pass(1, "a", 0), name_pass(0, "b", 0), name_pass(0, "a", 1)]
    seeds = {mask_seed(name, place) for name in names for place in ("encoder.stem_dropout", "idh_head.dropout")}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**62 for seed in seeds)
    assert mask_seed(name_pass(0, "a", 0), "idh_head.dropout") == 3396749080447781912  # the same for ever


@torch.inference_mode()
def test_every_place_drops_its_share_and_keeps_the_expectation():
    network = build(embedding=0.3, mlp=0.2, head=0.4)
    x = torch.ones(1, 700, 64)
    for place, probability in (("bottleneck.embedding_dropout", 0.3), ("bottleneck.layers.1.mlp.dropout1", 0.2)):
        with drop_by_pass(network, [place], KEYS[:1]):
            out = network.get_submodule(place)(x)
        dropped = float((out == 0).float().mean())
        assert dropped == pytest.approx(probability, abs=0.01)
        assert out.max() == pytest.approx(1 / (1 - probability), rel=1e-4)
    with drop_by_pass(network, ["encoder.stem_dropout"], KEYS):
        out = network.encoder.stem_dropout(torch.ones(3, 64, 2, 2, 2))
    assert all(len(channel.unique()) == 1 for sample in out for channel in sample)  # whole channels
    assert not torch.equal(out[0], out[1])


@torch.inference_mode()
def test_the_network_is_left_as_it_was():
    network, window = build(), draw_window()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random_state = torch.random.get_rng_state()
    expected = network(window)["idh_logits"]
    passes = IdhPasses(network, "all")
    passes.run(passes.share(window), KEYS)
    with pytest.raises(ValueError, match="zip"), drop_by_pass(network, passes.places, KEYS):
        network(window)  # one sample, three keys
    assert torch.equal(network(window)["idh_logits"], expected)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())  # batch norm included
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize(
    ("active", "stem", "encoder", "embed"), [("all", 1, 4, 4), ("transformer+head", 1, 1, 1), ("head", 1, 1, 1)]
)
@torch.inference_mode()
def test_what_lies_before_the_first_active_dropout_is_computed_once_and_the_decoder_never(active, stem, encoder, embed):
    network = build()
    calls = {"stem": 0, "level": 0, "project": 0, "decoder": 0}

    def count(name):
        def hook(*_):
            calls[name] += 1

        return hook

    network.encoder.stem.register_forward_hook(count("stem"))
    network.encoder.levels[0].register_forward_hook(count("level"))
    network.bottleneck.project.register_forward_hook(count("project"))
    network.decoder.register_forward_hook(count("decoder"))
    passes = IdhPasses(network, active)
    shared = passes.share(draw_window())
    passes.finish(shared)
    for key in KEYS:
        passes.run(shared, [key])
    assert calls == {"stem": stem, "level": encoder, "project": embed, "decoder": 0}


def test_places_follow_the_settings():
    network = build(stem=0.0, attention=0.0)
    places = find_places(network, "all")
    assert places[0] == "bottleneck.embedding_dropout"
    assert not any(place.endswith("attention_dropout") for place in places)
    assert places[-1] == "idh_head.dropout"
    assert find_places(network, "head") == ("idh_head.dropout",)
    assert find_places(build("conv"), "transformer+head") == ("idh_head.dropout",)


def test_what_cannot_vary_is_refused():
    with pytest.raises(InputError, match=r"mc.active_dropout=head: no dropout there has a probability above 0"):
        IdhPasses(build(head=0.0), "head")
    with pytest.raises(InputError, match="no IDH head"):
        IdhPasses(build("segnet"), "all")


@pytest.mark.parametrize("active", ["all", "transformer+head", "head"])
def test_passes_need_no_mode_set_by_the_caller(active):
    passes, window = IdhPasses(build(), active), draw_window()
    logits = passes.run(passes.share(window), KEYS)
    assert not logits.requires_grad
    assert not torch.is_inference_mode_enabled()
    with torch.inference_mode():
        assert torch.equal(passes.run(passes.share(window), KEYS), logits)

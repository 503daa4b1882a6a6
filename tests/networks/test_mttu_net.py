import pytest
import torch

from mttu.config import Config, override
from mttu.config.network import OURS
from mttu.errors import InputError
from mttu.losses import TaskWeighting, idh_loss, idh_sums, segmentation_loss, segmentation_sums
from mttu.networks import build_network
from mttu.search.ablations import ABLATIONS
from mttu.search.presets import PRESETS

SHRUNK = {
    "network.widths": [4, 4, 8, 8],
    "network.bottleneck.width": 16,
    "network.idh_head.hidden": [8, 4],
}
TRANSFORMER = {
    "network.bottleneck.num_heads": 2,
    "network.bottleneck.mlp_width": 16,
    "network.bottleneck.position_grid": [2, 2, 2],
}
NAMES = [
    *(f"preset {name}" for name in PRESETS),
    *(name for name, row in ABLATIONS.items() if row.changes.get("network.kind", OURS) == OURS),
]


def shrink(changes):
    """The named settings at toy width: what is built and connected stays as named."""
    config = override(Config(), changes)
    config = override(config, SHRUNK)
    return override(config, TRANSFORMER) if config.network.bottleneck.kind == "transformer" else config


def settings_of(name):
    return shrink(PRESETS[name.removeprefix("preset ")] if name.startswith("preset ") else ABLATIONS[name].changes)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_are_the_releases():
    network = build_network(Config().network)
    assert count(network.encoder) + count(network.bottleneck) == 29_270_928
    assert count(network.decoder) == 3_454_772
    assert count(network.idh_head) == 672_354


@pytest.mark.parametrize(
    "config",
    [
        *(pytest.param(settings_of(name), id=name) for name in NAMES),
        *(
            pytest.param(shrink({"network.idh_head.levels": levels, "network.tasks": tasks}), id=f"{levels} {tasks}")
            for levels in (["F1"], ["F1", "F3"], ["F2", "F4"])
            for tasks in (["idh"], ["segmentation", "idh"])
        ),
    ],
)
def test_the_parameters_of_a_task_are_those_that_its_logits_depend_on(config):
    network = build_network(config.network)
    names = {parameter: name for name, parameter in network.named_parameters()}
    logits = network(torch.randn(2, network.in_channels, 16, 16, 16))
    for task, output in (("segmentation", "seg_logits"), ("idh", "idh_logits")):
        found = {names[parameter] for parameter in network.parameters_of(task)}
        if output in logits:
            slopes = torch.autograd.grad(logits[output].sum(), list(names), retain_graph=True, allow_unused=True)
            assert found == {one for one, slope in zip(names.values(), slopes, strict=True) if slope is not None}
        else:
            assert not found


def test_the_idh_head_is_float32_under_autocast():
    torch.manual_seed(0)
    network = build_network(shrink({}).network).eval()
    image = torch.randn(2, 4, 16, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = network.encode(image)
        outputs = network.run_heads(features)
    assert features["F4"].dtype == outputs["seg_logits"].dtype == torch.bfloat16
    assert outputs["idh_logits"].dtype == torch.float32
    with torch.no_grad():
        expected = network.idh_head({name: level.float() for name, level in features.items()})
    assert torch.equal(outputs["idh_logits"], expected)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_gradient(name):
    config = settings_of(name)
    torch.manual_seed(0)
    network = build_network(config.network)
    seg, idh = torch.randint(0, 4, (2, 16, 16, 16)), torch.tensor([1, 0])
    outputs = network(torch.randn(2, network.in_channels, 16, 16, 16))
    losses, known = {}, torch.tensor([True, True])
    if "segmentation" in config.network.tasks:
        assert outputs["seg_logits"].shape == (2, 4, 16, 16, 16)
        losses["segmentation"] = segmentation_loss(
            segmentation_sums(outputs["seg_logits"], seg, known, config.loss), config.loss
        )
    if "idh" in config.network.tasks:
        assert outputs["idh_logits"].shape == (2, 2)
        losses["idh"] = idh_loss(idh_sums(outputs["idh_logits"], idh, torch.tensor([0.4, 0.6]), config.loss))
    assert len(outputs) == len(losses)
    weighting = TaskWeighting(config.network.tasks, config.loss)
    weighting(losses, dict.fromkeys(losses, True)).backward()
    parameters = [*network.named_parameters(), *weighting.named_parameters()]
    without = [key for key, value in parameters if value.grad is None or not value.grad.abs().sum() > 0]
    assert without == []
    assert all(value.grad is not None and torch.isfinite(value.grad).all() for _, value in parameters)


@pytest.mark.parametrize("shape", [(8, 16, 24), (32, 8, 16)])
def test_any_patch_divisible_by_eight(shape):
    network = build_network(settings_of("preset paper").network).eval()
    with torch.no_grad():
        outputs = network(torch.randn(1, 4, *shape))
    assert outputs["seg_logits"].shape == (1, 4, *shape)
    assert outputs["idh_logits"].shape == (1, 2)


def test_position_embedding_starts_at_zero_and_is_interpolated():
    network = build_network(settings_of("preset paper").network).eval()
    position = network.bottleneck.position
    [table] = position.parameters()
    assert table.abs().max() == 0
    with torch.no_grad():
        table.copy_(torch.randn_like(table))
        same, larger = position((2, 2, 2)), position((4, 4, 4))
    torch.testing.assert_close(same.reshape(-1), table.reshape(-1))
    assert larger.shape[-2:] == (64, 16)
    assert larger.min() >= table.min()
    assert larger.max() <= table.max()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 16, 16, 16), "found 4 axes"),
        ((1, 3, 16, 16, 16), "found 3 channels"),
        ((1, 4, 16, 12, 16), "each must be a multiple of 8"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape, message):
    network = build_network(settings_of("preset paper").network)
    with pytest.raises(InputError, match=message):
        network(torch.zeros(shape))


def test_evaluation_mode_has_no_dropout():
    network = build_network(settings_of("preset paper").network).eval()
    image = torch.randn(1, 4, 16, 16, 16)
    with torch.no_grad():
        one, two = network(image), network(image)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_dropout_in_training_obeys_the_seed():
    network = build_network(settings_of("preset paper").network).train()
    image = torch.randn(2, 4, 16, 16, 16)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(network(image)["idh_logits"])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])

"""Networks other than MTTU-Net: each at its smallest size, Monte Carlo, `mttu networks`."""

import os
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from small_rivals import SMALL, build, draw, settings_of
from torch import nn
from typer.testing import CliRunner

from mttu.cli import app
from mttu.config import RivalSettings
from mttu.config.network import RIVALS
from mttu.errors import InputError, RunError
from mttu.networks import measure
from mttu.networks.measure import Cost, count_network, take_alone
from mttu.networks.monte_carlo import IdhPasses, find_places, name_pass
from mttu.networks.rivals.registry import find_entry
from mttu.networks.rivals.rival import OwnIdhHead, Rival

ON_META = ("vnet", "swinunetr")
"""Dear to compute."""
MONAI = (
    *("unet", "vnet", "unetr", "seresnet101", "densenet121", "resnet50", "dynunet", "segresnet"),
    pytest.param("swinunetr", marks=pytest.mark.slow),
)


def loss_of(task, logits):
    """Depends on every value, so that no parameter's gradient is zero by symmetry."""
    values = logits[{"segmentation": "seg_logits", "idh": "idh_logits"}[task]]
    return (values * torch.linspace(-1, 1, values.numel(), device=values.device).view_as(values)).sum()


@pytest.mark.parametrize("name", RIVALS)
def test_shapes_and_a_gradient_for_every_parameter_of_a_task_and_no_other(name):
    with torch.device("meta") if name in ON_META else nullcontext():
        network = build(name).train()
    image = draw(name).to(next(network.parameters()).device)
    weights = network.state_dict(keep_vars=True).values()
    assert len({id(tensor) for tensor in weights}) == len(weights)  # or they could not be written as safetensors
    features = network.encode(image)
    if isinstance(network.idh_head, OwnIdhHead):
        leaves = {level: values.detach().requires_grad_() for level, values in features.items()}
        read = torch.autograd.grad(network.body.classify(leaves).sum(), list(leaves.values()), allow_unused=True)
        pooled = network.idh_head.pool(features)
        assert set(pooled) == {level for level, grad in zip(leaves, read, strict=True) if grad is not None}
    logits = network.run_heads(features)
    shapes = {"seg_logits": (2, 4, *SMALL[name][1]), "idh_logits": (2, 2)}
    assert {task: tuple(one.shape) for task, one in logits.items()} == {
        task: shapes[task] for task in shapes if task[:3] in {one[:3] for one in RIVALS[name]}
    }
    reached = set()
    for number, task in enumerate(RIVALS[name], 1):
        network.zero_grad()
        loss_of(task, logits).backward(retain_graph=number < len(RIVALS[name]))
        found = {key for key, parameter in network.named_parameters() if parameter.grad is not None}
        of_task = set(network.parameters_of(task))
        assert found == {key for key, parameter in network.named_parameters() if parameter in of_task}
        assert image.is_meta or all(bool(parameter.grad.isfinite().all()) for parameter in of_task)
        reached |= found
    assert reached == {key for key, parameter in network.named_parameters() if parameter.requires_grad}


def copy_of_dynunet(network):
    """With the modules for MONAI's own forward, which the body does without."""
    from monai.networks.nets import DynUNet

    given = (network.kernel_size, network.strides, network.upsample_kernel_size, network.filters)
    copy = DynUNet(3, 4, 4, *given).eval()
    copy.load_state_dict(network.state_dict(), strict=False)
    return copy


@pytest.mark.parametrize("name", MONAI)
def test_the_two_halves_are_monais_own_forward_pass(name):
    network, image = build(name, tasks=RIVALS[name][:1]).eval(), draw(name, 1)
    body = network.body
    theirs = copy_of_dynunet(body.network) if name == "dynunet" else body.network
    with torch.inference_mode():
        (found,) = network(image).values()
        features = body.encode(image)
        assert torch.equal(found, theirs(image))
    assert {level: features[level].shape[1] for level in body.widths} == body.widths


@pytest.fixture(scope="module")
def unetr():
    with torch.device("meta"):
        return build("unetr")


def test_only_what_monai_never_runs_is_frozen(unetr):
    frozen = [name for name, parameter in unetr.named_parameters() if not parameter.requires_grad]
    assert len(frozen) == 24  # two for each of twelve layers
    assert all(".norm_cross_attn." in name for name in frozen)


def test_one_task_leaves_the_other_half_alone():
    network = build("unet", tasks=("idh",))
    assert set(network(draw("unet"))) == {"idh_logits"}
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen
    assert all(".2." in name for name in frozen)  # the way up in each of MONAI's blocks: down, skip, up
    assert list(network.parameters_of("segmentation")) == []
    assert set(build("unet", tasks=("segmentation",))(draw("unet"))) == {"seg_logits"}


@pytest.mark.parametrize("level", ["L1", "L3"])
def test_our_head_reads_the_level_that_is_asked_for(level):
    network = build("unet", idh_head={"levels": [level], "hidden": [8]}).eval()
    image = draw("unet", 1)
    with torch.inference_mode():
        features = network.encode(image)
        pooled = torch.cat([features[level].mean((2, 3, 4)), features[level].amax((2, 3, 4))], 1)
        first, last = network.idh_head.layers
        torch.testing.assert_close(network(image)["idh_logits"], last(first(pooled)))
    deepest = "body.network.model.1.submodule.1.submodule.conv.unit0.conv.weight"
    assert (deepest in network.reach.parameters["idh"]) == (level == "L3")


def test_a_classifier_takes_our_head_in_place_of_its_own():
    network = build("resnet50", idh_head={"levels": ["L3", "L4"], "hidden": [8]})
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert frozen == ["body.network.fc.weight", "body.network.fc.bias"]
    assert find_places(network, "head") == ("idh_head.dropout",)


def test_the_same_seed_gives_the_same_weights_and_tracing_draws_nothing():
    network, state = build("segresnet", tasks=("segmentation",)), torch.random.get_rng_state()
    assert network.reach.parameters.keys() == {"segmentation"}
    torch.manual_seed(0)
    body = find_entry("segresnet").build(4, init_filters=8)
    assert torch.equal(state, torch.random.get_rng_state())
    pairs = zip(network.parameters(), body.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


# Monte Carlo


KEYS = [name_pass(7, "case", number) for number in range(3)]


@pytest.mark.parametrize("active", ["all", "head"])
def test_passes_differ_are_repeatable_and_mean_what_dropout_means(active):
    network, image = build("unet").eval(), draw("unet", 1)
    passes = IdhPasses(network, active)
    with torch.inference_mode():
        shared = passes.share(image)
        together = passes.run(shared, KEYS)
        alone = torch.cat([passes.run(passes.share(image), [key]) for key in KEYS])
        torch.testing.assert_close(together, alone)
        torch.testing.assert_close(passes.finish(shared), network(image)["idh_logits"])
    assert len({tuple(row) for row in together.tolist()}) == 3
    assert (shared.image is None) == (active == "head")
    kept = {name for name in passes.places if name.startswith("body.")}
    down = [f"body.network.model.{path}.conv.unit{unit}.adn.D" for path in DOWN for unit in (0, 1)]
    assert kept == (set(down) if active == "all" else set())
    assert passes.places[-1] == "idh_head.dropout"


DOWN = ("0", "1.submodule.0", "1.submodule.1.submodule")
"""What goes down in MONAI's UNet of three levels; dropout on the way up does not reach the IDH logits."""


def test_a_head_of_its_own_is_shared_up_to_its_dropout():
    network, image = build("seresnet101").eval(), draw("seresnet101", 1)
    assert find_places(network, "head") == find_places(network, "all") == ("body.network.dropout",)
    passes = IdhPasses(network, "all")
    with torch.inference_mode():
        shared = passes.share(image)
        assert shared.image is None
        torch.testing.assert_close(passes.finish(shared), network(image)["idh_logits"])
        assert len({tuple(row) for row in passes.run(shared, KEYS).tolist()}) == 3


def test_the_transformers_dropout_alone_needs_a_transformer(unetr):
    with pytest.raises(InputError, match=r"transformer\+head: unet has no transformer; choose all or head"):
        IdhPasses(build("unet"), "transformer+head")
    places = find_places(unetr, "transformer+head")
    assert len(places) == 1 + 12 * 4 + 1  # patch embedding, twelve layers, our head
    assert places[-1] == "idh_head.dropout"


def test_a_network_without_dropout_cannot_be_scored_and_says_what_would_help():
    with pytest.raises(InputError, match=r"no dropout there .* or our IDH head, by network\.idh_head\.levels"):
        IdhPasses(build("densenet121"), "all")


class OwnDropout(nn.Dropout):
    pass


@pytest.mark.parametrize(
    ("dropout", "joined_axes", "said"),
    [
        (nn.Dropout(0.5), 2, "mixes the samples of a batch"),
        (nn.AlphaDropout(0.5), 1, "is a AlphaDropout; a pass has masks for torch.nn.Dropout and Dropout3d alone"),
        (OwnDropout(0.5), 1, "is a OwnDropout; "),
    ],
)
def test_dropout_that_a_pass_has_no_masks_for_is_refused(dropout, joined_axes, said):
    class Dropping(nn.Module):
        stride, widths, own_idh = 8, {"only": 4}, False

        def __init__(self):
            super().__init__()
            self.conv, self.dropout = nn.Conv3d(4, 4, 1), dropout

        def encode(self, image):
            level = self.conv(image)
            return {"only": self.dropout(level.flatten(0, joined_axes - 1)).view_as(level)}

        def segment(self, features):
            return features["only"]

    network = Rival(settings_of("unet"), Dropping())
    with pytest.raises(InputError, match=rf"dropout body\.dropout of unet {said}"):
        IdhPasses(network, "all")
    assert find_places(network, "head") == ("idh_head.dropout",)


# counts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions"),
    [("unet", 4.81), ("vnet", 45.61), ("seresnet101", 90.05), ("densenet121", 11.31), ("resnet50", 46.23)],
)
def test_parameters_are_those_of_monais_networks(name, millions):
    assert count_network(take_alone(name)).parameters / 1e6 == pytest.approx(millions, abs=0.005)


def test_multiply_adds_of_a_convolution_are_counted_once():
    settings = RivalSettings(kind="unet", tasks=("segmentation",), options={"channels": (2, 2), "num_res_units": 0})
    # down: 3^3 kernels, 4 -> 2 channels at 8^3, then 2 -> 2; up: 4 -> 4 transposed, each input voxel meets 27 weights
    assert count_network(settings, (16, 16, 16)).macs == 8**3 * 27 * (4 * 2 + 2 * 2 + 4 * 4)


def test_the_table_of_networks(monkeypatch):
    monkeypatch.setattr(measure, "time_network", lambda settings, size, device: Cost(1.25, 3 * 2**20, device))
    words = ["networks", "--only", "unet", "--only", "mttu-net", "--time", "--device", "cpu", "--size", "32"]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line.split()[1:] for line in result.output.splitlines() if line.strip()}
    assert rows["unet"] == ["both", "4.81", "13.95", "1.25", "3"]
    assert rows["mttu-net"][:3] == ["both", "33.40", "324.47"]
    assert rows["unet:"][:3] == ["3D", "U-Net.", "Cicek"]
    refused = CliRunner().invoke(app, ["networks", "--only", "foo"])
    assert str(refused.exception).startswith("--only foo: unknown; known: mttu-net, unet")


def test_the_time_of_a_forward_pass_is_the_median_after_the_first(monkeypatch):
    clock = iter([0, 100, 100, 101, 200, 207, 300, 302])
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    cost = measure.time_here(settings_of("unet"), (16, 16, 16), torch.device("cpu"))
    assert (cost.seconds, cost.device) == (2, "cpu")
    assert next(clock, None) is None


@pytest.mark.slow
def test_a_process_of_its_own_measures_a_forward_pass(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise SystemExit('code of a data folder')")
    monkeypatch.chdir(tmp_path)
    cost = measure.time_network(take_alone("unet"), (64, 64, 64), "cpu")
    assert cost.seconds > 0
    assert 4 * (4_810_000 + 4 * 64**3) < cost.peak_bytes < 2**30  # at least weights and image
    with pytest.raises(RunError, match=r"network unet: the forward pass failed \(.*multiples of 16"):
        measure.time_network(take_alone("unet"), (60, 64, 64), "cpu")


def test_settings_are_read_without_importing_a_network():
    code = "import sys, mttu.config; mttu.config.override(mttu.config.Config(), {'network.kind': 'unet'})\n"
    code += "assert not {'torch', 'monai'} & sys.modules.keys()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0

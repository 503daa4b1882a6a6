"""Networks other than MTTU-Net: each at its smallest size, what they refuse, Monte Carlo, plug-ins, `mttu networks`."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from mttu.cli import app
from mttu.config import Config, RivalSettings, override
from mttu.config.network import RIVALS
from mttu.errors import InputError, RunError
from mttu.networks import build_network, measure
from mttu.networks.build import find_network_problems
from mttu.networks.checkpoint import read_checkpoint, write_checkpoint
from mttu.networks.measure import Cost, count_network, take_alone
from mttu.networks.monte_carlo import IdhPasses, find_places, name_pass
from mttu.networks.rivals.registry import find_entry, list_names
from mttu.search.presets import preset

SMALL = {
    "unet": ({"channels": (4, 8, 8), "dropout": 0.1}, (16, 16, 16)),
    "vnet": ({}, (16, 16, 16)),
    "dmfnet": ({"stem_width": 8, "width": 16, "groups": 4}, (32, 16, 16)),
    "unetr": ({"feature_size": 4, "hidden_size": 12, "mlp_dim": 16, "num_heads": 3, "dropout": 0.1}, (32, 16, 16)),
    "seresnet101": ({"layers": (1, 1, 1, 1)}, (16, 16, 16)),
    "densenet121": ({"init_features": 8, "growth_rate": 4, "block_config": (1, 2, 1, 1)}, (32, 32, 32)),
    "resnet50": ({"widen_factor": 0.0625}, (16, 16, 16)),
    "sgpnet-style": ({"widths": (4, 4, 8, 8, 8), "units": 1}, (32, 16, 16)),
    "cmsvnet": ({"widths": (4, 4, 8, 8, 8), "convolutions": (1, 1, 1, 1, 1)}, (32, 16, 16)),
    "ma-mtln": (
        {
            "stem_width": 8,
            "trunk_widths": (8, 8, 8, 8),
            "blocks": (1, 1, 1, 1),
            "cardinality": 2,
            "width": 8,
            "norm_groups": 4,
        },
        (32, 32, 32),
    ),
    "dynunet": ({"channels": (4, 8, 8)}, (16, 16, 16)),
    "segresnet": ({"init_filters": 8}, (16, 16, 16)),
    "swinunetr": ({"feature_size": 12}, (64, 32, 32)),
}
"""Smallest options, and an image size."""
MONAI = (
    *("unet", "vnet", "unetr", "seresnet101", "densenet121", "resnet50", "dynunet", "segresnet"),
    pytest.param("swinunetr", marks=pytest.mark.slow),
)


def settings_of(name, **changes):
    given = {"idh_head": {"hidden": (8,)}, "tasks": RIVALS[name], "options": SMALL[name][0]}
    return RivalSettings.model_validate({"kind": name, **given, **changes})


def build(name, **changes):
    torch.manual_seed(0)
    return build_network(settings_of(name, **changes), SMALL[name][1])


def draw(name, batch=2):
    return torch.randn(batch, 4, *SMALL[name][1], generator=torch.Generator().manual_seed(1))


def loss_of(task, logits):
    """Depends on every value, so that no parameter's gradient is zero by symmetry."""
    values = logits[{"segmentation": "seg_logits", "idh": "idh_logits"}[task]]
    return (values * torch.linspace(-1, 1, values.numel()).view_as(values)).sum()


@pytest.mark.parametrize("name", RIVALS)
def test_shapes_and_a_gradient_for_every_parameter_of_a_task_and_no_other(name):
    batch = 1 if name == "swinunetr" else 2  # its image is large; batch norm of others needs two
    network, image = build(name).train(), draw(name, batch)
    weights = [tensor.data_ptr() for tensor in network.state_dict().values()]
    assert len(set(weights)) == len(weights)  # or they could not be written as safetensors
    logits = network(image)
    shapes = {"seg_logits": (batch, 4, *SMALL[name][1]), "idh_logits": (batch, 2)}
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
        assert all(bool(parameter.grad.isfinite().all()) for parameter in of_task)
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


def test_only_what_monai_never_runs_is_frozen():
    frozen = [name for name, parameter in build("unetr").named_parameters() if not parameter.requires_grad]
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


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("vnet", {"in_channels": 3}, r"network\.in_channels: vnet repeats .* 1, 2, 4, 8 or 16; found 3"),
        ("unet", {"options": {"width": 3}}, r"network\.options\.width: no such option of unet; known there: channels"),
        ("unet", {"options": {"channels": 3}}, r"network\.options: unet refuses \{'channels': 3\}"),
        ("unet", {"idh_head": {"levels": ["L9"]}}, r"idh_head\.levels: unet has no L9; it has L1, L2, L3, L4, L5"),
        ("swinunetr", {"options": {"feature_size": 16}}, r"feature_size: swinunetr .* multiple of 12; found 16"),
        ("densenet121", {"options": {"block_config": [1, 2]}}, r"block_config: expected four .*; found \(1, 2\)"),
    ],
)
def test_what_a_network_cannot_do_is_refused_with_a_sentence(name, changes, said):
    with torch.device("meta"), pytest.raises(InputError, match=said):
        build_network(settings_of(name, **{"options": {}, "idh_head": {}, **changes}), (32, 32, 32))


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("unetr", (32, 32, 24), "patch.size: unetr cuts it into cubes of 16 voxels"),
        ("dynunet", (32, 32, 16), "patch.size: dynunet takes images whose H, W and D are multiples of 32; found"),
        ("ma-mtln", (16, 32, 32), "patch.size: ma-mtln takes images whose H, W and D are multiples of 16, at least 32"),
        ("mttu-net", (32, 32, 24), None),
        ("dynunet", (32, 32, 64), None),
    ],
)
def test_a_patch_that_does_not_fit_is_found_before_training(name, size, said):
    config = override(Config(), {"network.kind": name, "patch.size": size})
    problems = find_network_problems(config)
    assert [problem[: len(said)] for problem in problems] == [said] if said else problems == []


def test_an_image_that_does_not_fit_is_refused():
    network = build("unet")
    for shape, said in (
        ((1, 4, 16, 16), "found 4 axes"),
        ((1, 3, 16, 16, 16), "found 3 channels"),
        ((1, 4, 16, 16, 18), r"multiples of 4; found \(16, 16, 18\)"),
    ):
        with pytest.raises(InputError, match=said):
            network(torch.zeros(shape))


def test_a_network_for_one_size_refuses_others():
    said = r"unetr takes images of \(32, 16, 16\) alone, the patch\.size that it was built for; found \(32, 32, 16\)"
    with pytest.raises(InputError, match=said):
        build("unetr")(torch.zeros(1, 4, 32, 32, 16))


def test_the_same_seed_gives_the_same_weights_and_tracing_draws_nothing():
    first, second = build("segresnet"), build("segresnet")
    state = torch.random.get_rng_state()
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))
    build_network(settings_of("segresnet"), None)
    torch.manual_seed(0)
    body = find_entry("segresnet").build(4, init_filters=8)
    assert torch.equal(body.network.convInit.conv.weight, first.body.network.convInit.conv.weight)
    assert not torch.equal(state, torch.random.get_rng_state())


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


def test_the_transformers_dropout_alone_needs_a_transformer():
    with pytest.raises(InputError, match=r"transformer\+head: unet has no transformer; choose all or head"):
        IdhPasses(build("unet"), "transformer+head")
    places = find_places(build("unetr"), "transformer+head")
    assert len(places) == 1 + 12 * 4 + 1  # patch embedding, twelve layers, our head
    assert places[-1] == "idh_head.dropout"


def test_a_network_without_dropout_cannot_be_scored_and_says_what_would_help():
    with pytest.raises(InputError, match=r"no dropout there .* or our IDH head, by network\.idh_head\.levels"):
        IdhPasses(build("densenet121"), "all")


def test_dropout_that_mixes_samples_is_refused():
    class Mixing(nn.Module):
        stride, widths, own_idh = 8, {"only": 4}, False

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(4, 4, 1)
            self.dropout = nn.Dropout(0.5)

        def encode(self, image):
            level = self.conv(image)
            return {"only": self.dropout(level.flatten(0, 1)).view_as(level)}

        def segment(self, features):
            return features["only"]

    from mttu.networks.rivals.rival import Rival

    network = Rival(settings_of("unet"), Mixing())
    with pytest.raises(InputError, match=r"dropout body\.dropout of unet mixes the samples of a batch"):
        IdhPasses(network, "all")
    assert find_places(network, "head") == ("idh_head.dropout",)


# checkpoints and plug-ins


def test_a_checkpoint_keeps_options_and_patch(tmp_path):
    changes = {
        "network.kind": "unetr",
        "network.options": SMALL["unetr"][0],
        "patch.size": [32, 16, 16],
    }
    config = override(preset("demo"), changes)
    network = build_network(config.network, config.patch.size)
    write_checkpoint(tmp_path / "best", network.state_dict(), config, {})
    found, settings = read_checkpoint(tmp_path / "best")
    assert settings.network == config.network
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in found.state_dict().items())
    text = (tmp_path / "best" / "config.yaml").read_text()
    (tmp_path / "best" / "config.yaml").write_text(text.replace("mlp_dim: 16", "mlp_dim: 24"))
    with pytest.raises(InputError, match=r"weights\.safetensors does not fit config\.yaml"):
        read_checkpoint(tmp_path / "best")


PACKAGE = """
from torch import nn

from mttu.networks.rivals.registry import Entry


class TwoConvolutions(nn.Module):
    stride = 2
    own_idh = False

    def __init__(self, in_channels, num_classes=4, *, width=8):
        super().__init__()
        self.widths = {"low": width}
        self.down = nn.Conv3d(in_channels, width, 2, stride=2)
        self.up = nn.ConvTranspose3d(width, num_classes, 2, stride=2)

    def encode(self, image):
        return {"low": self.down(image)}

    def segment(self, features):
        return self.up(features["low"])


def describe():
    return Entry(TwoConvolutions, title="Two convolutions", source="nobody", gmacs=0.25)


def fail():
    raise OSError("no licence")
"""


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    """An installed package `tinynet` that adds the networks `two-convolutions` and `broken`."""
    folder = tmp_path / "site"
    (folder / "tinynet-1.0.dist-info").mkdir(parents=True)
    (folder / "tinynet.py").write_text(PACKAGE)
    (folder / "tinynet-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: tinynet\nVersion: 1.0\n")
    points = "[mttu.networks]\ntwo-convolutions = tinynet:describe\nbroken = tinynet:fail\n"
    (folder / "tinynet-1.0.dist-info" / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "tinynet", raising=False)
    return folder


def test_another_package_adds_a_network(plug_in, tmp_path):
    config = override(preset("demo"), {"network.kind": "two-convolutions", "network.options.width": "6"})
    network = build_network(config.network, config.patch.size)
    assert {name: tuple(one.shape) for name, one in network(torch.zeros(1, 4, 8, 8, 8)).items()} == {
        "seg_logits": (1, 4, 8, 8, 8),
        "idh_logits": (1, 2),
    }
    write_checkpoint(tmp_path / "best", network.state_dict(), config, {})
    assert read_checkpoint(tmp_path / "best")[1].network == config.network
    assert list_names()[-2:] == ("broken", "two-convolutions")
    with pytest.raises(InputError, match=r"network\.kind: broken: entry point tinynet:fail: OSError: no licence"):
        build_network(RivalSettings(kind="broken"))


def test_the_list_of_networks_shows_it_and_names_a_broken_one(plug_in):
    result = CliRunner().invoke(app, ["networks", "--json", "--only", "two-convolutions", "--only", "broken"])
    assert result.exit_code == 1
    assert "entry point tinynet:fail: OSError: no licence" in result.stderr
    (row,) = json.loads(result.stdout)
    assert row["parameters"] == 8 * 4 * 8 + 8 + 8 * 4 * 8 + 4
    assert row["gmacs"] == pytest.approx(2 * 64**3 * 8 * 4 * 8 / 1e9, abs=0.005)
    assert (row["published_gmacs"], row["tasks"]) == (0.25, ["segmentation", "idh"])


def test_without_the_package_its_network_is_unknown():
    with pytest.raises(InputError, match=r"network\.kind: 'two-convolutions' is unknown; known: mttu-net, unet, vnet"):
        override(Config(), {"network.kind": "two-convolutions"})


# counts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions"),
    [("unet", 4.81), ("vnet", 45.61), ("seresnet101", 90.05), ("densenet121", 11.31), ("resnet50", 46.23)],
)
def test_parameters_are_those_of_monais_networks(name, millions):
    assert count_network(take_alone(name)).parameters / 1e6 == pytest.approx(millions, abs=0.005)


def test_dmfnet_has_the_published_parameters_and_multiply_adds():
    entry, count = find_entry("dmfnet"), count_network(take_alone("dmfnet"))
    assert count.parameters / 1e6 == pytest.approx(entry.parameters_m, rel=0.02)
    assert count.macs / 1e9 == pytest.approx(entry.gmacs, rel=0.05)


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


def test_a_forward_pass_is_measured():
    settings = settings_of("unet")
    request = {"settings": settings.model_dump_json(), "size": [16, 16, 16], "device": "cpu"}
    cost = measure._run(request)
    assert 0 < cost.seconds < 10
    assert cost.device == "cpu"


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

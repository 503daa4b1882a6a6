"""Networks that other packages add, and checkpoints of networks other than MTTU-Net."""

import json
import sys

import pytest
import torch
from small_rivals import SMALL
from typer.testing import CliRunner

from mttu.cli import app
from mttu.config import Config, RivalSettings, override
from mttu.errors import InputError
from mttu.networks import build_network
from mttu.networks.build import find_network_problems
from mttu.networks.checkpoint import read_checkpoint, write_checkpoint
from mttu.networks.measure import count_network, take_alone
from mttu.networks.rivals import rival
from mttu.networks.rivals.options import list_options
from mttu.networks.rivals.registry import find_entry, list_names
from mttu.search.presets import preset


def test_a_checkpoint_keeps_options_and_patch_and_is_compared_before_it_is_traced(tmp_path, monkeypatch):
    changes = {
        "network.kind": "unetr",
        "network.options": SMALL["unetr"][0],
        "patch.size": [32, 16, 16],
    }
    config = override(preset("demo"), changes)
    network = build_network(config.network, config.patch.size)
    write_checkpoint(tmp_path / "best", network.state_dict(), config, {})
    traced, trace = [], rival._trace
    monkeypatch.setattr(rival, "_trace", lambda network: traced.append(network) or trace(network))
    found, settings = read_checkpoint(tmp_path / "best")
    assert traced == [found]
    assert settings.network == config.network
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in found.state_dict().items())
    text = (tmp_path / "best" / "config.yaml").read_text()
    (tmp_path / "best" / "config.yaml").write_text(text.replace("mlp_dim: 16", "mlp_dim: 24"))
    with pytest.raises(InputError, match=r"weights\.safetensors does not fit config\.yaml"):
        read_checkpoint(tmp_path / "best")
    assert len(traced) == 1


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


DOWN_UP = ("self.down(image)", 'self.up(features["low"])')


@pytest.mark.parametrize(
    ("sound", "faulty", "said"),
    [
        ("stride = 2\n", "\n", "AttributeError: 'TwoConvolutions' object has no attribute 'stride'"),
        ("super().__init__()", "raise ValueError('no')", "ValueError: no; mend or remove the package"),
        ("self.widths =", "assert width > 8, 'narrow'; self.widths =", "AssertionError: narrow"),
        (DOWN_UP[0], f"{DOWN_UP[0]} * image.max().item()", r"RuntimeError: Tensor\.item\(\) cannot be called on meta"),
        (DOWN_UP[1], f"{DOWN_UP[1]}[:, :3]", r"logits of segmentation have the shape \(3, 3, 4, 4, 4\)"),
        (DOWN_UP[1], 'features["low"][:, :4]', r"shape \(3, 4, 2, 2, 2\) .*; expected \(3, 4, 4, 4, 4\)"),
        (
            "own_idh = False",
            "own_idh = True; classify = lambda self, features: features['low'].mean((2, 3, 4))[:, :3]",
            r"logits of idh have the shape \(3, 3\) .*; expected \(3, 2\)",
        ),
        ("own_idh = False", "own_idh = True; idh_levels = ('high',)", "KeyError: 'high'"),
        ("title=", "tasks=('foo',), title=", r"tasks \('foo',\); expected 'segmentation', 'idh' or both, once each"),
        ("title=", "tasks=(), title=", r"tasks \(\); expected"),
        ("title=", "tasks='idh', title=", "tasks 'idh'; expected"),
        ("self.up =", "self.up = nn.BatchNorm3d(8, track_running_stats=False) #", r"batch norm up is BatchNorm3d\("),
        ("self.up =", "self.up = nn.BatchNorm3d(8, momentum=None) #", "cannot take the statistics of all ranks"),
        ("self.up =", "self.up = nn.BatchNorm3d(8, affine=False) #", "batch norm up"),
        ("self.up =", "self.up = nn.BatchNorm1d(8) #", "batch norm up"),
        (DOWN_UP[1], f"{DOWN_UP[1]} if not self.training else self.other", "AttributeError: .* no attribute 'other'"),
        (DOWN_UP[1], f"{DOWN_UP[1]} if not self.training else int('a')", "ValueError: invalid literal for int"),
        ('source="nobody"', "source=None", "source None; expected text"),
    ],
)
def test_whatever_is_wrong_with_a_network_of_a_package_is_told(plug_in, sound, faulty, said):
    assert sound in PACKAGE
    (plug_in / "tinynet.py").write_text(PACKAGE.replace(sound, faulty))
    config = override(preset("demo"), {"network.kind": "two-convolutions"})
    with pytest.raises(InputError, match=rf"^network\.kind: two-convolutions: .*{said}"):
        raise InputError(find_network_problems(config))
    if "training" not in faulty:
        with pytest.raises(InputError, match=rf"^network\.kind: two-convolutions: .*{said}"):
            count_network(take_alone("two-convolutions"))


def test_a_network_that_fails_at_the_counted_size_alone_is_told(plug_in):
    text = PACKAGE.replace(DOWN_UP[0], f"{DOWN_UP[0]} if len(image[0, 0]) < 128 else self.other")
    (plug_in / "tinynet.py").write_text(text)
    with pytest.raises(InputError, match=r"two-convolutions: entry point tinynet:describe, .* no attribute 'other'"):
        count_network(take_alone("two-convolutions"))


def test_the_list_of_networks_shows_it_and_names_a_broken_one(plug_in):
    result = CliRunner().invoke(app, ["networks", "--json", "--only", "two-convolutions", "--only", "broken"])
    assert result.exit_code == 1
    assert "entry point tinynet:fail: OSError: no licence" in result.stderr
    (row,) = json.loads(result.stdout)
    assert row["parameters"] == 8 * 4 * 8 + 8 + 8 * 4 * 8 + 4
    assert row["gmacs"] == pytest.approx(2 * 64**3 * 8 * 4 * 8 / 1e9, abs=0.005)
    assert (row["published_gmacs"], row["tasks"]) == (0.25, ["segmentation", "idh"])
    assert row["options"] == {"width": 8}


def test_a_default_that_settings_cannot_hold_is_shown_as_text(plug_in):
    (plug_in / "tinynet.py").write_text(
        PACKAGE.replace("width=8)", "width=8, activation=nn.ReLU, both=(nn.ReLU,), needed)")
    )
    assert list_options(find_entry("two-convolutions").build) == {
        "width": 8,
        "activation": "<class 'torch.nn.modules.activation.ReLU'>",
        "both": "(<class 'torch.nn.modules.activation.ReLU'>,)",
        "needed": None,
    }


def test_without_the_package_its_network_is_unknown():
    with pytest.raises(InputError, match=r"network\.kind: 'two-convolutions' is unknown; known: mttu-net, unet, vnet"):
        override(Config(), {"network.kind": "two-convolutions"})

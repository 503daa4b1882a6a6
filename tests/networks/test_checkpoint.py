import json
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mttu.config import Config
from mttu.errors import InputError
from mttu.networks import MttuNet, build_network
from mttu.networks.checkpoint import (
    read_checkpoint,
    read_learned_from,
    read_learned_parts,
    read_learned_tasks,
    write_checkpoint,
)
from mttu.patients import known_by_digest
from mttu.search.presets import preset


@pytest.fixture
def config() -> Config:
    return preset("demo")


@pytest.fixture
def network(config: Config) -> MttuNet:
    torch.manual_seed(3)
    return build_network(config.network)


@pytest.fixture
def folder(tmp_path: Path, config: Config, network: MttuNet) -> Path:
    write_checkpoint(tmp_path / "best", network.state_dict(), config, {"val/dice_wt": 0.75, "epoch": 4})
    return tmp_path / "best"


def test_weights_and_settings_come_back_as_they_were(folder: Path, config: Config, network: MttuNet) -> None:
    read, read_config = read_checkpoint(folder)
    assert read_config == config
    assert not read.training
    image = torch.randn(1, 4, 16, 16, 16)
    with torch.inference_mode():
        expected, found = network.eval()(image), read(image)
    assert all(torch.equal(found[name], expected[name]) for name in ("seg_logits", "idh_logits"))
    assert read.state_dict().keys() == network.state_dict().keys()


def test_a_run_folder_stands_for_its_best_checkpoint(folder: Path, network: MttuNet) -> None:
    read, _ = read_checkpoint(folder.parent)
    for name, tensor in network.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name


def test_the_files_are_plain_formats_with_a_version(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.json", "config.yaml", "weights.safetensors"]
    content = json.loads((folder / "checkpoint.json").read_text())
    assert content == {"format_version": 1, "metrics": {"val/dice_wt": 0.75, "epoch": 4}}
    assert yaml.safe_load((folder / "config.yaml").read_text())["patch"]["size"] == [32, 32, 32]


def test_a_file_that_names_patients_by_keyed_digests_says_so_to_earlier_versions(
    tmp_path: Path, config: Config, network: MttuNet
) -> None:
    write_checkpoint(tmp_path / "best", network.state_dict(), config, {}, known_by_digest(["0" * 16]))
    path = tmp_path / "best" / "checkpoint.json"
    content = json.loads(path.read_text())
    assert content["format_version"] == 2
    for version in (1, 2):
        path.write_text(json.dumps(content | {"format_version": version}))
        assert read_checkpoint(tmp_path)[1] == config


def test_values_that_json_does_not_have_are_refused(folder: Path, config: Config, network: MttuNet) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_checkpoint(folder, network.state_dict(), config, {"val/idh_auc": float("nan")})


Damage = Callable[[Path], object]


def write(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text)


def change_setting(section: tuple[str, ...], name: str, value: object) -> Damage:
    def damage(folder: Path) -> None:
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        reduce(getitem, section, settings)[name] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))

    return damage


def change_weight(change: Callable[[dict[str, torch.Tensor], str], object]) -> Damage:
    """The change is given all weights and the name of one of them."""

    def damage(folder: Path) -> None:
        path = folder / "weights.safetensors"
        weights = load_file(path)
        change(weights, next(name for name in weights if name.endswith(".weight")))
        save_file(weights, path)

    return damage


def remove_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def cut_weights(folder: Path) -> None:
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(content[: len(content) // 2])


def claim_a_long_header(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}")


MANY_ALIASES = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
MANY_ALIASES += [f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 10)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            change_setting(("network",), "widths", [2**15] * 4),  # half a terabyte of weights
            r"weights.safetensors does not fit config.yaml \(.*in the weights, \[32768, 4, .* by the settings",
        ),
        (
            change_setting(("network",), "blocks", [10**9] * 4),
            r"network.blocks.0: Input should be less than or equal to 64, found 1000000000",
        ),
        (
            write("config.yaml", "\n".join(MANY_ALIASES)),
            r"not valid YAML \(line 2 has an alias \(\*name\), which settings do not need; write",
        ),
        (write("checkpoint.json", "[" * 200_000), "checkpoint.json: damaged"),
        (
            change_weight(lambda weights, name: weights.update({name: weights[name].half()})),
            r"does not fit config.yaml \(\S+: \[.*\] F16 in the weights, \[.*\] F32 by the settings\)",
        ),
        (claim_a_long_header, r"its header is 1099511627776 bytes long; expected at most 1048576"),
        (lambda folder: (folder / "config.yaml").unlink(), "config.yaml not found"),
        (remove_all, "checkpoint.json, config.yaml, weights.safetensors not found"),
        (write("checkpoint.json", '{"format_version": 99}'), "format_version is 99; this version of mttu reads 1 to 2"),
        (write("checkpoint.json", '{"metrics": {}}'), "checkpoint.json: damaged"),
        (write("checkpoint.json", '{"format_ver'), "checkpoint.json: damaged"),
        (write("checkpoint.json", "[1]"), "checkpoint.json: damaged"),
        (cut_weights, "weights.safetensors does not fit config.yaml"),
        (change_weight(lambda weights, name: weights.pop(name)), "weights.safetensors does not fit config.yaml"),
        (change_setting(("network", "idh_head"), "hidden", [64, 32]), "weights.safetensors does not fit config.yaml"),
        (change_setting(("network",), "depth", 4), "network.depth"),
    ],
)
def test_damage_is_refused_by_name(folder: Path, damage: Damage, message: str) -> None:
    damage(folder)
    with pytest.raises(InputError, match=message) as refusal:
        read_checkpoint(folder)
    assert str(folder) in str(refusal.value)


@pytest.mark.parametrize("text", ["[" * 200_000, "[]", "7", "{", '{"patients": ' + "[" * 200_000])
def test_a_damaged_record_is_refused_whatever_is_asked_of_it(folder: Path, text: str) -> None:
    (folder / "checkpoint.json").write_text(text)
    for read in (read_checkpoint, read_learned_from, read_learned_parts, read_learned_tasks):
        with pytest.raises(InputError, match=r"checkpoint\.json: damaged; restore it from a copy"):
            read(folder)


def test_a_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: checkpoint\.json, config\.yaml, weights\.safetensors not found"):
        read_checkpoint(tmp_path / "nowhere")

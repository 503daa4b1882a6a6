import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mttu import files
from mttu.errors import InputError
from mttu.networks.checkpoint import read_checkpoint
from mttu.networks.ensemble import describe_checkpoint, read_members, write_ensemble

WriteTiny = Callable[..., Path]


@pytest.fixture(scope="module")
def runs(write_tiny: WriteTiny, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three run folders of different weights. Not to be changed."""
    root = tmp_path_factory.mktemp("runs")
    for number in range(3):
        write_tiny(root / f"run_{number}" / "best", spoil=float(number))
    return [root / f"run_{number}" for number in range(3)]


@pytest.fixture
def folder(runs: list[Path], tmp_path: Path) -> Path:
    """An ensemble of the three."""
    write_ensemble(tmp_path / "ensemble", runs)
    return tmp_path / "ensemble"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    weights = other.state_dict()
    assert one.state_dict().keys() == weights.keys()
    assert not [name for name, tensor in one.state_dict().items() if not torch.equal(tensor, weights[name])]


def test_members_come_back_in_their_order(folder: Path, runs: list[Path]) -> None:
    networks, config = read_members(folder)
    assert len(networks) == 3
    for network, run in zip(networks, runs, strict=True):
        expected, expected_config = read_checkpoint(run)
        assert_same_weights(network, expected)
        assert not network.training
        assert config == expected_config
    described = json.loads((folder / "ensemble.json").read_text())
    assert described["format_version"] == 1
    assert [member["folder"] for member in described["members"]] == ["member_1", "member_2", "member_3"]
    assert [member["origin"] for member in described["members"]] == ["run_0/best", "run_1/best", "run_2/best"]
    assert described["members"][1]["weights_sha256"] == describe_checkpoint(runs[1])["weights_sha256"]


def test_a_plain_checkpoint_is_one_member(runs: list[Path]) -> None:
    (network,), _ = read_members(runs[0])
    assert_same_weights(network, read_checkpoint(runs[0])[0])


def test_a_folder_of_folds_stands_for_its_ensemble(folder: Path) -> None:
    assert len(read_members(folder.parent)[0]) == 3
    assert describe_checkpoint(folder.parent) == describe_checkpoint(folder)


def test_what_tables_say_of_a_checkpoint(folder: Path, runs: list[Path], tmp_path: Path) -> None:
    plain, whole = describe_checkpoint(runs[0]), describe_checkpoint(folder)
    assert {name: plain[name] for name in ("checkpoint", "ensemble", "members")} == {
        "checkpoint": "run_0/best",
        "ensemble": False,
        "members": 1,
    }
    assert (whole["checkpoint"], whole["ensemble"], whole["members"]) == (f"{tmp_path.name}/ensemble", True, 3)
    write_ensemble(tmp_path / "other", [runs[0], runs[2], runs[1]])
    swapped = describe_checkpoint(tmp_path / "other")
    assert len({about["weights_sha256"] for about in (plain, whole, swapped)}) == 3


def test_an_ensemble_is_replaced_even_by_its_own_members(folder: Path, runs: list[Path]) -> None:
    write_ensemble(folder, [folder / "member_3", folder / "member_1"])
    networks, _ = read_members(folder)
    for network, run in zip(networks, (runs[2], runs[0]), strict=True):
        assert_same_weights(network, read_checkpoint(run)[0])
    assert sorted(path.name for path in folder.iterdir()) == ["ensemble.json", "member_1", "member_2"]


def test_a_disk_that_fills_leaves_the_older_ensemble(
    folder: Path, runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_some(source: Path, target: Path) -> None:
        if target.parent.name == "member_2":
            raise OSError(28, "No space left on device")
        copy(source, target)

    copy, before = shutil.copyfile, content(folder)
    monkeypatch.setattr("mttu.networks.ensemble.shutil.copyfile", copy_some)
    with pytest.raises(OSError, match="No space left"):
        write_ensemble(folder, runs[:2])
    assert content(folder) == before
    monkeypatch.undo()
    write_ensemble(folder, runs[:2])
    assert len(read_members(folder)[0]) == 2
    assert not list(folder.parent.glob(f"{files.PREFIX}*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch.size": [24, 16, 16]}, r"members differ in patch.size: \[16, 16, 16\] in .*run_0/best; \[24, 16, 16\]"),
        ({"data.prepare.spacing_mm": 2.0}, r"members differ in data.prepare.spacing_mm: 1.0 in .*; 2.0 in .*odd/best"),
        (
            {"data.modalities": ["flair", "t1"], "network.in_channels": 2},
            r'members differ in data.modalities: \["flair", "t1ce", "t1", "t2"\] in .*; \["flair", "t1"\] in',
        ),
        ({"network.tasks": ["idh"]}, r"members differ in network.tasks"),
        ({"inference.flips": True}, r"members differ in inference.flips: false in .*; true in"),
        ({"mc.passes": 5}, r"members differ in mc.passes: 4 in .*; 5 in"),
    ],
)
def test_members_that_are_shown_other_things_are_refused(
    runs: list[Path], write_tiny: WriteTiny, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    write_tiny(tmp_path / "odd" / "best", changes)
    with pytest.raises(InputError, match=message):
        write_ensemble(tmp_path / "ensemble", [*runs, tmp_path / "odd"])
    assert not (tmp_path / "ensemble").exists()


def test_members_may_be_other_networks(runs: list[Path], write_tiny: WriteTiny, tmp_path: Path) -> None:
    write_tiny(tmp_path / "wide" / "best", {"network.idh_head.hidden": [16], "train.seed": 9, "optim.lr": 1e-5})
    write_ensemble(tmp_path / "ensemble", [runs[0], tmp_path / "wide"])
    assert len(read_members(tmp_path / "ensemble")[0]) == 2


def test_all_problems_of_checkpoints_come_at_once(runs: list[Path], folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        write_ensemble(tmp_path / "new", [runs[0], runs[0] / "best", tmp_path / "none", folder])
    twice, missing, nested = caught.value.problems
    assert twice == f"checkpoint {runs[0] / 'best'}: named 2 times; give each member once"
    assert missing.startswith(f"checkpoint {tmp_path / 'none'}: checkpoint.json, config.yaml")
    assert nested == f"checkpoint {folder}: is an ensemble; one network is needed here: give one of its members"
    with pytest.raises(InputError, match="no member; give at least one checkpoint"):
        write_ensemble(tmp_path / "new", [])


def test_nothing_else_is_overwritten(runs: list[Path], tmp_path: Path) -> None:
    file, full = tmp_path / "file", tmp_path / "full"
    file.write_text("mine")
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is a file; give a folder"):
        write_ensemble(file, runs)
    with pytest.raises(InputError, match=r"holds something else \(notes\.txt\), which would be lost"):
        write_ensemble(full, runs)
    assert [path.name for path in full.iterdir()] == ["notes.txt"]
    (full / "notes.txt").unlink()
    write_ensemble(full, runs)
    (full / "predictions").mkdir()
    (full / "predictions" / "case.nii.gz").write_text("mine")
    with pytest.raises(InputError, match=r"holds something else \(predictions/case\.nii\.gz\), which would be lost"):
        write_ensemble(full, runs)
    assert (full / "predictions" / "case.nii.gz").exists()


def change_mark(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    mark = json.loads((folder / "ensemble.json").read_text())
    change(mark)
    (folder / "ensemble.json").write_text(json.dumps(mark))


def change_a_weight(folder: Path) -> None:
    file = folder / "member_2" / "weights.safetensors"
    weights = load_file(file)
    weights["idh_head.layers.0.weight"][0, 0] += 1e-3
    save_file(weights, file)


def change_a_setting(folder: Path) -> None:
    file = folder / "member_3" / "config.yaml"
    settings = yaml.safe_load(file.read_text())
    settings["inference"]["flips"] = True
    file.write_text(yaml.safe_dump(settings))


def take_another_checkpoint(folder: Path) -> None:
    shutil.rmtree(folder / "member_1")
    shutil.copytree(folder / "member_2", folder / "member_1")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_a_weight, r"member_2: weights\.safetensors is not the file that the ensemble was made of \(SHA-256 "),
        (change_a_setting, r"member_3: config\.yaml is not the file that the ensemble was made of"),
        (take_another_checkpoint, r"member_1: weights\.safetensors is not the file"),
        (
            lambda folder: shutil.rmtree(folder / "member_2"),
            r"member_2: checkpoint\.json, config\.yaml, weights\.safetensors not found; restore it",
        ),
        (
            lambda folder: (folder / "ensemble.json").write_text('{"format_ver'),
            r"ensemble\.json: damaged; restore it from a copy",
        ),
        (lambda folder: (folder / "ensemble.json").write_text("[]"), r"ensemble\.json: damaged"),
        (lambda folder: change_mark(folder, lambda mark: mark.update(format_version=7)), "format_version is 7; this"),
        (lambda folder: change_mark(folder, lambda mark: mark.update(members=[])), "has no member"),
        (lambda folder: change_mark(folder, lambda mark: mark.update(members="all")), r"ensemble\.json: damaged"),
        (
            lambda folder: change_mark(folder, lambda mark: mark["members"][0].update(folder="../../elsewhere")),
            r"ensemble\.json: damaged",
        ),
    ],
)
def test_what_was_changed_later_is_refused(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(InputError, match=message) as refusal:
        read_members(folder)
    assert str(folder) in str(refusal.value)


def test_members_made_alike_by_hand_only_in_their_digests_are_refused(
    folder: Path, write_tiny: WriteTiny, tmp_path: Path
) -> None:
    """Digests can be written by hand; whether members fit is looked at again when they are read."""
    odd = write_tiny(tmp_path / "odd", {"patch.size": [24, 16, 16]})
    write_ensemble(tmp_path / "alone", [odd])
    member = json.loads((tmp_path / "alone" / "ensemble.json").read_text())["members"][0]
    shutil.rmtree(folder / "member_2")
    shutil.copytree(odd, folder / "member_2")
    change_mark(folder, lambda mark: mark["members"][1].update(member, folder="member_2"))
    with pytest.raises(InputError, match=r"members differ in patch\.size"):
        read_members(folder)

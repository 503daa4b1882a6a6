"""A program of torch.export against the network that it was made of."""

import json
import os
import subprocess
import sys
import zipfile

import pytest
import torch

from mttu.config import override
from mttu.config.network import RIVALS
from mttu.errors import InputError, RunError
from mttu.export import Agreement, export_program
from mttu.export import program as exporting
from mttu.export.program import compare
from mttu.networks.build import build_network
from mttu.networks.checkpoint import read_checkpoint, write_checkpoint
from mttu.networks.ensemble import describe_checkpoint, write_ensemble

RUN = """
import sys, torch
program, window, out = sys.argv[1:]
module = torch.export.load(program).module()
torch.save(dict(module(torch.load(window, weights_only=True))), out)
assert not any(name.split(".")[0] in ("mttu", "monai") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def exported(tiny_checkpoint, tmp_path_factory):
    """The file and what was told of it. Not to be changed."""
    file = tmp_path_factory.mktemp("program") / "network.pt2"
    return file, export_program(tiny_checkpoint, file)


@pytest.fixture
def window():
    return torch.randn(1, 4, 16, 16, 16, generator=torch.Generator().manual_seed(3))


def assert_logits(found, checkpoint, window):
    with torch.inference_mode():
        expected = read_checkpoint(checkpoint)[0](window)
    assert found.keys() == expected.keys()
    for name, logits in expected.items():
        torch.testing.assert_close(found[name], logits, rtol=1e-5, atol=1e-5)


def test_the_program_gives_the_network_s_logits(exported, tiny_checkpoint, window):
    file, agreement = exported
    assert agreement.largest_difference < 1e-5
    assert (agreement.differing_labels, agreement.voxels) == (0, 2 * 16**3)
    with torch.no_grad():
        assert_logits(torch.export.load(file).module()(window), tiny_checkpoint, window)


def run_without_mttu(file, window, folder):
    torch.save(window, folder / "window.pt")
    command = [sys.executable, "-c", RUN, file, folder / "window.pt", folder / "out.pt"]
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "out.pt", weights_only=True)


@pytest.mark.slow
def test_the_program_runs_without_mttu(exported, tiny_checkpoint, window, tmp_path):
    found = run_without_mttu(exported[0], window, tmp_path)
    assert found.keys() == {"seg_logits", "idh_logits"}
    assert_logits(found, tiny_checkpoint, window)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "outputs"),
    [("unet", {"seg_logits", "idh_logits"}), ("dynunet", {"seg_logits"}), ("resnet50", {"idh_logits"})],
)
def test_programs_of_other_networks_run_without_mttu(kind, outputs, train_rival, window, tmp_path):
    checkpoint = train_rival(kind)
    agreement = export_program(checkpoint, tmp_path / "network.pt2")
    assert agreement.largest_difference < 1e-5
    found = run_without_mttu(tmp_path / "network.pt2", window, tmp_path)
    assert found.keys() == outputs
    assert_logits(found, checkpoint, window)


def test_the_file_says_how_to_use_it_and_holds_no_pickle(exported, tiny_checkpoint):
    with zipfile.ZipFile(exported[0]) as archive:
        names = archive.namelist()
        contents = {name: archive.read(name) for name in names}
    (note,) = [json.loads(content) for name, content in contents.items() if name.endswith("extra/mttu.json")]
    assert note["input"] == {"shape": [1, 4, 16, 16, 16], "channels": ["flair", "t1ce", "t1", "t2"]}
    assert note["outputs"]["idh_logits"]["channels"] == ["wild type", "mutant"]
    assert note["learned_tasks"] == ["idh", "segmentation"]
    assert note["weights_sha256"] == describe_checkpoint(tiny_checkpoint)["weights_sha256"]
    assert note["prepare"]["spacing_mm"] == 1.0
    assert note["intended_use"].startswith("Research use only")
    (weights,) = [json.loads(content) for name, content in contents.items() if name.endswith("weights_config.json")]
    assert {entry["use_pickle"] for entry in weights["config"].values()} == {False}
    assert not [name for name in names if "sample_inputs" in name and len(contents[name]) > 1000]


def test_a_task_that_was_never_learned_has_no_output(copy_checkpoint, window):
    network, _ = read_checkpoint(copy_checkpoint(["idh"]))
    assert network(window).keys() == {"seg_logits", "idh_logits"}
    assert exporting._Answers(network)(window).keys() == {"idh_logits"}


def test_a_damaged_network_is_refused(write_tiny, tmp_path):
    damaged = write_tiny(tmp_path / "best", spoil=float("nan"))
    with pytest.raises(InputError, match="its idh_logits are not finite; its weights are damaged"):
        export_program(damaged, tmp_path / "network.pt2")
    assert not (tmp_path / "network.pt2").exists()


def test_a_program_of_another_network_is_not_written(exported, tiny_checkpoint, tmp_path, monkeypatch):
    def spoil(*arguments):
        program = torch.export.load(exported[0])
        with torch.no_grad():
            program.state_dict["network.idh_head.layers.0.weight"].mul_(-3.0)
        return program

    monkeypatch.setattr(exporting, "_trace", spoil)
    expected = "differs from the network .largest difference of a probability .*at most 0.0001 is accepted.*"
    with pytest.raises(RunError, match=expected):
        export_program(tiny_checkpoint, tmp_path / "network.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_torch_does_not_understand_is_refused(tiny_checkpoint, tmp_path, monkeypatch):
    def fail(*arguments, **named):
        raise RuntimeError("data-dependent control flow\nand more")

    monkeypatch.setattr(torch.export, "export", fail)
    expected = r"torch.export does not understand mttu-net \(data-dependent control flow\); export it as a bundle"
    with pytest.raises(InputError, match=expected):
        export_program(tiny_checkpoint, tmp_path / "network.pt2")
    assert list(tmp_path.iterdir()) == []


def test_agreement_is_of_probabilities_and_labels():
    seg = torch.log(torch.tensor([0.5, 0.3, 0.1, 0.1])).view(1, 4, 1, 1, 1).expand(1, 4, 1, 1, 2)
    other = seg.clone()
    other[0, :, 0, 0, 1] = torch.log(torch.tensor([0.3, 0.5, 0.1, 0.1])) + 7.0
    idh = torch.log(torch.tensor([[0.6, 0.4]]))
    wanted, given = {"seg_logits": seg, "idh_logits": idh}, {"seg_logits": other, "idh_logits": idh + 5.0}
    found = compare([wanted, wanted], [wanted, given])
    assert found.largest_difference == pytest.approx(0.2, abs=1e-6)
    assert (found.differing_labels, found.voxels) == (1, 4)
    assert found.describe() == "largest difference of a probability 2.0e-01; 1 of 4 labels differ"
    assert compare([wanted], [{"seg_logits": seg}]).largest_difference == float("inf")
    assert compare([wanted], [{**wanted, "idh_logits": idh * float("nan")}]).largest_difference == float("inf")
    assert Agreement(0.5, 0, 0).describe() == "largest difference of a probability 5.0e-01"


def test_places_and_checkpoints_that_will_not_do_are_refused(tiny_checkpoint, copy_checkpoint, exported, tmp_path):
    with pytest.raises(InputError, match=r"the name must end in \.pt2"):
        export_program(tiny_checkpoint, tmp_path / "network.onnx")
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(InputError, match="is a folder; give a file"):
        export_program(tiny_checkpoint, tmp_path / "folder.pt2")
    (tmp_path / "notes.pt2").write_text("mine")
    with pytest.raises(InputError, match="is no program of mttu and would be lost"):
        export_program(tiny_checkpoint, tmp_path / "notes.pt2")
    assert (tmp_path / "notes.pt2").read_text() == "mine"
    with pytest.raises(InputError, match=r"checkpoint .*: checkpoint.json, config.yaml, weights.safetensors not found"):
        export_program(tmp_path / "folder.pt2", tmp_path / "network.pt2")
    with pytest.raises(InputError, match="nothing to export: no segmentation"):
        export_program(copy_checkpoint([]), tmp_path / "network.pt2")
    write_ensemble(tmp_path / "ensemble", [tiny_checkpoint])
    with pytest.raises(InputError, match="is an ensemble"):
        export_program(tmp_path / "ensemble", tmp_path / "network.pt2")
    assert exporting._explain_file(exported[0]) == []  # an earlier program may be replaced


@pytest.mark.slow
@pytest.mark.parametrize("kind", RIVALS)
def test_other_networks_become_programs_too(kind, tiny_checkpoint, tmp_path):
    _, config = read_checkpoint(tiny_checkpoint)
    size = [64 if kind in ("dynunet", "swinunetr", "densenet121") else 32] * 3
    changed = override(config, {"network": {"kind": kind, "tasks": RIVALS[kind]}, "patch.size": size})
    weights = build_network(changed.network, changed.patch.size).state_dict()
    write_checkpoint(tmp_path / "best", weights, changed, {})
    agreement = export_program(tmp_path / "best", tmp_path / "network.pt2")
    assert agreement.differing_labels <= 2
    assert agreement.voxels == (2 * size[0] ** 3 if "segmentation" in RIVALS[kind] else 0)

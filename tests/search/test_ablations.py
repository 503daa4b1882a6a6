from itertools import combinations

import pytest
import torch
import yaml
from typer.testing import CliRunner

from mttu.cli import app
from mttu.config import Config, flatten, override
from mttu.config.network import OURS, RIVALS
from mttu.errors import InputError
from mttu.networks.build import build_network
from mttu.networks.rivals.registry import find_entry
from mttu.search.ablations import ABLATIONS, PAPERS_ROW, TABLES, changes_of, combine, is_small, rows_of
from mttu.search.presets import preset


def run(*words):
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    return result.exit_code, result.output, result.exception


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize("start", ["paper", "small"])
def test_an_ablation_changes_what_it_names_and_nothing_else(name, start):
    changes, before = ABLATIONS[name].changes, flatten(preset(start).model_dump(mode="json"))
    after = flatten(override(preset(start), changes).model_dump(mode="json"))
    assert {setting: after[setting] for setting in changes} == changes
    if changes.get("network.kind", OURS) != OURS:  # another network has other settings
        others = {setting for setting in before if not setting.startswith("network.")}
        assert {setting for setting in others if before[setting] != after[setting]} <= changes.keys()
        assert after["network.in_channels"] == before["network.in_channels"]
        return
    if changes.get("network.bottleneck.kind") != "convolution":
        assert {setting for setting in before if before[setting] != after[setting]} <= changes.keys()
    assert after["network.bottleneck.width"] == before["network.bottleneck.width"]


def test_the_rows_are_those_of_the_paper():
    assert rows_of("II") == [*(f"layers-{count}" for count in range(1, 7)), "conv"]
    assert rows_of("III") == ["clsnet", "segnet", "mttu-net"]
    levels = {tuple(ABLATIONS[name].changes["network.idh_head.levels"]) for name in rows_of("IV")}
    assert levels == {("F5",), ("F2", "F5"), ("F3", "F5"), ("F4", "F5"), ("F3", "F4", "F5")}
    weights = [ABLATIONS[name].changes["loss.task_weighting"] for name in rows_of("V")]
    assert weights == ["pcgrad", "equal", "uncertainty"]
    subsets = {frozenset(ABLATIONS[name].changes["data.modalities"]) for name in rows_of("modalities")}
    names = ("flair", "t1ce", "t1", "t2")
    assert subsets == {frozenset(one) for count in range(1, 5) for one in combinations(names, count)}
    methods = [ABLATIONS[name].changes["selection.method"] for name in rows_of("VII")]
    assert methods == ["none", "direct", "PL", "CPL", "UPS"]
    assert {one.table for one in ABLATIONS.values()} == set(TABLES)


def test_the_networks_of_table_6_are_those_of_the_registry():
    rows = {name: ABLATIONS[name].changes for name in rows_of("VI")}
    assert list(rows) == [*RIVALS, "mttu-net-vi"]
    assert [changes["network.kind"] for changes in rows.values()] == [*RIVALS, OURS]
    assert {kind: ABLATIONS[kind].row for kind in RIVALS} == {kind: find_entry(kind).title for kind in RIVALS}
    both = [name for name, changes in rows.items() if changes["network.tasks"] == ["segmentation", "idh"]]
    assert both == ["sgpnet-style", "cmsvnet", "ma-mtln", "mttu-net-vi"]
    classifiers = [name for name, changes in rows.items() if changes["network.tasks"] == ["idh"]]
    assert classifiers == [kind for kind, tasks in RIVALS.items() if tasks == ("idh",)]
    more = {name: ABLATIONS[name].changes["selection.method"] for name in rows_of("VI-semi")}
    assert [name for name, method in more.items() if method == "UPS"] == [
        "seresnet101-ups",
        "densenet121-ups",
        "mttu-net-ups",
    ]
    masks = [name for name, method in more.items() if method == "direct"]
    assert masks == [f"{kind}-direct" for kind in [*RIVALS, OURS] if kind not in classifiers]


def count_parameters(network):
    with torch.device("meta"):
        built = build_network(network, (32, 32, 32), trace=False)
    return sum(parameter.numel() for parameter in built.parameters())


def test_beside_a_small_network_the_others_are_small():
    base = preset("demo")
    assert is_small(base)
    assert is_small(preset("small"))
    for name in rows_of("VI"):
        published = override(Config(), ABLATIONS[name].changes).network
        small = override(base, changes_of(name, base)).network
        if name == "vnet":
            assert small == published
        elif name != "mttu-net-vi":
            assert count_parameters(small) < 0.5 * count_parameters(published)
    assert changes_of("unet", Config()) == ABLATIONS["unet"].changes


@pytest.mark.parametrize("table", TABLES)
def test_the_papers_row_is_the_default(table):
    assert PAPERS_ROW[table] in rows_of(table)
    assert override(Config(), ABLATIONS[PAPERS_ROW[table]].changes) == Config()


def test_ablations_combine_unless_they_contradict_each_other():
    assert combine(["layers-2", "segnet"]) == {
        "network.bottleneck.kind": "transformer",
        "network.bottleneck.num_layers": 2,
        "network.tasks": ["segmentation"],
    }
    with pytest.raises(InputError) as caught:
        combine(["layers-2", "layers-3", "layers-9"])
    assert caught.value.problems == [
        "ablation 'layers-9': unknown; `mttu ablations` lists them",
        "ablations layers-2 and layers-3: both change network.bottleneck.num_layers (to 2 and 3); give one of them",
    ]


def test_they_are_listed():
    code, out, _ = run("ablations")
    assert code == 0
    assert all(name in out for name in ABLATIONS)
    code, out, _ = run("ablations", "V")
    assert code == 0
    assert "loss.task_weighting=pcgrad" in out
    assert "layers-1" not in out
    code, _, error = run("ablations", "VIII")
    assert code != 0
    assert str(error) == "table 'VIII': unknown; choose one of II, III, IV, V, focal, modalities, VI, VI-semi, VII"


def test_a_command_takes_them_over_its_file_and_under_its_arguments(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("network:\n  bottleneck:\n    num_layers: 1\noptim:\n  lr: 0.5\n")
    words = ["train", "--config", str(path), "--ablation", "layers-3", "-a", "equal-weights", "--print-config"]
    code, out, _ = run(*words, "network.bottleneck.mlp_width=32")
    assert code == 0
    found = flatten(yaml.safe_load(out))
    assert found["network.bottleneck.num_layers"] == 3
    assert (found["optim.lr"], found["loss.task_weighting"], found["network.bottleneck.mlp_width"]) == (
        0.5,
        "equal",
        32,
    )
    code, out, _ = run(*words, "network.bottleneck.num_layers=5")
    assert flatten(yaml.safe_load(out))["network.bottleneck.num_layers"] == 5
    code, _, error = run("train", "--ablation", "cpl", "--print-config")
    assert str(error) == "ablation: selection.method has no effect on `mttu train`; run `mttu self-train`"
    code, out, _ = run("train", "--ablation", "unet", "--preset", "small", "--print-config")
    found = flatten(yaml.safe_load(out))
    assert (found["network.kind"], found["network.tasks"], found["patch.size"]) == (
        "unet",
        ["segmentation"],
        [64, 64, 64],
    )
    code, out, _ = run("self-train", "--ablation", "cpl", "--print-config")
    assert flatten(yaml.safe_load(out))["selection.method"] == "CPL"

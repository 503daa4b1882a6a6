from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from mttu.cli.settings import read_given, resolve
from mttu.config import Config, flatten, load_stored_config, override, parse_overrides, to_yaml
from mttu.config.schema import Settings
from mttu.config.sharing import without_paths
from mttu.errors import InputError
from mttu.search.presets import preset
from mttu.search.spaces import load_space


def problems_of(*arguments: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        override(Config(), parse_overrides(list(arguments)), "argument")
    return caught.value.problems


def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    found = [model]
    for field in model.model_fields.values():
        for part in getattr(field.annotation, "__args__", (field.annotation,)):
            part = getattr(part, "__origin__", part)  # a member of a union, beside its tag
            if isinstance(part, type) and issubclass(part, Settings):
                found.extend(sections(part))
    return found


def test_defaults_are_the_paper() -> None:
    flat = flatten(Config().model_dump(mode="json"))
    stated = {
        "patch.size": [128, 128, 128],
        "network.widths": [16, 32, 64, 128],
        "network.bottleneck.num_layers": 4,
        "network.bottleneck.width": 512,
        "network.idh_head.levels": ["F4", "F5"],
        "network.idh_head.hidden": [512, 32],
        "optim.lr": 2e-4,
        "train.epochs": 1000,
        "train.global_batch": 4,
        "train.batch_per_worker": 2,
        "augment.flip_probability": 0.5,
        "augment.rotation_degrees": 10.0,
        "loss.task_weighting": "uncertainty",
    }
    assert {name: flat[name] for name in stated} == stated


@pytest.mark.parametrize("section", sections(Config), ids=lambda section: section.__name__)
def test_every_setting_is_documented_and_frozen(section: type[BaseModel]) -> None:
    assert [name for name, field in section.model_fields.items() if not field.description] == []
    assert section.model_config["frozen"]
    assert section.model_config["extra"] == "forbid"


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().optim.lr = 1.0


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("optim.lr=1e-4", 1e-4),
        ("train.epochs=7", 7),
        ("optim.amsgrad=no", False),
        ("patch.size=[64, 64, 32]", (64, 64, 32)),
        ("train.steps_per_epoch=null", None),
        ("train.steps_per_epoch=", None),
        ("data.manifest=a folder/cohort=1.parquet", Path("a folder/cohort=1.parquet")),
        ("output.name=007", "007"),
        ("output.name=1e-4", "1e-4"),
        ("output.name=2024-01-01", "2024-01-01"),
        ("output.name='quoted'", "quoted"),
    ],
)
def test_arguments_become_the_type_of_their_setting(argument: str, value: Any) -> None:
    config: Any = override(Config(), parse_overrides([argument]))
    for part in argument.partition("=")[0].split("."):
        config = getattr(config, part)
    assert config == value
    assert type(config) is type(value) or isinstance(value, Path)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("optim.lr", "argument 'optim.lr': expected SECTION.NAME=VALUE, e.g. optim.lr=1e-4"),
        ("patch.size=[64", "argument 'patch.size=[64': the value is not valid YAML"),
        ("optim.lr=-1", "argument: optim.lr: Input should be greater than 0, found '-1'"),
        ("optim.lr=inf", "argument: optim.lr: Input should be a finite number, found 'inf'"),
        (
            "network.bottleneck.num_layers=9",
            "network.bottleneck.num_layers: Input should be less than or equal to 6",
        ),
        ("network.bottleneck.kind=rnn", "argument: network.bottleneck: Input tag 'rnn' found using 'kind'"),
        ("patch.size=[64,64,60]", "argument: patch: size (64, 64, 60) must be a multiple of 8 on each axis"),
        ("inference.undecided_band=[0.6,0.4]", "argument: inference: undecided_band (0.6, 0.4) must be (low, high)"),
        ("network.bottleneck.num_heads=7", "argument: network.bottleneck: width 512 is not a multiple of num_heads 7"),
        ("data.modalities=[flair]", "argument: config: network.in_channels is 4 but data.modalities has 1 (flair)"),
        ("data.modalities=[flair, t1, t1, t2]", "must be non-empty and without repeats"),
        ("network.tasks=[]", "must name 'segmentation', 'idh' or both, once each"),
        ("network.idh_head.levels=[F5, F5]", "must be a non-empty tuple without repeats"),
        ("network.widths.0=3", "argument: network.widths.0: no such setting"),
        ("optimiser.lr=1", "argument: optimiser.lr: no such setting"),
        ("optim.rate=1", "argument: optim.rate: no such setting; known there: lr, weight_decay, amsgrad, poly_power"),
        ("output.name=../x", "argument: output.name: String should match pattern"),
        ("foo={}", "argument: foo: no such setting; known there: data, patch"),
    ],
)
def test_refused_arguments_say_what_and_why(argument: str, message: str) -> None:
    problems = problems_of(argument)
    assert len(problems) == 1
    assert message in problems[0]


def test_all_problems_come_at_once() -> None:
    assert len(problems_of("optim.lr=-1", "train.epochs=0", "patch.size=[8]")) >= 3
    assert len(problems_of("a", "b")) == 2
    assert len(problems_of("optim.a=1", "train.b=1")) == 2


def test_a_metric_needs_its_task() -> None:
    (problem,) = problems_of("network.tasks=[idh]", "train.validation_metric=dice")
    assert "train.validation_metric is dice but network.tasks has no segmentation" in problem
    (problem,) = problems_of("network.tasks=[segmentation]", "train.validation_metric=idh_auc")
    assert "has no idh; choose a metric of segmentation, or dice_minus_ce" in problem


@pytest.mark.parametrize("order", [1, -1])
def test_another_kind_starts_from_its_own_defaults_in_any_order(order: int) -> None:
    changes = [("network.bottleneck.kind", "convolution"), ("network.bottleneck.num_blocks", 2)][::order]
    bottleneck = override(Config(), dict(changes)).network.bottleneck
    assert (bottleneck.kind, bottleneck.width, bottleneck.num_blocks) == ("convolution", 512, 2)  # type: ignore[union-attr]
    same = override(Config(), {"network.bottleneck.kind": "transformer", "network.bottleneck.num_layers": 2})
    assert same.network.bottleneck.num_heads == 8  # type: ignore[union-attr]


def test_another_network_keeps_modalities_and_the_tasks_that_it_can_do() -> None:
    config = override(Config(), {"data.modalities": ["flair", "t2"], "network.in_channels": 2})
    unet = override(config, {"network.kind": "unet"}).network
    assert (unet.in_channels, unet.tasks) == (2, ("segmentation", "idh"))
    resnet = override(config, {"network.kind": "resnet50", "train.validation_metric": "idh_auc"})
    assert resnet.network.tasks == ("idh",)
    back = override(resnet, {"network.bottleneck.kind": "convolution", "network.kind": "mttu-net"}).network
    assert (back.kind, back.tasks, back.bottleneck.kind) == ("mttu-net", ("idh",), "convolution")  # type: ignore[union-attr]
    assert override(config, {"network.kind": "mttu-net"}) == config


def test_options_of_a_network_become_numbers_where_they_are(tmp_path: Path) -> None:
    words = ["network.kind=unet", "network.options.channels=[4,8]", "network.options.dropout=0.1"]
    words += ["network.options.num_res_units=2", "network.options.flag=true", "network.options.norm=batch"]
    config = override(Config(), parse_overrides(words))
    options = {"channels": (4, 8), "dropout": 0.1, "num_res_units": 2, "flag": True, "norm": "batch"}
    assert config.network.options == options  # type: ignore[union-attr]
    (tmp_path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert load_stored_config(tmp_path / "config.yaml") == config
    assert override(config, {"network.options": {"dropout": 0}}).network.options == {**options, "dropout": 0}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["network.kind=foo"], "argument: network.kind: 'foo' is unknown; known: mttu-net, unet, vnet, dmfnet, unetr"),
        (["network.kind=foo", "network.options.a=1"], "argument: network.kind: 'foo' is unknown"),
        (["network.kind=[a]"], "argument: network.kind: Input should be a valid string, found ['a']"),
        (["network.kind="], "argument: network.kind: Input should be a valid string, found None"),
        (["network=3"], "argument: network: Input should be a valid dictionary"),
        (
            ["network.kind=resnet50", "network.tasks=[segmentation]"],
            "argument: network: tasks ('segmentation',): resnet50 does idh alone; set tasks=[idh]",
        ),
        (["network.kind=unet", "network.widths=[1]"], "network.widths: no such setting; known there: kind, in_chan"),
        (["network.kind=unet", "network.bottleneck.kind=convolution"], "network.bottleneck.kind: no such setting"),
        (["network.kind=unet", "network.idh_head.levels=[a, a]"], "network.idh_head: levels ('a', 'a') must be with"),
        (["network.kind=unet", "network.tasks=[]"], "must name 'segmentation', 'idh' or both, once each"),
        (["network.options.a=1"], "argument: network.options.a: no such setting"),
        (["network.kind=resnet50", "train.validation_metric=dice"], "network.tasks has no segmentation"),
    ],
)
def test_refused_networks_say_what_and_why(arguments: list[str], message: str) -> None:
    problems = problems_of(*arguments)
    assert len(problems) == 1
    assert message in problems[0]


def test_options_of_a_foreign_file_are_bounded() -> None:
    for value in (4097, [8, 5000], [1] * 17, "x" * 65, float("nan")):
        with pytest.raises(InputError) as caught:
            override(Config(), {"network.kind": "unet", "network.options.size": value})
        (problem,) = caught.value.problems
        assert problem.startswith("settings: network.options.size: expected a number from -4096 to 4096, up to 16 such")


def test_a_nested_change_keeps_its_neighbours() -> None:
    config = override(Config(), {"optim": {"lr": 0.5}, "train": {}})
    assert config.optim.weight_decay == Config().optim.weight_decay
    assert config.optim.lr == 0.5
    assert config.train == Config().train


def test_yaml_comes_home(tmp_path: Path) -> None:
    config = override(
        Config(), {"network.bottleneck.kind": "convolution", "data.manifest": "x/c.parquet", "patch.size": [32, 32, 32]}
    )
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load_stored_config(path) == config


def test_a_file_is_laid_over_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("optim:\n  lr: 1e-3\ntrain: {}\n")
    start = preset("small")
    assert resolve("small", read_given(path, None)) == override(start, {"optim.lr": 1e-3})
    path.write_text("")
    assert resolve("small", read_given(path, None)) == start


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "holds a list; expected a mapping of sections"),
        ("a: [", "not valid YAML"),
        ("optim: 3", "optim: Input should be a valid dictionary"),
        ("optim:", "optim: Input should be a valid dictionary"),
        ("optimiser: {lr: 1}", "optimiser.lr: no such setting"),
        ("1: 2", "1: no such setting; known there: data"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_refused_files_name_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        resolve("paper", read_given(path, None))
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read"):
        read_given(tmp_path / "none.yaml", None)


def test_a_tab_and_another_encoding_are_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("optim:\n\tlr: 1e-4\n")
    with pytest.raises(InputError, match=r"c\.yaml: line 2 is indented by a tab; YAML takes spaces alone"):
        read_given(path, None)
    path.write_text("optim:\n  lr: 1e-4\n", encoding="utf-16")
    with pytest.raises(InputError, match=r"c\.yaml: is not UTF-8; save it in UTF-8"):
        read_given(path, None)


def test_shared_settings_name_no_folder_and_no_address() -> None:
    places = {
        "data.manifest": "/home/someone/study/cohort.parquet",
        "data.cache_dir": "/home/someone/cache",
        "output.folder": "/home/someone/runs",
        "tracking.uri": "postgresql://someone:secret@host/db",
    }
    config = override(Config(), {**places, "optim.lr": 0.5})
    shared = without_paths(config)
    assert "someone" not in to_yaml(shared)
    assert shared.data.manifest == Path("cohort.parquet")
    same = dict.fromkeys(places)
    assert flatten(shared.model_dump(mode="json")) | same == flatten(config.model_dump(mode="json")) | same


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &x 1\nb: *x\n", r"line 2 has an alias \(\*name\), which settings do not need; write the value out"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "line 3 has an alias"),
        ("a: &x [*x]\n", "line 1 has an alias"),
        ("[" * 60_000, "nested too deeply"),
        ("- " * 30_000, "nested too deeply"),
        ("#" * (2**16 + 1), "longer than 65536 characters"),
        (
            "b: 0\na: 1" + ":1" * 30_000,
            "line 2 has '1:1:1:1:1:1:1:1:1:1:', to YAML a number in base 60; put it in quotes",
        ),
        ("a: 1" + ":1" * 300 + ".0", "line 1 has '1:1:"),
        ("a: !!int 1:30", "line 1 has '1:30'"),
        ("a: 2024-13-45\n", "month must be in 1..12"),
        (f"a: {'9' * 5000}\n", r"line 1 has a whole number of 5000 digits \(9{20}\.\.\.\); at most 20 are read"),
        (f"a: [1, 0x{'f' * 4000}]\n", r"line 1 has a whole number of 4002 digits \(0xf{18}\.\.\.\)"),
        ("b: 1\na: !!bool abc\n", r"line 2 has a tag \(!!bool\), which settings do not need; leave it out"),
        ("a: !!timestamp abc", r"has a tag \(!!timestamp\)"),
        ("a: !!float ''", r"has a tag \(!!float\)"),
        ("a: !!set {b}", r"has a tag \(!!set\)"),
        ("a: [!mine 1]", r"has a tag \(!mine\)"),
    ],
)
def test_a_settings_file_that_grows_or_breaks_the_reader_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    for read in (load_stored_config, load_space):
        with pytest.raises(InputError, match=rf"config.yaml: not valid YAML \(.*{reason}"):
            read(path)
    if text[0] == "[":
        with pytest.raises(InputError, match=f"the value is not valid YAML .*{reason}"):
            parse_overrides([f"patch.size={text}"])


def test_an_alias_on_the_command_line_is_refused() -> None:
    with pytest.raises(InputError, match=r"not valid YAML \(line 1 has an alias"):
        parse_overrides(["patch.size=[&a 8, *a, *a]"])


def test_sizes_of_a_foreign_file_are_bounded() -> None:
    changes = {
        "network.widths": [2**17, 8, 8, 8],
        "network.bottleneck.mlp_width": 2**17,
        "network.bottleneck.position_grid": [4096, 4096, 4096],
        "network.idh_head.hidden": [8] * 17,
        "patch.size": [4096, 8, 8],
        "mc.passes": 10**9,
        "mc.passes_per_forward": 10**9,
        "inference.overlap": 0.91,
        "data.prepare.spacing_mm": 0.29,
    }
    with pytest.raises(InputError) as caught:
        override(Config(), changes)
    named = " ".join(caught.value.problems)
    assert all(name in named for name in changes)
    with pytest.raises(InputError, match=r"size \(512, 256, 136\) has 17825792 voxels; at most 16777216 \(256x256x"):
        override(Config(), {"patch.size": [512, 256, 136]})
    limits = {"patch.size": [512, 256, 128], "inference.overlap": 0.9, "data.prepare.spacing_mm": 0.3}
    assert override(Config(), limits).patch.size == (512, 256, 128)


@pytest.mark.parametrize("change", ["self_training.teacher=best", "self_training.init=fresh"])
def test_a_kept_optimiser_needs_the_weights_of_the_round_before(change):
    (problem,) = problems_of("self_training.optimiser=kept", change)
    assert "a state of Adam belongs to the weights of the round before" in problem


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("train.quotas.unlabelled=4",), "network.tasks has idh, which would be shown no true label"),
        (("train.quotas.labelled=3", "train.quotas.unlabelled=1", "network.tasks=[idh]"), "would teach nothing"),
        (("self_training.init=fresh", "train.keep_start=true"), "but train.keep_start is set"),
        (("self_training.init=fresh", "train.start_from=runs/first"), "but train.start_from is set"),
    ],
)
def test_settings_of_rounds_that_would_have_no_effect_are_refused(changes, said):
    (problem,) = problems_of(*changes)
    assert said in problem

import pytest
import yaml
from search_cases import make_space, problems_of, write_space

from mttu.config import Config, override
from mttu.errors import InputError
from mttu.search.presets import preset
from mttu.search.space_values import Choice, Integer, LogUniform, Uniform
from mttu.search.spaces import Asha, Plan, expand, load_space, read_space

DEPTH, KIND = "network.bottleneck.num_layers", "network.bottleneck.kind"
LR = "optim.lr"
TRAINS = {"train.epochs": 100, "train.validate_every": 5}


def test_a_whole_file_is_read(tmp_path):
    space = make_space(
        tmp_path,
        {
            KIND: {"choice": ["transformer", "convolution"]},
            DEPTH: {"integer": [1, 6], "step": 2, "when": {KIND: "transformer"}},
            LR: {"log_uniform": [1e-4, 1e-2]},
            "loss.dice_weight": {"uniform": [0.2, 0.8], "step": 0.1},
            "ablation": {"choice": ["pcgrad", "equal-weights"]},
        },
        description="What is asked.",
        run="train",
        metric="val/idh_ce",
        searcher="tpe",
        samples=20,
        seed=3,
        scheduler={"kind": "asha", "grace": 5, "factor": 4},
        concurrency=2,
        settings=TRAINS,
    )
    assert space.plan == Plan(
        description="What is asked.",
        run="train",
        metric="val/idh_ce",
        searcher="tpe",
        samples=20,
        seed=3,
        scheduler=Asha(grace=5, factor=4),
        concurrency=2,
        settings=TRAINS,
    )
    assert [(one.name, one.values, dict(one.when)) for one in space.parameters] == [
        (KIND, Choice(choice=["transformer", "convolution"]), {}),
        (DEPTH, Integer(integer=(1, 6), step=2), {KIND: "transformer"}),
        (LR, LogUniform(log_uniform=(1e-4, 1e-2)), {}),
        ("loss.dice_weight", Uniform(uniform=(0.2, 0.8), step=0.1), {}),
        ("ablation", Choice(choice=["pcgrad", "equal-weights"]), {}),
    ]
    assert [one.values.list_all() for one in space.parameters] == [
        ["transformer", "convolution"],
        range(1, 6, 2),
        None,
        [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
        ["pcgrad", "equal-weights"],
    ]


@pytest.mark.parametrize(
    ("metric", "mode", "maximise"),
    [
        ("val/score", None, True),
        ("val/idh_brier", None, False),
        ("val/idh_ce", "max", True),
        ("val/dice", "min", False),
    ],
)
def test_what_is_better_is_known_of_each_metric_unless_given(tmp_path, metric, mode, maximise):
    assert make_space(tmp_path, {LR: {"choice": [1e-3]}}, metric=metric, mode=mode).maximise is maximise


def test_no_scheduler_may_be_written_out(tmp_path):
    assert make_space(tmp_path, {LR: {"choice": [1e-3]}}, scheduler="none").plan.scheduler is None


def test_a_file_of_format_1_is_a_grid_in_its_order(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("format_version: 1\ndescription: two\nspace:\n  train.seed: [1, 0]\n  optim.lr: [0.001, 0.0001]\n")
    space = load_space(path)
    assert space.plan == Plan(description="two")
    assert list(space.list_grid()) == [
        {"train.seed": 1, LR: 1e-3},
        {"train.seed": 1, LR: 1e-4},
        {"train.seed": 0, LR: 1e-3},
        {"train.seed": 0, LR: 1e-4},
    ]


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        (
            {"format_version": 1, "trials": 3, "searcher": "tpe", "space": {LR: [1e-3]}},
            [
                "searcher: not known here; format 1 holds format_version, description and space",
                "trials: not known here; format 1 holds format_version, description and space",
            ],
        ),
        (
            {"format_version": 1, "space": {"train.seed": 3, LR: [0.1, 0.1], DEPTH: []}},
            [
                f"space.{DEPTH}: choice: List should have at least 1 item after validation, not 0, found []",
                "space.optim.lr: 0.1 is listed twice",
                "space.train.seed: choice: Input should be a valid list, found 3",
            ],
        ),
        (
            {"format_version": 1},
            ["space: found None; expected settings, each with the values to try"],
        ),
        (
            {"format_version": 3, "space": []},
            [
                "format_version is 3; this version of mttu reads 1 and 2",
                "space: found []; expected settings, each with the values to try",
            ],
        ),
        (
            {"space": {LR: [1]}},
            ["format_version is None; this version of mttu reads 1 and 2"],
        ),
    ],
)
def test_other_formats_are_refused(tmp_path, content, problems):
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(content))
    assert sorted(problems_of(path)) == sorted(problems)


RATE = {LR: {"choice": [1e-3]}}
KINDS = "expected one of choice, uniform, log_uniform, integer"


@pytest.mark.parametrize(
    ("others", "problems"),
    [
        ({"trials": 3}, ["trials: not known here, found 3"]),
        ({"run": "predict"}, ["run: Input should be 'train', 'self-train' or 'select', found 'predict'"]),
        (
            {"metric": "val/loss"},
            [
                "metric 'val/loss': unknown for run train; choose one of val/score, val/dice, val/dice_wt, "
                "val/dice_tc, val/dice_et, val/idh_auc, val/idh_accuracy, val/idh_sensitivity, val/idh_specificity, "
                "val/idh_ce, val/idh_brier"
            ],
        ),
        ({"run": "select"}, ["metric 'val/score': unknown for run select; choose one of error, coverage"]),
        ({"mode": "best"}, ["mode: Input should be 'max' or 'min', found 'best'"]),
        ({"searcher": "bayes"}, ["searcher: Input should be 'tpe', 'random' or 'grid', found 'bayes'"]),
        ({"searcher": "tpe"}, ["samples: needed by the searchers tpe and random, of no use to grid"]),
        ({"samples": 3}, ["samples: needed by the searchers tpe and random, of no use to grid"]),
        ({"searcher": "random", "samples": 0}, ["samples: Input should be greater than or equal to 1, found 0"]),
        ({"seed": -1}, ["seed: Input should be greater than or equal to 0, found -1"]),
        ({"concurrency": 0}, ["concurrency: Input should be greater than or equal to 1, found 0"]),
        (
            {"run": "self-train", "scheduler": {"grace": 5}},
            ["scheduler: asha stops trials between epochs, which run self-train does not have"],
        ),
        ({"scheduler": {"kind": "median"}}, ["scheduler.kind: Input should be 'asha', found 'median'"]),
        (
            {"scheduler": {"factor": 1, "max_t": 9}},
            [
                "scheduler.factor: Input should be greater than or equal to 2, found 1",
                "scheduler.max_t: not known here, found 9",
            ],
        ),
        (
            {"scheduler": {"grace": 100}, "settings": TRAINS},
            ["scheduler.grace: 100, but train.epochs is 100"],
        ),
        (
            {"scheduler": {"grace": 4}, "settings": TRAINS},
            [
                "scheduler.grace: 4, but validation is every 5 epochs only (train.validate_every); set that under "
                "settings"
            ],
        ),
        ({"settings": {"optim.rate": 1}}, ["settings: optim.rate: no such setting; known there: lr, weight_decay, "]),
        (
            {"settings": {"optim": {"weight_decay": -1}}},
            ["settings: optim.weight_decay: Input should be greater than or equal to 0, found -1"],
        ),
        ({"settings": {"optim": {"lr": 1e-2}}}, [f"space.{LR}: is under settings, too; leave one of them out"]),
        (
            {"settings": {"output.name": "a", "data": {"manifest": "b", "folds": 2}, "tracking": {"uri": "c"}}},
            [
                "settings.output.name: is not for a space; give it on the command line",
                "settings.data.manifest: is not for a space; give it on the command line",
                "settings.data.folds: is not for a space; give it on the command line",
                "settings.tracking.uri: is not for a space; give it on the command line",
            ],
        ),
    ],
)
def test_a_refused_plan_names_file_and_key(tmp_path, others, problems):
    found = problems_of(write_space(tmp_path, RATE, **others))
    assert len(found) == len(problems)
    for problem, expected in zip(found, problems, strict=True):
        assert problem == expected or (expected.endswith(", ") and problem.startswith(expected))


@pytest.mark.parametrize(
    ("space", "problems"),
    [
        ({"optim.rate": {"choice": [1]}}, ["space: optim.rate: no such setting; known there: lr, "]),
        (
            {DEPTH: {"choice": [4, 7]}, "train.seed": {"choice": [-1]}},
            [
                f"space: {DEPTH}: Input should be less than or equal to 6, found 7",
                "space: train.seed: Input should be greater than or equal to 0, found -1",
            ],
        ),
        ({DEPTH: {"integer": [1, 7]}}, [f"space: {DEPTH}: Input should be less than or equal to 6, found 7"]),
        ({"network.bottleneck.kind": {"choice": ["rnn"]}}, ["space: network.bottleneck: Input tag 'rnn' found "]),
        ({LR: [1e-3]}, [f"space.{LR}: found [0.001]; {KINDS}"]),
        ({LR: {"normal": [0, 1]}}, [f"space.{LR}: found {{'normal': [0, 1]}}; {KINDS}"]),
        (
            {LR: {"choice": [1], "integer": [1, 2]}},
            [f"space.{LR}: found {{'choice': [1], 'integer': [1, 2]}}; {KINDS}"],
        ),
        ({LR: {"choice": [1], "step": 2}}, [f"space.{LR}: step: not known here, found 2"]),
        ({LR: {"uniform": [0.5, 0.1]}}, [f"space.{LR}: [0.5, 0.1]: the first must be below the second"]),
        (
            {LR: {"uniform": [0.5, float("inf")]}},
            [f"space.{LR}: uniform.1: Input should be a finite number, found inf"],
        ),
        ({LR: {"uniform": [0.1, 0.5], "step": 0}}, [f"space.{LR}: step: Input should be greater than 0, found 0"]),
        ({LR: {"log_uniform": [0, 1]}}, [f"space.{LR}: log_uniform.0: Input should be greater than 0, found 0"]),
        ({LR: {"log_uniform": [1e-3]}}, [f"space.{LR}: log_uniform.1: Field required"]),
        ({"train.seed": {"integer": [2, 2]}}, ["space.train.seed: [2, 2]: the first must be below the second"]),
        (
            {"train.seed": {"integer": [0.5, 2]}},
            [
                "space.train.seed: integer.0: Input should be a valid integer, got a number with a fractional part, "
                "found 0.5"
            ],
        ),
        ({LR: {"choice": [1e-3, 1e-3]}}, [f"space.{LR}: 0.001 is listed twice"]),
        ({LR: {"choice": [1], "when": 3}}, [f"space.{LR}: when: found 3; expected settings and their values"]),
        ({"ablation": {"integer": [1, 2]}}, ["space.ablation: expected a choice of names"]),
        (
            {"ablation": {"choice": ["pcgrad", "dropout", ["pcgrad"], "ups"]}},
            [
                "space.ablation: ablation 'dropout': unknown; `mttu ablations` lists them",
                "space.ablation: ablation ['pcgrad']: unknown; `mttu ablations` lists them",
                "space.ablation: ablation ups has no effect on run train; choose run self-train",
            ],
        ),
        (
            {
                "output.name": {"choice": ["a"]},
                "data": {"choice": [{"manifest": "a"}]},
                "data.fold_seed": {"choice": [1]},
            },
            [
                "space.output.name: is the same for all trials; give it on the command line",
                "space.data: is the same for all trials; give it on the command line",
                "space.data.fold_seed: is the same for all trials; give it on the command line",
            ],
        ),
        (
            {"workers.num_workers": {"choice": [1, 2]}, "workers.device": {"choice": ["cpu"]}},
            [
                f"space.{name}: every trial takes the same place in the cluster; give it on the command line"
                for name in ("workers.num_workers", "workers.device")
            ],
        ),
        (
            {
                "mc.passes": {"choice": [5]},
                "selection.method": {"choice": ["UPS"]},
                "self_training.epochs": {"choice": [5]},
                "self_training.rounds": {"choice": [1, 2]},
            },
            [
                f"space.{name}: has no effect on run train; choose run self-train"
                for name in ("mc.passes", "selection.method", "self_training.epochs", "self_training.rounds")
            ],
        ),
    ],
)
def test_a_refused_space_names_file_and_key(tmp_path, space, problems):
    found = problems_of(write_space(tmp_path, space))
    assert len(found) == len(problems), found
    for problem, expected in zip(found, problems, strict=True):
        assert problem == expected or (expected[-1] == " " and problem.startswith(expected))


def test_a_grid_needs_values_that_can_be_listed(tmp_path):
    space = {
        LR: {"log_uniform": [1e-4, 1e-2]},
        "loss.dice_weight": {"uniform": [0.2, 0.8]},
        "train.seed": {"integer": [0, 1]},
    }
    assert problems_of(write_space(tmp_path, space)) == [
        f"space.{name}: a grid needs a choice, an integer, or a step" for name in (LR, "loss.dice_weight")
    ]
    assert problems_of(write_space(tmp_path, space, searcher="random", samples=2)) == []


def test_stored_scores_know_of_thresholds_alone(tmp_path):
    space = {"selection.confidence_threshold": {"uniform": [0.5, 0.9]}, "mc.passes": {"choice": [5]}, **RATE}
    asked = {"run": "select", "metric": "error", "searcher": "random", "samples": 5}
    assert problems_of(write_space(tmp_path, space, **asked)) == [
        f"space.{name}: stored scores depend on selection.confidence_threshold and "
        "selection.uncertainty_threshold alone"
        for name in ("mc.passes", LR)
    ]


def test_conditions_that_are_never_met_are_refused(tmp_path):
    space = {
        DEPTH: {"integer": [1, 6], "when": {KIND: "transformer"}},
        KIND: {"choice": ["transformer"]},
        "network.bottleneck.num_blocks": {"choice": [1], "when": {KIND: "convolution"}},
        LR: {"log_uniform": [1e-4, 1e-2]},
        "train.seed": {"integer": [0, 1], "when": {LR: 1e-3, DEPTH: 7}},
    }
    assert problems_of(write_space(tmp_path, space, searcher="random", samples=2)) == [
        f"space.{DEPTH}: when names {KIND}, which no earlier line searches",
        f"space.network.bottleneck.num_blocks: when: {KIND} is never 'convolution'",
        f"space.train.seed: when names {LR}, a range without a step; a draw never has just that value",
        f"space.train.seed: when: {DEPTH} is never 7",
    ]


def test_values_are_checked_under_their_conditions_and_those_of_these(tmp_path):
    """`num_blocks` exists with convolution alone, which the last line has by the condition of the line before."""
    space = {
        KIND: {"choice": ["transformer", "convolution"]},
        "network.bottleneck.num_blocks": {"choice": [2, 4], "when": {KIND: "convolution"}},
        "network.bottleneck.width": {"choice": [64, 100], "when": {"network.bottleneck.num_blocks": 4}},
    }
    assert problems_of(write_space(tmp_path, space)) == []  # a transformer of 8 heads refuses a width of 100
    del space["network.bottleneck.num_blocks"]["when"]
    (problem,) = {problem[:60] for problem in problems_of(write_space(tmp_path, space))}
    assert problem.startswith("space: network.bottleneck")


def test_values_are_checked_over_the_settings_that_they_are_laid_over(tmp_path):
    path = write_space(tmp_path, {"network.bottleneck.num_heads": {"choice": [8, 32]}})
    assert problems_of(path) == []
    (problem,) = problems_of(path, override(Config(), {"network.bottleneck.width": 72}))
    assert problem == "space: network.bottleneck: width 72 is not a multiple of num_heads 32"


def test_every_combination_of_a_grid_is_checked(tmp_path):
    """Each value is fine by itself over a width of 256 with 8 heads."""
    width, heads = "network.bottleneck.width", "network.bottleneck.num_heads"
    space = {width: {"choice": [128, 72]}, heads: {"choice": [8, 16]}}
    drawn = {width: 72, heads: 16}
    assert problems_of(write_space(tmp_path, space)) == [
        f"space: {drawn}: network.bottleneck: width 72 is not a multiple of num_heads 16"
    ]
    assert problems_of(write_space(tmp_path, space, searcher="random", samples=3)) == []


def test_a_grid_leaves_out_what_has_no_effect(tmp_path):
    space = make_space(
        tmp_path,
        {
            KIND: {"choice": ["transformer", "convolution"]},
            DEPTH: {"integer": [2, 6], "step": 2, "when": {KIND: "transformer"}},
            "train.seed": {"integer": [0, 1], "when": {DEPTH: 4}},
            LR: {"uniform": [0.5, 1.0], "step": 0.5},
        },
    )
    deep = [{KIND: "transformer", DEPTH: depth} for depth in (2, 4, 4, 6)]
    expected = [
        {**deep[0], LR: 0.5},
        {**deep[0], LR: 1.0},
        {**deep[1], "train.seed": 0, LR: 0.5},
        {**deep[1], "train.seed": 0, LR: 1.0},
        {**deep[2], "train.seed": 1, LR: 0.5},
        {**deep[2], "train.seed": 1, LR: 1.0},
        {**deep[3], LR: 0.5},
        {**deep[3], LR: 1.0},
        {KIND: "convolution", LR: 0.5},
        {KIND: "convolution", LR: 1.0},
    ]
    assert list(space.list_grid()) == expected


def test_names_of_ablations_become_their_changes():
    assert expand({LR: 0.5, "ablation": "modalities-flair-t2"}) == {
        "data.modalities": ["flair", "t2"],
        "network.in_channels": 2,
        LR: 0.5,
    }
    assert expand({"ablation": "layers-2", DEPTH: 3}) == {KIND: "transformer", DEPTH: 3}
    assert expand({LR: 0.5}) == {LR: 0.5}


def test_what_decides_the_trials_is_described_without_how_many_there_are(tmp_path):
    drawn = {LR: {"log_uniform": [1e-4, 1e-2]}, DEPTH: {"choice": [1, 2]}}
    asked = {"searcher": "random", "description": "a", "samples": 3, "concurrency": 1}
    one = make_space(tmp_path, drawn, **asked).describe()
    assert (
        make_space(tmp_path, drawn, **{**asked, "description": "b", "samples": 9, "concurrency": 2}).describe() == one
    )
    assert make_space(tmp_path, drawn, **asked, seed=1).describe() != one
    assert make_space(tmp_path, dict(reversed(drawn.items())), **asked).describe() != one  # in another order
    assert one["space"] == [
        {"name": LR, "log_uniform": [1e-4, 1e-2], "when": {}},
        {"name": DEPTH, "choice": [1, 2], "when": {}},
    ]


def test_a_gone_setting_says_what_it_is_now(tmp_path):
    """A search over it would be one over two settings at a time."""
    path = tmp_path / "space.yaml"
    path.write_text("format_version: 1\nspace:\n  train.batch_size: [1, 2]\n")
    with pytest.raises(InputError, match=r"space.yaml: space: train\.batch_size: is now two settings; set train\.glo"):
        load_space(path)


@pytest.mark.parametrize("name", ["paper", "small", "demo"])
def test_every_depth_is_tried_on_every_preset(tmp_path, name):
    path = write_space(tmp_path, {DEPTH: {"integer": [0, 6]}})
    assert [one[DEPTH] for one in load_space(path, preset(name)).list_grid()] == [0, 1, 2, 3, 4, 5, 6]


def test_numbers_without_a_point_are_numbers(tmp_path):
    """YAML reads 1e-4 as text."""
    path = tmp_path / "space.yaml"
    path.write_text("format_version: 2\nspace:\n  optim.lr: {choice: [1e-4, 2E+1, .5]}\n  output: {choice: [x]}\n")
    (problem,) = problems_of(path)
    assert problem.startswith("space.output: ")
    path.write_text(path.read_text().replace("  output: {choice: [x]}\n", ""))
    assert read_space(path).parameters[0].values.choice == [1e-4, 20.0, 0.5]


def test_conditions_read_numbers_as_choices_do(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(
        "format_version: 2\nspace:\n  optim.lr: {choice: [1e-4, 1e-3]}\n"
        "  train.seed: {choice: [0, 1], when: {optim.lr: 1e-4}}\n"
    )
    assert len(list(load_space(path).list_grid())) == 3


@pytest.mark.parametrize(
    ("metric", "space"),
    [
        ("val/idh_auc", {"network.tasks": {"choice": [["segmentation"], ["segmentation", "idh"]]}}),
        ("val/dice", {"ablation": {"choice": ["clsnet", "mttu-net"]}}),
    ],
)
def test_a_metric_that_a_trial_cannot_have_is_refused(tmp_path, metric, space):
    (problem,) = problems_of(write_space(tmp_path, space, metric=metric))
    assert problem.startswith(f"metric {metric}: with network.tasks ['")


def test_what_an_ablation_changes_is_not_changed_elsewhere(tmp_path):
    rows = {"ablation": {"choice": ["pcgrad", "equal-weights"]}}
    both = {**rows, "loss.task_weighting": {"choice": ["equal"]}}
    assert problems_of(write_space(tmp_path, both)) == [
        "space.loss.task_weighting: is changed by rows of ablation, too; leave one of them out"
    ]
    (problem,) = problems_of(write_space(tmp_path, rows, settings={"loss.task_weighting": "equal"}))
    assert problem.startswith("space.ablation: its rows change loss.task_weighting, which is under settings")
    assert make_space(tmp_path, rows).list_searched() == {"ablation", "loss.task_weighting"}


def test_a_problem_of_all_values_is_told_once(tmp_path):
    base = override(Config(), {"workers.num_workers": 3})
    path = write_space(tmp_path, {LR: {"choice": [1e-3, 1e-2, 1e-1]}})
    with pytest.raises(InputError) as caught:
        load_space(path, base)
    assert len(caught.value.problems) == 1
    path = write_space(tmp_path, {"train.global_batch": {"choice": [2, 3]}})
    (problem,) = problems_of(path, base)
    assert problem.startswith("space: workers.num_workers: 3 is more than train.global_batch (2)")

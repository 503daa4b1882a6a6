"""What is refused before a search starts."""

from dataclasses import replace

import pytest
from search_cases import SHORT, Pretending, make_space, search

from mttu.config import override
from mttu.data.manifest import read_manifest, write_manifest
from mttu.errors import InputError, RunError
from mttu.search.study import prepare_search
from mttu.training.inputs import check_inputs
from mttu.training.run import run_training

LR, KIND = "optim.lr", "network.bottleneck.kind"
RATES = {LR: {"choice": [1e-3, 1e-2]}}


def test_what_cannot_be_searched_is_refused(tiny, tmp_path):
    space = make_space(tmp_path, RATES, tiny)
    with pytest.raises(InputError, match=r"data\.folds: a search scores each trial on the val cases; leave it at 0"):
        prepare_search(space, override(tiny, {"data.folds": 2}))
    with pytest.raises(InputError, match=r"data\.manifest: not set"):
        prepare_search(space, override(tiny, {"data.manifest": None}))
    manifest = read_manifest(tiny.data.manifest)
    kept = tuple(case for case in manifest.cases if case.split != "val")
    write_manifest(type(manifest)(**{**vars(manifest), "cases": kept}), tmp_path / "no_val.parquet")
    with pytest.raises(InputError) as caught:
        prepare_search(space, override(tiny, {"data.manifest": str(tmp_path / "no_val.parquet")}))
    assert caught.value.problems == [
        f"{space.path}: metric val/score: {tmp_path / 'no_val.parquet'} has no val case, on which trials are compared"
    ]


def test_training_and_search_never_share_a_folder(tiny, tmp_path, undrawn):
    """Of the same settings and data."""
    config = override(tiny, SHORT)

    def switch_off(*arguments):
        raise RunError("the machine was switched off")

    with pytest.raises(RunError, match="switched off"):
        run_training(config, switch_off)
    run = Pretending()
    with pytest.raises(
        InputError, match=r"other settings or data \(manifest or prepared cases: \w{12} -> of a search: \w{12}\)"
    ):
        search(tiny, tmp_path, RATES, run)
    assert run.names == []
    other = override(config, {"output.name": "search"})
    search(other, tmp_path, RATES, Pretending())
    with pytest.raises(
        InputError, match=r"other settings or data \(manifest or prepared cases: of a search: \w{12} -> \w{12}\)"
    ):
        run_training(other, switch_off)


@pytest.mark.parametrize(
    ("metric", "change", "problem"),
    [
        ("val/dice_wt", {"seg": None}, "no val case of {} has a mask; choose another metric"),
        ("val/idh_auc", {"idh": 1}, "the val cases of {} lack one or both IDH classes; choose another metric"),
        ("val/idh_ce", {"idh": -1}, "the val cases of {} lack one or both IDH classes; choose another metric"),
        ("val/idh_ce", {"idh": 1}, None),
        ("val/idh_auc", {"seg": None}, None),
    ],
)
def test_a_metric_that_the_val_cases_do_not_define_is_refused(tiny, tmp_path, metric, change, problem, monkeypatch):
    manifest = read_manifest(tiny.data.manifest)
    cases = tuple(replace(case, **change) if case.split == "val" else case for case in manifest.cases)
    poor = replace(manifest, cases=cases)
    whole = check_inputs(tiny)
    monkeypatch.setattr("mttu.search.study.check_inputs", lambda config: replace(whole, manifest=poor))
    space = make_space(tmp_path, RATES, tiny, metric=metric)
    if problem is None:
        assert prepare_search(space, tiny).space == space
        return
    with pytest.raises(InputError) as caught:
        prepare_search(space, tiny)
    assert caught.value.problems == [f"{space.path}: metric {metric}: {problem.format(tiny.data.manifest)}"]


def test_a_batch_that_the_workers_cannot_share_is_refused(tiny, tmp_path):
    config = override(tiny, {"workers.num_workers": 2})
    with pytest.raises(InputError, match=r"workers\.num_workers: 2 does not divide train\.global_batch \(3\)"):
        make_space(tmp_path, {"train.global_batch": {"choice": [2, 3]}}, config)


def test_conditions_of_conditions_count_before_a_search_starts(tiny, tmp_path):
    """A width of 18 is refused with the transformer's 4 heads, which the last line never meets."""
    space = {
        KIND: {"choice": ["transformer", "convolution"]},
        "network.bottleneck.num_blocks": {"choice": [2, 4], "when": {KIND: "convolution"}},
        "network.bottleneck.width": {"choice": [16, 18], "when": {"network.bottleneck.num_blocks": 4}},
    }
    config = override(tiny, {"network.bottleneck.num_heads": 4})
    loaded = make_space(tmp_path, space, config)
    assert prepare_search(loaded, config).space == loaded

"""The networks of a cross-validation score the pool for round 1."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_self_training import scoring, stopping
from typer.testing import CliRunner

from mttu.cli import app
from mttu.config import override
from mttu.data.manifest import read_manifest, write_manifest
from mttu.errors import InputError, RunError
from mttu.pseudo_labels.reports import read_selection
from mttu.pseudo_labels.score_table import read_scores
from mttu.self_training import run_self_training
from mttu.self_training.fold_teacher import describe_teaching
from mttu.self_training.round_folder import read_record
from mttu.training.folds import cross_validate
from mttu.training.run import launch_locally

pytestmark = pytest.mark.usefixtures("sketches")
REPOSITORY = Path(__file__).resolve().parents[2]
RANKED = {"selection.method": "UPS", "selection.rule": "rank", "selection.calibrate": "temperature+bias"}


@pytest.fixture(scope="module")
def folds(make_tiny, pool_manifest, pool_cache, tmp_path_factory):
    """Run folder of two networks, each with three of the six labelled cases held out. Not to be changed."""
    place = tmp_path_factory.mktemp("folds")
    write_manifest(pool_manifest, place / "pool.parquet")
    changes = {
        "data.manifest": str(place / "pool.parquet"),
        "data.cache_dir": str(pool_cache),
        "data.folds": 2,
        "patch.size": [24, 24, 24],
        "train.epochs": 1,
    }
    return cross_validate(override(make_tiny(place), changes), launch_locally)


@pytest.fixture
def config(make_config, folds, monkeypatch):
    monkeypatch.setattr("mttu.pseudo_labels.prior.LEAST_OF_A_CLASS", 1)
    monkeypatch.setattr("mttu.self_training.algorithm.log_round", lambda *arguments: None)  # pictures take seconds
    monkeypatch.setattr("mttu.self_training.evaluation.log_finish", lambda *arguments: None)
    of_folds = {"self_training.teacher": "ensemble", "self_training.ensemble": str(folds)}
    return make_config({**RANKED, **of_folds, "train.epochs": 1})


def files_of(folder, *names):
    return {(place, name): (folder / place / name).read_bytes() for place in ("round_1", "round_2") for name in names}


def test_they_score_the_pool_for_round_1_alone(config, folds, here, tmp_path):
    folder = run_self_training(config, here)
    first, second = (read_scores(folder / f"round_{number}" / "scores.parquet") for number in (1, 2))
    assert (first.about["ensemble"], first.about["members"]) == (True, 2)
    assert all(row.member_deviation > 0 for row in first.rows)
    records = [read_record(folder / f"round_{number}") for number in range(3)]
    known = "networks of the ensemble learned from the patients of 2 of 2 validation cases"  # one of both, each
    assert [record.notes[0].startswith(known) for record in records[1:]] == [True, False]
    assert not [
        note for record in records for note in record.notes if "deviates less" in note
    ]  # a rank has no threshold
    assert [record.teacher for record in records] == [None, "ensemble", None]
    assert second.about["weights_sha256"] == records[1].weights_sha256
    assert {row.member_deviation for row in second.rows} == {None}
    assert records[1].started_from == records[0].weights_sha256  # which the rounds train on from
    for number in (1, 2):
        held_out = read_scores(folder / "round_1" / f"fold_{number}_val_scores.parquet")
        drawn = read_manifest(folds / "manifests" / f"fold_{number}.parquet").split("val")
        assert [row.case_id for row in held_out.rows] == sorted(case.case_id for case in drawn)
        assert held_out.about["learned_from"] == []
        assert held_out.about["checkpoint"] == f"fold_{number}/best"

    # the ensemble is not read again: a finished round 1 goes on without it
    gone = override(config, {"self_training.ensemble": "gone"})
    assert run_self_training(gone, here) == folder
    with pytest.raises(InputError, match=r"self_training\.ensemble gone: is no finished cross-validation"):
        run_self_training(gone, here, fresh=True)
    assert read_record(folder / "round_1") == records[1]  # the old run was not put aside

    # stopped while the pool, then the folds' val cases are scored, and in training, it ends with the same bytes
    again = override(config, {"output.folder": str(tmp_path / "stopped")})
    for at in ("score-1", "score-1", "train-0"):
        broken, _ = stopping(here, at)
        with pytest.raises(RunError, match=f"stopped in {at}"):
            run_self_training(again, broken)
    names = ("selection.parquet", "round.json", "best/weights.safetensors")
    assert files_of(run_self_training(again, here), *names) == files_of(folder, *names)


def test_thresholds_of_one_network_are_doubted(config, pool_manifest):
    plain = {"selection.rule": "thresholds", "selection.calibrate": "none", "selection.prior": "none"}
    by_thresholds = override(config, {**plain, "selection.uncertainty_threshold": 0.05})
    [doubt] = [note for note in describe_teaching(by_thresholds, pool_manifest) if "deviates less" in note]
    assert "selection.uncertainty_threshold=0.05 leaves out fewer cases than with one network" in doubt
    without = override(by_thresholds, {"selection.method": "CPL"})  # which has no threshold of it
    assert not [note for note in describe_teaching(without, pool_manifest) if "deviates less" in note]


def test_probabilities_are_calibrated_on_the_val_cases_of_all_folds(config, here, pool_manifest):
    known = {case.case_id: 0.7 if case.idh else 0.3 for case in pool_manifest.cases if case.split in ("train", "val")}
    said = scoring(lambda name: [known.get(name, 0.6)] * 2)
    folder = run_self_training(override(config, {"self_training.rounds": 1}), replace(here, score=said))
    selection, _ = read_selection(folder / "round_1" / "selection.parquet")
    assert (selection.estimates.num_cases, selection.estimates.num_mutant) == (6, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"self_training.ensemble": None}, "self_training.teacher is ensemble and self_training.ensemble is not set"),
        ({"self_training.teacher": "last"}, "but self_training.teacher is last; set teacher=ensemble"),
        ({"self_training.ensemble": "elsewhere"}, "self_training.ensemble elsewhere: is no finished cross-validation"),
        ({"data.folds": 2}, "self_training.teacher is ensemble but data.folds is 2; its networks know the val cases"),
        (
            {"self_training.thresholds": "search", "selection.rule": "thresholds", "selection.calibrate": "none"},
            "self_training.thresholds is search but self_training.teacher is ensemble; thresholds of single networks",
        ),
    ],
)
def test_what_cannot_teach_is_refused(config, here, changes, message):
    with pytest.raises(InputError) as caught:
        run_self_training(override(config, changes), here)
    assert message in str(caught.value)


@pytest.mark.parametrize("split", ["test", "unlabelled"])
def test_networks_that_learned_from_patients_of_test_or_pool_are_refused(config, here, pool_manifest, tmp_path, split):
    moved = pool_manifest.split("train")[0]
    changed = replace(moved, split=split, idh=-1 if split == "unlabelled" else moved.idh)
    cases = [changed if case == moved else case for case in pool_manifest.cases]
    write_manifest(replace(pool_manifest, cases=tuple(cases)), tmp_path / "moved.parquet")
    with pytest.raises(InputError, match=rf"learned from the patients of {split} cases {moved.case_id}; their labels"):
        run_self_training(override(config, {"data.manifest": str(tmp_path / "moved.parquet")}), here)


@pytest.mark.parametrize(
    "words", [("ablate", "VII"), ("tune", str(REPOSITORY / "tune_spaces" / "ups_thresholds.yaml"))]
)
def test_searches_and_ablations_have_no_ensemble(tmp_path, words):
    of_folds = ["data.manifest=any.parquet", "self_training.teacher=ensemble", f"self_training.ensemble={tmp_path}"]
    result = CliRunner().invoke(app, [*words, *of_folds])
    assert isinstance(result.exception, InputError)
    assert "an ensemble teaches a single self-training" in str(result.exception)

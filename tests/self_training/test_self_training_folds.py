"""Cross-validation of tiny self-trainings in this process."""

import json
from dataclasses import replace

import pytest

from mttu.data.manifest import read_manifest
from mttu.errors import InputError
from mttu.networks.ensemble import describe_checkpoint
from mttu.self_training import cross_validate_self_training, run_self_training
from mttu.training.folds import read_folds_table

pytestmark = pytest.mark.usefixtures("sketches")

FOLDS = {
    "data.folds": 2,
    "self_training.rounds": 1,
    "self_training.thresholds": "search",
    "selection.method": "CPL",
    "train.epochs": 1,
}


class StoppedError(Exception):
    pass


def store_as_before(mark):
    """Rewrites a cross-validation to what versions without `data.folds` stored of it."""
    content = json.loads(mark.read_text())
    for name in ("folds", "fold_seed"):
        content["settings"][f"self_training.{name}"] = content["settings"].pop(f"data.{name}")
    mark.write_text(json.dumps(content))


def test_each_fold_is_a_whole_self_training_and_a_stopped_one_goes_on(make_config, here):
    scored, steps = {}, []

    def score(plan, on_row):
        scored.setdefault(plan.checkpoint.parent.parent.name, set()).update(case.case_id for case in plan.cases)
        return here.score(plan, on_row)

    def stop(step):
        steps.append(step)
        if (step.fold, step.round, step.phase) == (2, 1, "train"):
            raise StoppedError

    seeing = replace(here, score=score)
    with pytest.raises(StoppedError):
        cross_validate_self_training(make_config(FOLDS), seeing, show=stop)
    for name, value, message in (
        ("data.folds", 3, r"data\.folds: 2 -> 3"),
        ("data.fold_seed", 4, r"data\.fold_seed: 0 -> 4"),
        ("self_training.rounds", 2, r"self_training\.rounds: 2, but this run was finished with 1"),
    ):
        with pytest.raises(InputError, match=message):
            cross_validate_self_training(make_config({**FOLDS, name: value}), here)
    store_as_before(make_config(FOLDS).output.place / "run.json")
    before = len(steps)
    folder = cross_validate_self_training(make_config(FOLDS), seeing, show=steps.append)
    assert {(step.fold, step.folds) for step in steps[:before]} == {(1, 2), (2, 2)}
    assert {(step.fold, step.round) for step in steps[before:] if step.phase == "train"} <= {(2, 1)}
    assert {step.fold for step in steps[before:]} == {2}
    check_results(folder, scored)
    steps.clear()
    cross_validate_self_training(make_config(FOLDS), here, show=steps.append)
    assert steps == []


@pytest.mark.slow
def test_the_direct_training_has_folds_too(make_config, here):
    folder = cross_validate_self_training(make_config({**FOLDS, "selection.method": "direct"}), here)
    assert sorted(path.parent.name for path in folder.glob("fold_*/round_*")) == ["fold_1", "fold_2"]
    assert {row.network for row in read_folds_table(folder)} == {"chosen round", "round 0"}
    assert len(json.loads((folder / "ensemble" / "ensemble.json").read_text())["members"]) == 2


def check_results(folder, scored):
    chosen = []
    for number in (1, 2):
        place = folder / f"fold_{number}"
        manifest = read_manifest(folder / "manifests" / f"fold_{number}.parquet")
        own = {case.case_id for name in ("val", "unlabelled") for case in manifest.split(name)}
        assert scored[place.name] == own  # thresholds are searched on the fold's val cases
        assert sorted(path.name for path in place.glob("round_*")) == ["round_0", "round_1"]
        summary = json.loads((place / "summary.json").read_text())
        chosen.append(summary["rounds"][summary["chosen_round"]]["metrics"])
    rows = {(row.network, row.metric): row for row in read_folds_table(folder)}
    assert {network for network, _ in rows} == {"chosen round", "round 0", "round 1"}
    for name in ("val/dice", "test/dice", "test/idh_ce"):
        assert rows["chosen round", name].values == tuple(metrics[name] for metrics in chosen)
    assert rows["round 0", "selected/mutant"].values == (0.0, 0.0)
    members = json.loads((folder / "ensemble" / "ensemble.json").read_text())["members"]
    assert [member["weights_sha256"] for member in members] == [
        describe_checkpoint(folder / f"fold_{number}")["weights_sha256"] for number in (1, 2)
    ]


def test_what_does_not_go_with_folds_is_refused(make_config, here, tmp_path):
    with pytest.raises(InputError, match=r"self_training\.start: one round 0 cannot be that of every fold"):
        cross_validate_self_training(make_config({**FOLDS, "self_training.start": str(tmp_path)}), here)
    with pytest.raises(InputError, match="for 7 folds; take at most"):
        cross_validate_self_training(make_config({"data.folds": 7}), here)
    with pytest.raises(InputError, match="this runs one self-training; see cross_validate_self_training"):
        run_self_training(make_config(FOLDS), here)
    assert not (tmp_path / "runs").exists()

"""The preset `pool` as a whole: a round by it, and that a kill changes no byte."""

import shutil
from dataclasses import replace

import pytest
from boundaries import BOUNDARIES, KilledError, differences
from small_self_training import scoring
from test_self_training_kills import outcome

from mttu.data.manifest import read_manifest
from mttu.search.presets import PRESETS
from mttu.self_training import run_self_training
from mttu.self_training.round_folder import read_history, read_record

pytestmark = pytest.mark.usefixtures("sketches", "few_are_enough")


@pytest.fixture
def config(make_config, bare_paths):
    """The preset for one round, on a pool without masks."""
    short = {"train.epochs": 1, "self_training.rounds": 1, "teacher.confidence": 0.0}  # a tiny network is never sure
    return make_config(
        {**PRESETS["pool"], "selection.method": "UPS", "train.batch_per_worker": 4, **bare_paths, **short}
    )


def test_a_round_by_it_is_told_before_it_trains_and_is_the_same_through_a_kill(config, here, said, pool_manifest):
    assert (config.selection.rule, config.selection.prior) == ("rank", "detect")  # all else shows below
    callables, steps = replace(here, score=scoring(said.get)), []
    folder = config.output.folder / config.output.name
    with BOUNDARIES.watch(folder):
        run_self_training(config, callables, show=steps.append)
        total = BOUNDARIES.count
    expected, manifest = outcome(folder), (folder / "round_1" / "manifest.parquet").read_bytes()

    record, mixed = read_record(folder / "round_1"), read_manifest(folder / "round_1" / "manifest.parquet")
    pseudo = {case.case_id: case for case in mixed.cases if case.pseudo_label}
    assert 0 < len(pseudo) < 6
    assert all(0 < case.idh_weight < 1 for case in pseudo.values())
    taught = {case.case_id for case in mixed.cases if case.teacher_mask}
    assert taught >= {case.case_id for case in pool_manifest.split("unlabelled")}
    assert record.left_out == ()
    assert "selected/estimated_precision_mutant" in record.estimates
    assert any("each step holds 4 labelled, 2 pseudo-labelled, 2 unlabelled" in note for note in record.notes)
    [row] = read_history(folder / "round_1")
    assert row["train/loss_teacher"] > 0

    phases = [(step.round, step.phase) for step in steps]
    told = phases.index((1, "select"))
    assert phases.index((1, "score")) < told < phases.index((1, "train"))
    notes = steps[told].notes
    counts = [sum(case.idh == idh for case in pseudo.values()) for idh in (1, 0)]
    assert notes[0] == f"{len(pseudo)} of 6 cases of the pool are selected, {counts[0]} mutant, {counts[1]} wild type"
    assert any(note.startswith("calibrated on 2 cases (1 mutant)") for note in notes)

    shutil.rmtree(folder)
    with pytest.raises(KilledError), BOUNDARIES.watch(folder, kill_at=int(total * 0.75)):
        run_self_training(config, callables)
    assert (folder / "round_0").exists()
    assert not (folder / "round_1").exists()  # so it was killed in round 1
    run_self_training(config, callables)
    assert not differences(expected, outcome(folder))
    assert (folder / "round_1" / "manifest.parquet").read_bytes() == manifest

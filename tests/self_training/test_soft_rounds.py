"""Rounds with soft labels and batch quotas: what they train on, and that a stop or kill changes no byte."""

import pytest
from boundaries import BOUNDARIES, KilledError, differences
from scipy.stats import entropy
from small_self_training import scoring
from test_self_training_kills import outcome

from mttu.config import override
from mttu.data.manifest import read_manifest, write_manifest
from mttu.pseudo_labels.score_table import ScoreTable, read_scores, summarise_passes
from mttu.self_training import Callables, algorithm, run_self_training
from mttu.self_training.job import Job, Round
from mttu.self_training.mixture import mix
from mttu.self_training.round_folder import read_record
from mttu.self_training.soft_labels import SoftLabel, weigh
from mttu.training.inputs import Inputs, check_inputs

pytestmark = pytest.mark.usefixtures("sketches")

QUOTAS = {
    "train.global_batch": 4,
    "train.batch_per_worker": 2,
    "train.quotas.labelled": 2,
    "train.quotas.pseudo": 1,
    "train.quotas.unlabelled": 1,
    "train.steps_per_epoch": None,
}
BOTH = {**QUOTAS, "self_training.labels": "soft", "self_training.rounds": 1, "train.epochs": 1}


@pytest.fixture
def pool(pool_manifest):
    return [case.case_id for case in pool_manifest.split("unlabelled")]


def half(pool):
    """Says of three cases that they are mutant, wild type, mutant; of the others nothing."""
    said = dict(zip(pool[:3], ([0.9, 0.94], [0.2, 0.1], [0.5, 0.9]), strict=True))
    return scoring(lambda name: said.get(name, "no score"))


def test_a_round_with_both_is_the_same_through_a_kill(make_config, here, pool):
    """Killed in round 1, then run to the end: manifest, weights and history are those of an unbroken run."""
    config = make_config(BOTH)
    callables = Callables(here.train, half(pool), here.evaluate)
    folder = config.output.folder / config.output.name
    with BOUNDARIES.watch(folder):
        run_self_training(config, callables)
        total = BOUNDARIES.count
    expected, manifest = outcome(folder), (folder / "round_1" / "manifest.parquet").read_bytes()

    mixed = read_manifest(folder / "round_1" / "manifest.parquet")
    soft = {case.case_id: case for case in mixed.cases if case.idh_weight is not None}
    rows = {row.case_id: row for row in read_scores(folder / "round_1" / "scores.parquet").rows}
    assert list(soft) == sorted(pool[:3])
    for name, case in soft.items():
        mean = rows[name].mean_probability
        assert case.idh_probability == pytest.approx(mean, abs=1e-15)
        assert case.idh_weight == pytest.approx(1 - entropy([mean, 1 - mean], base=2), abs=1e-12)
        assert (case.idh, case.pseudo_label) == (rows[name].predicted_class, True)
    quota, softness = read_record(folder / "round_1").notes[-2:]
    assert quota.startswith(
        "train.quotas: with the cases of split train, each step holds 2 labelled, 1 pseudo-labelled, 1 unlabelled; 0%"
    )
    assert softness.startswith("3 training cases have a soft pseudo-label: the IDH head learns a probability")
    assert "each step holds 4 labelled (no case is pseudo-" in read_record(folder / "round_0").notes[-1]

    plain = override(config, {"data.manifest": str(folder / "round_1" / "manifest.parquet")})
    assert check_inputs(plain).notes == (quota, softness)  # as `mttu train` says it

    folder.rename(folder.with_name("unbroken"))
    with pytest.raises(KilledError), BOUNDARIES.watch(folder, kill_at=total * 3 // 5):
        run_self_training(config, callables)
    assert (folder / "round_0").exists()  # so it was killed in round 1
    assert not (folder / "round_1").exists()
    run_self_training(config, callables)
    assert not differences(expected, outcome(folder))
    assert (folder / "round_1" / "manifest.parquet").read_bytes() == manifest


@pytest.fixture
def select_in_round_2(make_config, here, pool, pool_manifest, tmp_path):
    """Selects after a round 1 with soft labels of 0.8 and 0.25: `select_in_round_2(passes of the two, changes)`."""
    place = tmp_path / "rounds"
    soft = {name: SoftLabel(p, weigh(p)) for name, p in zip(pool, (0.8, 0.25), strict=False)}
    (place / "round_1").mkdir(parents=True)
    (place / "working-round_2").mkdir()
    write_manifest(mix(pool_manifest, {pool[0]: 1, pool[1]: 0}, soft).manifest, place / "round_1" / "manifest.parquet")

    def choose(passes, changes):
        config = make_config({**BOTH, "self_training.stop_when_unchanged": True, **changes})
        inputs = Inputs(pool_manifest, tmp_path, "")
        current = Round(Job(config, inputs, {}, place, here, None, None), 2)
        rows = [summarise_passes(name, [p, p], p, 0) for name, p in zip(pool, passes, strict=False)]
        return algorithm._select(current, ScoreTable(tuple(rows)))

    return choose


def test_labels_are_unchanged_only_with_the_same_probabilities(select_in_round_2, pool):
    same_again, sharper = select_in_round_2([0.8, 0.25], {}), select_in_round_2([0.9, 0.25], {})
    assert same_again.selection.pseudo_labels == sharper.selection.pseudo_labels == {pool[0]: 1, pool[1]: 0}
    assert (same_again.unchanged, sharper.unchanged) == (True, False)
    assert sharper.soft_labels[pool[0]] == SoftLabel(0.9, weigh(0.9))
    assert sharper.soft_labels[pool[1]] == same_again.soft_labels[pool[1]]


def test_labels_that_are_kept_keep_their_probability(select_in_round_2, pool):
    found = select_in_round_2([0.3, 0.2, 0.7], {"self_training.relabel": False})
    assert found.selection.pseudo_labels == {pool[0]: 1, pool[1]: 0, pool[2]: 1}
    assert {name: label.probability for name, label in found.soft_labels.items()} == {
        **{pool[0]: 0.8, pool[1]: 0.25},
        pool[2]: 0.7,
    }
    assert not found.unchanged
    assert select_in_round_2([0.3, 0.2], {"self_training.relabel": False}).unchanged

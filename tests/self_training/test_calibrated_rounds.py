"""Rounds whose labels come from calibrated probabilities, moved to the pool's own share of mutants."""

from dataclasses import replace

import pytest
from small_self_training import scoring, stopping

from mttu.config import SelectionSettings
from mttu.errors import InputError, RunError
from mttu.pseudo_labels.reports import read_selection
from mttu.pseudo_labels.score_table import ScoreTable, read_scores, summarise_passes
from mttu.search.presets import PRESETS
from mttu.self_training import check_self_training, run_self_training
from mttu.self_training.evaluation import read_summary
from mttu.self_training.mixture import KEPT, calibrate_scores, choose_labels, grow_share, keep_prior
from mttu.self_training.round_folder import read_record

pytestmark = pytest.mark.usefixtures("sketches")

RANKED = {
    "selection.method": "UPS",
    "selection.calibrate": "temperature+bias",
    "selection.prior": "estimate",
    "selection.rule": "rank",
    "selection.rank_share": 0.5,
    "selection.rank_growth": 0.25,
    "train.epochs": 1,
}


def kept(folder):
    """What a stop must not change, to the byte."""
    names = ("selection.parquet", "selection.csv", "round.json", "best/weights.safetensors", "manifest.parquet")
    places = [folder / f"round_{number}" for number in (1, 2)]
    return {(place.name, name): (place / name).read_bytes() for place in places for name in names}


def test_ranked_rounds_and_their_records(make_config, here, pool_manifest, said, few_are_enough, tmp_path):
    pool = [case.case_id for case in pool_manifest.split("unlabelled")]
    truth = tmp_path / "truth.csv"
    truth.write_text("case_id,true_idh\n" + "".join(f"{name},{int(at == 0)}\n" for at, name in enumerate(pool)))
    callables = replace(here, score=scoring(said.get))
    folder = run_self_training(make_config({**RANKED, "self_training.truth": str(truth)}), callables)
    first, about = read_selection(folder / "round_1" / "selection.parquet")
    val = read_scores(folder / "round_1" / "val_scores.parquet")
    assert about["calibrated_on"] == val.digest
    assert {row.case_id for row in val.rows} == {case.case_id for case in pool_manifest.split("val")}
    found = first.estimates
    assert (found.num_cases, found.num_mutant) == (2, 1)
    assert found.calibration_share == pytest.approx(0.5)
    assert found.moved_to == found.pool_share.estimate
    # with one case of each class the targets are 2/3 and 1/3, at logits of +-1.0986 and -0.6190
    moved = [case.moved_probability for case in first.cases]
    assert sum(moved) / 6 == pytest.approx(found.moved_to)
    assert moved == sorted(moved[:3], reverse=True) + sorted(moved[3:])
    second, later = read_selection(folder / "round_2" / "selection.parquet")
    assert (about["selection"]["rank_share"], later["selection"]["rank_share"]) == (0.5, 0.75)
    # the pool's share of mutants is that of the one network that had no labels of its own to learn from
    assert (about["selection"]["prior"], later["selection"]["prior"]) == ("estimate", found.moved_to)
    assert second.estimates.moved_to == found.moved_to
    assert first.pseudo_labels.items() <= second.pseudo_labels.items()
    assert len(second.pseudo_labels) > len(first.pseudo_labels)
    record = read_record(folder / "round_1")
    assert record.estimates == found.to_metrics()
    assert (record.confidence_threshold, record.uncertainty_threshold) == (None, None)  # a rank uses none
    assert any(note.startswith("calibrated on 2 cases (1 mutant): temperature") for note in record.notes)
    row = read_summary(folder)["rounds"][1]
    right = [int(name == pool[0]) for name, label in first.pseudo_labels.items() if label == 1]
    assert row["estimates"]["selected/precision_mutant"] == sum(right) / len(right) == 0.5
    assert row["estimates"]["selected/estimated_precision_mutant"] == found.precision["mutant"].estimate
    assert "estimates" not in (folder / "round_0" / "round.json").read_text()

    # stopped between the scores of pool and validation cases, and in each phase after that, it ends with the same bytes
    config = make_config({**RANKED, "self_training.truth": str(truth), "output.folder": str(tmp_path / "stopped")})
    for at in ("score-1", "train-0", "evaluate-0", "score-1", "train-0"):
        broken, _ = stopping(callables, at)
        with pytest.raises(RunError, match=f"stopped in {at}"):
            run_self_training(config, broken)
    assert kept(run_self_training(config, callables)) == kept(folder)


def table(values, split):
    rows = [summarise_passes(name, [value, value], value, 0.0) for name, value in values.items()]
    return ScoreTable(tuple(rows), {"split": split, "learned_from": [], "weights_sha256": "w"})


def test_where_nothing_can_be_calibrated_a_round_goes_on_as_it_is():
    """The network has the validation cases the wrong way round."""
    settings = SelectionSettings(calibrate="temperature+bias", prior="estimate", rule="rank", rank_share=0.5)
    pool = table({"a": 0.97, "b": 0.9, "c": 0.85, "d": 0.1, "e": 0.2, "f": 0.3}, "unlabelled")
    val = table({f"v{at}": 0.3 + 0.04 * at for at in range(10)}, "val")
    backwards = {f"v{at}": int(at < 5) for at in range(10)}
    correction, notes = calibrate_scores(pool, val, backwards, settings)
    assert correction is None
    assert notes[0].startswith("probabilities are taken as they are: calibration: the network tells the 10 calibration")
    # half of 3.32 mutants and of 2.68 wild types, rounded up
    assert choose_labels(pool, settings, {}, correction).pseudo_labels == {"a": 1, "b": 1, "d": 0, "e": 0}
    forwards = {name: 1 - label for name, label in backwards.items()}
    correction, notes = calibrate_scores(pool, val, forwards, settings)
    assert notes == []
    stays = choose_labels(pool, settings, {"f": 1}, correction)
    [kept_case] = [case for case in stays.cases if case.reason == KEPT]
    assert (kept_case.case_id, kept_case.pseudo_label) == ("f", 1)
    assert kept_case.moved_probability == pytest.approx(correction.move(0.3))
    mutants = [
        correction.move(value) for name, value in (("a", 0.97), ("b", 0.9), ("c", 0.85)) if name in stays.pseudo_labels
    ]
    expected = (sum(mutants) + correction.move(0.3)) / (len(mutants) + 1)
    assert stays.estimates.precision["mutant"].estimate == pytest.approx(expected)


def test_the_share_grows_up_to_all():
    settings = SelectionSettings(rule="rank", rank_share=0.5, rank_growth=0.3)
    assert [grow_share(settings, number).rank_share for number in (1, 2, 3)] == [0.5, 0.8, 1.0]
    assert grow_share(SelectionSettings(), 3) == SelectionSettings()


def test_a_share_that_is_given_or_was_never_estimated_stays_as_set():
    given = SelectionSettings(calibrate="temperature+bias", prior=0.3)
    first = {"selected/pool_share": 0.1, "selected/moved_to": 0.2}
    assert keep_prior(given, first) == given
    estimated = SelectionSettings(calibrate="temperature+bias", prior="estimate")
    assert keep_prior(estimated, {}) == estimated
    assert keep_prior(estimated, first).prior == 0.2
    assert keep_prior(estimated, {"selected/pool_share": 0.1}).prior == 0.1  # as earlier versions recorded it
    detected = SelectionSettings(calibrate="temperature+bias", prior="detect")
    assert keep_prior(detected, first).prior == 0.2
    assert keep_prior(detected, {"selected/pool_share": 0.1}).prior == "none"  # round 1 saw no difference


def test_too_few_validation_cases_are_refused_before_anything_starts(make_config, here):
    with pytest.raises(
        InputError, match=r"selection\.calibrate=temperature\+bias: the calibration \(val\) cases are 1 mut"
    ):
        check_self_training(make_config(RANKED))
    by_precision = {**PRESETS["pool"], "selection.rule": "precision"}
    for changes, more in ((PRESETS["pool"], ""), (by_precision, " selection.rule=rank")):
        with pytest.raises(InputError) as caught:
            check_self_training(make_config({**changes, "selection.method": "UPS"}))
        words = caught.value.problems[0].rpartition("or set ")[2]
        assert words == f"selection.calibrate=none selection.prior=none{more}"
        cure = dict(word.split("=") for word in words.split())
        check_self_training(make_config({**changes, "selection.method": "UPS", **cure}))  # what it says works
    run = make_config({**RANKED, "selection.method": "none"})
    assert check_self_training(run).truth == {}  # without pseudo-labels nothing is calibrated

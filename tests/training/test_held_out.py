"""Which predictions are out of fold, what is fitted on them, and what becomes of the rest."""

import json
import shutil
from dataclasses import replace

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from held_out_answers import KEY, keep_answers

from mttu.cohort.splits import draw_folds
from mttu.config import override
from mttu.errors import InputError
from mttu.inference.calibration import fit_kept, hold_for, read_calibration
from mttu.metrics.calibration import fit_calibration
from mttu.metrics.classification import choose_threshold
from mttu.networks.ensemble import write_ensemble
from mttu.patients import KnownPatients, digest_bare, drop_patients, name_patients
from mttu.search.presets import preset
from mttu.training.folds import run_folds
from mttu.training.held_out import (
    copy_held_out,
    fill_ensemble,
    name_held_out,
    pool_folds,
    read_held_out,
    select_held_out,
    write_held_out,
)
from mttu.training.run import keep_best

ANSWERS = (0.9, 0.35, 0.4, 0.2, 0.3, 0.45)  # of the six train and val cases, by id; they do not part the classes


@pytest.fixture
def drawn(phantom_manifest):
    return draw_folds(phantom_manifest, 2)


@pytest.fixture(scope="module")
def trained(write_tiny, tmp_path_factory):
    """Two checkpoints of different weights. Not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    return [write_tiny(folder / f"{number}", spoil=float(number)) for number in (1, 2)]


@pytest.fixture
def answers(phantom_manifest):
    cases = [case.case_id for case in phantom_manifest.cases if case.split in ("train", "val")]
    return dict(zip(cases, ANSWERS, strict=True))


@pytest.fixture
def places(drawn, trained, answers, tmp_path):
    """Folders of two folds, each with its checkpoint and what that says of its val cases."""
    found = [tmp_path / f"fold_{number}" for number in (1, 2)]
    for place, checkpoint, manifest in zip(found, trained, drawn, strict=True):
        shutil.copytree(checkpoint, place / "best")
        keep_answers(place, manifest, lambda case: answers[case.case_id])
    return found


def unite(places, folder):
    """Writes the ensemble of the folds and returns their pooled predictions."""
    pooled = pool_folds(places)
    write_ensemble(folder, places, lambda partial: fill_ensemble(partial, pooled))
    return pooled


def test_the_ensemble_of_the_folds_is_calibrated_on_pooled_out_of_fold_predictions(
    drawn, trained, answers, phantom_manifest, tmp_path
):
    def run_fold(number, manifest, place):
        shutil.copytree(trained[number - 1], place / "best")
        keep_answers(place, drawn[number - 1], lambda case: answers[case.case_id])
        return {}

    run_folds(drawn, tmp_path, run_fold)
    fold_of = {case.case_id: number for number, fold in enumerate(drawn, 1) for case in fold.split("val")}
    idh = {case.case_id: case.idh for case in phantom_manifest.cases}
    for folder in (tmp_path, tmp_path / "ensemble"):
        rows = pyarrow.csv.read_csv(folder / "out_of_fold.csv").to_pylist()
        assert rows == pq.read_table(folder / "out_of_fold.parquet").to_pylist()
        assert rows == [
            {"case_id": name, "fold": fold_of[name], "idh": idh[name], "mutant_probability": value}
            for name, value in answers.items()
        ]
    kept = read_calibration(tmp_path)
    known = list(answers.values()), [idh[name] for name in answers]
    assert kept.calibrations == {
        "temperature": fit_calibration(*known),
        "temperature + bias": fit_calibration(*known, with_bias=True),
    }
    assert kept.threshold == choose_threshold(*known)
    assert (kept.fitted_on, kept.num_cases, kept.num_mutant, kept.notes) == ("out-of-fold", 6, 3, ())
    fitted = [case.patient_id for case in phantom_manifest.cases if case.case_id in answers]
    assert kept.patients == name_patients(fitted, KEY)
    text = (tmp_path / "ensemble" / "calibration.json").read_text()
    assert not [name for name in answers if name in text]  # it may be shared


def test_patients_whom_the_network_knows_never_enter(places, drawn, answers):
    first, second = drawn[0].split("val"), drawn[1].split("val")
    taught = {case.patient_id for case in (*drawn[0].split("train"), first[0])}
    keep_answers(places[0], drawn[0], lambda case: answers[case.case_id], learned_from=taught)
    pooled = pool_folds(places)
    assert [row.case_id for _, row in pooled.rows] == sorted(case.case_id for case in (*first[1:], *second))
    assert pooled.notes == ("fold 1: 1 cases of patients that the network learned from were left out",)
    record = places[0] / "best" / "checkpoint.json"
    content = json.loads(record.read_text())
    del content["patients"]
    record.write_text(json.dumps(content))
    pooled = pool_folds(places)
    assert {number for number, _ in pooled.rows} == {2}
    assert pooled.notes == (
        "fold 1: the checkpoint does not say whom it learned from, as what it started from does not",
    )


def test_patients_who_validate_in_several_folds_never_enter(places, drawn, answers):
    both = replace(drawn[0], cases=(*drawn[0].cases, replace(drawn[1].split("val")[0], case_id="again")))
    keep_answers(places[0], both, lambda case: answers.get(case.case_id, 0.5), learned_from=set())
    pooled = pool_folds(places)
    assert [row.case_id for _, row in pooled.rows] == sorted(set(answers) - {drawn[1].split("val")[0].case_id})
    assert pooled.notes == ("2 cases of patients who validate in several folds were left out",)


def test_a_fold_of_an_older_version_has_none(places, tmp_path):
    (places[1] / "held_out.json").unlink()
    pooled = pool_folds(places)
    assert {number for number, _ in pooled.rows} == {1}
    (places[0] / "held_out.json").unlink()
    unite(places, tmp_path / "ensemble")
    kept = read_calibration(tmp_path / "ensemble")
    assert (kept.fitted, kept.calibrate(0.7), kept.call(0.7)) == (False, None, None)
    assert kept.describe() == (
        "IDH, nothing calibrated: the out-of-fold cases that the network did not learn from are 0 mutant and 0 wild "
        "type; both are needed; fold 1: keeps no predictions of its val cases (an older version wrote none); "
        "fold 2: keeps no predictions of its val cases (an older version wrote none)"
    )
    (places[0] / "held_out.json").write_text("[]")
    with pytest.raises(InputError, match=r"held_out\.json: damaged; restore it from a copy, or remove it"):
        pool_folds(places)


def test_networks_without_an_idh_head_have_no_calibration(write_tiny, tmp_path):
    place = write_tiny(tmp_path / "run" / "best", {"network.tasks": ["segmentation"]}).parent
    unite([place], tmp_path / "ensemble")
    assert sorted(path.name for path in (tmp_path / "ensemble").iterdir()) == ["ensemble.json", "member_1"]


def test_a_training_is_calibrated_with_its_weights_or_not_at_all(places, tmp_path):
    checkpoint, folder = places[0], tmp_path / "run"
    folder.mkdir()
    keep_best(checkpoint, folder)
    kept = read_calibration(folder)
    assert (kept.fitted_on, kept.num_cases) == ("validation", 3)
    assert (folder / "held_out.json").read_bytes() == (checkpoint / "held_out.json").read_bytes()
    shutil.copyfile(places[1] / "best" / "checkpoint.json", folder / "best" / "checkpoint.json")
    assert read_calibration(folder) == kept
    (checkpoint / "held_out.json").unlink()  # as an older version leaves it
    keep_best(checkpoint, folder)
    assert not (folder / "held_out.json").exists()
    assert read_calibration(folder).describe() == "IDH, nothing calibrated: no calibration is kept with this checkpoint"


def test_a_calibration_of_other_weights_or_damaged_is_refused(places, write_tiny, tmp_path):
    keep_best(places[0], tmp_path)
    path = tmp_path / "best" / "calibration.json"
    text = path.read_text()
    content = json.loads(text)
    assert content["format_version"] == 2
    path.write_text(json.dumps(content | {"format_version": 1, "patients": []}))
    assert read_calibration(tmp_path).num_cases == 3
    path.write_text(text)
    write_tiny(tmp_path / "other", spoil=9.0)
    (tmp_path / "other" / "calibration.json").write_text(text)
    with pytest.raises(InputError, match="was fitted for other weights than those beside it; restore it from a copy"):
        read_calibration(tmp_path / "other")
    for damaged in ("{", "[]", '{"format_version": 1}', text.replace('"temperature"', '"t"')):
        path.write_text(damaged)
        with pytest.raises(InputError, match=r"calibration\.json: damaged; restore it"):
            read_calibration(tmp_path)
    path.write_text(text.replace('"format_version": 2', '"format_version": 3'))
    with pytest.raises(InputError, match="format_version is 3; this version of mttu reads 1 to 2"):
        read_calibration(tmp_path)


@pytest.mark.parametrize(("idh", "mutants"), [([1, 1, 1], 3), ([], 0)])
def test_one_class_or_no_case_calibrates_nothing(idh, mutants):
    kept = fit_kept([0.5] * len(idh), idh, "validation", ["why"])
    assert not kept.fitted
    assert kept.reason == (
        f"the validation cases that the network did not learn from are {mutants} mutant and 0 wild type; both are "
        "needed; why"
    )


@pytest.mark.parametrize(("low", "high"), [(0.9, 0.1), (0.3, 0.3), (0.31, 0.29)])
def test_no_threshold_is_kept_that_parts_no_better_than_chance(low, high):
    kept = fit_kept([low, high], [0, 1], "validation", ["why"])
    assert (kept.fitted, kept.call(0.7), kept.calibrate(0.7)) == (False, None, None)
    assert kept.describe() == (
        "IDH, nothing calibrated: no threshold parts the 2 validation cases (1 mutant) better than chance; why"
    )


def test_what_the_cases_do_not_determine_gives_no_probability():
    kept = fit_kept([0.9, 0.8, 0.2], [1, 1, 0], "out-of-fold")
    assert (kept.threshold, kept.calibrate(0.7), kept.call(0.7), kept.call(0.4)) == (0.5, None, "mutant", "wild type")
    assert "threshold 0.500; they do not determine a temperature, so there are no calibrated pro" in kept.describe()
    sure = fit_kept([0.9, 0.8, 0.2, 0.4, 0.6], [1, 0, 0, 1, 1], "out-of-fold")
    assert sure.calibrate(0.9) == pytest.approx(float(sure.calibrations["temperature"].apply([0.9])[0]))


def test_a_calibration_holds_for_the_windows_that_it_was_fitted_with(places, tmp_path):
    keep_best(places[0], tmp_path)
    kept = read_calibration(tmp_path)
    config = override(preset("demo"), {"patch.size": [16, 16, 16], "inference.overlap": 0.0})
    assert hold_for(kept, config) is kept
    assert hold_for(kept, override(config, {"inference.min_enhancing_mm3": 500})) is kept
    other = hold_for(kept, override(config, {"inference.flips": True}))
    assert other.reason == "the kept calibration was fitted with inference.flips=False, now True"
    assert (other.fitted, other.patients) == (False, KnownPatients())


def test_only_known_findings_and_probabilities_are_held_out(phantom_manifest):
    cases = [replace(case, idh=idh) for case, idh in zip(phantom_manifest.cases[:3], (1, -1, 0), strict=True)]
    rows = [{"case_id": case.case_id, "mutant_probability": 0.25} for case in reversed(cases)]
    assert [one.case_id for one in select_held_out(rows, cases)] == [cases[0].case_id, cases[2].case_id]
    rows[0]["mutant_probability"] = None
    assert [one.case_id for one in select_held_out(rows, cases)] == [cases[0].case_id]


def test_weights_are_never_kept_before_their_predictions(places, tmp_path, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("mttu.training.run.copy_held_out", stop)
    with pytest.raises(KeyboardInterrupt):
        keep_best(places[0], tmp_path)
    assert not (tmp_path / "best").exists()


def test_a_copy_without_predictions_takes_older_ones_away(tmp_path):
    write_held_out(tmp_path, [])
    copy_held_out(tmp_path / "nothing", tmp_path)
    assert not (tmp_path / "held_out.json").exists()


def age(place, manifest):
    """Makes a fold what an earlier version wrote: bare digests of patients."""
    record, found = place / "best" / "checkpoint.json", json.loads((place / "held_out.json").read_text())
    content = json.loads(record.read_text())
    del content["patients"]
    bare = sorted(digest_bare(case.patient_id) for case in manifest.split("train"))
    record.write_text(json.dumps({**content, "learned_from": bare}))
    for row in found["predictions"]:
        row["patient"] = digest_bare(row.pop("patient_id"))
    (place / "held_out.json").write_text(json.dumps({**found, "format_version": 1}))


def test_folds_of_an_earlier_version_are_pooled_with_those_of_this_one(places, drawn, answers, tmp_path):
    age(places[0], drawn[0])
    pooled = unite(places, tmp_path / "ensemble")
    assert [row.case_id for _, row in pooled.rows] == sorted(answers)
    assert pooled.notes == ()
    kept = read_calibration(tmp_path / "ensemble")
    fitted = {case.patient_id for fold in drawn for case in fold.split("val")}
    assert kept.patients.find([*fitted, "another"]) == fitted
    other = next(one for number, one in pooled.rows if number == 2)  # now named by both, each in its own way
    again = replace(other, case_id="again", patient_id="", patient=digest_bare(other.patient_id))
    record = places[0] / "best" / "checkpoint.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"learned_from": []}))
    write_held_out(places[0], [*read_held_out(places[0]), again])
    assert pool_folds(places).notes == ("2 cases of patients who validate in several folds were left out",)


def test_a_training_that_an_earlier_version_began_learns_the_ids_again(places, drawn):
    keep_answers(places[0], drawn[0], lambda case: 0.5)
    expected = read_held_out(places[0])
    age(places[0], drawn[0])
    old = read_held_out(places[0])
    assert {one.patient_id for one in old} == {""}
    assert name_held_out(old, drawn[0].split("val")) == expected


def test_a_calibration_that_does_not_say_on_whom_is_of_unknown_patients(places, tmp_path):
    keep_best(places[0], tmp_path)
    path = tmp_path / "best" / "calibration.json"
    path.write_text(json.dumps(drop_patients(json.loads(path.read_text()))))
    kept = read_calibration(tmp_path)
    assert (kept.fitted, kept.patients) == (True, None)

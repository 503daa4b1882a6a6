"""A checkpoint names the patients it was trained on, and so do scores and predictions made with it."""

import json
import shutil
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from mttu.config import override
from mttu.data.manifest import read_manifest, write_manifest
from mttu.errors import InputError
from mttu.inference.calibration import read_calibration
from mttu.networks.ensemble import read_known_patients, write_ensemble
from mttu.patients import PatientKey, digest_bare
from mttu.predict import plan_predictions, predict_cases
from mttu.pseudo_labels.score_table import ScoreTable, summarise_passes
from mttu.pseudo_labels.scoring import plan_scoring
from mttu.pseudo_labels.thresholds import pool_scores
from mttu.report import evaluate_cases, plan_evaluation
from mttu.report.tables import describe_cases
from mttu.training.held_out import HeldOut, calibrate_training
from mttu.training.inputs import TrainingTask, check_inputs, open_task
from mttu.training.loop import name_learned_patients
from mttu.training.run import launch_locally, run_training

pytestmark = pytest.mark.usefixtures("sketches")


@pytest.fixture
def run(trained):
    """The run folder that knows patients."""
    return trained


def turn(path, target, **other):
    """Writes the manifest with other names of splits."""
    manifest = read_manifest(path)
    cases = tuple(replace(case, split=other.get(case.split, case.split)) for case in manifest.cases)
    write_manifest(replace(manifest, cases=cases), target)
    return target


def known(folder, path):
    """Splits of a manifest whose patients a network knows, all or none."""
    known_patients = read_known_patients(folder)
    found = {}
    for case in read_manifest(path).cases:
        found.setdefault(case.split, set()).add(case.patient_id in known_patients)
    assert all(len(answers) == 1 for answers in found.values())
    return {split for split, answers in found.items() if True in answers}


def test_patients_are_known_without_their_names_through_later_trainings_and_ensembles(tiny, run, tmp_path):
    path = tiny.data.manifest
    content = json.loads((run / "best" / "checkpoint.json").read_text())
    (group,) = content["patients"]
    assert len(group["digests"]) == 4
    assert {name: group["scrypt"][name] for name in "nrp"} == {"n": 2**14, "r": 8, "p": 1}
    for case in read_manifest(path).cases:
        assert case.patient_id not in json.dumps(content)
        assert digest_bare(case.patient_id) not in json.dumps(content)  # which can be inverted in seconds
    assert known(run, path) == {"train"}
    changes = {
        "train.epochs": 1,
        "train.start_from": str(run),
        "data.manifest": str(turn(path, tmp_path / "turned.parquet", train="unlabelled", val="train")),
        "data.cache_dir": str(tiny.data.cache_dir or path.parent / "cache"),
        "output.name": "second",
    }
    second = run_training(override(tiny, changes), launch_locally)
    assert known(second, path) == {"train", "val"}  # earlier ones are kept
    first_key, second_key = read_known_patients(run).keys[0], set(read_known_patients(second).keys)
    assert len(second_key - {first_key}) == 1  # each cohort by its own, for the first may come from anybody
    changes["data.manifest"] = str(turn(path, tmp_path / "known.parquet", train="val", val="train"))
    with pytest.raises(InputError, match=r"learned from patients of the same ids as .* of split val; start from other"):
        run_training(override(tiny, changes), launch_locally)
    write_ensemble(tmp_path / "ensemble", [run, second])
    assert known(tmp_path / "ensemble", path) == {"train", "val"}
    assert set(read_known_patients(tmp_path / "ensemble").keys) == second_key


def plant(checkpoint, folder, *groups):
    """A copy of a checkpoint by somebody else, with keys of their own."""
    shutil.copytree(checkpoint, folder)
    record = folder / "checkpoint.json"
    foreign = [{"scrypt": {"salt": salt, "n": n, "r": 8, "p": 1}, "digests": ["00"]} for salt, n in groups]
    record.write_text(json.dumps(json.loads(record.read_text()) | {"patients": foreign}))
    return folder


def name(config, train, val):
    """Whom a training on these cases would name, and how."""
    task = TrainingTask(config, tuple(train), tuple(val), config.data.cache_dir)
    opened = open_task(task)
    return name_learned_patients(task, [*opened.dataset.cached, *(one for _, one in opened.validation)])


def test_no_patient_is_named_by_the_key_of_a_foreign_file(tiny, tiny_checkpoint, tmp_path):
    train, val = (read_manifest(tiny.data.manifest).split(name) for name in ("train", "val"))
    foreign = plant(tiny_checkpoint, tmp_path / "foreign", ("00" * 8, 2))
    known = name(override(tiny, {"train.start_from": str(foreign)}), train, val)
    assert dict(known.groups) == {PatientKey("00" * 8, n=2): {"00"}, **dict(name(tiny, train, val).groups)}
    for groups in ((("00" * 8, 2),), (("00" * 8, 2**14), ("11" * 8, 2**14)), ()):
        place = plant(tiny_checkpoint, tmp_path / f"best_{len(groups)}", *groups)
        calibrate_training(place, [HeldOut("a", 1, 0.8, "P-1"), HeldOut("b", 0, 0.3, "P-2")])
        (group,) = json.loads((place / "calibration.json").read_text())["patients"]
        assert {name: group["scrypt"][name] for name in "nrp"} == {"n": 2**14, "r": 8, "p": 1}
        assert group["scrypt"]["salt"] not in ("00" * 8, "11" * 8)
        assert read_calibration(place).patients.find(["P-1", "P-2", "P-3"]) == {"P-1", "P-2"}


def test_rounds_and_folds_of_a_cohort_share_a_key(tiny):
    (first, *train), val = (read_manifest(tiny.data.manifest).split(name) for name in ("train", "val"))
    expected = name(tiny, train, val).keys
    pseudo, unknown = replace(first, pseudo_label=True), replace(first, idh=-1)
    for cases, held in (([pseudo, *train], val), ([unknown, *train], val), (val, train), (train, [*val, unknown])):
        assert name(tiny, cases, held).keys == expected
    assert name(tiny, [first, *train], val).keys != expected
    nobody = [replace(case, idh=-1) for case in train]
    assert name(tiny, nobody, []).keys != name(tiny, nobody[1:], []).keys


def test_weights_whose_keys_leave_no_room_are_refused_before_training(tiny, tiny_checkpoint, tmp_path):
    full = plant(tiny_checkpoint, tmp_path / "full", *((f"{number:016x}", 2) for number in range(64)))
    with pytest.raises(InputError, match=r"train\.start_from .*: its checkpoint\.json names patients by as many or as"):
        check_inputs(override(tiny, {"train.start_from": str(full)}))


def test_a_checkpoint_that_does_not_say_is_of_unknown_patients_and_so_is_what_starts_from_it(tiny, run):
    record = run / "best" / "checkpoint.json"
    content = json.loads(record.read_text())
    del content["patients"]  # as before it is published
    record.write_text(json.dumps(content))
    assert read_known_patients(run) is None
    changes = {"train.epochs": 1, "train.start_from": str(run), "output.name": "second"}
    second = run_training(override(tiny, changes), launch_locally)
    assert read_known_patients(second) is None
    assert plan_scoring(second, tiny.data.manifest, "train").about["learned_from"] is None


def test_scores_of_known_patients_give_no_thresholds(tiny, run):
    path = tiny.data.manifest
    known = [case.case_id for case in read_manifest(path).split("train")]
    about = plan_scoring(run, path, "train").about
    assert about["learned_from"] == known
    assert plan_scoring(run, path, "val").about["learned_from"] == []
    rows = tuple(summarise_passes(case_id, [0.9, 0.8], 0.9, 0.0) for case_id in known)
    with pytest.raises(InputError, match=f"the same ids as those of {known[0]}, "):
        pool_scores({"x": ScoreTable(rows, {**about, "split": "val"})}, dict.fromkeys(known, 1))


def test_predictions_and_their_evaluation_say_so(tiny, run, tmp_path):
    path = tiny.data.manifest
    predict_cases(plan_predictions(run, [path], tmp_path / "predictions"))
    found = {
        row["case_id"]: row["learned_from"]
        for row in pq.read_table(tmp_path / "predictions" / "predictions.parquet").to_pylist()
    }
    assert found == {case.case_id: case.split == "train" for case in read_manifest(path).cases}
    for split, count in (("train", 4), ("val", 0)):
        plan = plan_evaluation(
            tmp_path / "predictions", path, tmp_path / split, split, baselines=False, num_resamples=2
        )
        said = [line for line in describe_cases(evaluate_cases(plan).summary) if "no fair test" in line]
        assert len(said) == (count > 0)
        assert len(plan.learned_from(plan.systems[0])) == count

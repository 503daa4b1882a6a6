"""Test cases teach, select and choose nothing: without them a self-training ends with the same bytes."""

import shutil

import pyarrow.parquet as pq
import pytest
from small_self_training import names, stopping

from mttu.config import override
from mttu.errors import InputError, RunError, UnmeasuredError
from mttu.files import read_json, write_json
from mttu.self_training import cross_validate_self_training, run_self_training
from mttu.self_training.evaluation import read_summary
from mttu.training.folds import read_folds_table
from mttu.training.inputs import check_inputs, check_test_cases

pytestmark = pytest.mark.usefixtures("sketches")

LEARNED = ("*.safetensors", "scores.parquet", "selection.*", "thresholds.*", "calibration.json", "held_out.json")
"""Files of a run that hold what was learned, selected and chosen."""


def read_learned(folder):
    """Name to bytes of these files of the rounds and of `best/`; to a table of scores, without its measured times."""

    def read(path):
        if path.name != "scores.parquet":
            return path.read_bytes()
        table = pq.read_table(path)
        return table.drop_columns("seconds").to_pylist(), table.schema.metadata

    found = {
        str(path.relative_to(folder)): read(path)
        for place in ("round_0", "round_1", "best")
        for pattern in LEARNED
        for path in (folder / place).rglob(pattern)
    }
    assert {"best/weights.safetensors", "round_1/scores.parquet"} <= found.keys()
    return found


@pytest.fixture
def cohort(make_config, pool_manifest, pool_cache, tmp_path):
    """Settings, source files and prepared cases that may be damaged."""
    shutil.copytree(pool_cache, tmp_path / "cache")
    changes = {"data.cache_dir": str(tmp_path / "cache"), "self_training.rounds": 1}
    changes |= {"selection.method": "UPS", "self_training.thresholds": "search"}
    return make_config(changes)


def damage(config, manifest, keep):
    """Overwrites the prepared test cases; moves whole ones to `keep`, and back if they are there."""
    for case in manifest.split("test"):
        place = config.data.cache_dir / case.case_id
        if (keep / case.case_id).exists():
            shutil.rmtree(place)
            shutil.move(keep / case.case_id, place)
            continue
        shutil.copytree(place, keep / case.case_id)
        for path in place.iterdir():
            path.write_bytes(b"\x13damaged" * 50)


def test_damaged_test_cases_change_no_bit_and_stop_the_evaluation_alone(cohort, pool_manifest, here, tmp_path):
    folder = run_self_training(cohort, here)
    whole = shutil.move(folder, tmp_path / "whole")
    damage(cohort, pool_manifest, tmp_path / "kept")
    tests = [case.case_id for case in pool_manifest.split("test")]
    with pytest.raises(InputError) as caught:
        run_self_training(cohort, here)
    assert [[name in problem for name in tests] for problem in caught.value.problems[:2]] == [
        [True, False],
        [False, True],
    ]
    assert "all rounds are trained, and best/ is written; mend the test cases and run the same" in str(caught.value)
    assert read_learned(folder) == read_learned(whole)
    assert read_summary(folder) is None
    notes = check_inputs(cohort, ("train", "val", "unlabelled", "test"), test_comes_last=True).notes
    said = [note for note in notes if note.startswith("the evaluation of test cases at the end would stop")]
    assert [name in note for name, note in zip(tests, said, strict=True)] == [True, True]
    damage(cohort, pool_manifest, tmp_path / "kept")
    assert run_self_training(cohort, here) == folder
    assert (folder / "test.json").read_text() == (whole / "test.json").read_text()
    assert read_learned(folder) == read_learned(whole)
    assert "working-test" not in names(folder)


def test_all_folds_are_trained_before_test_cases_are_refused(cohort, pool_manifest, here, tmp_path):
    config = override(cohort, {"data.folds": 2, "selection.method": "direct", "self_training.thresholds": "fixed"})
    damage(config, pool_manifest, tmp_path / "kept")
    with pytest.raises(UnmeasuredError) as caught:
        cross_validate_self_training(config, here)
    folder = config.output.place
    tests = [case.case_id for case in pool_manifest.split("test")]
    told = [*tests, *(f"{folder / name}: all rounds are trained" for name in ("fold_1", "fold_2"))]
    assert [text in problem for text, problem in zip(told, caught.value.problems, strict=True)] == [True] * 4
    assert [(folder / name / "best" / "weights.safetensors").exists() for name in ("fold_1", "fold_2")] == [True, True]
    assert not (folder / "folds.csv").exists()
    damage(config, pool_manifest, tmp_path / "kept")
    counting, calls = stopping(here, "never")
    assert cross_validate_self_training(config, counting) == folder
    assert calls == {"train": 0, "score": 0, "evaluate": 2}
    assert {row.network for row in read_folds_table(folder)} == {"chosen round", "round 0"}


def test_a_test_case_of_other_voxels_is_refused(cohort, pool_manifest):
    assert check_test_cases(cohort, pool_manifest)[1] == []
    case = pool_manifest.split("test")[1]
    path = cohort.data.cache_dir / case.case_id / "image.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # one bit of a voxel, which stays finite
    path.write_bytes(content)
    _, (problem,) = check_test_cases(cohort, pool_manifest)
    assert problem.startswith(f"case {case.case_id}: image.npy is not as it was written: its checksum differs; remove ")


@pytest.mark.parametrize(("now", "evaluated"), [("as before", 1), ("others", 2)])
def test_rows_are_kept_for_the_test_cases_that_they_are_of(now, evaluated, cohort, here, monkeypatch):
    monkeypatch.setattr("mttu.self_training.evaluation.check_test_cases", lambda *_: ("as before", []))
    with pytest.raises(RunError):
        run_self_training(cohort, stopping(here, "evaluate-3")[0])  # between the tests of both rounds
    monkeypatch.setattr("mttu.self_training.evaluation.check_test_cases", lambda *_: (now, []))
    counting, calls = stopping(here, "never")
    run_self_training(cohort, counting)
    assert calls == {"train": 0, "score": 0, "evaluate": evaluated}


def test_a_run_that_was_bound_to_its_test_cases_goes_on(cohort, here):
    folder = run_self_training(cohort, here)
    inputs = check_inputs(cohort, ("train", "val", "unlabelled", "test"), test_comes_last=True)
    run = read_json(folder / "run.json")
    assert run["data"] == inputs.fingerprint
    assert inputs.earlier_fingerprint == check_inputs(cohort, ("train", "val", "unlabelled", "test")).fingerprint
    assert inputs.earlier_fingerprint != inputs.fingerprint
    write_json(folder / "run.json", {**run, "data": inputs.earlier_fingerprint})
    assert run_self_training(cohort, here) == folder
    write_json(folder / "run.json", {**run, "data": "of other cases"})
    with pytest.raises(InputError, match="manifest or prepared cases: of other ca"):
        run_self_training(cohort, here)

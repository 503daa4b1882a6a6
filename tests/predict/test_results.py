import csv
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mttu.errors import InputError
from mttu.predict import PredictionRow, plan_predictions, predict_cases
from mttu.predict import results as results_module
from mttu.predict.results import SCHEMA, check_output, open_staging, publish, recover_output, write_tables

METADATA = {"mttu_version": "0.1.0", "inference": {"overlap": 0.125}}


def fill_staging(out, version, failed=()):
    """Stages cases a, b and c as files that hold `version`."""
    staging = open_staging(out)
    rows = []
    for case_id in ("a", "b", "c"):
        if case_id in failed:
            rows.append(PredictionRow(case_id, 1.0, f"case {case_id}: bad"))
            continue
        (staging / f"{case_id}_seg.nii.gz").write_text(version)
        (staging / f"{case_id}_overlay.png").write_text(version)
        rows.append(PredictionRow(case_id, 1.0, "", 0.25, 3.0, 2.0, 1.0, False, False))
    write_tables(staging, rows, {**METADATA, "checkpoint": version})


def read_all(out):
    return {
        path.name: read_version(path) if path.suffix == ".parquet" else path.read_text()
        for path in out.iterdir()
        if path.is_file() and path.name not in ("predictions.csv", "README.txt")
    }


def read_version(table):
    return (pq.read_schema(table).metadata or {})[b"checkpoint"].decode()


def complete(version, failed=()):
    names = [
        f"{case_id}_{kind}" for case_id in "abc" if case_id not in failed for kind in ("seg.nii.gz", "overlay.png")
    ]
    return dict.fromkeys([*names, "predictions.parquet"], version)


def test_the_table_has_its_schema_its_version_and_its_warning(tmp_path):
    fill_staging(tmp_path, "run-1", failed=("b",))
    publish(tmp_path)
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert table.schema.equals(SCHEMA)
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata["format_version"] == "1"
    assert metadata["intended_use"].startswith("Research use only")
    assert json.loads(metadata["inference"]) == {"overlap": 0.125}
    rows = table.to_pylist()
    assert [row["case_id"] for row in rows] == ["a", "b", "c"]
    assert rows[1]["idh_mutant_probability"] is rows[1]["wt_ml"] is rows[1]["no_tumour_found"] is None
    assert rows[1]["error"] == "case b: bad"
    assert "Research use only" in (tmp_path / "README.txt").read_text()


def test_csv_and_parquet_say_the_same(tmp_path):
    fill_staging(tmp_path, "run-1", failed=("b",))
    publish(tmp_path)
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert list(rows[0]) == table.column_names
    for name in ("case_id", "error", "intended_use"):
        assert [row[name] for row in rows] == table[name].to_pylist()
    assert [row["wt_ml"] == "" for row in rows] == [value is None for value in table["wt_ml"].to_pylist()]
    assert [row["wt_ml"] == "" for row in rows] == [False, True, False]
    assert {row["intended_use"] for row in rows} == {"Research use only. Not for diagnosis."}
    assert {row["format_version"] for row in rows} == {"1"}


def test_a_rerun_replaces_its_own_results_and_nothing_else(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    fill_staging(tmp_path, "run-1")
    publish(tmp_path)
    assert check_output(tmp_path, ["a", "b", "c"], set()) == []
    fill_staging(tmp_path, "run-2", failed=("b",))
    assert read_all(tmp_path) == {**complete("run-1"), "notes.txt": "mine"}
    publish(tmp_path)
    assert read_all(tmp_path) == {**complete("run-2", failed=("b",)), "notes.txt": "mine"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_more_cases_may_join_but_none_may_be_lost(tmp_path):
    fill_staging(tmp_path, "run-1")
    publish(tmp_path)
    assert check_output(tmp_path, ["a", "b", "c", "d"], set()) == []
    (problem,) = check_output(tmp_path, ["a", "c"], set())
    assert "predictions of other cases (b)" in problem
    (tmp_path / "d_seg.nii.gz").write_text("mine")
    (problem,) = check_output(tmp_path, ["a", "b", "c", "d"], set())
    assert "d_seg.nii.gz" in problem


def test_a_prediction_of_an_older_version_is_replaced(tmp_path):
    fill_staging(tmp_path, "run-1")
    publish(tmp_path)
    table = pq.read_table(tmp_path / "predictions.parquet")
    pq.write_table(table.drop_columns(["idh_calibrated_probability", "idh_call"]), tmp_path / "predictions.parquet")
    assert check_output(tmp_path, ["a", "b", "c"], set()) == []
    pq.write_table(table.drop_columns(["case_id"]), tmp_path / "predictions.parquet")
    assert "not of an earlier prediction" in check_output(tmp_path, ["a", "b", "c"], set())[0]


def test_a_long_list_of_files_is_shortened(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}_seg.nii.gz").write_text("mine")
    (problem,) = check_output(tmp_path, [str(number) for number in range(5)], set())
    assert "0_seg.nii.gz, 1_seg.nii.gz, 2_seg.nii.gz and 2 more" in problem


class Killed(BaseException):
    """What a kill looks like to the code: nothing catches it."""


def kill_at(step, monkeypatch):
    """Lets the first `step` renames and removals happen, then kills; returns how many happened."""
    done = 0

    def guard(action):
        def act(*arguments, **named):
            nonlocal done
            if done == step:
                raise Killed
            done += 1
            return action(*arguments, **named)

        return act

    monkeypatch.setattr(results_module.os, "replace", guard(os.replace))
    monkeypatch.setattr(Path, "unlink", guard(Path.unlink))
    monkeypatch.setattr(results_module.shutil, "rmtree", guard(results_module.shutil.rmtree))
    return lambda: done


def test_a_kill_at_any_step_of_publishing_is_made_good(tmp_path):
    finished, step = False, 0
    while not finished:
        out = tmp_path / str(step)
        out.mkdir()
        fill_staging(out, "run-1")
        publish(out)
        fill_staging(out, "run-2", failed=("b",))
        with pytest.MonkeyPatch.context() as patch:
            kill_at(step, patch)
            try:
                publish(out)
                finished = True
            except Killed:
                pass
        seen = read_all(out)
        if seen.get("predictions.parquet") == "run-1":
            assert seen == complete("run-1")
        if seen.get("predictions.parquet") == "run-2":
            assert seen == complete("run-2", failed=("b",))
        recover_output(out)
        assert read_all(out) == complete("run-2", failed=("b",)), step
        step += 1
    assert step > 10  # every file of two cases, the removals and the tables


def test_a_kill_before_the_table_leaves_the_earlier_results(checkpoint, cases, tmp_path, call_all):
    out = tmp_path / "out"
    predict_cases(call_all(plan_predictions(checkpoint, [cases], out), 1))
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def kill(done, row):
        raise Killed

    with pytest.raises(Killed):
        predict_cases(call_all(plan_predictions(checkpoint, [cases], out), 2), kill)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    rows = predict_cases(call_all(plan_predictions(checkpoint, [cases], out), 2))
    assert [row.error for row in rows] == ["", ""]
    assert sorted(path.name for path in out.iterdir()) == sorted(before)


def test_results_inside_the_input_folder_are_no_cases(checkpoint, cases, call_all):
    out = cases / "predictions"
    for _ in range(2):
        rows = predict_cases(call_all(plan_predictions(checkpoint, [cases], out), 0))
        assert [(row.case_id, row.error) for row in rows] == [("a", ""), ("b", "")]
    with pytest.raises(InputError, match="no NIfTI file"):
        plan_predictions(checkpoint, [out], cases / "again")


def test_a_table_of_an_older_version_is_replaced_like_any_other(tmp_path):
    columns = [field for field in SCHEMA if field.name != "missing"]
    constants = {"intended_use": "", "format_version": 1}
    row = {"case_id": "a", "seconds": 1.0, "error": "", **constants}
    pq.write_table(pa.Table.from_pylist([row], schema=pa.schema(columns)), tmp_path / "predictions.parquet")
    assert check_output(tmp_path, ["a"], ()) == []
    assert "holds predictions of other cases (a)" in check_output(tmp_path, ["b"], ())[0]


@pytest.mark.parametrize("case_id", ["../../patient", "/etc/patient", "..", "a/b"])
def test_a_foreign_staging_folder_moves_and_deletes_nothing_outside(tmp_path, case_id):
    out = tmp_path / "deep" / "out"
    staging = open_staging(out)
    victim = tmp_path / "patient_seg.nii.gz"
    victim.write_text("a mask")
    write_tables(staging, [PredictionRow(case_id, 1.0), PredictionRow("fine", 1.0)], METADATA)
    with pytest.raises(InputError, match=r"names case '.*', which leads out of the folder and is not of mttu; remove"):
        recover_output(out)
    assert victim.read_text() == "a mask"
    (staging / "predictions.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match=r"cannot be read \(.*\); remove"):
        recover_output(out)


@pytest.mark.parametrize("way", [recover_output, open_staging])
def test_a_linked_staging_folder_leaves_what_it_leads_to(tmp_path, way):
    theirs, out = tmp_path / "theirs", tmp_path / "out"
    write_tables(open_staging(tmp_path / "x"), [PredictionRow("a", 1.0, wt_ml=1.0)], METADATA)
    (tmp_path / "x" / ".partial-predictions").rename(theirs)
    (theirs / "a_seg.nii.gz").write_text("a mask")
    before = {path: path.read_bytes() for path in theirs.iterdir()}
    out.mkdir()
    (out / ".partial-predictions").symlink_to(theirs)
    way(out)
    assert {path: path.read_bytes() for path in theirs.iterdir()} == before
    assert not (out / ".partial-predictions").is_symlink()


@pytest.mark.parametrize("name", ["predictions.parquet", "a_seg.nii.gz"])
def test_a_linked_staged_file_is_refused(tmp_path, name):
    out, theirs = tmp_path / "out", tmp_path / "theirs"
    staging = open_staging(out)
    write_tables(staging, [PredictionRow("a", 1.0, wt_ml=1.0)], METADATA)
    (staging / "a_seg.nii.gz").write_text("a mask")
    (staging / name).rename(theirs)
    (staging / name).symlink_to(theirs)
    with pytest.raises(InputError, match=rf"{name} in it is a link, and links are not followed; remove .*partial-"):
        recover_output(out)
    assert theirs.exists()
    assert sorted(path.name for path in out.iterdir()) == [".partial-predictions"]


def test_a_case_whose_folder_is_no_id_still_has_its_row(tmp_path):
    write_tables(open_staging(tmp_path), [PredictionRow("a case", 1.0, "case a case: no file name")], METADATA)
    publish(tmp_path)
    assert pq.read_table(tmp_path / "predictions.parquet")["case_id"].to_pylist() == ["a case"]

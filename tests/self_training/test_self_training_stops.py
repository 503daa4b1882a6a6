"""Self-training that is stopped, changed or damaged."""

import errno
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from small_self_training import names, same, scoring, stopping, weights

from mttu.config import override
from mttu.errors import InputError, RunError
from mttu.files import lock_folder
from mttu.self_training import algorithm, run_self_training
from mttu.self_training.evaluation import read_summary
from mttu.self_training.run import naming_full_disk

pytestmark = pytest.mark.usefixtures("sketches")


def stop_in(phase, config, callables):
    """Starts a run that stops itself in a phase; returns how often each kind of work was called."""
    stopped, calls = stopping(callables, phase)
    with pytest.raises(RunError, match=f"stopped in {phase}"):
        run_self_training(config, stopped)
    return calls


def test_it_goes_on_after_a_stop_in_each_phase_without_doing_a_phase_twice(make_config, here):
    unbroken = run_self_training(make_config({"output.name": "unbroken", "self_training.rounds": 1}), here)
    phases = ["train-0", "evaluate-0", "score-0", "train-1", "evaluate-1", "evaluate-2", "evaluate-3"]
    config = make_config({"output.name": "stopped", "self_training.rounds": 1})
    done = {"train": 0, "score": 0, "evaluate": 0}
    for phase in phases:
        name, number = phase.split("-")
        calls = stop_in(f"{name}-{int(number) - done[name]}", config, here)
        done = {key: done[key] + calls[key] - (key == name) for key in done}
        assert done[name] == int(number)  # what was finished before is not called again
    folder = run_self_training(config, here)
    assert same(weights(unbroken / "round_1"), weights(folder / "round_1"))
    assert (folder / "test.json").read_text() == (unbroken / "test.json").read_text()


def test_training_does_not_go_on_with_other_pseudo_labels_than_it_was_begun_with(make_config, here):
    config = make_config({"self_training.rounds": 1})
    stop_in("evaluate-1", config, replace(here, score=scoring(lambda name: [0.9, 0.9])))
    work = config.output.folder / "self" / "working-round_1"
    for path in (work / "scores.parquet", *work.glob("selection.*")):
        path.unlink()
    with pytest.raises(InputError, match="was begun with other pseudo-labels than its scores give now"):
        run_self_training(config, replace(here, score=scoring(lambda name: [0.1, 0.1])))


def test_a_changed_setting_is_refused_with_the_difference_and_fresh_starts_anew(make_config, here):
    config = make_config({"self_training.rounds": 1})
    folder = run_self_training(config, here)
    changed = override(config, {"selection.confidence_threshold": 0.7, "mc.passes": 3, "self_training.relabel": False})
    with pytest.raises(InputError) as caught:
        run_self_training(changed, here)
    for difference in (
        "selection.confidence_threshold: 0.9 -> 0.7",
        "mc.passes: 2 -> 3",
        "self_training.relabel: True -> False",
        "--fresh",
    ):
        assert difference in str(caught.value)
    run_self_training(changed, here, fresh=True)
    assert {"round_0", "round_1", "summary.json"} <= set(names(folder / "replaced-1"))
    assert read_summary(folder) is not None


def test_more_rounds_only_before_the_test_cases_were_looked_at(make_config, here):
    config = make_config({"self_training.rounds": 1})
    stop_in("evaluate-2", config, here)
    folder = run_self_training(override(config, {"self_training.rounds": 2}), here)
    assert (folder / "round_2").exists()
    with pytest.raises(InputError, match=r"self_training\.rounds: 3, but this run was finished with 2"):
        run_self_training(override(config, {"self_training.rounds": 3}), here)
    for name in ("finished.json", "summary.json"):
        (folder / name).unlink()  # as a kill right before them leaves the folder
    with pytest.raises(
        InputError, match=r"self_training\.rounds: 3, but the test cases have been looked at after round 2"
    ):
        run_self_training(override(config, {"self_training.rounds": 3}), here)
    with pytest.raises(InputError, match=r"self_training\.rounds: 1, but round 2 is there already"):
        run_self_training(config, here)
    shutil.rmtree(folder / "round_2")
    with pytest.raises(InputError, match="round 2 is missing, and the test cases have been looked at; restore it"):
        run_self_training(override(config, {"self_training.rounds": 2}), here)


def test_a_finished_run_without_its_rounds_stays_as_it_is(make_config, here):
    config = make_config({"self_training.rounds": 1})
    folder = run_self_training(config, here)
    for number in range(2):
        shutil.rmtree(folder / f"round_{number}")  # to save room
    before = names(folder)
    assert run_self_training(config, here) == folder
    assert names(folder) == before


def test_a_second_driver_is_refused(make_config, here):
    config = make_config()
    with lock_folder(config.output.folder / "self"), pytest.raises(InputError, match="another mttu is working"):
        run_self_training(config, here)
    assert names(config.output.folder / "self") == []


def test_a_full_disk_stops_cleanly_and_goes_on_later(make_config, here, monkeypatch):
    config = make_config({"self_training.rounds": 1})
    unbroken = run_self_training(override(config, {"output.name": "unbroken"}), here)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "round.json")

    for name in ("write_manifest", "write_history", "write_rows", "write_metrics", "write_record"):
        with monkeypatch.context() as patch:
            patch.setattr(algorithm, name, full)
            with pytest.raises(RunError, match="the disk is full; nothing that was finished is lost"):
                run_self_training(config, here)
    folder = run_self_training(config, here)
    assert same(weights(unbroken / "round_1"), weights(folder / "round_1"))


def test_what_fails_where_there_is_no_room_fails_for_want_of_it(tmp_path, monkeypatch):
    """PyTorch and SQLite have errors of their own for a full disk."""
    for failure, free, full in (
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), 4096, True),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), 2**40, False),
        (RuntimeError("database or disk is full"), 2**40, True),
    ):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr("mttu.self_training.run.shutil.disk_usage", lambda _, usage=usage: usage)
        with pytest.raises(RuntimeError) as caught, naming_full_disk(tmp_path):
            raise failure
        assert isinstance(caught.value, RunError) is full


def test_a_damaged_round_is_named(make_config, here):
    config = make_config({"self_training.rounds": 1})
    stop_in("train-1", config, here)
    record = config.output.folder / "self" / "round_0" / "round.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "format_version": 99}))
    with pytest.raises(InputError, match=r"round\.json: format_version is 99; this version of mttu reads 1"):
        run_self_training(config, here)


def test_links_in_place_of_working_folders_are_not_followed(make_config, here, tmp_path):
    config = make_config({"self_training.rounds": 0})
    theirs, run = tmp_path / "theirs", config.output.folder / "self"
    theirs.mkdir()
    for phase, name in (("train-0", "working-round_0"), ("evaluate-1", "working-test")):
        stop_in(phase, config, here)
        shutil.rmtree(run / name, ignore_errors=True)
        (run / name).symlink_to(theirs)
    run_self_training(config, here)
    assert list(theirs.iterdir()) == []
    assert "working-test" not in names(run)

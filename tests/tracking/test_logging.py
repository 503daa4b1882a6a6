import math
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow_runs import client_of, history, run_of

from mttu.errors import RunError
from mttu.tracking import MlflowTracker, NullTracker, Tracker

Begin = Callable[..., MlflowTracker]


def test_a_figure_of_a_step_is_logged_once_and_others_may_join_it(begin: Begin) -> None:
    tracker = begin()
    tracker.log_step(0, {"val/ece": 0.25, "selected/mutant": 0, "selected/accuracy": math.nan})
    tracker.log_step(1, {"val/ece": 0.125, "selected/mutant": 3})
    tracker.log_step(1, {"val/ece": 0.5, "selected/mutant": 3, "selected/accuracy": 1.0})
    tracker.log_step(0, {"test/idh_auc": 0.75})
    tracker.log_step(2, {})
    assert history(tracker, "val/ece") == [(0, 0.25), (1, 0.125)]
    assert history(tracker, "selected/mutant") == [(0, 0.0), (1, 3.0)]
    assert history(tracker, "selected/accuracy") == [(1, 1.0)]
    assert history(tracker, "test/idh_auc") == [(0, 0.75)]


def test_a_class_in_no_prediction_is_a_tag_until_one_predicts_it(begin: Begin) -> None:
    tracker = begin()

    def read_tag() -> object:
        return run_of(tracker).data.tags.get("mttu.absent_classes")

    counts = {f"val/predicted_{name}": 2.0 for name in ("background", "ncr_net", "edema")}
    tracker.log_epoch(1, {"train/loss": 1.0})
    assert read_tag() is None
    absent = {"val/predicted_enhancing": 0.0, "val/true_enhancing": 1.0, "val/absent_since_enhancing": 2.0}
    tracker.log_epoch(2, counts | absent)
    tracker.log_epoch(3, {"train/loss": 1.0})
    assert read_tag() == "enhancing since epoch 2"
    tracker.log_epoch(4, counts | {"val/predicted_enhancing": 1.0})
    assert read_tag() == "none"
    tracker.log_epoch(2, counts | absent)  # the run holds that epoch
    assert read_tag() == "none"
    assert history(tracker, "val/absent_since_enhancing") == [(2, 2.0)]


def test_steps_and_epochs_do_not_know_each_other(begin: Begin) -> None:
    tracker = begin()
    tracker.log_step(0, {"best/dice": 0.5})
    tracker.log_epoch(0, {"val/dice": 0.25})
    tracker.log_step(0, {"best/idh_auc": 0.75})
    assert [history(tracker, name) for name in ("best/dice", "val/dice", "best/idh_auc")] == [
        [(0, 0.5)],
        [(0, 0.25)],
        [(0, 0.75)],
    ]


def test_tables_and_figures_replace_those_of_their_name(begin: Begin, tmp_path: Path) -> None:
    tracker, table, picture = begin(), tmp_path / "rounds.csv", tmp_path / "calibration.png"
    for text in ("round\n0\n", "round\n0\n1\n"):
        table.write_text(text)
        tracker.log_table(table)
        picture.write_text(text)
        tracker.log_figure(picture)
    client = client_of(tracker)
    assert [item.path for item in client.list_artifacts(tracker.run_id, "tables")] == ["tables/rounds.csv"]
    assert Path(client.download_artifacts(tracker.run_id, "tables/rounds.csv")).read_text() == "round\n0\n1\n"
    assert [item.path for item in client.list_artifacts(tracker.run_id, "pictures")] == ["pictures/calibration.png"]
    found = client.download_artifacts(tracker.run_id, "pictures/calibration.png")
    assert Path(found).read_text() == "round\n0\n1\n"


def test_inputs_are_named_once_with_their_use(begin: Begin) -> None:
    tracker = begin()
    for _ in range(2):
        tracker.log_dataset("pool.parquet", "ab" * 32, "unlabelled")
        tracker.log_dataset("labelled.parquet", "cd" * 32, "training")
    inputs = run_of(tracker).inputs.dataset_inputs
    found = {item.dataset.name: (item.dataset.digest, item.tags[0].value) for item in inputs}
    assert found == {
        "manifest": ("3f" * 18, "training"),
        "pool.parquet": ("ab" * 18, "unlabelled"),
        "labelled.parquet": ("cd" * 18, "training"),
    }
    assert len(inputs) == 3


def test_a_run_that_is_gone_is_told_in_words(begin: Begin, tmp_path: Path) -> None:
    lost = MlflowTracker(begin().uri, "0" * 32)
    for call in (lambda: lost.log_step(0, {"a": 1.0}), lambda: lost.finish("FINISHED"), lambda: lost.allows_pictures):
        with pytest.raises(RunError, match=r"tracking\.uri sqlite:.*MLflow cannot write \(.*0000.* not found\)"):
            call()
    with pytest.raises(RunError, match=r"MLflow cannot write \(.*No such file"):
        begin().log_table(tmp_path / "none.csv")


def test_nothing_is_written_where_nothing_is_tracked(tmp_path: Path, checkpoint: Path) -> None:
    tracker: Tracker = NullTracker()
    tracker.log_step(0, {"a": 1.0})
    tracker.log_figure(tmp_path / "x.png")
    tracker.log_table(tmp_path / "none.csv")
    tracker.log_dataset("a", "b", "c")
    version = tracker.register("model", checkpoint, {})
    tracker.set_alias("model", version, "best")
    assert version == ""
    assert [item.name for item in tmp_path.iterdir()] == ["best"]

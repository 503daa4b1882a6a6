import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow_runs import client_of, run_of

from mttu.config import Config, override
from mttu.errors import InputError
from mttu.tracking import MlflowTracker, NullTracker, open_tracker

Begin = Callable[..., MlflowTracker]


def children(tracker: MlflowTracker) -> list[str]:
    condition = f"tags.mlflow.parentRunId = '{tracker.run_id}'"
    found = client_of(tracker).search_runs([run_of(tracker).info.experiment_id], filter_string=condition)
    above = run_of(tracker).info.run_name
    assert all(run.info.run_name.endswith(f", {above}") for run in found)
    return sorted(run.info.run_name.removesuffix(f", {above}") for run in found)


def test_runs_nest_and_say_what_they_are(begin: Begin, folder: Path) -> None:
    parent = begin()
    fold = begin(parent, "fold 1", folder / "fold_1", {"fold": 1})
    again = begin(fold, "round 0", folder / "fold_1" / "round_0", {"fold": 1, "round": 0}, **{"optim.lr": 0.5})
    assert children(parent) == ["fold 1"]
    assert children(fold) == ["round 0"]
    assert parent.uri == fold.uri == again.uri
    assert not list(folder.rglob("mlflow.db"))
    run = run_of(again)
    assert run.info.run_name == f"round 0, fold 1, {folder.name}"
    assert {name: run.data.params[name] for name in ("fold", "round", "optim.lr")} == {
        "fold": "1",
        "round": "0",
        "optim.lr": "0.5",
    }
    assert run.info.experiment_id == run_of(parent).info.experiment_id
    assert run.data.tags["mttu.pictures"] == "allowed"


def test_a_child_is_found_by_its_parent_and_name_wherever_its_folder_is(begin: Begin, folder: Path) -> None:
    parent = begin()
    first = begin(parent, "round 1", folder / "working-round_1")
    (folder / "working-round_1").rename(folder / "round_1")
    assert begin(parent, "round 1", folder / "round_1") == first
    shutil.rmtree(folder / "round_1")
    assert begin(parent, "round 1", folder / "round_1") == first
    other = begin(parent, "round 2", folder / "round_2")
    assert other != first
    shutil.copy(folder / "round_1" / "tracking.json", folder / "round_2")  # a copied folder is no other run's
    assert begin(parent, "round 2", folder / "round_2") == other
    assert children(parent) == ["round 1", "round 2"]


def test_same_names_below_other_parents_are_other_runs(begin: Begin, folder: Path) -> None:
    one, two = begin(), begin(place=folder / "second")
    assert begin(one, "round 0", folder / "a") != begin(two, "round 0", folder / "b")
    assert (children(one), children(two)) == (["round 0"], ["round 0"])


def test_a_finished_child_stays_finished_and_takes_test_figures(begin: Begin, folder: Path) -> None:
    parent = begin()
    child = begin(parent, "round 0", folder / "round_0")
    child.finish("FINISHED")
    ended = run_of(child).info.end_time
    child = begin(parent, "round 0", folder / "round_0")
    child.log_step(0, {"test/idh_auc": 0.75})
    child.finish("FINISHED")
    assert run_of(child).info.status == "FINISHED"
    assert run_of(child).info.end_time == ended
    assert run_of(child).data.metrics == {"test/idh_auc": 0.75}


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_child_that_failed_runs_again(begin: Begin, folder: Path, status: Any) -> None:
    parent = begin()
    child = begin(parent, status, folder / status)
    child.finish(status)
    assert run_of(begin(parent, status, folder / status)).info.status == "RUNNING"


def test_a_changed_setting_or_label_of_a_child_is_refused(begin: Begin, folder: Path) -> None:
    parent = begin()
    begin(parent, "round 1", folder / "round_1", {"round": 1})
    with pytest.raises(InputError) as caught:
        begin(parent, "round 1", folder / "round_1", {"round": 2}, **{"optim.lr": 0.5})
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["optim.lr", "round"]


def test_a_deleted_child_is_not_replaced_in_silence(begin: Begin, folder: Path) -> None:
    parent = begin()
    child = begin(parent, "round 0", folder / "round_0")
    client_of(child).delete_run(child.run_id)
    with pytest.raises(InputError, match=f"'round 0' was deleted; restore it .*--run-id {child.run_id}"):
        begin(parent, "round 0", folder / "round_0")
    client_of(child).restore_run(child.run_id)
    assert begin(parent, "round 0", folder / "round_0") == child


def test_a_child_of_nothing_is_nothing(folder: Path) -> None:
    assert open_tracker(Config(), folder, "0" * 64, True, NullTracker(), "round 0") == NullTracker()
    assert not folder.exists()


def test_a_name_that_no_model_can_have_is_refused_before_anything_is_made(folder: Path) -> None:
    with pytest.raises(InputError, match="registered model 'glioma/idh': give at most 256"):
        open_tracker(override(Config(), {"tracking.model": "glioma/idh"}), folder, "0" * 64, True)
    assert not folder.exists()

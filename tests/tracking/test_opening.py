import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow_runs import FINGERPRINT, artifact, artifacts, client_of, history, run_of, settings, start

from mttu.config import Config, flatten, load_stored_config, to_yaml
from mttu.config.changeable import list_changeable
from mttu.errors import InputError, RunError
from mttu.patients import PatientKey, name_patients
from mttu.tracking import MlflowTracker, NullTracker, Tracker, description, open_tracker, show_page
from mttu.tracking import runs as tracking_runs


def test_a_run_says_what_it_is(folder: Path) -> None:
    run = run_of(start(folder, **{"optim.lr": 0.5}))
    assert run.info.status == "RUNNING"
    assert run.data.tags["recipe.accumulation"].startswith(
        "a change of recipe: the 4 patches of a step are taken in 2 "
    )
    assert run.info.run_name == folder.name
    assert run.data.params["optim.lr"] == "0.5"
    assert run.data.params["network.bottleneck.num_layers"] == "4"
    assert run.data.params["metrics.empty_dice"] == "brats"
    assert run.data.params["patch.size"] == "[128, 128, 128]"
    assert run.data.params["data.manifest"] == "cohort.parquet"
    assert run.data.params["manifest.fingerprint"] == FINGERPRINT
    assert {f"version.{name}" for name in ("python", "mttu", "torch", "ray", "monai")} <= set(run.data.tags)
    assert run.data.tags["version.python"] == ".".join(str(part) for part in sys.version_info[:3])
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("cohort.parquet", FINGERPRINT[:36])


def test_mlflow_opens_the_experiment_at_its_runs(folder: Path) -> None:
    tracker = start(folder)
    client, number = client_of(tracker), run_of(tracker).info.experiment_id
    tag = "mlflow.experimentKind"
    assert client.get_experiment(number).tags[tag] == "custom_model_development"
    name = client.get_experiment(number).name
    assert show_page(tracker.uri, name) == f"http://127.0.0.1:5000/#/experiments/{number}/runs"
    client.delete_experiment_tag(number, tag)  # as of an experiment of an older version
    start(folder)
    assert client.get_experiment(number).tags[tag] == "custom_model_development"
    client.set_experiment_tag(number, tag, "finetuning")  # what a user chose stays
    start(folder)
    assert client.get_experiment(number).tags[tag] == "finetuning"
    client.set_experiment_tag(number, tag, "custom_model_development")


def test_a_run_says_what_it_will_not_measure(folder: Path) -> None:
    reason = "no IDH probability: no training case had a known IDH status"
    tracker = open_tracker(settings(), folder, FINGERPRINT, False, tags={"missing.idh": reason})
    assert run_of(tracker).data.tags["missing.idh"] == reason


def test_the_settings_are_an_artifact_without_paths(folder: Path) -> None:
    changes = {"train.epochs": 7, "train.batch_per_worker": 4, "data.cache_dir": "/home/someone/cache"}
    tracker = start(folder, **changes)
    assert "recipe.accumulation" not in run_of(tracker).data.tags
    config = load_stored_config(artifact(tracker, "config.yaml"))
    assert config.train.epochs == 7
    assert config.data.cache_dir is None


def test_nothing_in_the_database_names_a_home_folder_or_a_user(folder: Path) -> None:
    run = run_of(start(folder))
    told = f"{run.data.params}{run.data.tags}{run.inputs}{run.info.user_id}"
    assert "someone" not in told
    assert not {"mlflow.user", "mlflow.source.name"} & set(run.data.tags)


def test_database_and_artifacts_lie_beside_the_run_folder(folder: Path, runs: Path) -> None:
    tracker = start(folder)
    assert tracker.uri == f"sqlite:///{runs / 'mlflow.db'}"
    assert (runs / "mlflow.db").is_file()
    assert (runs / "mlflow-artifacts" / tracker.run_id / "artifacts" / "config.yaml").is_file()


def test_an_epoch_is_logged_once(folder: Path) -> None:
    tracker = start(folder)
    tracker.log_epoch(0, {"train/loss": 1.0})
    tracker.log_epoch(1, {"train/loss": 0.5})
    tracker.log_epoch(1, {"train/loss": 0.4})
    tracker.log_epoch(0, {"train/loss": 9.0, "late": 1.0})
    assert history(tracker, "train/loss") == [(0, 1.0), (1, 0.5)]
    assert history(tracker, "late") == []


def test_a_gap_is_filled(folder: Path) -> None:
    tracker = start(folder)
    for epoch in (1, 3, 2):
        tracker.log_epoch(epoch, {"train/loss": float(epoch)})
    assert sorted(history(tracker, "train/loss")) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_values_that_are_not_finite_are_missing(folder: Path) -> None:
    tracker = start(folder)
    tracker.log_epoch(0, {"val/idh_auc": math.nan, "val/loss": math.inf, "val/dice_wt": 0.8})
    assert set(run_of(tracker).data.metrics) == {"val/dice_wt", "epoch"}
    tracker.log_epoch(1, {"val/idh_auc": math.nan})
    tracker.log_epoch(1, {"val/idh_auc": 0.5})
    assert history(tracker, "val/idh_auc") == []


def test_a_resume_goes_on_in_the_same_run(folder: Path) -> None:
    first = start(folder)
    first.log_epoch(0, {"train/loss": 1.0})
    first.finish("FAILED")
    assert run_of(first).info.status == "FAILED"
    second = start(folder)
    assert second == first
    assert run_of(second).info.status == "RUNNING"
    second.log_epoch(0, {"train/loss": 7.0})
    second.log_epoch(1, {"train/loss": 0.5})
    second.finish("FINISHED")
    assert history(second, "train/loss") == [(0, 1.0), (1, 0.5)]
    assert run_of(second).info.status == "FINISHED"
    assert len(run_of(second).inputs.dataset_inputs) == 1


def test_another_process_writes_to_the_same_run(folder: Path, tmp_path: Path) -> None:
    tracker = start(folder)
    tracker.log_epoch(0, {"train/loss": 1.0})
    assert len(pickle.dumps(tracker)) < 1000
    (tmp_path / "tracker").write_bytes(pickle.dumps(tracker))
    code = (
        "import pickle, sys\n"
        "tracker = pickle.load(open(sys.argv[1], 'rb'))\n"
        "assert 'mlflow' not in sys.modules\n"
        "for epoch in (0, 1): tracker.log_epoch(epoch, {'train/loss': 2.0})\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "tracker")], check=True, cwd=tmp_path)
    assert history(tracker, "train/loss") == [(0, 1.0), (1, 2.0)]
    assert list(tmp_path.glob("*.db")) == []


def test_a_tracker_where_the_database_is_not_says_so(tmp_path: Path) -> None:
    database = tmp_path / "gone" / "mlflow.db"
    with pytest.raises(RunError, match=r"mlflow\.db does not exist on .*tracking\.uri=http"):
        MlflowTracker(f"sqlite:///{database}", "0" * 32).log_epoch(0, {"a": 1.0})
    assert not database.parent.exists()


@pytest.mark.parametrize("boundary", ["the run is made", "the run is recorded"])
def test_a_kill_while_opening_leaves_one_run(runs: Path, monkeypatch: pytest.MonkeyPatch, boundary: str) -> None:
    """The folder's record is written twice: before the run is made, and with the run's id."""
    folder = runs / f"killed before {boundary}"
    original = tracking_runs.write_json

    def killed(path: Path, content: dict[str, Any]) -> None:
        if boundary == "the run is recorded" and content["run_id"] is not None:
            raise KeyboardInterrupt
        original(path, content)
        if boundary == "the run is made":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking_runs, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            start(folder, **{"output.name": "killed"})
    tracker = start(folder, **{"output.name": "killed"})
    training = run_of(tracker).data.tags["mttu.training"]
    experiment = run_of(tracker).info.experiment_id
    found = client_of(tracker).search_runs([experiment], filter_string=f"tags.`mttu.training` = '{training}'")
    assert [run.info.run_id for run in found] == [tracker.run_id]


def test_a_changed_parameter_is_refused_and_named(folder: Path) -> None:
    tracker = start(folder)
    tracker.finish("KILLED")
    with pytest.raises(InputError) as caught:
        start(folder, **{"optim.lr": 0.5, "train.seed": 3})
    assert len(caught.value.problems) == 2
    assert "optim.lr: the MLflow run of this folder was started with 0.0002, now it is 0.5" in str(caught.value)
    assert run_of(tracker).info.status == "KILLED"
    assert run_of(tracker).data.params["optim.lr"] == "0.0002"


def test_a_changed_cohort_is_refused(folder: Path) -> None:
    start(folder)
    with pytest.raises(InputError, match=r"manifest\.fingerprint: .* was started with 3f3f.*, now it is aaaa"):
        open_tracker(settings(), folder, "a" * 64, False)


def test_what_a_resume_may_change_is_not_refused(folder: Path) -> None:
    """The run folder and the tracker must agree on that, or a resume that one allows fails at the other."""
    changes = {
        "output.folder": "/elsewhere",
        "tracking.log_patient_images": True,
        "mc.passes": 20,
        "selection.balance": True,
        "metrics.empty_hd95": "brats2020",
        "data.manifest": "/elsewhere/moved.parquet",
        "data.cache_dir": "/elsewhere/cache",
        "train.loader_workers": 2,
        "workers.device": "cpu",
        "workers.max_failures": 0,
        "workers.gpus_per_worker": 0.5,
        "workers.threads_per_worker": 7,
        "self_training.rounds": 5,
        "self_training.stop_when_unchanged": False,
        "self_training.epochs": 7,
        "self_training.lr": 1e-3,
        "self_training.relabel": False,
        "self_training.teacher": "best",
        "self_training.init": "fresh",
        "self_training.labels": "soft",
        "self_training.optimiser": "fresh",
        "self_training.thresholds": "search",
        "self_training.min_coverage": 0.7,
        "self_training.keep": "all",
        "self_training.truth": "/elsewhere/truth.csv",
        "self_training.start": "/elsewhere/round_0",
    }
    of_folds = {"self_training.teacher": "ensemble", "self_training.ensemble": "/elsewhere/folds"}
    known = flatten(Config().model_dump(mode="json"))
    for free in list_changeable():
        changed = any(name.startswith(free) for name in (*changes, *of_folds))
        assert changed or not any(name.startswith(free) for name in known)
    first = start(folder)
    assert start(folder, **of_folds) == first  # searched thresholds, below, are refused with it
    assert start(folder, **changes) == first
    run = run_of(first)
    assert run.data.params["workers.threads_per_worker"] == "2"
    assert run.data.tags["changed.workers.threads_per_worker"] == "7"


def test_a_resume_with_another_version_names_both(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(description, "version", lambda _: "1.0")
    start(folder)
    monkeypatch.setattr(description, "version", lambda _: "2.0")
    start(folder)
    assert run_of(start(folder)).data.tags["version.torch"] == "1.0, 2.0"


@pytest.mark.parametrize(
    ("synthetic", "allowed", "expected"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_pictures_of_patients_only_if_allowed(
    runs: Path, tmp_path: Path, synthetic: bool, allowed: bool, expected: bool
) -> None:
    folder = runs / f"pictures-{synthetic}-{allowed}"
    opened = start(folder, synthetic, **{"tracking.log_patient_images": allowed})
    reopened: Tracker = MlflowTracker(opened.uri, opened.run_id)  # the rule must hold in any process
    assert reopened.allows_pictures == expected
    case, curves = tmp_path / "val_case.png", tmp_path / "learning_curves.png"
    for path in (case, curves):
        path.write_bytes(b"picture")
    assert reopened.log_picture(case) == expected
    assert artifacts(opened, "pictures") == (["pictures/val_case.png"] if expected else [])
    reopened.log_figure(curves)
    assert "pictures/learning_curves.png" in artifacts(opened, "pictures")


def test_a_checkpoint_is_kept_without_paths(folder: Path, tmp_path: Path) -> None:
    best = tmp_path / "best"
    best.mkdir()
    (best / "weights.safetensors").write_bytes(b"weights")
    (best / "config.yaml").write_text(to_yaml(settings()))
    (best / "checkpoint.json").write_text("{}")
    tracker = start(folder)
    tracker.log_checkpoint(best)
    (best / "weights.safetensors").write_bytes(b"better")
    tracker.log_checkpoint(best)
    assert artifacts(tracker, "best") == ["best/checkpoint.json", "best/config.yaml", "best/weights.safetensors"]
    assert artifact(tracker, "best/weights.safetensors").read_bytes() == b"better"
    assert "someone" not in artifact(tracker, "best/config.yaml").read_text()


def test_a_checkpoint_is_kept_without_whom_it_knows(folder: Path, tmp_path: Path) -> None:
    best = tmp_path / "best"
    (best / "member_1").mkdir(parents=True)
    known = name_patients(["1234567"], PatientKey("5a" * 16, n=2)).to_json()
    (best / "calibration.json").write_text(json.dumps({"calibration": {"threshold": 0.5}, "patients": known}))
    (best / "checkpoint.json").write_text(json.dumps({"metrics": {}, "patients": known}))
    (best / "member_1" / "checkpoint.json").write_text(
        json.dumps({"metrics": {}, "learned_from": ["3b1ef1c5e9aa3a9b"]})
    )
    tracker = start(folder)
    tracker.log_checkpoint(best)
    found = {name: json.loads(artifact(tracker, f"best/{name}").read_text()) for name in list_files(best)}
    assert found == {
        "calibration.json": {"calibration": {"threshold": 0.5}, "patients": None},
        "checkpoint.json": {"metrics": {}},
        "member_1/checkpoint.json": {"metrics": {}},
    }


def list_files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.json"))]


def test_switched_off_writes_nothing(tmp_path: Path) -> None:
    tracker = open_tracker(settings(**{"tracking.enabled": False}), tmp_path / "run", FINGERPRINT, True)
    assert tracker == NullTracker()
    tracker.log_epoch(0, {"a": 1.0})
    tracker.log_checkpoint(tmp_path)
    tracker.finish("FINISHED")
    assert not tracker.allows_pictures
    assert not tracker.log_picture(tmp_path / "x.png")
    assert os.listdir(tmp_path) == []


def test_a_run_that_is_gone_is_not_replaced_in_silence(folder: Path) -> None:
    tracker = start(folder)
    with pytest.raises(InputError, match=f"MLflow run {tracker.run_id} is not in experiment .* any more"):
        start(folder, **{"tracking.experiment": "another"})
    client_of(tracker).delete_run(tracker.run_id)
    with pytest.raises(InputError, match="any more"):
        start(folder)
    (folder / "tracking.json").unlink()
    assert start(folder).run_id != tracker.run_id


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format_version": 1, "run_id": null}', "damaged"),
        ('{"format_version": 9, "training": "x", "run_id": null}', "format_version is 9; this version of mttu reads 1"),
    ],
)
def test_a_damaged_record_is_refused(folder: Path, text: str, said: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "tracking.json").write_text(text)
    with pytest.raises(InputError, match=rf"tracking\.json: {said}; delete it to go on in a new MLflow run"):
        start(folder)


def test_a_deleted_experiment_is_refused(folder: Path) -> None:
    tracker = start(folder, **{"tracking.experiment": "short-lived"})
    client_of(tracker).delete_experiment(run_of(tracker).info.experiment_id)
    with pytest.raises(InputError, match="'short-lived' was deleted in MLflow; restore it there"):
        start(folder, **{"tracking.experiment": "short-lived"})

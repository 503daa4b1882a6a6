import pytest

from mttu.errors import RunError
from mttu.self_training import run_self_training


def stop(*arguments):
    raise RunError("stopped")


def test_every_round_has_its_pictures_and_all_rounds_have_one(make_config, here, pool_manifest, tmp_path, monkeypatch):
    """Stopped twice near the end, where only tracking is left to do."""
    truth = tmp_path / "truth.csv"
    truth.write_text(
        "case_id,true_idh\n" + "".join(f"{case.case_id},1\n" for case in pool_manifest.split("unlabelled"))
    )
    config = make_config({"self_training.rounds": 1, "self_training.truth": str(truth), "tracking.enabled": True})
    for last in ("mttu.self_training.evaluation.log_finish", "mttu.training.run.write_json"):
        with monkeypatch.context() as patch:
            patch.setattr(last, stop)
            with pytest.raises(RunError, match="stopped"):
                run_self_training(config, here)
    folder = run_self_training(config, here)
    first, second = ({path.stem for path in (folder / f"round_{n}").glob("*.png")} for n in range(2))
    overlays = {f"val_{case.case_id}" for case in pool_manifest.split("val")}  # a phantom's may be shown
    assert first == {"learning_curves", *overlays}
    assert second >= {"learning_curves", *overlays, "candidates", "pseudo_labels", "selection_error"}
    assert (folder / "rounds.png").stat().st_size > 1000
    assert check_tracked(folder) == ["round_0, self", "round_1, self", "self"]


def check_tracked(folder):
    """Names of the runs, once it is sure that they hold the rounds."""
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{folder.parent / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    runs = client.search_runs([client.get_experiment_by_name("mttu").experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    parent, child = by_name["self"], by_name["round_1, self"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert {run.info.status for run in runs} == {"FINISHED"}
    keys = {"best/dice", "best/idh_ece", "selected/mutant", "selected/wild", "test/dice", "test/idh_auc"}
    for run in runs:
        assert keys <= set(run.data.metrics)
    for key in keys:
        assert [row.step for row in client.get_metric_history(parent.info.run_id, key)] == [0, 1]
    assert "selected/accuracy" in child.data.metrics
    assert child.data.params["round"] == "1"
    versions = client.search_model_versions("name = 'self'")
    assert len(versions) == 2
    assert client.get_model_version_by_alias("self", "best").run_id in {run.info.run_id for run in runs}
    return sorted(by_name)

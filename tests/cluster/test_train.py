import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from mttu.cluster.train import explain, follow, launch_on_ray, place_workers
from mttu.config import override
from mttu.errors import InputError, RunError
from mttu.training.run import run_training

TWO_RANKS = {"workers.num_workers": 2}


@pytest.mark.ray
def test_two_workers_train_and_are_tracked(tiny, ray_session, sketches):
    config = override(tiny, {**TWO_RANKS, "tracking.enabled": True, "train.epochs": 2})
    shown = {}
    folder = run_training(config, launch_on_ray, show=lambda epoch, metrics: shown.update({epoch: dict(metrics)}))
    assert sorted(shown) == [1, 2]
    history = json.loads((folder / "finished.json").read_text())["history"]
    assert [row["epoch"] for row in history] == [1, 2]
    assert history[1]["val/score"] == shown[2]["val/score"]
    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    [run] = client.search_runs([client.get_experiment_by_name("mttu").experiment_id])
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(row.step, row.value) for row in losses] == [(row["epoch"], row["train/loss"]) for row in history]
    assert run.info.status == "FINISHED"
    assert (run.data.tags["resolved.device"], run.data.tags["resolved.num_workers"]) == ("cpu", "2")
    before = (folder / "finished.json").stat().st_mtime_ns
    assert run_training(config, launch_on_ray) == folder  # a finished run is left as it is
    assert (folder / "finished.json").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.ray
def test_a_loss_that_is_not_finite_stops_both_workers_without_a_retry(tiny, ray_session):
    config = override(tiny, {**TWO_RANKS, "optim.lr": 1e30})
    started = time.monotonic()
    with pytest.raises(RunError, match=r"the loss is (nan|inf|-inf); stopped before the optimiser step"):
        run_training(config, launch_on_ray)
    assert time.monotonic() - started < 300
    progress = (config.output.folder / "tiny" / "progress.jsonl").read_text().splitlines()
    assert len(progress) < config.train.epochs


@pytest.mark.ray
def test_a_cluster_that_is_too_small_is_refused(tiny, ray_session):
    config = override(tiny, {"workers.num_workers": 100, "workers.device": "gpu"})
    with pytest.raises(InputError) as caught:
        place_workers(config)
    assert "num_workers is 100 with workers.device=gpu, but the cluster has" in str(caught.value)
    assert "workers need 100 x 1 CPUs, but the cluster has 4" in str(caught.value)


def test_following_a_progress_file_skips_repeats_and_torn_lines(tmp_path):
    path, seen = tmp_path / "progress.jsonl", []
    path.write_text('{"epoch": 7, "a": 0.5}\n{"epoch": 8, "a"')  # of an earlier start that was killed
    with follow(path, lambda epoch, metrics: seen.append((epoch, metrics["a"]))), path.open("a") as handle:
        handle.write('{"epoch": 1, "a": 0.5}\n{"epoch": 2, "a": 0.4}\n{"epoch": 2, "a": 0.4}\n{"epoch": 3,')
        handle.flush()
        time.sleep(0.7)
        handle.write(' "a": 0.3}\n{"epoch": 4, "a{"epoch": 4, "a": 0.2}\n{"epoch": 5, "a": 0.1}\n')
    assert seen == [(1, 0.5), (2, 0.4), (3, 0.3), (5, 0.1)]


def test_a_link_in_place_of_the_progress_file_is_not_followed(tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    path = tmp_path / "progress.jsonl"
    path.symlink_to(tmp_path / "theirs")
    with follow(path, lambda epoch, metrics: None):
        pass
    assert (tmp_path / "theirs").read_text() == "theirs"


def test_a_failure_while_following_is_raised_when_training_is_over(tmp_path):
    path, done = tmp_path / "progress.jsonl", []

    def fail(epoch, metrics):
        raise RuntimeError("tracking is gone")

    def train():
        with follow(path, fail):
            path.write_text('{"epoch": 1}\n')
            time.sleep(0.5)
            done.append("trained")

    with pytest.raises(RuntimeError, match="tracking is gone"):
        train()
    assert done == ["trained"]


class FailedError(Exception):
    def __init__(self, failures):
        super().__init__("workers failed")
        self.worker_failures = failures


def test_the_workers_own_reason_is_told():
    assert explain(FailedError({0: RunError("GPU memory exhausted; lower it")})) == "GPU memory exhausted; lower it"
    text = explain(FailedError({1: ValueError("first line\nlast line")}))
    assert text == "training failed more often than workers.max_failures allows: worker 1: last line"


def wait_for_epoch(run, epoch):
    deadline = time.monotonic() + 300
    progress = run / "progress.jsonl"
    while time.monotonic() < deadline:
        if progress.exists() and len(progress.read_text().splitlines()) >= epoch:
            return
        time.sleep(0.05)
    raise AssertionError(f"epoch {epoch} never came")


def workers_of(driver):
    """Ray Train's worker processes of a driver's private cluster: they run in the driver's session."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            name = (place / "comm").read_text()
            session = int((place / "stat").read_text().rpartition(")")[2].split()[3])
        except (OSError, ValueError, IndexError):
            continue
        if session == driver.pid and "TrainWorker" in (place / "cmdline").read_text() + name:
            found.append(int(place.name))
    return found


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_kill_nine_resumes_to_the_same_bits(tiny, tmp_path, start, victim):
    changes = {**TWO_RANKS, "train.epochs": 8, "train.steps_per_epoch": 20, "tracking.enabled": True}
    outcomes = []
    for name in ("unbroken", "killed"):
        config = override(tiny, {**changes, "output.name": name})
        run = config.output.folder / name
        process = start("train", config)
        if name == "killed":
            wait_for_epoch(run, 3)
            if victim == "driver":
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                process = start("train", config)
            else:
                [first, *_] = workers_of(process)
                os.kill(first, signal.SIGKILL)
        assert process.wait(timeout=400) == 0, (tmp_path / f"{name}.txt").read_text()[-3000:]
        history = json.loads((run / "finished.json").read_text())["history"]
        outcomes.append((load_file(run / "best" / "weights.safetensors"), history))
    (weights, history), (killed_weights, killed_history) = outcomes
    assert history == killed_history
    assert all(torch.equal(weights[name], killed_weights[name]) for name in weights)
    client = MlflowClient(f"sqlite:///{config.output.folder / 'mlflow.db'}")
    for run in client.search_runs([client.get_experiment_by_name("mttu").experiment_id]):
        steps = [row.step for row in client.get_metric_history(run.info.run_id, "train/loss")]
        assert sorted(steps) == list(range(1, 9))
        assert run.info.status == "FINISHED"

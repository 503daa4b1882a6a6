import json
import os
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from mttu.cluster.resources import Demand
from mttu.cluster.self_train import build_evaluator, callables_on_ray, evaluate_on_ray
from mttu.config import override
from mttu.data.manifest import write_manifest
from mttu.errors import RunError
from mttu.pseudo_labels.reports import read_selection
from mttu.self_training import Callables, run_self_training
from mttu.self_training.evaluation import evaluate_locally

ONE_ON_CPU, ONE_ON_GPU = Demand("evaluate", 1, 2), Demand("evaluate", 1, 2, 1.0)


@pytest.fixture
def config(tiny, phantom_manifest, tmp_path):
    """Two rounds on the cohort of the other tests; its one unlabelled case is selected whatever its score."""
    write_manifest(phantom_manifest, tmp_path / "cohort.parquet")
    changes = {
        "train.epochs": 2,
        "mc.passes": 2,
        "selection.method": "PL",
        "self_training.rounds": 1,
        "self_training.epochs": 1,
        "self_training.stop_when_unchanged": False,
    }
    return override(tiny, {**changes, "workers.num_workers": 1, "workers.threads_per_worker": 1})


@pytest.mark.slow
@pytest.mark.ray
def test_evaluation_is_the_same_bits_on_actors(config, tiny_checkpoint, phantom_manifest, ray_session):
    told = []
    cases = phantom_manifest.split("train")
    two = override(config, {"workers.num_workers": 2})
    rows = evaluate_on_ray(tiny_checkpoint, cases, two, lambda done, row: told.append((done, row["case_id"])))
    assert rows == evaluate_locally(tiny_checkpoint, cases, config, lambda done, row: None)
    assert [done for done, _ in told] == [1, 2, 3, 4]
    assert sorted(name for _, name in told) == sorted(case.case_id for case in cases)


def test_a_lone_worker_without_a_gpu_evaluates_in_this_process(config, tiny_checkpoint, phantom_manifest, monkeypatch):
    monkeypatch.setattr("mttu.cluster.self_train.is_private", lambda: True)
    monkeypatch.setattr("mttu.cluster.self_train.connect", lambda workers: pytest.MonkeyPatch.context())
    monkeypatch.setattr("mttu.cluster.self_train.place_actors", lambda *arguments: ONE_ON_CPU)
    two = override(config, {"workers.threads_per_worker": 2})
    before, threads, cases = torch.get_num_threads(), [], phantom_manifest.split("val")

    def tell(done, row):
        threads.append(torch.get_num_threads())

    rows = callables_on_ray(two.workers).evaluate(tiny_checkpoint, cases, two, tell)
    assert threads == [2, 2]
    assert torch.get_num_threads() == before
    torch.set_num_threads(2)
    expected = evaluate_locally(tiny_checkpoint, cases, config, lambda done, row: None)
    torch.set_num_threads(before)
    assert rows == expected
    with pytest.raises(RunError, match=f"evaluation: case {cases[0].case_id}: on node"):
        callables_on_ray(two.workers).evaluate(tiny_checkpoint / "gone", cases, two, lambda done, row: None)
    pools = []

    def run_pool(names, *arguments):
        pools.append(names)
        return [{"scores": {}, "error": ""} for _ in names]

    monkeypatch.setattr("mttu.cluster.self_train.run_pool", run_pool)
    more = override(two, {"workers.num_workers": 2})
    evaluate_on_ray(tiny_checkpoint, cases, more, tell)
    monkeypatch.setattr("mttu.cluster.self_train.is_private", lambda: False)
    evaluate_on_ray(tiny_checkpoint, cases, two, tell)
    monkeypatch.setattr("mttu.cluster.self_train.is_private", lambda: True)
    monkeypatch.setattr("mttu.cluster.self_train.place_actors", lambda *arguments: ONE_ON_GPU)
    evaluate_on_ray(tiny_checkpoint, cases, two, tell)
    assert pools == [[case.case_id for case in cases]] * 3
    assert len(threads) == 2


def test_what_fails_in_an_actor_is_each_cases_error(config, tiny_checkpoint, phantom_manifest, tmp_path, monkeypatch):
    [case] = phantom_manifest.split("test")
    row = build_evaluator(tmp_path / "gone", {case.case_id: case}, config, 1, "cpu")(case.case_id)
    assert row["scores"] is None
    assert row["error"].startswith(
        f"case {case.case_id}: on node {os.uname().nodename}: checkpoint {tmp_path / 'gone'}"
    )
    monkeypatch.setattr("mttu.cluster.self_train.connect", lambda workers: pytest.MonkeyPatch.context())
    monkeypatch.setattr("mttu.cluster.self_train.place_actors", lambda *arguments: ONE_ON_CPU)
    config = override(config, {"workers.num_workers": 2})
    monkeypatch.setattr("mttu.cluster.self_train.run_pool", lambda *arguments: [row])
    with pytest.raises(RunError, match=f"evaluation: case {case.case_id}: on node"):
        evaluate_on_ray(tiny_checkpoint, [case], config, lambda done, row: None)
    told = []

    def lose(names, build, arguments, demand, refuse, again, on_row):
        rows = [refuse(name, f"case {name}: lost; {again}") for name in names]
        on_row(1, rows[0])
        return rows

    monkeypatch.setattr("mttu.cluster.self_train.run_pool", lose)
    with pytest.raises(RunError, match=f"evaluation: case {case.case_id}: lost; run the same command again"):
        evaluate_on_ray(tiny_checkpoint, [case], config, lambda done, row: told.append((done, row)))
    assert told == [(1, {"case_id": case.case_id})]


def outcome(folder):
    rounds = sorted(path for path in folder.glob("round_*") if path.is_dir())
    places = {place.name: place for place in rounds} | {"chosen": folder}
    weights = {name: load_file(place / "best" / "weights.safetensors") for name, place in places.items()}
    selections = [read_selection(place / "selection.parquet") for place in rounds[1:]]
    return weights, selections, (folder / "test.json").read_text()


def is_same(one, two):
    weights, other = one[0], two[0]
    equal = all(torch.equal(weights[place][name], other[place][name]) for place in weights for name in weights[place])
    return weights.keys() == other.keys() and equal and one[1:] == two[1:]


@pytest.mark.slow
@pytest.mark.ray
def test_a_self_training_on_ray_is_the_one_in_this_process(config, ray_session, sketches):
    from mttu.pseudo_labels.scoring import score_cases
    from mttu.training.run import launch_locally

    on_ray = run_self_training(config, callables_on_ray(config.workers))
    here = Callables(launch_locally, lambda plan, tell: score_cases(plan, torch.device("cpu"), tell), evaluate_locally)
    local = run_self_training(override(config, {"output.name": "local"}), here)
    assert is_same(outcome(on_ray), outcome(local))


def wait_for(process, seen):
    deadline = time.monotonic() + 300
    while not seen():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def tracked(config, name):
    """What MLflow holds of a self-training: status of each run, and value and step of what does not measure time."""
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{config.output.folder / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    runs = client.search_runs([client.get_experiment_by_name("mttu").experiment_id])
    return {
        run.info.run_name.replace(name, ""): (
            run.info.status,
            {
                key: sorted((row.step, row.value) for row in client.get_metric_history(run.info.run_id, key))
                for key in run.data.metrics
                if not key.startswith("time/")
            },
        )
        for run in runs
        if run.info.run_name.endswith(name)
    }


@pytest.mark.ray
@pytest.mark.slow
def test_kill_nine_in_training_scoring_and_between_phases_changes_nothing(config, tmp_path, start):
    """One driver is killed seven times, at different places, and started again each time."""
    longer = {"train.epochs": 6, "train.steps_per_epoch": 10, "self_training.epochs": 6, "mc.passes": 40}
    unbroken = override(config, {**longer, "output.name": "unbroken", "tracking.enabled": True})
    process = start("self-train", unbroken)
    assert process.wait(timeout=600) == 0, (tmp_path / "unbroken.txt").read_text()[-3000:]
    killed = override(unbroken, {"output.name": "killed"})
    run, log = killed.output.folder / "killed", tmp_path / "killed.txt"
    work = [run / f"working-round_{number}" for number in range(2)]
    places = [
        lambda: (work[0] / "progress.jsonl").exists() and len((work[0] / "progress.jsonl").read_text()) > 0,  # training
        lambda: (work[0] / "history.json").exists(),  # between training and evaluation
        lambda: (run / "round_0").exists(),  # between rounds
        lambda: work[1].exists(),  # before or in scoring
        lambda: "round 1/1  score 1/1" in log.read_text(),  # at the end of scoring
        lambda: (work[1] / "selection.parquet").exists(),  # between selection and training
        lambda: "test 1/1" in log.read_text(),  # in the test
    ]
    for place in places:
        process = start("self-train", killed)
        wait_for(process, place)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    process = start("self-train", killed)
    assert process.wait(timeout=600) == 0, log.read_text()[-3000:]
    assert is_same(outcome(unbroken.output.folder / "unbroken"), outcome(run))
    histories = [
        json.loads((unbroken.output.folder / name / "round_1" / "history.json").read_text())
        for name in ("unbroken", "killed")
    ]
    assert histories[0] == histories[1]
    assert tracked(unbroken, "unbroken") == tracked(killed, "killed")

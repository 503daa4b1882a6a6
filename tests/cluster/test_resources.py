import logging
import time
from types import SimpleNamespace

import pytest
import torch

from mttu.cluster import cases, resources, train
from mttu.cluster.resources import (
    Demand,
    Waiting,
    is_of,
    tell_placement,
    telling_pending_group,
    telling_unplaced_actors,
)
from mttu.cluster.runtime import check_worker
from mttu.config import Config, override
from mttu.errors import InputError

EIGHT = {"workers.num_workers": 8, "train.global_batch": 8}


@pytest.fixture
def cluster(monkeypatch, caplog):
    """Says what the cluster has and what is free of it: `cluster({"CPU": 32.0}, free={})`."""
    caplog.set_level(logging.INFO, "mttu")
    monkeypatch.setattr(resources, "is_private", lambda: False)  # whether another test has a Ray or not
    monkeypatch.setattr(resources, "_LOOK_SECONDS", 0.01)

    def have(total, free=None):
        monkeypatch.setattr("ray.cluster_resources", lambda: total)
        monkeypatch.setattr("ray.available_resources", lambda: total if free is None else free)

    return have


def wait_for(true):
    for _ in range(3000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("nobody looked for half a minute")


@pytest.mark.parametrize("device", ["auto", "gpu"])
def test_too_few_gpus_stop_a_training_with_the_number_that_fits(cluster, device):
    cluster({"CPU": 32.0, "GPU": 7.0})
    with pytest.raises(InputError) as caught:
        train.place_workers(override(Config(), EIGHT | {"workers.device": device}))
    assert str(caught.value) == (
        f"workers.num_workers is 8 with workers.device={device}, but the cluster has 7 GPUs; set "
        "workers.num_workers=4, or workers.device=cpu"
    )
    with pytest.raises(InputError, match="8 actors with 1 GPUs each, but the cluster has 7; take 7 actors, a smaller"):
        cases.place_actors("score", 8, 1, device, 1.0)


def test_auto_takes_gpus_where_they_are_enough_and_the_cpu_where_there_is_none(cluster):
    cluster({"CPU": 32.0, "GPU": 8.0})
    eight = override(Config(), EIGHT)
    assert train.place_workers(eight)
    assert not train.place_workers(override(eight, {"workers.device": "cpu"}))
    assert cases.place_actors("score", 16, 1, "auto", 0.5) == Demand("score", 16, 1, 0.5)
    cluster({"CPU": 32.0})
    assert not train.place_workers(eight)
    assert cases.place_actors("score", 16, 1, "auto", 0.5) == Demand("score", 16, 1)
    with pytest.raises(InputError, match="but the cluster has 0 GPUs; set workers"):
        train.place_workers(override(eight, {"workers.device": "gpu"}))


def test_what_work_runs_on_is_said_once(cluster, caplog, monkeypatch):
    monkeypatch.setattr(resources, "_said", {})
    cluster({"CPU": 32.0, "GPU": 8.0})
    for demand in [Demand("train", 8, 2, 1.0)] * 2 + [Demand("train", 1, 2)]:
        tell_placement(demand)
    assert caplog.messages == [
        "train: on the GPU: 8 workers with 1 GPU and 2 CPU threads each; the cluster has 8 GPUs and 32 CPUs",
        "train: on the CPU: 1 worker with 2 CPU threads; the cluster has 8 GPUs and 32 CPUs",
    ]


def test_waiting_is_said_after_some_seconds_and_then_seldom(cluster, caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    cluster({"CPU": 32.0, "GPU": 8.0}, free={"CPU": 30.0})
    waiting = Waiting(Demand("score", 2, 2, 1.0))
    told = []
    for second in range(0, 140, 2):
        now[0] = float(second)
        before = len(caplog.messages)
        waiting.tell(2)
        told += [second] * (len(caplog.messages) - before)
    assert told == [10, 130]
    assert caplog.messages[0] == (
        "score: waiting for a place in the cluster for 2 of 2 workers with 1 GPU and 2 CPU threads each; free: 30 of "
        "32 CPUs, 0 of 8 GPUs; it starts by itself as soon as others are done, and ends with Ctrl-C"
    )


def test_a_pending_group_of_the_trainings_own_is_waited_for(cluster, caplog, monkeypatch):
    monkeypatch.setattr(resources, "FIRST_SECONDS", 0.0)
    cluster({"CPU": 4.0}, free={"CPU": 1.0})
    demand, table = Demand("train", 2, 2), {"old": {"state": "PENDING", "bundles": {0: {"CPU": 2.0}, 1: {"CPU": 2.0}}}}
    looks = []

    def look():
        looks.append(dict(table))
        return looks[-1]

    def run(number):
        before = len(looks)
        with telling_pending_group(demand):
            table["new"] = {"state": "PENDING", "bundles": bundles}
            wait_for(lambda: len(looks) >= before + number)
        del table["new"]

    monkeypatch.setattr(resources, "placement_group_table", look)
    bundles = {0: {"CPU": 1.0}}
    run(4)
    assert not caplog.messages  # another one's
    bundles = {0: {"CPU": 2.0}, 1: {"CPU": 2.0}}
    run(4)
    assert caplog.messages[0].startswith("train: waiting for a place in the cluster for 2 of 2 workers with 2 CPU thre")


def test_actors_of_this_job_without_a_process_are_waited_for(cluster, caplog, monkeypatch):
    monkeypatch.setattr(resources, "FIRST_SECONDS", 0.0)
    cluster({"CPU": 4.0}, free={"CPU": 1.0})
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "02"))
    actors, looks = {}, []

    def look():
        looks.append(len(actors))
        return actors

    def run():
        before = len(looks)
        with telling_unplaced_actors(Demand("score", 3, 2)):
            wait_for(lambda: len(looks) >= before + 4)

    monkeypatch.setattr(resources.state, "actors", look)
    placed = {"JobID": "02", "Pid": 17, "State": "PENDING_CREATION"}
    actors |= {"a": placed, "b": {**placed, "Pid": 0, "State": "DEAD"}, "c": {**placed, "Pid": 0, "JobID": "01"}}
    run()
    assert not caplog.messages
    actors["d"] = {**placed, "Pid": 0}
    run()
    assert caplog.messages[0].startswith("score: waiting for a place in the cluster for 1 of 3 workers with 2 CPU")


def test_a_placement_group_is_known_by_its_parts():
    demand = Demand("train", 2, 4, 1.0)
    assert is_of({0: {"CPU": 4.0, "GPU": 1.0}, 1: {"CPU": 4.0, "GPU": 1.0}}, demand)
    assert not is_of({0: {"CPU": 4.0, "GPU": 1.0}}, demand)
    assert not is_of({0: {"CPU": 4.0}, 1: {"CPU": 4.0}}, demand)


def test_a_worker_that_lacks_what_it_was_promised_says_so(tmp_path):
    check_worker(tmp_path, False, torch.device("cpu"))
    check_worker(tmp_path, True, torch.device("cuda"))
    with pytest.raises(InputError) as caught:
        check_worker(tmp_path / "run", True, torch.device("cpu"))
    folder, device = caught.value.problems
    assert folder.startswith(f"the run folder {tmp_path / 'run'} is not there; output.folder has to be on storage that")
    assert device.startswith(f"Ray gives the worker a GPU, but torch {torch.__version__} sees none; install a torch")

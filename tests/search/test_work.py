import errno

import pytest
from search_cases import make_book

from mttu.errors import InputError, RunError
from mttu.files import lock_folder
from mttu.search.work import Ending, find_obstacle_of_trial, try_trial


@pytest.fixture
def job(tiny, tmp_path):
    """A trial's, which has just been given out."""
    book = make_book(tmp_path / "search", tiny, [{"optim.lr": 1e-3}])
    return book.job_of(book.next())


@pytest.fixture
def clock(monkeypatch):
    """Seconds that were slept, each in no time."""
    slept = []
    monkeypatch.setattr("mttu.search.work.time.monotonic", lambda: float(sum(slept)))
    monkeypatch.setattr("mttu.search.work.time.sleep", slept.append)
    return slept


def test_a_trial_whose_folder_and_place_are_free_has_no_obstacle(job, clock):
    asked = []
    assert find_obstacle_of_trial(job, asked.append) == ""
    assert asked == [job.config]
    assert clock == []
    with lock_folder(job.config.output.place):  # it was given back
        pass


def test_a_trial_waits_for_the_process_of_an_earlier_start(job, clock, monkeypatch):
    asked = []
    held = lock_folder(job.config.output.place)
    held.__enter__()

    def sleep(seconds):
        clock.append(seconds)
        if len(clock) == 3:
            held.__exit__(None, None, None)

    monkeypatch.setattr("mttu.search.work.time.sleep", sleep)
    assert find_obstacle_of_trial(job, asked.append) == ""
    assert clock == [1, 1, 1]
    assert len(asked) == 1


def test_a_folder_that_stays_held_is_an_obstacle(job, clock):
    asked = []
    with lock_folder(job.config.output.place):
        found = find_obstacle_of_trial(job, asked.append)
    assert found.startswith(f"{job.config.output.place}: another mttu is working in this folder")
    assert 30 <= sum(clock) <= 32
    assert asked == []


def test_a_place_that_is_gone_is_an_obstacle(job, clock):
    def refuse(config):
        raise InputError(f"workers need {config.workers.num_workers} x 1 CPUs, but the cluster has 0")

    assert find_obstacle_of_trial(job, refuse) == "workers need 1 x 1 CPUs, but the cluster has 0"
    with lock_folder(job.config.output.place):
        pass


class ClusterError(Exception):
    pass


@pytest.mark.parametrize(
    ("failure", "ending"),
    [
        (RunError("the loss is not finite"), Ending(failed="the loss is not finite")),
        (InputError("train.epochs: 0"), Ending(failed="train.epochs: 0")),
        (MemoryError("12 GiB"), Ending(failed="MemoryError: 12 GiB")),
        (ClusterError("node lost"), Ending(broken="ClusterError: node lost")),
        (OSError(errno.ENOSPC, "no room"), Ending(broken="OSError: [Errno 28] no room")),
        (RunError("runs: the disk is full; make room"), Ending(broken="runs: the disk is full; make room")),
        (
            RunError("worker 0: OSError: No space left on device"),
            Ending(broken="worker 0: OSError: No space left on device"),
        ),
    ],
    ids=["by itself", "refused", "memory", "cluster", "disk", "disk of a self-training", "disk of a worker"],
)
def test_what_is_not_a_trials_fault_leaves_it_begun(job, clock, failure, ending):
    def make_callables(config):
        assert config == job.config
        raise failure

    assert try_trial(job, make_callables, print, faults=(ClusterError,)) == ending

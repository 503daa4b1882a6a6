import pytest
from search_cases import make_book

from mttu.errors import InputError
from mttu.files import lock_folder
from mttu.search.work import find_obstacle_of_trial


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

"""Searches by Ray Tune: the same metrics as in one process, and nothing lost or run twice through kills."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mttu.cluster.self_train import callables_on_ray
from mttu.cluster.tune import OBJECTIVE, _do_trial, count_on_cluster, make_scheduler, run_on_tune, with_objective
from mttu.config import Config, override, to_yaml
from mttu.errors import InputError
from mttu.files import read_json
from mttu.search.book import Book, Cohort, Goal
from mttu.search.processes import callables_here
from mttu.search.samplers import Listed, make_sampler
from mttu.search.spaces import Asha, check_values, load_space, read_space
from mttu.search.study import prepare_search, run_search
from mttu.search.trials import FINISHED, STOPPED, read_trials
from mttu.search.work import Job, do_trial
from mttu.tracking import NullTracker

REPOSITORY = Path(__file__).parents[2]
TWO_AT_ONCE = {"workers.threads_per_worker": 1, "train.validate_every": 1}


def write_space(folder, content):
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({"format_version": 2, **content}))
    return path


def run_in_this_process(book):
    while (trial := book.next()) is not None:
        do_trial(book.job_of(trial), callables_here(), lambda row, name=trial.name: book.report(name, row))
        book.end(trial.name, FINISHED)


def curves(folder):
    return {trial.name: trial.curve("val/score") for trial in read_trials(folder)}


@pytest.mark.ray
def test_trials_on_tune_are_those_of_one_process(tiny, tmp_path, ray_session, sketches):
    """A row of the paper's tables, one Ray epoch."""
    config = override(tiny, {**TWO_AT_ONCE, "train.epochs": 1})
    space = load_space(write_space(tmp_path, {"space": {"ablation": {"choice": ["conv"]}}}), config)
    folders = {}
    for name, run in (("ray", run_on_tune), ("here", run_in_this_process)):
        prepared = prepare_search(space, override(config, {"output.name": name}))
        folders[name] = run_search(prepared, run, callables_on_ray(config.workers))
    assert curves(folders["ray"]) == curves(folders["here"])
    assert [trial.state for trial in read_trials(folders["ray"])] == [FINISHED]
    assert not list(folders["ray"].glob(".tune-*"))
    best = yaml.safe_load((folders["ray"] / "best.yaml").read_text())
    assert best["network"]["bottleneck"]["kind"] == "convolution"
    assert best["output"]["name"] == "ray-best"


def test_a_trial_whose_training_had_finished_is_over_before_the_scheduler_sees_its_curve(tiny, tmp_path, monkeypatch):
    """Killed after its last epoch and started again: the scheduler would stop it at an early, weak epoch."""
    monkeypatch.setattr("mttu.search.work.do_trial", lambda job, callables, report: [report(row) for row in history])
    monkeypatch.setattr("mttu.cluster.tune.place_workers", lambda config: False)  # there is a place, without a cluster
    history = [{"epoch": 1.0, "m": 0.1}, {"epoch": 2.0, "m": 0.9}]
    told = []
    _do_trial(Job(tiny.model_dump(mode="json"), "train"), history, "m", True, told.append)
    assert [row["over"] for row in told] == [True, True, True]
    assert [row.get(OBJECTIVE) for row in told] == [0.1, 0.9, None]
    assert [row.get("done", False) for row in told] == [False, False, True]


@pytest.mark.ray
def test_as_many_trials_run_at_once_as_the_cluster_holds(tiny, ray_session):
    assert count_on_cluster(override(tiny, {"workers.threads_per_worker": 1})) == 4
    assert count_on_cluster(override(tiny, {"workers.threads_per_worker": 2})) == 2
    assert count_on_cluster(override(tiny, {"workers.threads_per_worker": 1, "workers.num_workers": 2})) == 2
    with pytest.raises(InputError, match="workers need 1 x 5 CPUs, but the cluster has 4"):
        count_on_cluster(override(tiny, {"workers.threads_per_worker": 5}))
    shared = {"workers.num_workers": 2, "workers.gpus_per_worker": 0.5}
    with pytest.raises(InputError, match=r"gpus_per_worker is 0\.5 with workers\.num_workers=2"):
        count_on_cluster(override(tiny, shared))


def test_the_scheduler_sees_the_best_value_so_far():
    history = [{"epoch": 1.0}, {"epoch": 2.0, "m": 0.5}, {"epoch": 3.0, "m": 0.2}, {"epoch": 4.0, "m": 0.7}]
    assert [row.get(OBJECTIVE) for row in with_objective(history, "m", maximise=True)] == [None, 0.5, 0.5, 0.7]
    assert [row.get(OBJECTIVE) for row in with_objective(history, "m", maximise=False)] == [None, 0.5, 0.2, 0.2]


def test_the_scheduler_knows_the_curves_of_earlier_starts(tiny, tmp_path):
    """A rung with three good trials stops a weak one at once; a scheduler that forgot them would let it go on."""
    book = Book(
        tmp_path, tiny, "train", Listed([{"train.seed": k} for k in range(4)]), Goal("m", True), Cohort("x", True),
        NullTracker(),
    )  # fmt: skip
    for value in (0.9, 0.8, 0.7):
        trial = book.next()
        for epoch in (1, 2):
            book.report(trial.name, {"epoch": epoch, "m": value})
        book.end(trial.name, STOPPED)
    weak = type("Trial", (), {"trial_id": "weak", "config": {}, "is_saving": False})()
    for earlier, expected in ((book, "STOP"), (Book(tmp_path / "new", *book_arguments(book)), "CONTINUE")):
        scheduler = make_scheduler(Asha(grace=1, factor=2), earlier)
        scheduler.on_trial_add(None, weak)
        assert scheduler.on_trial_result(None, weak, {"epoch": 1, OBJECTIVE: 0.1}) == expected


def book_arguments(book):
    return book.base, book.run, Listed([]), book.goal, book.cohort, book.tracker


def start_search(config, space, log):
    """The command, in a session of its own."""
    settings = Path(f"{log}.yaml")
    settings.write_text(to_yaml(config))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["RAY_worker_niceness"] = "0"
    words = [sys.executable, "-m", "mttu", "tune", str(space), "--config", str(settings)]
    with Path(log).open("a") as handle:
        return subprocess.Popen(words, env=environment, stdout=handle, stderr=handle, start_new_session=True)


def wait_for(condition, process, seconds=240.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it ended before the moment came"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def list_inner_starts(folder):
    """How often each trial's training wrote its first record: more than once, and it was begun anew."""
    return {path.parent.parent.name: path.stat().st_mtime_ns for path in folder.glob("trials/*/run/run.json")}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("searcher", ["random", "grid"])
def test_a_search_killed_at_three_moments_ends_like_an_unbroken_one(tiny, tmp_path, searcher):
    config = override(tiny, {**TWO_AT_ONCE, "train.epochs": 4, "train.checkpoint_every": 1})
    content = {"searcher": searcher, "concurrency": 1, "space": {"train.seed": {"choice": [0, 1, 2]}}}
    space = write_space(tmp_path, content | ({"samples": 3} if searcher == "random" else {}))
    prepared = prepare_search(load_space(space, config), override(config, {"output.name": "unbroken"}))
    unbroken = run_search(prepared, run_in_this_process, callables_here())
    killed = override(config, {"output.name": "killed"})
    folder = killed.output.place
    begun = {}

    def first_report():
        return (folder / "trials/0000/history.jsonl").exists()

    def inner_run_finished():
        """A training is over, and the search has not heard of it: a moment that may pass unseen for some trials."""
        over = [path.parent.parent for path in folder.glob("trials/*/run/finished.json")]
        return any(read_json(place / "trial.json")["state"] == "begun" for place in over)

    def second_trial_reports():
        return (folder / "trials/0001/history.jsonl").exists()

    for moment in (first_report, inner_run_finished, second_trial_reports):
        process = start_search(killed, space, tmp_path / "log")
        wait_for(moment, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(3)  # Ray's processes see that their driver is gone
        for name, at in list_inner_starts(folder).items():
            assert begun.setdefault(name, at) == at  # no training is begun anew
    process = start_search(killed, space, tmp_path / "log")
    assert process.wait(timeout=400) == 0, (tmp_path / "log").read_text()
    assert all(begun[name] == at for name, at in list_inner_starts(folder).items() if name in begun)
    histories = [[trial.history for trial in read_trials(one)] for one in (unbroken, folder)]
    for expected, found in zip(*histories, strict=True):
        assert [_without_time(row) for row in found] == [_without_time(row) for row in expected]


def _without_time(row):
    return {name: value for name, value in row.items() if not name.startswith("time/")}


@pytest.mark.slow
@pytest.mark.ray
def test_tpe_and_asha_lose_nothing_and_run_nothing_twice_and_stopped_trials_give_their_place_back(tiny, tmp_path):
    """With one place for a trial, a place that is not given back would be the end of the search."""
    config = override(
        tiny, {"workers.threads_per_worker": os.cpu_count() or 2, "train.validate_every": 1, "train.epochs": 12}
    )
    space = write_space(
        tmp_path,
        {
            "searcher": "tpe", "samples": 6, "scheduler": {"kind": "asha", "grace": 1, "factor": 2},
            "space": {"optim.lr": {"log_uniform": [1e-5, 1e-2]}},
        },
    )  # fmt: skip
    folder = config.output.place
    process = start_search(config, space, tmp_path / "log")
    wait_for(lambda: sum(trial.is_over for trial in read_trials(folder)) >= 2, process, 400)
    before = {trial.name: (trial.state, trial.history, trial.drawn) for trial in read_trials(folder) if trial.is_over}
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(3)
    process = start_search(config, space, tmp_path / "log")
    assert process.wait(timeout=900) == 0, (tmp_path / "log").read_text()
    trials = {trial.name: trial for trial in read_trials(folder)}
    assert len(trials) == 6
    assert all(trial.state in (FINISHED, STOPPED) for trial in trials.values())
    assert sum(trial.state == STOPPED for trial in trials.values()) >= 1
    for name, (state, history, drawn) in before.items():
        assert (trials[name].state, trials[name].history, trials[name].drawn) == (state, history, drawn)
    drawn = [json.dumps(trial.drawn) for trial in trials.values()]
    assert len(set(drawn)) == 6


class FirstTwo:
    """The first two trials of a search."""

    def __init__(self, sampler):
        self.sampler = sampler
        self.learn = sampler.learn

    def draw(self, number):
        return self.sampler.draw(number) if number < 2 else None


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("name", ["transformer_depth", "ups_thresholds", "optimisation", "modalities"])
def test_two_trials_of_every_shipped_space_run_on_tune(tiny, monkeypatch, ray_session, name):
    """As shipped but for the length of a training, as the command line reads them: arguments over the space's own."""
    monkeypatch.setattr("mttu.search.study.make_sampler", lambda space: FirstTwo(make_sampler(space)))
    space = read_space(REPOSITORY / "tune_spaces" / f"{name}.yaml")
    grace = 0 if space.plan.scheduler is None else space.plan.scheduler.grace
    short = {
        "train.epochs": grace + 1, "train.steps_per_epoch": 1, "self_training.rounds": 1, "self_training.epochs": 1,
        "workers.threads_per_worker": 1,
    }  # fmt: skip
    config = override(tiny, space.plan.settings | short)
    check_values(space, config)
    prepared = prepare_search(space, config)
    folder = run_search(
        prepared, lambda book: run_on_tune(book, space.plan.scheduler), callables_on_ray(config.workers)
    )
    trials = read_trials(folder)
    states = [trial.state for trial in trials]
    assert all(trial.curve(space.plan.metric) for trial in trials)
    if STOPPED in states:  # the later one at the scheduler's first look, if it is the worse one there
        assert space.plan.scheduler is not None
        seen = {
            trial.state: max(value for epoch, value in trial.curve(space.plan.metric) if epoch <= grace)
            for trial in trials
        }
        assert seen[STOPPED] < seen[FINISHED]
    else:
        assert states == [FINISHED] * 2
    assert trials[0].drawn != trials[1].drawn
    best = Config.model_validate(yaml.safe_load((folder / "best.yaml").read_text()))
    assert best.output.name == "tiny-best"

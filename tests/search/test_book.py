import logging
import math
import shutil

import pytest
from mlflow_runs import client_of, history, run_of
from search_cases import GOAL, make_book, make_trial

from mttu.config import Config, override
from mttu.errors import InputError, RunError
from mttu.files import write_json
from mttu.search.book import Book
from mttu.search.trials import BEGUN, FAILED, FINISHED, STEP, STOPPED, read_trials
from mttu.search.work import with_absolute_paths
from mttu.tracking import open_tracker
from mttu.training.epoch_log import AGAIN_SECONDS

LR = "optim.lr"
DRAWN = [{LR: 0.1}, {LR: 0.2}, {LR: 0.3}]


class Learner:
    """A sampler that notes what it is told, and draws as many trials as it is told to."""

    def __init__(self, count=3):
        self.count, self.asked, self.told = count, [], []

    def draw(self, number):
        self.asked.append(number)
        return {LR: (number + 1) / 10} if number < self.count else None

    def learn(self, trial):
        self.told.append((trial.number, trial.state))


def base(**changes):
    return override(Config(), {"tracking.enabled": False, "data.manifest": "cohort.parquet", **changes})


def score(value, epoch=1):
    return {STEP: float(epoch), "val/score": value}


def test_trials_are_given_out_in_order_and_recorded(tmp_path):
    told = []
    book = make_book(tmp_path, base(), DRAWN, on_change=lambda book: told.append(len(book.trials)))
    one, two = book.next(), book.next()
    assert [(trial.number, trial.name, trial.drawn, trial.state) for trial in (one, two)] == [
        (0, "0000", {LR: 0.1}, BEGUN),
        (1, "0001", {LR: 0.2}, BEGUN),
    ]
    assert one.labels == {"trial": "0"}
    assert [trial.name for trial in read_trials(tmp_path)] == ["0000", "0001"]  # before they start
    book.report("0001", score(0.5))
    book.report("0001", score(0.75))  # that epoch is known
    book.end("0001", FINISHED)
    book.end("0001", FAILED, "too late")
    book.end("0000", FAILED, "no memory")
    assert book.next().number == 2
    assert book.next() is None
    found = read_trials(tmp_path)
    assert [(trial.state, trial.reason) for trial in found] == [(FAILED, "no memory"), (FINISHED, ""), (BEGUN, "")]
    assert found[1].curve("val/score") == [(1, 0.5)]
    assert [book.count_in(state) for state in (BEGUN, FINISHED, STOPPED, FAILED)] == [1, 1, 0, 1]
    assert told == [1, 2, 2, 2, 2, 3]


def test_what_was_interrupted_comes_first_and_what_is_over_never_again(tmp_path):
    first = make_book(tmp_path, base(), Learner(5))
    for _ in range(4):
        first.next()
    first.report("0002", score(0.5))
    first.end("0002", FINISHED)
    first.end("0001", STOPPED)
    sampler = Learner(6)
    book = make_book(tmp_path, base(), sampler)
    assert sampler.told == [(0, BEGUN), (1, STOPPED), (2, FINISHED), (3, BEGUN)]
    given = [book.next() for _ in range(4)]
    assert [(trial.number, trial.drawn) for trial in given] == [(n, {LR: (n + 1) / 10}) for n in (0, 3, 4, 5)]
    assert sampler.asked == [4, 5]
    assert book.next() is None
    assert book.trials["0002"].curve("val/score") == [(1, 0.5)]
    book.end("0003", FINISHED)
    assert sampler.told[-1] == (3, FINISHED)


def test_a_removed_trial_is_drawn_again_by_its_number(tmp_path):
    first = make_book(tmp_path, base(), Learner(4))
    for name in ("0000", "0001", "0002"):
        first.next()
        first.end(name, FINISHED)
    for name in ("0001", "0000"):
        shutil.rmtree(tmp_path / "trials" / name)
    sampler = Learner(4)
    book = make_book(tmp_path, base(), sampler)
    given = [book.next() for _ in range(3)]
    assert [(trial.name, trial.drawn) for trial in given] == [
        ("0000", {LR: 0.1}),
        ("0001", {LR: 0.2}),
        ("0003", {LR: 0.4}),
    ]
    assert book.next() is None
    assert sampler.asked == [0, 1, 3, 4]


def test_a_search_that_ended_before_its_last_trial_is_not_done(tmp_path):
    book = make_book(tmp_path, base(), DRAWN[:2])
    unfinished = "the search ended before its last trial; the same command goes on from here"
    for is_last in (False, True):
        with pytest.raises(RunError, match=unfinished):
            book.check_done()  # nothing is drawn, or the second trial is not
        name = book.next().name
        with pytest.raises(RunError, match=unfinished):
            book.check_done()
        book.end(name, FAILED if is_last else STOPPED, "no memory" if is_last else "")
    with pytest.raises(RunError, match=unfinished):
        book.check_done()  # all that were begun are over, but the sampler might have more
    assert book.next() is None
    book.check_done()
    again = make_book(tmp_path, base(), DRAWN[:2])
    with pytest.raises(RunError, match=unfinished):
        again.check_done()
    assert again.next() is None
    again.check_done()


def test_a_search_all_of_whose_trials_failed_is_not_done(tmp_path):
    book = make_book(tmp_path, base(), DRAWN[:2])
    for reason in ("no memory", "the loss is not finite"):
        book.end(book.next().name, FAILED, reason)
    assert book.next() is None
    with pytest.raises(RunError) as caught:
        book.check_done()
    assert str(caught.value) == (
        f"all 2 trials failed, the first because: no memory; mend that, remove {tmp_path / 'trials'}, and run the same "
        "command again"
    )


def test_seconds_of_all_starts_count(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("mttu.search.book.time.monotonic", lambda: clock[0])
    book = make_book(tmp_path, base(), DRAWN)
    book.next()
    clock[0] += 2.5
    book.end("0000", FINISHED)
    assert read_trials(tmp_path)[0].seconds == 2.5


def test_settings_of_a_trial(tmp_path):
    book = make_book(tmp_path, base(**{"optim.weight_decay": 0.5}), [{LR: 0.1, "ablation": "modalities-flair-t2"}])
    trial = book.next()
    settings = book.settings_of(trial)
    assert settings.optim.lr == 0.1
    assert settings.optim.weight_decay == 0.5
    assert (settings.data.modalities, settings.network.in_channels) == (("flair", "t2"), 2)
    assert settings.output.place == trial.run_folder == tmp_path / "trials" / "0000" / "run"
    job = book.job_of(trial)
    expected = override(with_absolute_paths(settings), {"tracking.enabled": False})
    assert (job.config, job.run, job.split) == (expected, "train", None)


def test_a_job_has_no_address_of_mlflow(tmp_path):
    tracked = base(**{"tracking.enabled": True, "tracking.uri": "postgresql://someone:secret@host/db"})
    book = make_book(tmp_path, tracked, DRAWN, split="val")
    job = book.job_of(book.next())
    assert "secret" not in str(job)
    assert not job.config.tracking.enabled
    assert job.split == "val"


def test_names_and_settings_of_another_kind_of_search(tmp_path):
    book = make_book(
        tmp_path,
        base(),
        [{"row": "a"}],
        name=lambda number, drawn: (f"{drawn['row']}-{number}", {"row": drawn["row"]}),
        expand=lambda drawn: {"train.seed": 7},
    )
    trial = book.next()
    assert (trial.name, trial.labels, trial.folder) == ("a-0", {"row": "a"}, tmp_path / "trials" / "a-0")
    assert book.settings_of(trial).train.seed == 7


def test_the_best_is_neither_stopped_nor_failed_and_the_first_of_equals(tmp_path):
    book = make_book(tmp_path, base(), [])
    assert book.best is None
    states = [(0.25, FINISHED), (0.5, FINISHED), (0.5, BEGUN), (0.75, STOPPED), (1.0, FAILED)]
    trials = [make_trial(tmp_path, n, {}, value, state=state) for n, (value, state) in enumerate(states)]
    book.trials = {trial.name: trial for trial in [*reversed(trials), make_trial(tmp_path, 9, {}, state=BEGUN)]}
    assert book.best is trials[1]
    book.goal = type(GOAL)("val/score", maximise=False)
    assert book.best is trials[0]


def refused(tmp_path, tracker=None, **changes):
    """A trial whose settings do not go together, though each is fine by itself."""
    drawn = [{"network.bottleneck.width": 72, "network.bottleneck.num_heads": 16}, {LR: 0.1}]
    return make_book(tmp_path, base(**changes), drawn, tracker)


def test_refused_settings_fail_their_trial_alone(tmp_path):
    book = refused(tmp_path)
    trial = book.next()
    with pytest.raises(InputError, match=r"trial 0000: network\.bottleneck: width 72 is not a multiple of num_heads"):
        book.job_of(trial)
    book.end(trial.name, FAILED, "width 72 ...")
    assert book.next().name == "0001"
    book.complete_tracking()


@pytest.fixture
def tracked(tmp_path, database):
    """Settings that are tracked in SQLite, the search's folder and its tracker."""
    folder = tmp_path / "runs" / "search"
    changes = {"output.folder": str(folder.parent), "output.name": "search", "tracking.enabled": True}
    config = base(**changes, **{"tracking.uri": database})
    return config, folder, open_tracker(config, folder, "3f" * 32, True)


def children(tracker):
    condition = f"tags.mlflow.parentRunId = '{tracker.run_id}'"
    found = client_of(tracker).search_runs([run_of(tracker).info.experiment_id], filter_string=condition)
    return {run.info.run_name: run for run in found}


def curve(tracker, run, name):
    return [(row.step, row.value) for row in client_of(tracker).get_metric_history(run.info.run_id, name)]


def test_trials_are_children_of_the_search_in_mlflow(tracked):
    config, folder, tracker = tracked
    book = make_book(folder, config, DRAWN, tracker)
    for _ in range(3):
        book.next()
    for epoch, value in ((1, 0.25), (2, 0.75)):
        book.report("0000", {**score(value, epoch), "val/idh_auc": math.nan, "train/loss": 1.0})
    book.report("0001", score(0.5))
    best = book.trials["0000"].run_folder / "best"
    best.mkdir(parents=True)
    write_json(best / "notes.json", {"of": "weights"})
    book.end("0000", FINISHED)
    book.end("0001", STOPPED)
    book.end("0002", FAILED, "the loss is not finite")
    found = children(tracker)
    assert sorted(found) == [f"{name}, search" for name in ("0000", "0001", "0002")]
    one, two, three = (found[f"{name}, search"] for name in ("0000", "0001", "0002"))
    assert {name: one.data.params[name] for name in ("trial", LR)} == {"trial": "0", LR: "0.1"}
    assert {name: three.data.params[name] for name in ("trial", LR)} == {"trial": "2", LR: "0.3"}
    assert curve(tracker, one, "val/score") == [(1, 0.25), (2, 0.75)]
    assert "val/idh_auc" not in one.data.metrics
    assert curve(tracker, two, "val/score") == [(1, 0.5)]
    states = [
        (run.data.tags["trial.state"], run.data.tags["trial.reason"], run.info.status) for run in (one, two, three)
    ]
    assert states == [
        ("finished", "", "FINISHED"),
        ("stopped", "", "FINISHED"),
        ("failed", "the loss is not finite", "FAILED"),
    ]
    kept = [item.path for item in client_of(tracker).list_artifacts(one.info.run_id, "best")]
    assert kept == ["best/notes.json"]
    assert all(trial.tracked for trial in read_trials(folder))
    assert history(tracker, "val/score") == []


def test_mlflow_learns_at_the_end_what_a_kill_kept_from_it(tracked, monkeypatch):
    config, folder, tracker = tracked
    book = make_book(folder, config, DRAWN[:2], tracker)
    for name in ("0000", "0001"):
        book.next()
        book.report(name, score(0.5))
    monkeypatch.setattr(Book, "_track", lambda self, trial: None)  # killed between the record and MLflow
    book.trials["0000"].add(score(0.75, 2))
    (book.trials["0000"].run_folder / "best").mkdir(parents=True)
    book.end("0000", FINISHED)
    assert [trial.tracked for trial in read_trials(folder)] == [False, False]
    again = make_book(folder, config, DRAWN[:2], tracker)
    again.complete_tracking()
    found = children(tracker)
    assert curve(tracker, found["0000, search"], "val/score") == [(1, 0.5), (2, 0.75)]
    assert found["0000, search"].data.tags["trial.state"] == "finished"
    assert "trial.state" not in found["0001, search"].data.tags  # it is not over
    assert [trial.tracked for trial in read_trials(folder)] == [True, False]


def test_refused_settings_have_no_run_in_mlflow(tracked):
    config, folder, tracker = tracked
    changes = config.model_dump(mode="json", include={"tracking": True, "output": True})
    book = refused(folder, tracker, **changes)
    for reason in ("width 72 ...", "no memory"):
        trial = book.next()
        book.end(trial.name, FAILED, reason)
    book.complete_tracking()
    assert list(children(tracker)) == ["0001, search"]
    assert [trial.tracked for trial in read_trials(folder)] == [True, True]


def test_a_search_outlasts_a_silent_mlflow(tracked, monkeypatch, caplog):
    """MLflow does not answer while trials report and end; nothing stops, and all of it is written at the end."""
    config, folder, tracker = tracked
    clock, asked, answers = [1000.0], [], False

    def opened(*arguments):
        asked.append(clock[0])
        if not answers:
            raise InputError("tracking.uri: nothing answers there; start it")
        return open_tracker(*arguments)

    monkeypatch.setattr("mttu.search.book.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("mttu.search.book.open_tracker", opened)
    caplog.set_level(logging.INFO, "mttu.search.book")
    book = make_book(folder, config, DRAWN[:1], tracker)
    (book.next().run_folder / "best").mkdir(parents=True)
    for epoch in range(1, 5):
        book.report("0000", score(epoch / 8, epoch))
        clock[0] += AGAIN_SECONDS / 2
    book.end("0000", FINISHED)
    assert asked == [1000.0 + AGAIN_SECONDS * tries for tries in range(3)]
    assert "trial 0000 is not in MLflow yet (tracking.uri: nothing answers there); the search goes on" in caplog.text
    with pytest.raises(RunError, match="nothing answers there; start it; all trials are over, and the same command"):
        book.complete_tracking()
    assert not read_trials(folder)[0].tracked
    answers = True
    book.complete_tracking()
    (run,) = children(tracker).values()
    assert curve(tracker, run, "val/score") == [(epoch, epoch / 8) for epoch in range(1, 5)]

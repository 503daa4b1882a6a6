"""Trials of a search by Ray Tune, each a training on its own Ray Train workers.

Tune places trials, and its scheduler stops weak ones. It keeps nothing that a resume needs: trials are recorded by
`mttu.search.trials`, the book of the search says what runs next, and the scheduler is told of the curves of earlier
starts. So no pickled state of Tune is ever read.
"""

import math
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from mttu.cluster.runtime import STOP, ask_to_stop
from mttu.cluster.self_train import callables_on_ray, evaluate_on_ray
from mttu.cluster.session import adopt, connect, is_private, private_folder
from mttu.cluster.train import place_workers
from mttu.config import Config
from mttu.errors import InputError, RunError
from mttu.search.book import Book
from mttu.search.spaces import Asha
from mttu.search.trials import FAILED, FINISHED, STEP, STOPPED, Report
from mttu.search.work import Job, try_trial
from mttu.self_training import Callables

OBJECTIVE = "objective"
"""The best value of the metric so far, which the scheduler compares."""
_OVER, _FAILED, _BROKEN, _ROW = "over", "failed", "broken", "row"
_SCRATCH = ".tune-"
_PLACE = {"node:__internal_head__": 0.001}
"""Of a trial's own process, which only waits for its workers: if it took a CPU, as by default, its workers might find
none, and all would wait for ever. Tune does not accept nothing."""
_STOP_SECONDS = 60.0
_QUIET = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the search as it ends any command
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # not every epoch is validated
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def count_on_cluster(config: Config) -> int:
    """Trainings that the cluster that is connected holds at the same time, each on its own workers.

    Raises:
        InputError: It does not hold one.
    """
    use_gpu, workers, have = place_workers(config), config.workers, ray.cluster_resources()
    most = int(have.get("CPU", 0)) // (workers.num_workers * workers.threads_per_worker)
    if use_gpu:
        on_one = int(1 / workers.gpus_per_worker + 1e-9)
        most = min(most, int(have["GPU"]) * on_one // workers.num_workers)
    return max(1, most)


def run_on_tune(book: Book, scheduler: Asha | None = None, concurrency: int | None = None) -> None:
    """Runs all trials of a book; one that fails is recorded with its reason, and the others go on.

    Args:
        book: Gives out the trials and records them.
        scheduler: Stops weak trials early; None: every trial runs to its end.
        concurrency: Trials at the same time; as many as the cluster holds if None.

    Raises:
        InputError: The cluster is too small for one trial, or does not answer.
    """
    if os.environ.get("RAY_ADDRESS", "").startswith("ray://"):
        raise InputError("RAY_ADDRESS: a search cannot go through ray://; give HOST:PORT, or submit it as a job")
    with connect(book.base.workers):
        held = count_on_cluster(book.base)
        at_once = min(held, concurrency or held)
        private, recorder = private_folder(), _Recorder(book)
        for earlier in book.folder.glob(f"{_SCRATCH}*"):  # of starts that were killed
            shutil.rmtree(earlier, ignore_errors=True)
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        # Tune writes its own state there, in vain
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=book.folder))
        try:
            tuner = tune.Tuner(
                tune.with_resources(_TrialProcess, _PLACE),
                tune_config=tune.TuneConfig(
                    search_alg=_Searcher(book, None if private is None else str(private)),
                    scheduler=make_scheduler(scheduler, book),
                    num_samples=-1,
                    max_concurrent_trials=at_once,
                    reuse_actors=False,
                ),
                run_config=tune.RunConfig(
                    name="search",
                    storage_path=str(scratch.resolve()),
                    callbacks=[recorder],
                    stop=_Stop(recorder),
                    verbose=0,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    # on a private cluster the place of a process that was killed stays taken: see `_Recorder`
                    failure_config=tune.FailureConfig(0 if private else book.base.workers.max_failures),
                ),
            )
            tuner.fit()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    if recorder.failure is not None:
        raise recorder.failure


def make_scheduler(settings: Asha | None, book: Book) -> TrialScheduler:
    """Tune's scheduler, told of the curves of trials that were over before."""
    if settings is None:
        return FIFOScheduler()
    scheduler = _Asha(
        time_attr=STEP,
        metric=OBJECTIVE,
        mode="max" if book.goal.maximise else "min",
        grace_period=settings.grace,
        reduction_factor=settings.factor,
        max_t=book.base.train.epochs + 1,  # a trial ends by itself: at this epoch Tune would cut it off
    )
    scheduler.last_epoch = book.base.train.epochs
    for trial in book.trials.values():
        if trial.is_over:
            earlier: Any = SimpleNamespace(trial_id=f"earlier-{trial.name}", config={}, is_saving=False)
            scheduler.on_trial_add(None, earlier)
            for row in with_objective(trial.history, book.goal.metric, book.goal.maximise):
                scheduler.on_trial_result(None, earlier, row)
    return scheduler


class _Asha(AsyncHyperBandScheduler):  # type: ignore[misc]
    """Does not stop a trial at its last epoch, where only the weights are left to write."""

    last_epoch = 0

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        action: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if result.get(STEP, 0) >= self.last_epoch else action


def with_objective(history: Sequence[Report], metric: str, maximise: bool) -> list[dict[str, float]]:
    """What the scheduler sees of each report: its epoch, and the best value so far once there is one."""
    rows = []
    best = -math.inf
    sign = 1.0 if maximise else -1.0
    for row in history:
        best = max(best, sign * row.get(metric, -sign * math.inf))
        rows.append({STEP: row[STEP], **({OBJECTIVE: sign * best} if math.isfinite(best) else {})})
    return rows


class _Kept:
    """Has the book, which Tune cannot have when it pickles its own state."""

    book: Book

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("book", "failure")}


class _Searcher(_Kept, Searcher):  # type: ignore[misc]
    """Tells Tune what to run next."""

    def __init__(self, book: Book, private: str | None) -> None:
        super().__init__()
        self.book, self.private = book, private

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the book is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: Tune's state is never read."""

    def suggest(self, trial_id: str) -> Any:
        while True:
            trial = self.book.next()
            if trial is None:
                return Searcher.FINISHED
            try:
                job = self.book.job_of(trial)
            except InputError as error:
                self.book.end(trial.name, FAILED, str(error))
                continue
            goal = self.book.goal
            return {
                "name": trial.name,
                "private": self.private,
                "job": asdict(job),
                "history": trial.history,
                "metric": goal.metric,
                "maximise": goal.maximise,
            }

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing: the book is told by `_Recorder`."""


class _Recorder(_Kept, tune.Callback):  # type: ignore[misc]
    """Tells the book of the search what Tune hears of its trials.

    Tune would go on without a word if this failed, e.g. because the disk is full; so all trials are stopped then.
    """

    def __init__(self, book: Book) -> None:
        self.book = book
        self.failure: Exception | None = None

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        name = trial.config["name"]
        with self._noting_failure():
            if result.get(_BROKEN):  # not the trial's fault: it stays begun
                raise RunError(f"trial {name}: {result[_BROKEN]}; the same command goes on from here")
            if _ROW in result:
                self.book.report(name, result[_ROW])
            if result.get(_OVER):
                self.book.end(name, FAILED if result[_FAILED] else FINISHED, result[_FAILED])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        with self._noting_failure():
            if self.failure is None:
                self.book.end(trial.config["name"], STOPPED)  # unless it said how it ended

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        name = trial.config["name"]
        with self._noting_failure():
            if is_private():
                raise RunError(f"trial {name}: its process was killed; the same command goes on from here")
            self.book.end(name, FAILED, "its process ended more often than workers.max_failures allows")

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception as failure:
            self.failure = self.failure or failure


class _Stop(tune.Stopper):  # type: ignore[misc]
    """Ends the search where its book cannot be kept."""

    def __init__(self, recorder: _Recorder) -> None:
        self.recorder = recorder

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.recorder.failure is not None


class _TrialProcess(tune.Trainable):  # type: ignore[misc]
    """A trial's own process: does its work in a thread, whose reports are Tune's steps."""

    def setup(self, config: dict[str, Any]) -> None:
        adopt(config["private"])
        self.job = Job(**config["job"])
        (self.job.config.output.place / STOP).unlink(missing_ok=True)  # of an earlier start
        self.results: Queue[dict[str, Any]] = Queue()
        work = partial(_do_trial, self.job, config["history"], config["metric"], config["maximise"], self.results.put)
        self.thread = threading.Thread(target=work, name="mttu-trial", daemon=True)
        self.thread.start()

    def step(self) -> dict[str, Any]:
        return self.results.get()

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Nothing: the training's own checkpoints are in its run folder."""
        return {}

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: a trial that is started again goes on from its run folder."""

    def cleanup(self) -> None:
        """Called when the trial is over, or stopped by the scheduler: then its workers have to give up their place."""
        if self.thread.is_alive():
            ask_to_stop(self.job.config.output.place)
            self.thread.join(_STOP_SECONDS)


def _do_trial(
    job: Job, earlier: Sequence[Report], metric: str, maximise: bool, tell: Callable[[dict[str, Any]], None]
) -> None:
    """Does a trial's work; tells what Tune is to know of each report, those of earlier starts first."""
    history = [dict(row) for row in earlier]
    untold = with_objective(history, metric, maximise)

    def report(row: Report) -> None:
        if any(known[STEP] == row[STEP] for known in history):
            return
        while untold:  # not before the training runs: it could not be stopped in order
            tell(untold.pop(0))
        history.append(dict(row))
        history.sort(key=lambda known: known[STEP])
        seen = {one[STEP]: one for one in with_objective(history, metric, maximise)}
        tell({**seen[row[STEP]], _ROW: dict(row)})

    ending = try_trial(job, callables_of_trial, report, place_workers, (ray.exceptions.RayError,))
    end = {_OVER: not ending.broken, _FAILED: ending.failed, _BROKEN: ending.broken}
    for row in untold:
        tell({**row, **end})  # over with the first: what the scheduler makes of the others is too late to stop it
    tell({STEP: history[-1][STEP] if history else 0, **end, "done": True})


def callables_of_trial(config: Config) -> Callables:
    """How a trial's work is done: on Ray, and its cases scored with surface distances."""
    on_ray = callables_on_ray(config.workers)
    return Callables(on_ray.train, on_ray.score, partial(evaluate_on_ray, distances=True))

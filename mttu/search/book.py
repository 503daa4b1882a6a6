"""The book of a search: gives out trials, records what they report and how they end, and tells MLflow.

It is the only writer of the trials' records. How trials are run is the caller's: side by side in processes of this
machine, or by Ray Tune.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from mttu.config import Config, override
from mttu.errors import InputError, RunError
from mttu.search.samplers import Sampler
from mttu.search.spaces import Run, expand
from mttu.search.trials import FAILED, FINISHED, STEP, TRIALS, Report, State, Trial, find_best, read_trials
from mttu.search.work import Job, with_absolute_paths
from mttu.tracking import Tracker, open_tracker
from mttu.training.epoch_log import AGAIN_SECONDS, EpochLog
from mttu.training.state import BEST

logger = logging.getLogger(__name__)
NameTrial = Callable[[int, Mapping[str, Any]], tuple[str, dict[str, str]]]
"""Folder of a trial from its number and what it tries, and the labels that tell it apart."""


@dataclass(frozen=True)
class Goal:
    """What trials are compared by."""

    metric: str
    maximise: bool


@dataclass(frozen=True)
class Cohort:
    """What MLflow is told of the data."""

    fingerprint: str
    synthetic: bool


def number_trial(number: int, drawn: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """`0003`, and the number as a label."""
    return f"{number:04d}", {"trial": str(number)}


class Book:
    """All trials of a search.

    Args:
        folder: Run folder of the search, which the caller has locked.
        base: Settings that the trials' changes are laid over.
        run: What a trial runs.
        sampler: Draws the trials.
        goal: What they are compared by.
        cohort: What MLflow is told of the data.
        tracker: Run of the whole in MLflow.
        split: Split that each trial is evaluated on when it is done.
        name: Names a trial.
        expand: Settings of a trial from what it tries.
        on_change: Called whenever something has happened, for progress.

    Raises:
        InputError: A trial's record is damaged.
    """

    def __init__(
        self,
        folder: Path,
        base: Config,
        run: Run,
        sampler: Sampler,
        goal: Goal,
        cohort: Cohort,
        tracker: Tracker,
        split: str | None = None,
        name: NameTrial = number_trial,
        expand: Callable[[Mapping[str, Any]], dict[str, Any]] = expand,
        on_change: Callable[["Book"], None] | None = None,
    ) -> None:
        self.folder, self.base, self.run, self.sampler = folder, base, run, sampler
        self.goal, self.cohort, self.tracker, self.split, self.name = goal, cohort, tracker, split, name
        self.on_change, self.expand = on_change, expand
        self.trials: dict[str, Trial] = {trial.name: trial for trial in read_trials(folder, mend=True)}
        self.waiting = [trial for trial in self.trials.values() if not trial.is_over]
        self.started: dict[str, float] = {}
        self.logs: dict[str, EpochLog] = {}
        self.is_drawn = False
        """Whether there is no trial left to give out."""
        self.again = 0.0
        """Time from which MLflow is asked to open a trial's run, after it did not answer."""
        for trial in self.trials.values():
            sampler.learn(trial)

    def next(self) -> Trial | None:
        """The next trial to start: one that a kill interrupted, else a new one; None if there are no more."""
        if self.waiting:
            trial = self.waiting.pop(0)
        else:
            taken = {trial.number for trial in self.trials.values()}
            number = next(number for number in count() if number not in taken)  # a removed trial comes again
            drawn = self.sampler.draw(number)
            if drawn is None:
                self.is_drawn = True
                return None
            name, labels = self.name(number, drawn)
            trial = Trial(number, name, drawn, self.folder / TRIALS / name, labels)
        trial.begin()
        self.trials[trial.name] = trial
        self.started[trial.name] = time.monotonic()
        if not self._is_refused(trial):
            self._open_log(trial)
        self._tell()
        return trial

    def settings_of(self, trial: Trial) -> Config:
        """The trial's settings, with its own run folder."""
        places = {"output.folder": str(trial.folder), "output.name": trial.run_folder.name}
        return override(self.base, {**self.expand(trial.drawn), **places}, f"trial {trial.name}")

    def job_of(self, trial: Trial) -> Job:
        """The trial's work, without MLflow, to which only this process writes."""
        config = with_absolute_paths(self.settings_of(trial))  # paths may be among what is tried
        config = override(config, {"tracking.enabled": False, "tracking.uri": None})
        return Job(config.model_dump(mode="json"), self.run, self.split)

    def report(self, name: str, row: Report) -> None:
        """Records a report of a trial."""
        trial = self.trials[name]
        if not trial.add(row):
            return
        log = self._open_log(trial)
        if log is not None:
            log.log(int(row[STEP]), {key: value for key, value in row.items() if key != STEP})
        self._tell()

    def end(self, name: str, state: State, reason: str = "") -> None:
        """Records how a trial ended; one that is over stays as it is."""
        trial = self.trials[name]
        if trial.is_over:
            return
        trial.end(state, reason, time.monotonic() - self.started.get(name, time.monotonic()))
        self.sampler.learn(trial)
        self._track(trial)
        self._tell()

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Ends, in MLflow, the runs of trials that still run when the body is left, e.g. by a signal."""
        try:
            yield
        finally:
            for trial in self.trials.values():
                if not trial.is_over and trial.name in self.logs:
                    with suppress(InputError, RunError):
                        self.logs.pop(trial.name).tracker.finish("KILLED")

    def check_done(self) -> None:
        """Makes sure that all trials are over, and that not all of them failed.

        Raises:
            RunError: They are not, e.g. because a signal ended the search.
        """
        over = [trial for trial in self.trials.values() if trial.is_over]
        if not self.is_drawn or len(over) < len(self.trials):
            raise RunError("the search ended before its last trial; the same command goes on from here")
        if over and all(trial.state == FAILED for trial in over):
            raise RunError(
                f"all {len(over)} trials failed, the first because: {over[0].reason}; mend that, remove "
                f"{self.folder / TRIALS}, and run the same command again"
            )

    def complete_tracking(self) -> None:
        """Tells MLflow what it does not know yet of trials that are over.

        Raises:
            RunError: MLflow does not answer.
        """
        try:
            for trial in self.trials.values():
                if trial.is_over and not trial.tracked:
                    self._write_to_tracker(trial)
        except InputError as error:
            raise RunError(f"{error}; all trials are over, and the same command writes what is missing") from error

    @property
    def best(self) -> Trial | None:
        """The best trial that was not stopped and did not fail; the first of equals. None without any."""
        return find_best(self.trials.values(), self.goal.metric, self.goal.maximise)

    def count_in(self, state: State) -> int:
        """Trials in a state."""
        return sum(trial.state == state for trial in self.trials.values())

    def _open_log(self, trial: Trial) -> EpochLog | None:
        """The trial's log; None while MLflow does not answer. What it misses is written when the trial is over."""
        if trial.name not in self.logs and time.monotonic() >= self.again:
            try:
                self.logs[trial.name] = EpochLog(self._open_tracker(trial))
            except InputError as error:
                self._note_silence(trial, error)
        return self.logs.get(trial.name)

    def _open_tracker(self, trial: Trial) -> Tracker:
        config = override(self.settings_of(trial), {"tracking.enabled": self.base.tracking.enabled})
        cohort = self.cohort
        return open_tracker(
            config, trial.folder, cohort.fingerprint, cohort.synthetic, self.tracker, trial.name, trial.labels
        )

    def _track(self, trial: Trial) -> None:
        if time.monotonic() < self.again:
            return  # written at the end of the search
        try:
            self._write_to_tracker(trial)
        except (InputError, RunError) as error:
            self._note_silence(trial, error)

    def _note_silence(self, trial: Trial, error: Exception) -> None:
        self.again = time.monotonic() + AGAIN_SECONDS
        reason = str(error).partition(";")[0]
        logger.info("trial %s is not in MLflow yet (%s); the search goes on, and writes it later", trial.name, reason)

    def _write_to_tracker(self, trial: Trial) -> None:
        if self._is_refused(trial):
            trial.mark_tracked()  # there are no settings to write; the table of the search has the reason
            return
        log = self.logs.pop(trial.name, None) or EpochLog(self._open_tracker(trial))
        log.complete(trial.history)
        if trial.state == FINISHED:
            log.tracker.log_checkpoint(trial.run_folder / BEST)
        log.tracker.set_tags({"trial.state": trial.state, "trial.reason": trial.reason})
        log.tracker.finish("FAILED" if trial.state == FAILED else "FINISHED")
        trial.mark_tracked()

    def _is_refused(self, trial: Trial) -> bool:
        """Whether its settings do not go together, so that it failed before it began."""
        try:
            self.settings_of(trial)
        except InputError:
            return True
        return False

    def _tell(self) -> None:
        if self.on_change is not None:
            self.on_change(self)

"""Search spaces as files, hand-made trials, and trials that run in the test's own process."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mttu.config import Config, override
from mttu.data.labels import REGIONS
from mttu.data.manifest import read_manifest
from mttu.errors import InputError, RunError, collecting
from mttu.files import write_json
from mttu.search.book import Book, Cohort, Goal
from mttu.search.processes import callables_here
from mttu.search.samplers import Listed, Sampler
from mttu.search.spaces import Space, load_space
from mttu.search.study import RunTrials, prepare_search, run_search
from mttu.search.trials import FAILED, FINISHED, STEP, TRIALS, State, Trial
from mttu.search.work import CASES, do_trial
from mttu.self_training import Callables
from mttu.self_training.evaluation import write_rows
from mttu.tracking import NullTracker, Tracker
from mttu.training.state import BEST

GOAL = Goal("val/score", maximise=True)
SHORT = {"train.epochs": 1, "train.steps_per_epoch": 1, "train.validate_every": 1}


def write_space(folder: Path, space: Any, **others: Any) -> Path:
    """A file of format 2."""
    path = folder / "space.yaml"
    content = {"format_version": 2, **others, "space": space}
    path.write_text(
        yaml.safe_dump({name: value for name, value in content.items() if value is not None}, sort_keys=False)
    )
    return path


def make_space(folder: Path, space: Any, base: Config | None = None, **others: Any) -> Space:
    return load_space(write_space(folder, space, **others), base)


def problems_of(path: Path, base: Config | None = None) -> list[str]:
    """What is refused of a space; each problem has to begin with the file's name, which is cut off."""
    problems: list[str] = []
    with collecting(problems):
        load_space(path, base)
    assert [problem for problem in problems if not problem.startswith(f"{path}: ")] == []
    return [problem.removeprefix(f"{path}: ") for problem in problems]


def make_trial(
    folder: Path, number: int, drawn: dict[str, Any], *scores: float, state: State = FINISHED, metric: str = "val/score"
) -> Trial:
    """A trial with a value of the metric in each epoch, not written."""
    history = [{STEP: float(epoch), metric: score} for epoch, score in enumerate(scores, 1)]
    name = f"{number:04d}"
    return Trial(number, name, drawn, folder / TRIALS / name, state=state, history=history)


def make_book(
    folder: Path, base: Config, sampler: Sampler | list[dict[str, Any]], tracker: Tracker | None = None, **others: Any
) -> Book:
    kept = sampler if not isinstance(sampler, list) else Listed(sampler)
    return Book(folder, base, "train", kept, GOAL, Cohort("3f" * 32, True), tracker or NullTracker(), **others)


class InProcess:
    """Runs trials one after the other in this process; `names` are those that it began.

    After so many trials it raises, as an interruption does, if `stop_after` is given.
    """

    def __init__(self, stop_after: int | None = None, callables: Callables | None = None) -> None:
        self.stop_after, self.names = stop_after, list[str]()
        self.callables = callables or callables_here()

    def __call__(self, book: Book) -> None:
        while (trial := book.next()) is not None:
            self.names.append(trial.name)
            if self.stop_after is not None and len(self.names) > self.stop_after:
                raise RunError("the machine was switched off")
            try:
                self.work(book, trial)
            except (InputError, RunError) as error:
                book.end(trial.name, FAILED, str(error))
            else:
                book.end(trial.name, FINISHED)

    def work(self, book: Book, trial: Trial) -> None:
        do_trial(book.job_of(trial), self.callables, lambda row: book.report(trial.name, row))


class Pretending(InProcess):
    """As `InProcess`, in no time: trains nothing, and makes up scores that depend on what a trial tries alone."""

    def work(self, book: Book, trial: Trial) -> None:
        job = book.job_of(trial)
        generator = np.random.default_rng(list(json.dumps(trial.drawn, sort_keys=True).encode()))
        for epoch in (1, 2):
            book.report(trial.name, {STEP: epoch, "val/score": float(generator.random())})
        (trial.run_folder / BEST).mkdir(parents=True)
        write_json(trial.run_folder / BEST / "notes.json", {})
        if job.split is None or job.config.data.manifest is None:
            return
        rows = []
        for case in read_manifest(job.config.data.manifest).split(job.split):
            dice = {f"dice_{region}": float(generator.random()) for region in REGIONS}
            distances = {f"hd95_{region}": float(9 * generator.random()) for region in REGIONS}
            found = {"mutant_probability": float(generator.random()), **dice, **distances}
            rows.append({"case_id": case.case_id, "idh": case.idh, **found})
        write_rows(rows, trial.folder / CASES, {"split": job.split})


def search(
    config: Config, folder: Path, space: Any, runner: RunTrials | None = None, fresh: bool = False, **others: Any
) -> Path:
    """Runs a search in this process; the run folder."""
    others.setdefault("settings", SHORT)
    loaded = make_space(folder, space, config, **others)
    prepared = prepare_search(loaded, override(config, loaded.plan.settings))
    return run_search(prepared, runner or InProcess(), callables_here(), fresh)

"""Trials side by side on this machine, without Ray: each in a process of its own, on the CPU.

A trial's process ends when the one that started it does, however that ended: it watches its standard input.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from queue import Queue
from typing import Any

import torch

from mttu.config import Config
from mttu.cores import count_cores
from mttu.errors import InputError, RunError
from mttu.pseudo_labels.scoring import score_cases
from mttu.search.book import Book
from mttu.search.trials import FAILED, FINISHED, Trial
from mttu.search.work import Job, try_trial
from mttu.self_training import Callables
from mttu.self_training.evaluation import evaluate_locally
from mttu.training.run import launch_locally

_MARK = "mttu-trial "
"""Before each message of a trial's process; libraries print other lines."""


def callables_here() -> Callables:
    """How a trial's work is done in its own process."""
    cpu = torch.device("cpu")
    return Callables(
        launch_locally, lambda plan, on_row: score_cases(plan, cpu, on_row), partial(evaluate_locally, distances=True)
    )


def count_here(config: Config) -> int:
    """Trials that this machine holds at the same time, at least one."""
    return max(1, count_cores() // config.workers.threads_per_worker)


def run_here(book: Book, at_once: int) -> None:
    """Runs all trials of a book, so many at the same time; one that fails is recorded with its reason."""
    messages: Queue[tuple[Trial, dict[str, Any] | None]] = Queue()
    running: dict[str, subprocess.Popen[str]] = {}
    with _ending(running):
        more = True
        while more or running:
            while more and len(running) < at_once:
                trial = book.next()
                if trial is None:
                    more = False
                    break
                try:
                    running[trial.name] = _start(trial, book.job_of(trial), messages)
                except InputError as error:
                    book.end(trial.name, FAILED, str(error))
            if not running:
                continue
            trial, message = messages.get()
            if message is None:
                process = running.pop(trial.name)
                code = process.wait()
                book.end(trial.name, FAILED, f"its process ended with code {code}")  # unless it said how it ended
            elif "row" in message:
                book.report(trial.name, message["row"])
            elif message["broken"]:  # not the trial's fault: it stays begun
                raise RunError(f"trial {trial.name}: {message['broken']}; the same command goes on from here")
            else:
                book.end(trial.name, FAILED if message["failed"] else FINISHED, message["failed"])


def _start(trial: Trial, job: Job, messages: "Queue[tuple[Trial, dict[str, Any] | None]]") -> subprocess.Popen[str]:
    log = (trial.folder / "log.txt").open("w", encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "mttu.search.processes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(job.config.workers.threads_per_worker)},
    )
    log.close()
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("pipes were asked for")
    process.stdin.write(json.dumps(asdict(job)) + "\n")
    process.stdin.flush()  # and it stays open while this process lives
    lines = process.stdout

    def read() -> None:
        for line in lines:
            if line.startswith(_MARK):
                messages.put((trial, json.loads(line.removeprefix(_MARK))))
        messages.put((trial, None))

    threading.Thread(target=read, name=f"mttu-trial-{trial.name}", daemon=True).start()
    return process


@contextmanager
def _ending(running: dict[str, subprocess.Popen[str]]) -> Iterator[None]:
    """Ends the processes that still run when the body is left."""
    try:
        yield
    finally:
        for process in running.values():
            process.kill()
        for process in running.values():
            process.wait()


def main() -> None:
    """In a trial's process: does the work that standard input names."""
    job = Job(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(job.config.workers.threads_per_worker)
    _say(asdict(try_trial(job, lambda config: callables_here(), lambda row: _say({"row": dict(row)}))))


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(_MARK + json.dumps(message) + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    with suppress(Exception):
        while sys.stdin.read(1):
            pass
    os._exit(1)


if __name__ == "__main__":
    main()

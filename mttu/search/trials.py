"""The trials of a search on disk: what each tries, what it reported, how it ended. Ray and Optuna keep nothing.

`trials/0003/trial.json` is written before a trial starts and when it is over, `history.jsonl` has a line per report,
and `run/` is the trial's own run folder. So a search that was killed goes on from here: a trial that is over is never
run again, and one that was not goes on from its own checkpoint.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mttu.errors import InputError
from mttu.files import drop_link, parse_json, read_versioned, write_json, write_text

FORMAT_VERSION = 1
TRIALS = "trials"
RUN = "run"
_RECORD, _HISTORY = "trial.json", "history.jsonl"
_MEND = "remove the trial's folder and run the same command again"
State = Literal["begun", "finished", "stopped", "failed"]
BEGUN: State = "begun"
FINISHED: State = "finished"
STOPPED: State = "stopped"
"""By the scheduler, because others were better."""
FAILED: State = "failed"
_STATES = (BEGUN, FINISHED, STOPPED, FAILED)
STEP = "epoch"
"""Field of a report that counts: an epoch, or a round of a self-training."""
Report = Mapping[str, float]


@dataclass
class Trial:
    """One trial."""

    number: int
    name: str
    """Of its folder."""
    drawn: dict[str, Any]
    """What it tries: searched settings and their values."""
    folder: Path
    labels: dict[str, str] = field(default_factory=dict)
    """What tells it apart in tables and in MLflow."""
    state: State = BEGUN
    reason: str = ""
    """Why it failed."""
    seconds: float = 0.0
    """Of its starts, those that a kill ended aside."""
    tracked: bool = False
    """Whether MLflow knows all of it."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Its reports, each with its epoch or round, in the order of these."""

    @property
    def run_folder(self) -> Path:
        """Folder of its training."""
        return self.folder / RUN

    @property
    def is_over(self) -> bool:
        """Whether it is never started again."""
        return self.state != BEGUN

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Epoch or round, and value, of the reports that have the metric."""
        return [(int(row[STEP]), row[metric]) for row in self.history if metric in row]

    def best(self, metric: str, maximise: bool) -> float | None:
        """The best value so far; None without any."""
        values = [value for _, value in self.curve(metric)]
        return (max if maximise else min)(values) if values else None

    def begin(self) -> None:
        """Records that it is about to start, or was started before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write()

    def add(self, row: Report) -> bool:
        """Records a report, unless that epoch or round is known; says whether it is new."""
        if any(known[STEP] == row[STEP] for known in self.history):
            return False
        kept = {name: float(value) for name, value in row.items() if math.isfinite(value)}
        self.history.append(kept)
        self.history.sort(key=lambda known: known[STEP])
        with (self.folder / _HISTORY).open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(kept) + "\n")
        return True

    def end(self, state: State, reason: str = "", seconds: float = 0.0) -> None:
        """Records how it ended."""
        self.state, self.reason, self.seconds = state, reason, self.seconds + seconds
        self._write()

    def mark_tracked(self) -> None:
        """Records that MLflow knows all of it."""
        self.tracked = True
        self._write()

    def _write(self) -> None:
        content = {
            "format_version": FORMAT_VERSION,
            "number": self.number,
            "drawn": self.drawn,
            "labels": self.labels,
            "state": self.state,
            "reason": self.reason,
            "seconds": round(self.seconds, 3),
            "tracked": self.tracked,
        }
        write_json(self.folder / _RECORD, content)


def read_trials(search_folder: Path, mend: bool = False) -> list[Trial]:
    """All trials that were begun, by number.

    With `mend` a last line that a kill cut is removed, which is for the process alone that holds the search's lock.

    Raises:
        InputError: A record is damaged, or of another format version.
    """
    found = [_read_trial(record, mend) for record in _find_records(search_folder)]
    return sorted(found, key=lambda trial: trial.number)


def find_best(trials: Iterable[Trial], metric: str, maximise: bool) -> Trial | None:
    """The best trial that was not stopped and did not fail; the first of equals. None without any."""
    known = [(trial.best(metric, maximise), trial) for trial in trials if trial.state in (FINISHED, BEGUN)]
    sign = 1 if maximise else -1
    scored = [(sign * value, -trial.number, trial) for value, trial in known if value is not None]
    return max(scored, key=lambda one: one[:2])[2] if scored else None


def _find_records(search_folder: Path) -> Iterable[Path]:
    return sorted((search_folder / TRIALS).glob(f"*/{_RECORD}"))


def _read_trial(record: Path, mend: bool) -> Trial:
    content = read_versioned(record, FORMAT_VERSION, _MEND)
    folder = record.parent
    try:
        trial = Trial(
            int(content["number"]),
            folder.name,
            dict(content["drawn"]),
            folder,
            dict(content["labels"]),
            content["state"],
            str(content["reason"]),
            float(content["seconds"]),
            bool(content["tracked"]),
        )
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{record}: damaged; {_MEND}") from None
    if trial.state not in _STATES:
        raise InputError(f"{record}: state is {trial.state!r}; expected one of {', '.join(_STATES)}; {_MEND}")
    trial.history = _read_history(folder / _HISTORY, mend)
    return trial


def _read_history(path: Path, mend: bool) -> list[dict[str, float]]:
    """The reports by epoch or round; a last line that a kill cut counts for nothing."""
    if mend:
        drop_link(path)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    rows: dict[float, dict[str, float]] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = {str(name): float(value) for name, value in dict(parse_json(line)).items()}
            rows.setdefault(row[STEP], row)
        except (ValueError, TypeError, KeyError):
            if number < len(lines):
                raise InputError(f"{path}: line {number} is damaged; {_MEND}") from None
            if mend:
                write_text(path, "".join(lines[:-1]))
            continue
        if mend and not line.endswith("\n"):
            write_text(path, "".join(lines) + "\n")
    return [rows[step] for step in sorted(rows)]

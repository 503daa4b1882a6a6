"""`mttu self-train`: rounds of self-training with progress, and a table of the rounds at the end."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table

from mttu.cli.display import (
    console,
    make_columns,
    name_breaks,
    new_table,
    show_table,
    summarise_epoch,
    tell,
    tell_absences,
)
from mttu.cli.folds import print_folds
from mttu.cli.networks import print_calibration
from mttu.cli.output import give, is_quiet
from mttu.cli.settings import (
    AblationNames,
    ConfigFile,
    Fresh,
    PresetName,
    PrintConfig,
    complete_settings,
    read_given,
    resolve_run,
    tell_start,
)
from mttu.config import Config, to_yaml

if TYPE_CHECKING:
    from mttu.data.manifest import Manifest
    from mttu.self_training import OnStep, Step
    from mttu.self_training.tracking import RoundSummary

_SILENCE_SECONDS = 10.0
"""Least time between two lines on cases in a log; the last case always has its line."""
_PARTS = ("val", "test")
_METRICS = {"dice": "Dice", "idh_auc": "AUC", "idh_accuracy": "acc", "idh_ece": "ECE"}


def self_train(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SECTION.NAME=VALUE]...",
            help="Settings, e.g. selection.method=CPL",
            autocompletion=complete_settings,
        ),
    ] = None,
    config: ConfigFile = None,
    preset_name: PresetName = "paper",
    print_config: PrintConfig = False,
    fresh: Fresh = False,
    ablations: AblationNames = None,
) -> None:
    """Train in rounds with pseudo-labels (Algorithm 1). The same command goes on after an interruption."""
    settings = resolve_run(preset_name, read_given(config, arguments, ablations), fresh)
    if print_config:
        give(settings.model_dump(mode="json"))
        typer.echo(to_yaml(settings), nl=False)
        return
    folder = self_train_shown(settings, fresh)
    if not settings.data.folds:
        console.print(f"best on validation: {folder / 'best'}")
        print_calibration(folder)


def self_train_shown(settings: Config, fresh: bool = False) -> Path:
    """Self-trains with progress and shows the table of rounds; returns the run folder."""
    from mttu.cluster.self_train import callables_on_ray
    from mttu.cluster.session import connect
    from mttu.pseudo_labels.pool_shift import find_bare_cases, find_pool_shift
    from mttu.self_training import check_self_training, cross_validate_self_training, run_self_training

    checked = check_self_training(settings)  # before Ray starts, which takes seconds
    for note in checked.inputs.notes:
        tell(note)
    if settings.selection.method in ("PL", "CPL", "UPS"):
        cohort = checked.inputs.manifest
        shift = find_pool_shift(cohort) if settings.selection.prior == "none" else []
        bare = "segmentation" in settings.network.tasks and not settings.teacher.masks
        for note in (*shift, *(find_bare_cases(cohort) if bare else [])):
            tell(note)
    tell_start(settings, fresh)
    with connect(settings.workers), show_rounds(settings, count_cases(settings, checked.inputs.manifest)) as on_step:
        run = cross_validate_self_training if settings.data.folds else run_self_training
        folder = run(settings, callables_on_ray(settings.workers), fresh, on_step, checked)
    if settings.data.folds:
        print_folds(folder)
    else:
        print_rounds(settings, folder)
    return folder


def count_cases(settings: Config, manifest: "Manifest") -> dict[str, int]:
    """How many cases each phase of a round will have, estimated before the first round.

    Args:
        settings: Settings of the self-training.
        manifest: The whole cohort. Folds are assumed to be equally large.
    """
    folds, method = settings.data.folds, settings.selection.method
    count = {split: len(manifest.split(split)) for split in ("train", "val", "test", "unlabelled")}
    scored = 0 if method in ("none", "direct") else count["unlabelled"]
    val = math.ceil((count["train"] + count["val"]) / folds) if folds else count["val"]
    return {"score": scored, "evaluate": val, "test": count["test"]}


class TimeLeft:
    """Time left for all rounds and phases, estimated from the pace since this start.

    Until the pace of a phase is known, the pace of another phase with cases is used.
    """

    def __init__(self, settings: Config, cases: Mapping[str, int]) -> None:
        from mttu.self_training.job import last_round

        later = settings.self_training.epochs or settings.train.epochs
        self.epochs = [settings.train.epochs, *[later] * last_round(settings)]
        self.cases = dict(cases)
        """Phase to the number of its cases in a round."""
        self.paces: dict[str, list[float]] = {}
        """Phase to seconds of each epoch or case."""
        self.latest: tuple[tuple[int, int, str], float] | None = None

    def describe(self, step: "Step") -> str:
        """E.g. `about 3 min left`, or `at least 3 min left` while a pace is unknown; empty before anything is known."""
        now, place = time.monotonic(), (step.fold, step.round, step.phase)
        if step.phase == "train":
            self.paces.setdefault("train", []).append(step.metrics.get("time/epoch_seconds", 0.0))
        else:
            self.cases[step.phase] = max(step.total, self.cases.get(step.phase, 0))  # val is scored for thresholds, too
            if self.latest is not None and self.latest[0] == place:
                self.paces.setdefault(step.phase, []).append(now - self.latest[1])
        self.latest = place, now
        if not self.paces:
            return ""
        to_come = {phase: self._count(phase, step) for phase in ("train", *self.cases)}
        paces = {phase: self._pace(phase) for phase, count in to_come.items() if count}
        seconds = sum(to_come[phase] * pace for phase, pace in paces.items() if pace is not None)
        shown = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        about = "at least" if None in paces.values() else "about"
        return f"{about} {shown if seconds < 6000 else f'{seconds / 3600:.1f} h'} left"

    def _pace(self, phase: str) -> float | None:
        """Seconds of an epoch or a case."""
        others = [] if phase == "train" else [pace for name, pace in self.paces.items() if name != "train"]
        known = self.paces.get(phase) or next(iter(others), None)
        return sum(known) / len(known) if known else None

    def _count(self, phase: str, step: "Step") -> int:
        """Epochs or cases of a phase that remain, in this fold and the later ones."""
        order = ("score", "train", "evaluate", "test")
        rounds = len(self.epochs)
        each = [self.epochs[number] if phase == "train" else self.cases.get(phase, 0) for number in range(rounds)]
        if phase == "score":
            each[0] = 0
        whole, testing = sum(each), step.phase == "test"
        if testing and phase != "test":
            left = 0
        elif phase == step.phase:
            left = step.total - step.done + sum(each[step.round + 1 :])
        elif phase == "test":
            left = whole
        else:
            left = sum(each[step.round + (order.index(phase) < order.index(step.phase)) :])
        return left + max(step.folds - step.fold, 0) * whole


@contextmanager
def show_rounds(settings: Config, cases: Mapping[str, int]) -> "Iterator[OnStep]":
    """Yields a function that shows each step: a bar per phase on a terminal, lines in a log.

    Args:
        settings: Settings of the self-training.
        cases: What `count_cases` found.
    """
    left = TimeLeft(settings, cases)
    if is_quiet():
        yield lambda step: _tell_of(step, settings)
        return
    if not console.is_terminal:
        told = time.monotonic()

        def write_line(step: "Step") -> None:
            nonlocal told
            if step.phase == "select":
                _tell_of(step, settings)
                return
            rest = left.describe(step)
            if step.phase == "train" or step.done == step.total or time.monotonic() - told > _SILENCE_SECONDS:
                told = time.monotonic()
                phase = f"{_name_round(step)}  {step.phase} {step.done}/{step.total}"
                text = "  ".join(filter(None, (phase, step.case_id, summarise_epoch(step.metrics), rest)))
                console.print(text)
                _tell_of(step, settings)

        yield write_line
        return
    with Progress(*make_columns(), console=console) as progress:
        bars: dict[tuple[int, int, str], int] = {}

        def move_bar(step: "Step") -> None:
            key = (step.fold, step.round, step.phase)
            if step.phase == "select":
                _tell_of(step, settings)
                return
            if key not in bars:
                bars[key] = progress.add_task(f"{_name_round(step)} {step.phase}", text="")
            text = "  ".join(filter(None, (step.case_id, summarise_epoch(step.metrics), left.describe(step))))
            progress.update(bars[key], total=step.total, completed=step.done, text=name_breaks(text))  # type: ignore[arg-type]
            _tell_of(step, settings)

        yield move_bar


def _tell_of(step: "Step", settings: Config) -> None:
    """Prints what a user has to know before it is too late: of a selection, and of classes that are not predicted."""
    place = f"{_name_round(step)}: "
    for note in step.notes:
        console.print(f"{place}{note}")
    tell_absences(step.metrics, settings, place, step.round)


def _name_round(step: "Step") -> str:
    fold = f"fold {step.fold}/{step.folds}  " if step.folds else ""
    return f"{fold}round {step.round}/{step.rounds}"


def print_rounds(settings: Config, folder: Path) -> None:
    """Prints the table of rounds, and what was chosen and why it ended."""
    from mttu.cohort.truth import read_truth
    from mttu.self_training.evaluation import read_summary
    from mttu.self_training.tracking import summarise_rounds

    notes: list[str] = []
    truth = {} if settings.self_training.truth is None else read_truth(settings.self_training.truth, notes)
    summary = read_summary(folder) or {}
    rows, chosen = summarise_rounds(folder, truth), summary.get("chosen_round")
    give({"run": folder, "best": folder / "best", "rounds": rows, "summary": summary})
    for table in tabulate(rows, settings.selection.method, chosen, settings.metrics.empty_dice):
        show_table(table)
    for note in notes:
        tell(note)
    for row in rows:
        for note in row.notes:
            console.print(f"round {row.round}: {note}")
    for reason in summary.get("missing", {}).values():
        tell(reason)
    if summary.get("pool_prior") is not None:
        console.print(f"the commoner class of the pool is that of {summary['pool_prior']:.3f} of its cases")
    if summary.get("stopped_early"):
        console.print(f"stopped after round {rows[-1].round}: the next selection was the same")
    console.print(f"round {chosen} is the best on validation ({summary.get('chosen_by')})")


def tabulate(rounds: "Sequence[RoundSummary]", method: str, chosen: int | None, empty_dice: str) -> list[Table]:
    """Two tables: selected cases of each round and how many are right; metrics. Each fits 80 columns.

    Between them, where probabilities were calibrated, how many labels should be right.
    """
    style: dict[str, Any] = {"no_wrap": True, "padding": (0, 0, 0, 1)}
    titles = ("round", "pool", "mutant", "wild", "right", "accuracy")
    selected = new_table(titles, title=f"pseudo-labels, {method}", **style)
    title = f"best weights of each round, Dice of empty masks: {empty_dice}"
    metrics = [f"{part}\n{name}" for part in _PARTS for name in _METRICS.values()]
    measured = new_table(("round", *metrics), title=title, **style)
    for row in rounds:
        name = f"{'*' if row.round == chosen else ''}{row.round}"
        right = f"{row.num_right}/{row.num_known}" if row.num_known else "-"
        counts = map(str, (row.num_pool, row.num_mutant, row.num_wild))
        selected.add_row(name, *counts, right, _show(row.accuracy))
        values = [row.metrics.get(f"{part}/{metric}") for part in _PARTS for metric in _METRICS]
        measured.add_row(name, *map(_show, values))
    estimated = [row for row in rounds if row.estimates]
    if not estimated:
        return [selected, measured]
    columns = (
        "round",
        "pool share\nof mutants",
        *(f"{name}\n{of}" for name in ("mutant", "wild") for of in ("estimated", "true")),
    )
    precision = new_table(columns, title="estimated share of mutants; share of right labels", **style)
    for row in estimated:
        names = [f"{kind}_{name}" for name in ("mutant", "wild") for kind in ("estimated_precision", "precision")]
        precision.add_row(
            f"{row.round}", *(_show(row.estimates.get(f"selected/{name}")) for name in ("pool_share", *names))
        )
    return [selected, precision, measured]


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

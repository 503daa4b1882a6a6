"""`mttu self-train`: rounds of self-training with progress, and a table of the rounds at the end."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from mttu.cli.display import console, new_table, show_bars, summarise_epoch, tell, tell_absences
from mttu.cli.folds import print_folds
from mttu.cli.networks import print_calibration
from mttu.cli.settings import ConfigFile, Fresh, PresetName, PrintConfig, read_given, resolve_run, tell_start
from mttu.config import Config, to_yaml

if TYPE_CHECKING:
    from mttu.self_training import OnStep, Step
    from mttu.self_training.tracking import RoundSummary

_SILENCE_SECONDS = 10.0
"""Least time between two lines on cases in a log; the last case always has its line."""
_PARTS = ("val", "test")
_METRICS = {"dice": "Dice", "idh_auc": "AUC", "idh_accuracy": "acc", "idh_ece": "ECE"}


def self_train(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION.NAME=VALUE]...", help="Settings, e.g. selection.method=CPL")
    ] = None,
    config: ConfigFile = None,
    preset_name: PresetName = "paper",
    print_config: PrintConfig = False,
    fresh: Fresh = False,
) -> None:
    """Train in rounds with pseudo-labels (Algorithm 1); the same command goes on after an interruption."""
    settings = resolve_run(preset_name, read_given(config, arguments), fresh)
    if print_config:
        typer.echo(to_yaml(settings), nl=False)
        return
    folder = self_train_shown(settings, fresh)
    if not settings.self_training.folds:
        console.print(f"best on validation: {folder / 'best'}")
        print_calibration(folder)


def self_train_shown(settings: Config, fresh: bool = False) -> Path:
    """Self-trains with progress and shows the table of rounds; returns the run folder."""
    from mttu.cluster.self_train import callables_on_ray
    from mttu.cluster.session import connect
    from mttu.self_training import check_self_training, cross_validate_self_training, run_self_training

    for note in check_self_training(settings).inputs.notes:  # before Ray starts, which takes seconds
        tell(note)
    tell_start(settings, fresh)
    with connect(settings.workers), show_rounds(settings) as on_step:
        run = cross_validate_self_training if settings.self_training.folds else run_self_training
        folder = run(settings, callables_on_ray(settings.workers), fresh, on_step)
    if settings.self_training.folds:
        print_folds(folder)
    else:
        print_rounds(settings, folder)
    return folder


@contextmanager
def show_rounds(settings: Config) -> "Iterator[OnStep]":
    """Yields a function that shows each step: a bar per phase on a terminal, lines in a log."""
    told = time.monotonic()

    def write_line(step: "Step") -> None:
        nonlocal told
        if step.phase == "train" or step.done == step.total or time.monotonic() - told > _SILENCE_SECONDS:
            told = time.monotonic()
            phase = f"{_name_round(step)}  {step.phase} {step.done}/{step.total}"
            console.print("  ".join(filter(None, (phase, step.case_id, summarise_epoch(step.metrics)))))
            tell_absences(step.metrics, settings, f"{_name_round(step)}: ", step.round)

    if not console.is_terminal:
        yield write_line
        return
    with show_bars() as move_bar:

        def show(step: "Step") -> None:
            text = "  ".join(filter(None, (step.case_id, summarise_epoch(step.metrics))))
            move_bar(f"{_name_round(step)} {step.phase}", step.done, step.total, text)
            tell_absences(step.metrics, settings, f"{_name_round(step)}: ", step.round)

        yield show


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
    for table in tabulate(rows, settings.selection.method, chosen, settings.metrics.empty_dice):
        console.print(table)
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
    """Two tables: selected cases of each round and how many are right; metrics. Each fits 80 columns."""
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
    return [selected, measured]


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

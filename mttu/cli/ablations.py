"""The paper's ablation tables: `mttu ablations` lists their rows, `mttu ablate` runs one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mttu.cli.display import console, new_table, show_progress, show_table, tell
from mttu.cli.output import give
from mttu.cli.settings import ConfigFile, Fresh, PresetName, complete_settings, read_given, resolve, tell_start
from mttu.cli.tune import make_progress
from mttu.errors import InputError
from mttu.search.ablations import ABLATIONS, PAPERS_ROW, TABLES, rows_of

if TYPE_CHECKING:
    from mttu.config import Config
    from mttu.search.book import Book

_NAME, _SEED = "output.name", "train.seed"


def ablations(
    table: Annotated[str | None, typer.Argument(help=f"One table: {', '.join(TABLES)}; all if not given")] = None,
) -> None:
    """List the rows of the paper's ablation tables. Name, settings, and what each asks."""
    shown = [table] if table is not None else list(TABLES)
    give({name: {row: ABLATIONS[row] for row in rows_of(name)} for name in shown})
    for name in shown:
        rows = rows_of(name)
        typer.echo(f"{name}: {TABLES[name]}")
        width = max(map(len, rows)) + 2
        for row in rows:
            one, mark = ABLATIONS[row], "*" if row == PAPERS_ROW[name] else " "
            typer.echo(f"{mark} {row:{width}}{one.row}: {one.asks}")
            for setting, value in one.changes.items():
                typer.echo(f"  {'':{width}}{setting}={_show(value)}")
            if one.small:
                settings = " ".join(f"{setting}={_show(value)}" for setting, value in one.small.items())
                typer.echo(f"  {'':{width}}`mttu ablate` with the preset small or demo: {settings}")
        typer.echo()
    typer.echo("*: the paper's own row, which the others are compared with; take one with --ablation NAME")


def _show(value: object) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def ablate(
    table: Annotated[str, typer.Argument(help=f"Table of the paper: {', '.join(TABLES)}")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SECTION.NAME=VALUE]...", help="Settings of every row", autocompletion=complete_settings
        ),
    ] = None,
    config: ConfigFile = None,
    preset_name: PresetName = "paper",
    fresh: Fresh = False,
    rows: Annotated[
        list[str] | None, typer.Option("--row", "-r", help="This row beside the paper's own; all if not given")
    ] = None,
    seeds: Annotated[int, typer.Option(min=0, help="Repeats with train.seed 0, 1, ...; 5 unless --folds is given")] = 0,
    folds: Annotated[int, typer.Option(min=0, help="Repeats over so many folds of train and val cases")] = 0,
    split: Annotated[str, typer.Option(help="Score on val or test cases")] = "val",
    on_ray: Annotated[
        bool | None,
        typer.Option("--ray/--no-ray", help="Train on Ray, or in processes of this machine; chosen if not given"),
    ] = None,
) -> None:
    """Run a table of the paper over seeds or folds. The same command goes on after an interruption."""
    from mttu.search.ablation_study import plan_study, prepare_study, run_study

    given = read_given(config, arguments)
    if not any(_NAME in changes for changes, _ in given):
        given = [({_NAME: f"ablation-{table}"}, "name"), *given]
    study = plan_study(table, rows or (), seeds or (0 if folds else 5), folds, split)
    settings = resolve(preset_name, given)
    if not folds and _SEED in given[-1][0]:
        raise InputError(f"argument {_SEED}: --seeds sets it; leave it out")
    runner = _choose_runner(settings, on_ray)
    prepared = prepare_study(study, settings)
    tell_start(settings, fresh)
    total = len(study.list_cells())
    with show_progress("ablate", total) as advance:
        folder = run_study(prepared, runner, fresh, make_progress(advance, total, False), tell)
    _show_study(folder)


def _choose_runner(settings: "Config", on_ray: bool | None) -> "Callable[[Book], None]":
    """Ray, if there is a cluster, a GPU, or more than one worker a training; else processes of this machine."""
    from mttu.inference.device import choose_device
    from mttu.search.processes import count_here, run_here

    workers = settings.workers
    if on_ray is None:
        on_gpu = workers.device != "cpu" and choose_device("auto").type == "cuda"
        on_ray = bool(os.environ.get("RAY_ADDRESS")) or workers.num_workers > 1 or on_gpu
    if on_ray:
        from mttu.cluster.tune import run_on_tune

        return run_on_tune
    if workers.num_workers > 1 or workers.device == "gpu":
        raise InputError(
            f"--no-ray: trainings run in processes of one worker on the CPU, but workers.num_workers is "
            f"{workers.num_workers} and workers.device {workers.device}; leave --no-ray out, or change these"
        )
    at_once = count_here(settings)
    console.print(f"ablate: on the CPU, {at_once} at a time, with {workers.threads_per_worker} threads each")
    return lambda book: run_here(book, at_once)


def _show_study(folder: Path) -> None:
    """Prints the table of a study, and where its files are."""
    from mttu.search.ablation_study import CSV, LATEX, MARKDOWN, PICTURE, read_summary
    from mttu.tables.files import tabulate

    summary = read_summary(folder)
    give({"folder": folder, "summary": summary})
    columns, lines = tabulate(summary)
    shown = new_table(columns, title=f"{folder.name}: means over repeats")
    for line in lines:
        shown.add_row(*line)
    show_table(shown)
    console.print(f"{folder}: {CSV}, {MARKDOWN}, {LATEX}, {PICTURE}.png")

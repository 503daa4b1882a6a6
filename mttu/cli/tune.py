"""`mttu tune`: a search over settings, its progress, and its results."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mttu.cli.display import Advance, console, new_table, show_progress, show_table, tell
from mttu.cli.output import give
from mttu.cli.settings import ConfigFile, Fresh, PresetName, complete_settings, read_given, resolve, tell_start
from mttu.errors import InputError, raise_if_any

if TYPE_CHECKING:
    from mttu.config import Config
    from mttu.search.book import Book
    from mttu.search.spaces import Space
    from mttu.search.trials import Trial

_MOST_SHOWN = 20


def tune(
    space: Annotated[Path | None, typer.Argument(help="Search space (YAML), e.g. of tune_spaces/")] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SECTION.NAME=VALUE]...", help="Settings of every trial", autocompletion=complete_settings
        ),
    ] = None,
    config: ConfigFile = None,
    preset_name: PresetName = "paper",
    fresh: Fresh = False,
    show: Annotated[Path | None, typer.Option("--show", help="Show a search, running or not, by its folder")] = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option("--scores", help="Out-of-fold table of `mttu score`, for a space of run select; several times"),
    ] = None,
    truth: Annotated[Path | None, typer.Option("--truth", help="CSV of case_id and idh, for run select")] = None,
    min_coverage: Annotated[
        float, typer.Option(min=0, max=1, help="Least share of selected cases, for run select and metric error")
    ] = 0.5,
    max_error: Annotated[
        float, typer.Option(min=0, max=1, help="Largest error, for run select and metric coverage")
    ] = 0.1,
) -> None:
    """Search settings on validation cases with Ray Tune. The same command goes on after an interruption."""
    if show is not None:
        _show(show)
        return
    if space is None:
        raise InputError("space: not given; name a file of tune_spaces/, or --show a search's folder")
    from mttu.search.spaces import check_values, read_space

    given = read_given(config, arguments)
    if not any("output.name" in changes for changes, _ in given):
        given = [({"output.name": f"search-{space.stem}"}, "name"), *given]
    loaded = read_space(space)
    arguments_alone = given[-1]
    settings = resolve(preset_name, [*given[:-1], (loaded.plan.settings, f"{space}: settings"), arguments_alone])
    searched = loaded.list_searched()
    raise_if_any(
        [
            f"argument {name}: is searched by {space}, so it would have no effect; leave it out"
            for name in arguments_alone[0]
            if name in searched
        ]
    )
    check_values(loaded, settings)
    if loaded.plan.run == "select":
        _search_offline(loaded, settings, scores or [], truth, min_coverage, max_error)
        return
    if scores or truth:
        raise InputError(f"{space}: --scores and --truth are for a space of run select")
    from mttu.cluster.self_train import callables_on_ray
    from mttu.cluster.tune import run_on_tune
    from mttu.search.study import count_trials, prepare_search, run_search

    prepared = prepare_search(loaded, settings)
    tell_start(prepared.config, fresh)
    total, plan = count_trials(loaded), loaded.plan
    with show_progress("tune", total) as advance:
        folder = run_search(
            prepared,
            lambda book: run_on_tune(book, plan.scheduler, plan.concurrency),
            callables_on_ray(prepared.config.workers),
            fresh,
            make_progress(advance, total),
            tell,
        )
    _show(folder)


def _search_offline(
    space: "Space", settings: "Config", scores: list[Path], truth: Path | None, min_coverage: float, max_error: float
) -> None:
    """Searches thresholds on stored scores and prints what was found; the files go into the run folder."""
    from mttu.cohort.truth import read_truth
    from mttu.pseudo_labels.score_table import read_scores
    from mttu.pseudo_labels.thresholds import pool_scores
    from mttu.search.offline_study import check_offline_target, search_offline

    if not scores or truth is None:
        raise InputError(f"{space.path}: run select needs --scores (out-of-fold tables of `mttu score`) and --truth")
    out = settings.output.place
    check_offline_target(out)
    told: list[str] = []
    labelled, notes = pool_scores({str(path): read_scores(path) for path in scores}, read_truth(truth, told))
    found = search_offline(space, settings, labelled, min_coverage, max_error, out)
    for note in (*told, *notes, *found.notes):
        tell(note)
    give({"points": found.points, "chosen": found.chosen, "notes": found.notes, "files": found.files})
    front = sum(point.on_front for point in found.points)
    console.print(f"{len(found.points)} pairs of thresholds on {len(labelled)} cases, {front} on the Pareto front")
    if found.chosen is None:
        console.print("no pair selects enough cases with few enough errors; lower --min-coverage or raise --max-error")
    else:
        one = found.chosen
        console.print(
            f"chosen: selection.confidence_threshold={one.confidence_threshold:.4g} "
            f"selection.uncertainty_threshold={one.uncertainty_threshold:.4g}: {one.num_selected} of {one.num_cases} "
            f"cases, {one.num_wrong} wrong, error {one.error or 0.0:.3f} [{one.error_low:.3f}, {one.error_high:.3f}]"
        )
    for path in found.files:
        console.print(str(path))


def make_progress(advance: Advance, total: int, names_best: bool = True) -> "Callable[[Book], None]":
    """Shows the best so far, trials by state, and the time left, whenever one of them changes."""
    shown = ""
    started = time.monotonic()
    before: int | None = None

    def on_change(book: "Book") -> None:
        nonlocal shown, before
        done = sum(trial.is_over for trial in book.trials.values())
        before = done if before is None else before
        counts = {state: book.count_in(state) for state in ("begun", "stopped", "failed")}
        told = [f"{number} {'running' if state == 'begun' else state}" for state, number in counts.items() if number]
        best = book.best if names_best else None
        if best is not None:
            value = best.best(book.goal.metric, book.goal.maximise)
            told.insert(0, f"best {book.goal.metric} {value:.4f} (trial {best.name})")
        text = ", ".join(told)
        if (line := f"{done} {text}") != shown:
            shown = line
            left = ""
            if before < done < total:
                seconds = (time.monotonic() - started) / (done - before) * (total - done)
                left = f", about {_say_time(seconds)} left"
            advance(done, text + left)

    return on_change


def _say_time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _show(folder: Path) -> None:
    """Prints the trials of a search, the best first."""
    from mttu.files import read_versioned
    from mttu.search.offline_study import PICTURE, POINTS
    from mttu.search.results import BEST_SETTINGS, TABLE
    from mttu.search.spaces import METRICS
    from mttu.search.study import FORMAT_VERSION, RECORD
    from mttu.search.trials import find_best, read_trials

    if (folder / POINTS).exists():
        found = [folder / name for name in (POINTS, f"{PICTURE}.png", BEST_SETTINGS) if (folder / name).exists()]
        give({"folder": folder, "files": found})
        console.print(f"{folder} holds a search on stored scores: {', '.join(path.name for path in found)}")
        return
    if not (folder / RECORD).exists():
        raise InputError(f"{folder}: holds no search ({RECORD} not found); give the run folder of `mttu tune`")
    record = read_versioned(folder / RECORD, FORMAT_VERSION, "give the run folder of `mttu tune`")
    plan, trials = record["plan"], read_trials(folder)
    metric = plan["metric"]
    maximise = METRICS[plan["run"]][metric] if plan["mode"] is None else plan["mode"] == "max"
    best = find_best(trials, metric, maximise)
    files = {"table": folder / TABLE, "settings": folder / BEST_SETTINGS}
    leader = None if best is None else {"name": best.name, metric: best.best(metric, maximise)}
    written = {name: path for name, path in files.items() if path.exists()}
    give({"folder": folder, "plan": plan, "trials": trials, "best": leader, "files": written})
    show_table(_tabulate(trials, [one["name"] for one in record["space"]], metric, maximise))
    counts = Counter(trial.state for trial in trials)
    told = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    console.print(f"{len(trials)} of {record['samples']} trials: {told}")
    for trial in trials:
        if trial.reason:
            console.print(f"trial {trial.name} failed: {trial.reason}")
    if (folder / TABLE).exists():
        console.print(f"table and pictures: {folder / TABLE}, parallel.png, importance.png, curves.png")
    if (folder / BEST_SETTINGS).exists():
        console.print(f"settings of the best: mttu {plan['run']} --config {folder / BEST_SETTINGS}")


def _tabulate(trials: "list[Trial]", names: list[str], metric: str, maximise: bool) -> Table:
    short = [name.rpartition(".")[2] for name in names]
    table = new_table(
        ("trial", "state", metric, *short),
        title=f"trials, the best first, those that ended early last; {metric} of val cases",
    )
    sign = -1 if maximise else 1

    def key(trial: "Trial") -> tuple[bool, bool, float, int]:
        best = trial.best(metric, maximise)
        ended_early = trial.state in ("stopped", "failed")
        return best is None, ended_early, 0.0 if best is None else sign * best, trial.number

    for trial in sorted(trials, key=key)[:_MOST_SHOWN]:
        best = trial.best(metric, maximise)
        tried = [_write(trial.drawn[name]) if name in trial.drawn else "-" for name in names]
        table.add_row(trial.name, trial.state, "-" if best is None else f"{best:.4f}", *tried)
    if len(trials) > _MOST_SHOWN:
        table.caption = f"and {len(trials) - _MOST_SHOWN} more"
    return table


def _write(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)

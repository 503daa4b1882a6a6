"""What a search leaves: a table of its trials, pictures, and the best trial's settings as a file."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mttu import __version__
from mttu.config import Config, override, to_yaml
from mttu.figures.search import TriedTrial, draw_importance, draw_parallel, draw_trial_curves
from mttu.figures.style import save_figure
from mttu.files import atomic_file, write_csv_rows, write_text
from mttu.search.book import Book
from mttu.search.samplers import measure_importance
from mttu.search.spaces import Space, expand
from mttu.search.trials import STEP, Trial
from mttu.tracking import Tracker

TABLE = "trials.csv"
BEST_SETTINGS = "best.yaml"


def write_results(book: Book, space: Space, config: Config, tracker: Tracker) -> None:
    """Writes table, pictures and `best.yaml` into the search's folder, and keeps them in MLflow.

    `config` are the settings of every trial as the user gave them, with the cohort of the search.
    """
    trials = sorted(book.trials.values(), key=lambda trial: trial.number)
    metric, maximise = book.goal.metric, book.goal.maximise
    settings = [one.name for one in space.parameters]
    write_trials(trials, settings, book.folder / TABLE, metric, maximise)
    tracker.log_table(book.folder / TABLE)
    tried = [
        TriedTrial(one.name, one.drawn, one.best(metric, maximise), one.curve(metric), one.state) for one in trials
    ]
    step = "round" if book.run == "self-train" else "epoch"
    figures = {
        "parallel": draw_parallel(tried, settings, metric, maximise),
        "importance": draw_importance(*measure_importance(space, trials)),
        "curves": draw_trial_curves(tried, metric, maximise, step),
    }
    for name, figure in figures.items():
        (path,) = save_figure(figure, book.folder / name, ("png",))
        tracker.log_figure(path)
    best = book.best
    if best is not None:
        write_text(book.folder / BEST_SETTINGS, describe_best(best, book, space, config))
        value = best.best(metric, maximise)
        tracker.set_tags({"search.best_trial": best.name})
        tracker.log_step(0, {} if value is None else {f"search/best/{metric}": value})


def write_trials(trials: Sequence[Trial], settings: Sequence[str], path: Path, metric: str, maximise: bool) -> None:
    """Writes a line per trial: state, best value, epochs or rounds, seconds, what it tried, and why it failed."""
    columns = ("trial", "state", metric, STEP, "seconds", *settings, "reason")
    rows: list[tuple[Any, ...]] = []
    for trial in trials:
        best = trial.best(metric, maximise)
        reached = int(trial.history[-1][STEP]) if trial.history else 0
        tried = [_to_text(trial.drawn[name]) if name in trial.drawn else "" for name in settings]
        seconds = f"{trial.seconds:.1f}"
        rows.append((trial.name, trial.state, "" if best is None else best, reached, seconds, *tried, trial.reason))
    with atomic_file(path) as partial:
        write_csv_rows(partial, columns, rows)


def _to_text(value: Any) -> Any:
    return "+".join(map(str, value)) if isinstance(value, list) else value


def describe_best(best: Trial, book: Book, space: Space, config: Config) -> str:
    """The best trial's settings as a file for `mttu train --config` or `mttu self-train --config`."""
    value = best.best(book.goal.metric, book.goal.maximise)
    name = f"{config.output.name}-best"
    changes = {**expand(best.drawn), "output.name": name, "tracking.uri": None}
    settings = override(config, changes, f"trial {best.name}")
    tried = "".join(f"#   {setting}={_to_text(drawn)}\n" for setting, drawn in best.drawn.items())
    return (
        f"# The best of {len(book.trials)} trials of the search {space.path.name}: trial {best.name}, "
        f"{book.goal.metric} {value} on val cases, which chose it: on them it is too good.\n"
        f"# Searched by mttu {__version__}, written {datetime.now(UTC):%Y-%m-%d}; cohort (without test cases) "
        f"{book.cohort.fingerprint[:12]}. It tried:\n{tried}"
        f"# Take it with: mttu {space.plan.run} --config {BEST_SETTINGS}\n"
        f"{to_yaml(settings)}"
    )

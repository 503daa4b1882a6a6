"""A search from its space to `best.yaml`: begun or gone on with, tracked in MLflow, chosen on validation cases alone.

The run folder holds `search.json`, `cohort.parquet` (the cohort without its test cases, which no trial gets to see),
`trials/`, and at the end `trials.csv`, pictures, `best.yaml` and `finished.json`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mttu.config import Config, override
from mttu.config.changeable import list_changeable
from mttu.data.manifest import Manifest, write_manifest
from mttu.errors import InputError, raise_if_any
from mttu.files import read_versioned, write_json
from mttu.search.book import Book, Cohort, Goal
from mttu.search.results import write_results
from mttu.search.samplers import make_sampler
from mttu.search.spaces import Space
from mttu.search.work import refuse_ensemble, with_absolute_paths
from mttu.self_training import Callables, check_self_training, run_self_training
from mttu.self_training.round_folder import round_folder
from mttu.training.inputs import Inputs, check_inputs
from mttu.training.run import CHANGEABLE, FINISHED, Tell, open_run

FORMAT_VERSION = 1
RECORD = "search.json"
COHORT = "cohort.parquet"
START = "start"
"""Self-training without rounds, whose round 0 all trials of a search over later rounds share."""
_MEND = "restore it from a copy, or start anew with --fresh (the old run is kept aside)"
RunTrials = Callable[[Book], None]
"""Runs all trials that a book gives out."""
OnChange = Callable[[Book], None]


@dataclass(frozen=True)
class Prepared:
    """A search, checked."""

    space: Space
    config: Config
    """Settings of every trial, with the user's cohort."""
    inputs: Inputs
    """Without the test cases."""


def prepare_search(space: Space, config: Config) -> Prepared:
    """Checks cohort and settings before anything starts; no file of a test case is opened.

    Args:
        space: What is searched.
        config: Settings of every trial, those of the space among them.

    Raises:
        InputError: Lists every problem.
    """
    if config.data.folds:
        raise InputError("data.folds: a search scores each trial on the val cases; leave it at 0")
    refuse_ensemble(config)
    config = with_absolute_paths(config)
    whole = check_inputs(config)  # weights to start from may not have learned from test patients, either
    manifest = without_test_cases(whole.manifest)
    inputs = replace(whole, manifest=manifest)
    if space.plan.run == "self-train":
        inputs = check_self_training(config, manifest).inputs
    raise_if_any(_check_metric(space, manifest, config.data.manifest))
    return Prepared(space, config, inputs)


def _check_metric(space: Space, manifest: Manifest, source: Path | None) -> list[str]:
    """Whether the val cases define what trials are compared by."""
    val, metric, path = manifest.split("val"), space.plan.metric, space.path
    if not val:
        return [f"{path}: metric {metric}: {source} has no val case, on which trials are compared"]
    classes = {case.idh for case in val if case.idh >= 0}
    if metric.startswith("val/dice") and not any(case.seg is not None for case in val):
        return [f"{path}: metric {metric}: no val case of {source} has a mask; choose another metric"]
    if metric.startswith("val/idh") and len(classes) < (1 if metric in ("val/idh_ce", "val/idh_brier") else 2):
        return [
            f"{path}: metric {metric}: the val cases of {source} lack one or both IDH classes; choose another metric"
        ]
    return []


def without_test_cases(manifest: Manifest) -> Manifest:
    """The cohort that a search may see."""
    return replace(manifest, cases=tuple(case for case in manifest.cases if case.split != "test"))


def run_search(
    prepared: Prepared,
    run_trials: RunTrials,
    callables: Callables,
    fresh: bool = False,
    on_change: OnChange | None = None,
    tell: Tell | None = None,
) -> Path:
    """Runs a search, or goes on with it: no trial that is over is run again.

    Args:
        prepared: What `prepare_search` returned.
        run_trials: How trials are run side by side.
        callables: How the shared round 0 of a search over self-trainings is trained.
        fresh: Start anew; an older search of the same name is kept aside.
        on_change: Called whenever something has happened, for progress.
        tell: Called with sentences for the user before the first trial starts.

    Returns:
        The run folder.

    Raises:
        InputError: Something is refused; nothing was started.
        RunError: It stopped; the same command goes on from there.
    """
    space, config, inputs = prepared.space, prepared.config, prepared.inputs

    def check(folder: Path) -> None:
        _check_record(folder, space)

    changeable = list_changeable(in_rounds=True) if space.plan.run == "self-train" else CHANGEABLE
    ours = replace(inputs, fingerprint=f"of a search: {inputs.fingerprint}")  # no training's folder, and none takes it
    with open_run(config, ours, fresh, changeable, check, tell=tell, notes=inputs.notes) as run:
        if run.tracker is None:
            return run.folder
        cohort = run.folder / COHORT
        if not cohort.exists():
            write_manifest(inputs.manifest, cohort)
        base = override(config, {"data.manifest": str(cohort)})
        if space.plan.run == "self-train" and _shares_start(space):
            base = _train_start(base, run.folder, callables)
        manifest = inputs.manifest
        book = Book(
            run.folder,
            base,
            space.plan.run,
            make_sampler(space),
            Goal(space.plan.metric, space.maximise),
            Cohort(manifest.fingerprint, manifest.synthetic),
            run.tracker,
            on_change=on_change,
        )
        with book.closing():
            run_trials(book)
        book.check_done()
        book.complete_tracking()
        write_results(book, space, config, run.tracker)
        best = book.best
        run.result["best"] = None if best is None else best.name
        run.result["samples"] = len(book.trials)
    return run.folder


def count_trials(space: Space) -> int:
    """Trials of a whole search."""
    return space.plan.samples or sum(1 for _ in space.list_grid())


def _shares_start(space: Space) -> bool:
    """Whether no searched setting touches round 0, which selection.method=direct trains on other cases."""
    return all(
        one.name.startswith(("selection.", "mc.", "self_training.")) and "direct" not in one.values.ends
        for one in space.parameters
    )


def _train_start(base: Config, folder: Path, callables: Callables) -> Config:
    """Trains round 0 once for all trials, or finds it; the settings with it."""
    changes = {"output.folder": str(folder), "output.name": START, "tracking.enabled": False, "tracking.uri": None}
    start = override(base, {**changes, "self_training.rounds": 0, "self_training.keep": "all"})
    run_self_training(start, callables)
    return override(base, {"self_training.start": str(round_folder(folder / START, 0))})


def _check_record(folder: Path, space: Space) -> None:
    """Records the space, or refuses another one; a larger number of samples reopens a finished search."""
    path = folder / RECORD
    wanted, samples = space.describe(), count_trials(space)
    if not path.exists():
        write_json(path, {"format_version": FORMAT_VERSION, **wanted, "samples": samples})
        return
    found = read_versioned(path, FORMAT_VERSION, _MEND)
    changed = [name for name in ("plan", "space") if found.get(name) != wanted[name]]
    if changed:
        raise InputError(
            f"run {folder}: was started with another search ({_list_changes(found, wanted)}); undo the change, set "
            "another output.name, or start anew with --fresh (the old run is kept aside)"
        )
    if samples > int(found.get("samples", 0)):
        (folder / FINISHED).unlink(missing_ok=True)
        write_json(path, {"format_version": FORMAT_VERSION, **wanted, "samples": samples})


def _list_changes(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    before, after = found.get("plan") or {}, wanted["plan"]
    changes = [f"{name}: {before.get(name)} -> {after[name]}" for name in after if before.get(name) != after[name]]
    if found.get("space") != wanted["space"]:
        changes.append("other values in its space")
    return "; ".join(changes)

"""A table of the paper, run anew: every row, repeated over seeds or folds, compared with the paper's own row.

The run folder holds `study.json`, `trials/<row>-seed-0/` and so on, with folds `manifests/`, for networks `sizes.json`,
and at the end the table as `table.csv`, `table.md` and `table.tex`, `differences.png`, and `finished.json`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from mttu.cohort.splits import draw_folds, write_folds
from mttu.config import Config, override
from mttu.config.changeable import list_changeable
from mttu.config.data import MetricSettings
from mttu.config.network import OURS
from mttu.data.manifest import Manifest
from mttu.errors import InputError, name_some, raise_if_any
from mttu.figures.differences import draw_differences
from mttu.figures.style import save_figure
from mttu.files import read_versioned, write_json
from mttu.metrics.empty_masks import explain_dice, explain_hd95
from mttu.networks.measure import count_network
from mttu.search.ablations import ABLATIONS, PAPERS_ROW, TABLES, changes_of, is_small, rows_of
from mttu.search.book import Book, Cohort, Goal
from mttu.search.samplers import Listed
from mttu.search.study import OnChange, RunTrials
from mttu.search.trials import FAILED, FINISHED, Trial, read_trials
from mttu.search.work import CASES, VOLUME_SECONDS, refuse_ensemble, with_absolute_paths
from mttu.self_training import check_self_training
from mttu.self_training.evaluation import read_rows
from mttu.tables.case_tests import EXPLANATION, compare_on_cases
from mttu.tables.files import write_csv, write_latex, write_markdown
from mttu.tables.scores import COSTS, CaseScores, Summary, measure_cell, summarise, to_panels
from mttu.tracking import Tracker
from mttu.training.folds import check_each
from mttu.training.inputs import Inputs, check_inputs
from mttu.training.run import CHANGEABLE, Tell, open_run
from mttu.training.run import FINISHED as FINISHED_RUN

FORMAT_VERSION = 1
RECORD = "study.json"
MANIFESTS = "manifests"
SIZES = "sizes.json"
CSV, MARKDOWN, LATEX, PICTURE = "table.csv", "table.md", "table.tex", "differences"
_ROW, _SEED, _FOLD = "ablation", "train.seed", "fold"
_MEND = "restore it from a copy, or start anew with --fresh (the old run is kept aside)"


@dataclass(frozen=True)
class Study:
    """What is run: rows, times repeats."""

    table: str
    rows: tuple[str, ...]
    """Names of ablations; the paper's own is among them."""
    seeds: int
    """Repeats over `train.seed` 0, 1, ...; 0: over folds."""
    folds: int
    """Repeats over folds of train and val cases; 0: over seeds."""
    split: str
    """Whose cases the rows are scored on: val or test."""

    @property
    def reference(self) -> str:
        """The paper's own row."""
        return PAPERS_ROW[self.table]

    @property
    def self_trains(self) -> bool:
        """Whether a row is a self-training."""
        return self.table in ("VI-semi", "VII")

    @property
    def compares_networks(self) -> bool:
        """Whether the rows are networks, whose costs are told."""
        return self.table in ("VI", "VI-semi")

    def list_cells(self) -> list[dict[str, Any]]:
        """What each training tries, repeat by repeat, so that an unfinished table has all rows."""
        name, count = (_FOLD, self.folds) if self.folds else (_SEED, self.seeds)
        first = 1 if self.folds else 0
        return [{_ROW: row, name: repeat} for repeat in range(first, first + count) for row in self.rows]


def plan_study(table: str, rows: Sequence[str], seeds: int, folds: int, split: str) -> Study:
    """The study of a table, or of some of its rows and the paper's own.

    Raises:
        InputError: Unknown table or row, neither or both of seeds and folds, or a split without true labels.
    """
    known = rows_of(table)
    problems = [
        f"row {row!r}: not in table {table}; choose from {', '.join(known)}" for row in rows if row not in known
    ]
    if (seeds > 0) == (folds > 0):
        problems.append(f"--seeds {seeds} and --folds {folds}: give one of them")
    if split not in ("val", "test"):
        problems.append(f"--split {split!r}: choose val or test")
    if folds and split == "test":
        problems.append("--split test: with --folds each fold is scored on its own val cases; leave one of them out")
    raise_if_any(problems)
    wanted = {*rows, PAPERS_ROW[table]} if rows else set(known)
    return Study(table, tuple(row for row in known if row in wanted), seeds, folds, split)


@dataclass(frozen=True)
class Prepared:
    """A study, checked."""

    study: Study
    config: Config
    """Settings of every row, apart from its own; paths are absolute."""
    inputs: Inputs
    folds: list[Manifest]
    """Drawn folds; empty for repeats over seeds."""


def prepare_study(study: Study, config: Config) -> Prepared:
    """Checks cohort and settings of every row, and every fold, before anything starts.

    Raises:
        InputError: Lists every problem.
    """
    if config.data.folds:
        raise InputError("data.folds: give --folds, which repeats every row over them")
    refuse_ensemble(config)
    if config.network.kind != OURS and any("network.kind" in ABLATIONS[row].changes for row in study.rows):
        raise InputError(
            f"network.kind: found {config.network.kind}; the rows of this table set it, each beside the {OURS} of the "
            "preset: leave it out"
        )
    config = with_absolute_paths(config)
    problems: list[str] = []
    for row in study.rows:
        try:
            check_row(study, override(config, changes_of(row, config), f"ablation {row}"))
        except InputError as error:
            problems += [f"row {row}: {problem}" for problem in error.problems]
    raise_if_any(list(dict.fromkeys(problems)))
    inputs = check_row(study, config)
    folds = draw_folds(inputs.manifest, study.folds, config.data.fold_seed) if study.folds else []
    check_each(folds, lambda manifest: check_row(study, config, manifest))
    cases = inputs.manifest.split(study.split) if not study.folds else ()
    if not study.folds and not any(case.seg is not None or case.idh >= 0 for case in cases):
        raise InputError(
            f"{config.data.manifest}: no {study.split} case has a mask or a known IDH status, so no row can be scored; "
            "choose another --split, or give such cases"
        )
    return Prepared(study, config, inputs, folds)


def check_row(study: Study, config: Config, manifest: Manifest | None = None) -> Inputs:
    """Inputs of one row's training, with the cases that it is scored on; `manifest` is a fold's."""
    splits = ("train", "val", "test") if study.split == "test" else ("train", "val")
    if study.self_trains:
        return check_self_training(config, manifest).inputs
    return check_inputs(config, splits, manifest)


def run_study(
    prepared: Prepared,
    run_trials: RunTrials,
    fresh: bool = False,
    on_change: OnChange | None = None,
    tell: Tell | None = None,
) -> Path:
    """Runs all trainings of a study, or goes on with it, and writes the table.

    Args:
        prepared: What `prepare_study` returned.
        run_trials: How trainings are run side by side.
        fresh: Start anew; an older study of the same name is kept aside.
        on_change: Called whenever something has happened, for progress.
        tell: Called with sentences for the user before the first training starts.

    Returns:
        The run folder.

    Raises:
        InputError: Something is refused; nothing was started.
        RunError: It stopped; the same command goes on from there.
    """
    study, config, inputs = prepared.study, prepared.config, prepared.inputs

    def check(folder: Path) -> None:
        _check_record(folder, study)

    changeable = list_changeable(in_rounds=True) if study.self_trains else CHANGEABLE
    labels = {"table": study.table}
    ours = replace(  # no training's folder, and none takes it
        inputs,
        fingerprint=f"of a study: {inputs.fingerprint}",
        earlier_fingerprint=f"of a study: {inputs.earlier_fingerprint}",
    )
    with open_run(config, ours, fresh, changeable, check, tell=tell, notes=inputs.notes, labels=labels) as run:
        if run.tracker is None:
            return run.folder
        folder = run.folder
        if study.folds and not (folder / MANIFESTS).exists():
            write_folds(prepared.folds, folder / MANIFESTS)
        if study.compares_networks and not (folder / SIZES).exists():
            write_json(folder / SIZES, {"format_version": FORMAT_VERSION, "rows": _count_rows(study, config)})
        book = Book(
            folder,
            config,
            "self-train" if study.self_trains else "train",
            Listed(study.list_cells()),
            Goal("val/score", maximise=True),
            Cohort(inputs.manifest.fingerprint, inputs.manifest.synthetic),
            run.tracker,
            study.split,
            _make_name(study),
            _make_expand(folder, config),
            on_change,
        )
        with book.closing():
            run_trials(book)
        book.check_done()
        book.complete_tracking()
        summary = write_study(study, folder, book, inputs.manifest, config.metrics, run.tracker)
        run.result["rows"] = {row.name: row.n for row in summary.rows}
    return run.folder


def _make_name(study: Study) -> Callable[[int, Mapping[str, Any]], tuple[str, dict[str, str]]]:
    def name(number: int, drawn: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
        kind = "fold" if _FOLD in drawn else "seed"
        repeat = drawn[_FOLD if kind == "fold" else _SEED]
        row = drawn[_ROW]
        return f"{row}-{kind}-{repeat}", {"table": study.table, "row": ABLATIONS[row].row, kind: str(repeat)}

    return name


def _make_expand(folder: Path, base: Config) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    def expand(drawn: Mapping[str, Any]) -> dict[str, Any]:
        changes = changes_of(drawn[_ROW], base)
        if _FOLD in drawn:
            return {**changes, "data.manifest": str(folder / MANIFESTS / f"fold_{drawn[_FOLD]}.parquet")}
        return {**changes, _SEED: drawn[_SEED]}

    return expand


def write_study(
    study: Study, folder: Path, book: Book, manifest: Manifest, metrics: MetricSettings, tracker: Tracker
) -> Summary:
    """Writes the table in its forms and the picture, from the trainings that are finished."""
    summary = _summarise(study, folder, book.trials.values())
    caption = _write_caption(study, manifest, metrics, book)
    write_csv(summary, folder / CSV)
    write_markdown(summary, caption, folder / MARKDOWN)
    write_latex(summary, caption, folder / LATEX)
    panels = to_panels(summary, [name for name in ("dice", "auc") if name in summary.metrics])
    title = f"Table {study.table}: differences to the paper's row"
    figure = draw_differences(panels, summary.reference_title, title, tests=summary.tests)
    (picture,) = save_figure(figure, folder / PICTURE, ("png",))
    for name in (CSV, MARKDOWN, LATEX):
        tracker.log_table(folder / name)
    tracker.log_figure(picture)
    return summary


def read_summary(folder: Path) -> Summary:
    """The table of a study, from those of its trainings that are finished.

    Raises:
        InputError: The folder holds no study, or one of its files is damaged.
    """
    content = read_versioned(folder / RECORD, FORMAT_VERSION, _MEND)
    study = Study(
        **{**{name: content[name] for name in ("table", "seeds", "folds", "split")}, "rows": tuple(content["rows"])}
    )
    return _summarise(study, folder, read_trials(folder))


def _summarise(study: Study, folder: Path, trials: Iterable[Trial]) -> Summary:
    cells: dict[str, dict[str, Sequence[CaseScores]]] = {row: {} for row in study.rows}
    costs: dict[str, dict[str, list[float]]] = {row: {name: [] for name in COSTS} for row in study.rows}
    for trial in sorted(trials, key=lambda one: one.number):
        if trial.state == FINISHED and (trial.folder / CASES).exists():
            row = trial.drawn[_ROW]
            cases, about = read_rows(trial.folder / CASES)
            cells[row][_name_repeat(trial.drawn)] = cases
            steps = [seconds for _, seconds in trial.curve("time/step_seconds")]
            costs[row]["step_seconds"] += [median(steps)] if steps else []
            costs[row]["volume_seconds"] += [float(about[VOLUME_SECONDS])] if VOLUME_SECONDS in about else []
    if (folder / SIZES).exists():
        for row, sizes in read_versioned(folder / SIZES, FORMAT_VERSION, _MEND)["rows"].items():
            for name, size in sizes.items():
                costs[row][name].append(size)
    scores = {row: {repeat: measure_cell(cases) for repeat, cases in own.items()} for row, own in cells.items()}
    titles = {row: ABLATIONS[row].row for row in study.rows}
    if not study.compares_networks:
        return summarise(scores, study.reference, titles)
    tests = None if study.folds else compare_on_cases(cells, study.reference)
    return summarise(scores, study.reference, titles, costs, tests)


def _count_rows(study: Study, config: Config) -> dict[str, dict[str, int]]:
    """Learned parameters and multiply-adds of one patch, row by row."""
    sizes = {}
    for row in study.rows:
        count = count_network(override(config, changes_of(row, config)).network, config.patch.size)
        sizes[row] = {"parameters": count.parameters, "multiply_adds": count.macs}
    return sizes


def _name_repeat(drawn: Mapping[str, Any]) -> str:
    return f"fold {drawn[_FOLD]}" if _FOLD in drawn else f"seed {drawn[_SEED]}"


def _write_caption(study: Study, manifest: Manifest, metrics: MetricSettings, book: Book) -> str:
    repeats = f"{study.folds} folds" if study.folds else f"{study.seeds} seeds"
    cases = "each fold's val cases" if study.folds else f"{len(manifest.split(study.split))} {study.split} cases"
    failed = [trial.name for trial in book.trials.values() if trial.state == FAILED]
    sentences = [
        f"Table {study.table}: {TABLES[study.table]}",
        f"Scores of {cases} by the best weights of each training, over {repeats}.",
        "Folds share training cases, so intervals are too short and p is too small."
        if study.folds
        else "Intervals are over seeds on the same cases; they say nothing about other cases.",
        *(
            ["The weights were chosen on the same cases, so all scores are slightly too good."]
            if study.split == "val"
            else []
        ),
        *(["The data are synthetic: these scores say nothing about patients."] if manifest.synthetic else []),
        *([f"Trainings that failed, in no score: {name_some(failed)}."] if failed else []),
        *(_explain_tests(manifest, study) if study.compares_networks and not study.folds else []),
        *(_explain_costs(study, book.base) if study.compares_networks else []),
        explain_dice(metrics),
        explain_hd95(metrics),
    ]
    return " ".join(sentences)


def _explain_tests(manifest: Manifest, study: Study) -> list[str]:
    """What the star of a table of networks is of, and is not."""
    patients = [case.patient_id for case in manifest.split(study.split)]
    several = len(set(patients)) < len(patients)
    return [EXPLANATION, *(["They take the cases of one patient for independent."] if several else [])]


def _explain_costs(study: Study, config: Config) -> list[str]:
    size = " x ".join(map(str, config.patch.size))
    step = "" if study.self_trains else "Step: seconds per optimiser step, median over epochs, loading included. "
    small = "All networks but V-Net are smaller than published (`mttu ablations VI`). " if is_small(config) else ""
    return [
        f"{small}Params: learned parameters. MACs: multiply-adds of one patch of {size}, without norms, activations "
        f"and interpolation. {step}Volume: seconds to predict a prepared case, median over cases. Seconds are of the "
        "machines that the rows ran on, with whatever ran beside them.",
    ]


def _check_record(folder: Path, study: Study) -> None:
    """Records the study, or refuses another one."""
    path = folder / RECORD
    wanted = {"table": study.table, "rows": list(study.rows), "seeds": study.seeds, "folds": study.folds}
    wanted["split"] = study.split
    if not path.exists():
        write_json(path, {"format_version": FORMAT_VERSION, **wanted})
        return
    found = read_versioned(path, FORMAT_VERSION, _MEND)
    changes = [f"{name}: {found.get(name)} -> {value}" for name, value in wanted.items() if found.get(name) != value]
    if len(changes) == 1 and study.seeds > int(found.get("seeds") or 0) > 0:  # more repeats than before
        (folder / FINISHED_RUN).unlink(missing_ok=True)
        write_json(path, {"format_version": FORMAT_VERSION, **wanted})
        return
    if changes:
        raise InputError(
            f"run {folder}: was started with another study ({'; '.join(changes)}); undo the change, set another "
            "output.name, or start anew with --fresh (the old run is kept aside)"
        )

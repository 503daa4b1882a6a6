"""Cross-validation of whatever can be trained: one fold after the other, a table over folds, the folds' ensemble.

A run folder then holds `manifests/fold_1.parquet` and so on, a folder `fold_1` and so on for each fold's training, with
`fold_1.json` beside it when it is finished, at the end `ensemble/`, `out_of_fold.csv` and `.parquet`, `folds.csv` and
`folds.json`, and, when tracking knows all of it, `finished.json`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import TypeVar

import pyarrow as pa

from mttu.cohort.splits import draw_folds, write_folds
from mttu.config import Config, override
from mttu.config.data import RELEASE_METRICS, MetricSettings
from mttu.data.absent_classes import without_absences
from mttu.data.manifest import Manifest, read_manifest
from mttu.errors import InputError, UnmeasuredError, raise_if_any, stop_if_too_many_open
from mttu.files import atomic_file, read_json, read_versioned, write_csv, write_json
from mttu.inference.calibration import CALIBRATION
from mttu.inference.distribution import pool_into
from mttu.networks.checkpoint import find_checkpoint
from mttu.networks.ensemble import describe_checkpoint, read_members, write_ensemble
from mttu.tracking import Tracker
from mttu.training.held_out import fill_ensemble, pool_folds, write_out_of_fold
from mttu.training.inputs import check_inputs
from mttu.training.run import Launch, Tell, open_run, run_training

_TABLE_FORMAT = 1
TABLE = "folds.json"
CSV = "folds.csv"
_MEND = "remove it and run the same command again"

Results = Mapping[str, Mapping[str, float]]
"""What a fold reports: metrics by name of each of its networks, such as that of each round."""


@dataclass(frozen=True)
class FoldsRow:
    """One metric of one network over folds.

    An AUC is the mean of the folds' AUCs: the probabilities of networks that were trained apart are on different
    scales, so the pooled cases cannot be ranked together.
    """

    network: str
    """Which of a fold's networks, e.g. `best` or `round 0`."""
    metric: str
    mean: float | None
    """Over the folds that define it; None without any."""
    std: float | None
    """Sample standard deviation over those folds (ddof 1); None with fewer than two."""
    num_folds: int
    """Folds that define it."""
    values: tuple[float | None, ...]
    """Of each fold, in order."""


def summarise_folds(results: Sequence[Results]) -> list[FoldsRow]:
    """Mean and deviation over folds, in order, of each metric of each network.

    What a fold lacks, or what is not finite, is not defined there.
    """
    names = dict.fromkeys(
        (network, metric) for result in results for network, metrics in result.items() for metric in metrics
    )
    finite = [keep_finite(result) for result in results]
    rows = []
    for network, metric in names:
        values = tuple(result.get(network, {}).get(metric) for result in finite)
        known = [value for value in values if value is not None]
        mean, std = fmean(known) if known else None, stdev(known) if len(known) > 1 else None
        rows.append(FoldsRow(network, metric, mean, std, len(known), values))
    return rows


def keep_finite(results: Results) -> dict[str, dict[str, float]]:
    """Results as JSON can hold them: what is not finite is left out."""
    return {
        network: {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        for network, metrics in results.items()
    }


def write_folds_table(rows: Sequence[FoldsRow], folder: Path, metrics: MetricSettings = RELEASE_METRICS) -> None:
    """Writes `folds.csv`, then `folds.json`; both name the convention for empty masks that each Dice was counted by."""
    has_dice = any("/dice" in row.metric for row in rows)
    lines = []
    for row in rows:
        line = asdict(row)
        values = line.pop("values")
        if has_dice:
            line["empty_dice"] = metrics.empty_dice if "/dice" in row.metric else ""
        lines.append(line | {f"fold_{number}": value for number, value in enumerate(values, 1)})
    with atomic_file(folder / CSV) as partial_file:
        write_csv(pa.Table.from_pylist(lines), partial_file)
    named = {"format_version": _TABLE_FORMAT, "empty_dice": metrics.empty_dice}
    write_json(folder / TABLE, {**named, "rows": [asdict(row) for row in rows]})


def read_folds_table(folder: Path) -> list[FoldsRow]:
    """Reads the table of a finished cross-validation.

    Raises:
        InputError: Missing, damaged, or of another format version.
    """
    content = read_versioned(folder / TABLE, _TABLE_FORMAT, _MEND)
    try:
        return [FoldsRow(**{**row, "values": tuple(row["values"])}) for row in content["rows"]]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / TABLE}: damaged; {_MEND}") from None


def read_empty_dice(folder: Path) -> str:
    """Convention for empty masks that the table's Dice was counted by; an older table, which names none, has `brats`.

    Raises:
        InputError: See `read_folds_table`.
    """
    return str(read_versioned(folder / TABLE, _TABLE_FORMAT, _MEND).get("empty_dice", "brats"))


FORMAT_VERSION = 1
MANIFESTS = "manifests"
ENSEMBLE_FOLDER = "ensemble"

RunFold = Callable[[int, Path, Path], Results]
"""Trains a fold to the end, or goes on with it: number from 1, manifest file, folder of its own.

It leaves a checkpoint in the folder (`best/`), `held_out.json` beside it, and returns what it measured. All its choices
are made on the manifest's val cases: nothing of another fold reaches it.
"""
_Checked = TypeVar("_Checked")


def check_each(folds: Sequence[Manifest], check: Callable[[Manifest], _Checked]) -> list[_Checked]:
    """Checks all folds before the first is trained, because days of training would precede an error in the last.

    Raises:
        InputError: Lists the problems of all folds.
    """
    checked: list[_Checked] = []
    problems: list[str] = []
    for number, manifest in enumerate(folds, 1):
        try:
            checked.append(check(manifest))
        except InputError as error:
            problems += [f"fold {number}: {problem}" for problem in error.problems]
    raise_if_any(problems)
    return checked


def fold_settings(config: Config, number: int, manifest: Path, folder: Path, cache_dir: Path) -> Config:
    """The settings of a fold, numbered from 1, in the run folder of the whole; all folds share the prepared cases."""
    changes = {
        "data.manifest": str(manifest),
        "data.cache_dir": str(cache_dir),
        "data.folds": 0,  # a fold is one training
        "data.fold_seed": 0,
        "output.folder": str(folder),
        "output.name": f"fold_{number}",
    }
    return override(config, changes)


def run_folds(
    folds: Sequence[Manifest], folder: Path, run_fold: RunFold, metrics: MetricSettings = RELEASE_METRICS
) -> list[FoldsRow]:
    """Runs all folds, or goes on with them; a finished one is never run again. Writes the ensemble and the table.

    The ensemble is calibrated on out-of-fold predictions: of each fold's val cases, by that fold's network alone.

    Args:
        folds: What `draw_folds` drew.
        folder: Run folder, which the caller has locked and found to be of these settings.
        run_fold: Called for one fold after the other.
        metrics: Conventions that the folds measure by; the table names them.

    Raises:
        InputError: The folder's folds are others, or a finished fold was changed.
        UnmeasuredError: All folds are trained, and some could not be evaluated; the next call goes on with these.
    """
    _place_manifests(folds, folder)
    places = [folder / f"fold_{number}" for number in range(1, len(folds) + 1)]
    results: list[Results] = []
    unmeasured: list[str] = []
    for number, place in enumerate(places, 1):
        record = folder / f"{place.name}.json"
        if not record.exists():
            try:
                found = keep_finite(run_fold(number, folder / MANIFESTS / f"{place.name}.parquet", place))
            except UnmeasuredError as error:
                # the others can be trained, too, before somebody has to look
                unmeasured += [problem for problem in error.problems if problem not in unmeasured]
                continue
            read_members(place)  # a fold without a readable checkpoint is not finished
            weights = describe_checkpoint(place)["weights_sha256"]
            write_json(record, {"format_version": FORMAT_VERSION, "weights_sha256": weights, "results": found})
        results.append(_read_results(record, place))
    if unmeasured:
        raise UnmeasuredError(unmeasured)
    pooled = pool_folds(places)

    def fill(unfinished: Path) -> None:
        fill_ensemble(unfinished, pooled)
        pool_into(unfinished, places)

    write_ensemble(folder / ENSEMBLE_FOLDER, places, fill)
    if (folder / ENSEMBLE_FOLDER / CALIBRATION).exists():
        write_out_of_fold(folder, pooled)
    rows = summarise_folds(results)
    write_folds_table(rows, folder, metrics)
    return rows


def _place_manifests(folds: Sequence[Manifest], folder: Path) -> None:
    """Writes the folds' manifests once; later starts must draw the same."""
    place = folder / MANIFESTS
    if not place.exists():
        write_folds(folds, place)
        return
    wanted = [place / f"fold_{number}.parquet" for number in range(1, len(folds) + 1)]
    if set(place.glob("fold_*.parquet")) != set(wanted):
        raise InputError(
            f"run {folder}: {place.name} does not hold the {len(folds)} folds that it was started with; restore it "
            "from a copy, or start anew with --fresh (the old run is kept aside)"
        )
    if [read_manifest(path).fingerprint for path in wanted] != [manifest.fingerprint for manifest in folds]:
        raise InputError(
            f"run {folder}: its folds are not those that are drawn now; another version of scikit-learn may draw "
            "others. Use the packages that it was started with, or start anew with --fresh (the old run is kept aside)"
        )


def _read_results(record: Path, place: Path) -> Results:
    """What a finished fold reported, after a check that its weights are those that it was finished with."""
    mend = f"restore it from a copy, or remove {record.name} and {place.name} and run the same command again"
    content = read_versioned(record, FORMAT_VERSION, mend)
    if not {"weights_sha256", "results"} <= content.keys():
        raise InputError(f"{record}: damaged; {mend}")
    try:
        changed = describe_checkpoint(place)["weights_sha256"] != content["weights_sha256"]
    except OSError as error:
        stop_if_too_many_open(error)
        changed = True
    if changed:
        raise InputError(f"{place}: its weights are not those that the fold was finished with; {mend}")
    results: Results = content["results"]
    return results


NETWORK = "best"
"""Name of a fold's network in the table."""
OnFoldEpoch = Callable[[int, int, Mapping[str, float]], None]
"""Told the fold, its newest epoch and that epoch's metrics."""


def cross_validate(
    config: Config,
    launch: Launch,
    fresh: bool = False,
    show: OnFoldEpoch | None = None,
    tell: Tell | None = None,
) -> Path:
    """Trains once per fold (`data.folds`), tracked in MLflow as runs below one, and makes an ensemble of the folds.

    The epoch of a fold's checkpoint is chosen on its val cases, and its metrics are of the same cases: they are
    slightly optimistic, the more so the fewer cases there are.

    Train and val cases of the manifest are drawn anew. See `run_training` for arguments and errors.

    Returns:
        The run folder, with `ensemble/` and `folds.csv` in it.
    """
    inputs = check_inputs(config)
    drawn = draw_folds(inputs.manifest, config.data.folds, config.data.fold_seed)
    checked = check_each(drawn, lambda manifest: check_inputs(config, manifest=manifest))
    notes = dict.fromkeys(note for one in (inputs, *checked) for note in one.notes)
    with open_run(config, inputs, fresh, tell=tell, notes=notes) as run:
        tracker, folder = run.tracker, run.folder
        if tracker is None:
            return folder

        def run_fold(number: int, manifest: Path, place: Path) -> Results:
            settings = fold_settings(config, number, manifest, folder, inputs.cache_dir)
            run_training(settings, launch, show=partial(show, number) if show else None, parent=tracker)
            content = read_json(find_checkpoint(place) / "checkpoint.json")
            return {NETWORK: without_absences(content["metrics"])}

        log_folds(tracker, run_folds(drawn, folder, run_fold, config.metrics), folder, {NETWORK: 0})
    return folder


def log_folds(tracker: Tracker, rows: list[FoldsRow], folder: Path, steps: Mapping[str, int]) -> None:
    """Logs means over folds under the metrics' own names, deviations as `NAME_std`, and the table.

    `steps` are the networks of the table that are logged, and MLflow's step of each.
    """
    for network, step in steps.items():
        known = [row for row in rows if row.network == network]
        means = {row.metric: row.mean for row in known if row.mean is not None}
        deviations = {f"{row.metric}_std": row.std for row in known if row.std is not None}
        tracker.log_step(step, means | deviations)
    tracker.log_table(folder / CSV)

"""Cross-validation of whatever can be trained: one fold after the other, a table over folds, the folds' ensemble.

A run folder then holds `manifests/fold_1.parquet` and so on, a folder `fold_1` and so on for each fold's training, with
`fold_1.json` beside it when it is finished, at the end `ensemble/`, `out_of_fold.csv` and `.parquet`, `folds.csv` and
`folds.json`, and, when tracking knows all of it, `finished.json`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mttu.atomic import read_json, write_json
from mttu.config import Config, MetricSettings, override
from mttu.config.metrics import RELEASE_METRICS
from mttu.data.folds import write_folds
from mttu.data.manifest import Manifest, read_manifest
from mttu.errors import InputError, raise_if_any, stop_if_too_many_open
from mttu.networks.ensemble import describe_checkpoint, read_members, write_ensemble
from mttu.training.fold_results import FoldsRow, Results, keep_finite, summarise_folds, write_folds_table
from mttu.training.held_out import fill_ensemble, pool_folds, write_out_of_fold
from mttu.training.kept_calibration import CALIBRATION

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
    """Checks all folds before the first is trained, for what is found out in the last fold costs days.

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
    """The settings of a fold: those of the whole, with its own manifest and place.

    Args:
        config: Of the whole.
        number: From 1.
        manifest: File of the fold.
        folder: Run folder of the whole.
        cache_dir: Prepared cases, which all folds share.
    """
    changes = {
        "data.manifest": str(manifest),
        "data.cache_dir": str(cache_dir),
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
        folds: What `mttu.data.folds.draw_folds` drew.
        folder: Run folder; the caller holds it, and knows that it is of these settings.
        run_fold: Called for one fold after the other.
        metrics: Conventions that the folds measure by, to be named in the table.

    Returns:
        The table over folds.

    Raises:
        InputError: The folder's folds are others, or a finished fold was changed.
    """
    _place_manifests(folds, folder)
    results: list[Results] = []
    for number in range(1, len(folds) + 1):
        place, record = folder / f"fold_{number}", folder / f"fold_{number}.json"
        if not record.exists():
            found = keep_finite(run_fold(number, folder / MANIFESTS / f"fold_{number}.parquet", place))
            read_members(place)  # a fold without a readable checkpoint is not finished
            weights = describe_checkpoint(place)["weights_sha256"]
            write_json(record, {"format_version": FORMAT_VERSION, "weights_sha256": weights, "results": found})
        results.append(_read_record(record, place)["results"])
    places = [folder / f"fold_{number}" for number in range(1, len(folds) + 1)]
    pooled = pool_folds(places)
    write_ensemble(folder / ENSEMBLE_FOLDER, places, lambda partial: fill_ensemble(partial, pooled))
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
    found = [read_manifest(path).fingerprint for path in _list_manifests(place, len(folds))]
    if found != [manifest.fingerprint for manifest in folds]:
        raise InputError(
            f"run {folder}: its folds are not those that are drawn now; another version of scikit-learn may draw "
            "others. Use the packages that it was started with, or start anew with --fresh (the old run is kept aside)"
        )


def _list_manifests(place: Path, folds: int) -> list[Path]:
    found = sorted(place.glob("fold_*.parquet"), key=lambda path: (len(path.name), path.name))
    wanted = [place / f"fold_{number}.parquet" for number in range(1, folds + 1)]
    if found != wanted:
        raise InputError(
            f"run {place.parent}: {place.name} does not hold the {folds} folds that it was started with; restore it "
            "from a copy, or start anew with --fresh (the old run is kept aside)"
        )
    return found


def _read_record(path: Path, place: Path) -> Mapping[str, Any]:
    mend = f"restore it from a copy, or remove {path.name} and {place.name} and run the same command again"
    try:
        content = dict(read_json(path))
        version, weights = content["format_version"], content["weights_sha256"]
        content["results"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged; {mend}") from None
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: format_version is {version}; this version of mttu reads {FORMAT_VERSION}")
    try:
        changed = describe_checkpoint(place)["weights_sha256"] != weights
    except OSError as error:
        stop_if_too_many_open(error)
        changed = True
    if changed:
        raise InputError(f"{place}: its weights are not those that the fold was finished with; {mend}")
    return content

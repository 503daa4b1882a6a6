"""What the folds of a cross-validation come to: mean and deviation over folds of what each fold measured by itself."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pyarrow as pa

from mttu.atomic import atomic_file, read_json, write_json
from mttu.config.metrics import RELEASE_METRICS, MetricSettings
from mttu.errors import InputError, stop_if_too_many_open
from mttu.tables import write_csv

FORMAT_VERSION = 1
TABLE = "folds.json"
CSV = "folds.csv"
_MEND = "remove it and run the same command again"

Results = Mapping[str, Mapping[str, float]]
"""What a fold reports: metrics by name of each of its networks, such as that of each round."""


@dataclass(frozen=True)
class FoldsRow:
    """One metric of one network over folds.

    An AUC is the mean of the folds' AUCs: probabilities of networks that were trained apart are on scales of their own,
    so ranking the pooled cases would compare what cannot be compared.
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
    """Mean and deviation over folds of each metric of each network.

    Args:
        results: Of each fold, in order; what a fold lacks, or what is not finite, is not defined there.
    """
    names = dict.fromkeys(
        (network, metric) for result in results for network, metrics in result.items() for metric in metrics
    )
    rows = []
    for network, metric in names:
        values = tuple(_finite(result.get(network, {}).get(metric)) for result in results)
        known = [value for value in values if value is not None]
        mean, std = fmean(known) if known else None, stdev(known) if len(known) > 1 else None
        rows.append(FoldsRow(network, metric, mean, std, len(known), values))
    return rows


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def keep_finite(results: Results) -> dict[str, dict[str, float]]:
    """Results as JSON can hold them: what is not finite is left out."""
    return {
        network: {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        for network, metrics in results.items()
    }


def write_folds_table(rows: Sequence[FoldsRow], folder: Path, metrics: MetricSettings = RELEASE_METRICS) -> None:
    """Writes `folds.csv`, then `folds.json`; both name the convention for empty masks that each Dice was counted by."""
    content = [{name: value for name, value in asdict(row).items() if name != "values"} for row in rows]
    if any("/dice" in row.metric for row in rows):
        content = [{**line, "empty_dice": metrics.empty_dice if "/dice" in line["metric"] else ""} for line in content]
    columns: list[dict[str, Any]] = [
        line | {f"fold_{number}": value for number, value in enumerate(row.values, 1)}
        for line, row in zip(content, rows, strict=True)
    ]
    with atomic_file(folder / CSV) as partial:
        write_csv(pa.Table.from_pylist(columns), partial)
    named = {"format_version": FORMAT_VERSION, "empty_dice": metrics.empty_dice}
    write_json(folder / TABLE, {**named, "rows": [asdict(row) for row in rows]})


def read_folds_table(folder: Path) -> list[FoldsRow]:
    """Reads the table of a finished cross-validation.

    Raises:
        InputError: Missing, damaged, or of another format version.
    """
    content = _read(folder / TABLE)
    try:
        return [FoldsRow(**{**row, "values": tuple(row["values"])}) for row in content["rows"]]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / TABLE}: missing or damaged; {_MEND}") from None


def read_empty_dice(folder: Path) -> str:
    """Convention for empty masks that the table's Dice was counted by; an older table, which names none, has `brats`.

    Raises:
        InputError: See `read_folds_table`.
    """
    return str(_read(folder / TABLE).get("empty_dice", "brats"))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = dict(read_json(path))
        version = content["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        stop_if_too_many_open(error)
        raise InputError(f"{path}: missing or damaged; {_MEND}") from None
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: format_version is {version}; this version of mttu reads {FORMAT_VERSION}")
    return content

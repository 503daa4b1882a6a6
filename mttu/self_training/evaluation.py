"""Metrics of a round: case scores by its best weights, as a table and summarised; the same names for val and test."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mttu.atomic import atomic_file
from mttu.config import Config
from mttu.config.training import ValidationMetric
from mttu.data.cache import open_cached
from mttu.data.manifest import Case
from mttu.errors import InputError, stop_if_too_many_open
from mttu.inference import choose_precision
from mttu.metrics.reliability import measure_calibration_error
from mttu.networks.checkpoint import read_checkpoint
from mttu.self_training.callables import CaseRow, OnCase
from mttu.tables import read_parquet
from mttu.training.evaluation import score_case, summarise
from mttu.training.inputs import resolve_paths

FORMAT_VERSION = 1
PRECISION = "precision"
"""Column of the arithmetic of a case's forward passes."""
_KIND = "mttu case scores"


class CaseEvaluator:
    """A network that scores one prepared case after the other; its weights are read once.

    Args:
        checkpoint: Folder with the weights.
        config: Where prepared cases lie, windows and post-processing.
        device: Where it runs.

    Raises:
        InputError: The checkpoint cannot be read here.
    """

    def __init__(self, checkpoint: Path, config: Config, device: torch.device) -> None:
        network, _ = read_checkpoint(checkpoint)
        self.network = network.to(device)
        self.config, self.device = config, device
        self.cache_dir = resolve_paths(config)[1]
        self.precision = choose_precision(config.train.precision, device)

    def evaluate(self, case: Case) -> CaseRow:
        """The case's row, see `mttu.training.evaluation.score_case`, and `PRECISION`."""
        cached = open_cached(self.cache_dir, case.case_id)
        row = score_case(self.network, case, cached, self.config, self.device, self.precision)
        return {**row, PRECISION: self.precision}


def evaluate_locally(checkpoint: Path, cases: Sequence[Case], config: Config, on_case: OnCase) -> list[CaseRow]:
    """An `Evaluate` in this process, on the CPU, without Ray."""
    evaluator = CaseEvaluator(checkpoint, config, torch.device("cpu"))
    rows: list[CaseRow] = []
    for case in cases:
        rows.append(evaluator.evaluate(case))
        on_case(len(rows), rows[-1])
    return rows


def measure(rows: Sequence[CaseRow], part: str, metric: ValidationMetric) -> dict[str, float]:
    """Metrics over cases, named `<part>/dice_wt`, `<part>/idh_auc` and so on; what cannot be measured is missing.

    Args:
        rows: Case scores.
        part: val or test.
        metric: What validation chooses by, as `<part>/score`.
    """
    found = {name.replace("val/", f"{part}/", 1): value for name, value in summarise(rows, metric)[0].items()}
    known = [row for row in rows if row["mutant_probability"] is not None and row["idh"] >= 0]
    found[f"{part}/num_cases"] = float(len(rows))
    if known:
        probabilities, idh = [row["mutant_probability"] for row in known], [row["idh"] for row in known]
        names = [str(row["case_id"]) for row in known]
        error = measure_calibration_error(probabilities, idh, names, num_resamples=1)  # its interval is not used
        if error.ece is not None:
            found[f"{part}/idh_ece"] = error.ece
        found[f"{part}/num_idh"] = float(len(known))
    return found


def write_rows(rows: Sequence[CaseRow], path: Path, about: Mapping[str, str]) -> None:
    """Writes case scores whole or not at all, sorted by id; `about` goes into the file's metadata."""
    ordered = sorted(rows, key=lambda row: str(row["case_id"]))
    names = list(dict.fromkeys(name for row in ordered for name in row))
    fields = [pa.field(name, _type_of([row.get(name) for row in ordered])) for name in names]
    metadata = {"kind": _KIND, "format_version": str(FORMAT_VERSION), **about}
    table = pa.Table.from_pylist([dict(row) for row in ordered], schema=pa.schema(fields, metadata=metadata))
    with atomic_file(path) as partial:
        pq.write_table(table, partial)


def _type_of(values: Sequence[Any]) -> Any:
    """A column of nothing but None is one of figures."""
    given = {type(value) for value in values if value is not None}
    return {frozenset({str}): pa.string(), frozenset({int}): pa.int64()}.get(frozenset(given), pa.float64())


def read_rows(path: Path) -> tuple[list[CaseRow], dict[str, str]]:
    """Reads what `write_rows` wrote: the rows, and `about`.

    Raises:
        InputError: Missing, damaged, or of another kind or format version.
    """
    try:
        metadata, table = pq.read_schema(path).metadata or {}, read_parquet(path)
    except (OSError, pa.ArrowException) as error:
        stop_if_too_many_open(error)
        raise InputError(f"{path}: no readable Parquet file ({str(error).splitlines()[0]})") from None
    about = {key.decode(): value.decode() for key, value in metadata.items()}
    if (about.pop("kind", None), about.pop("format_version", None)) != (_KIND, str(FORMAT_VERSION)):
        raise InputError(f"{path}: holds no case scores of format {FORMAT_VERSION}")
    return table.to_pylist(), {name: text for name, text in about.items() if name != "ARROW:schema"}

"""Reports of a selection and of a search of thresholds: a folder with a table as Parquet and CSV, and figures."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from mttu.config import SelectionSettings
from mttu.config.earlier import drop_unchanged
from mttu.config.scoring import Method
from mttu.data.labels import IDH_UNKNOWN
from mttu.data.tables import read_table, write_table
from mttu.errors import InputError
from mttu.figures.estimates import Estimate
from mttu.figures.reliability import UncertaintyBin, UncertaintyCurve, draw_ece_by_uncertainty
from mttu.figures.selection import (
    Candidate,
    MethodSelection,
    SelectionRow,
    draw_candidates,
    draw_pseudo_labels,
    draw_selection_error,
)
from mttu.figures.style import save_figure
from mttu.files import atomic_folder, parse_json, recover_folder
from mttu.metrics.calibration import CalibrationError, measure_calibration_error
from mttu.metrics.intervals import wilson_interval
from mttu.pseudo_labels.certainty import read_certainty
from mttu.pseudo_labels.prior import Correction, parse_estimates
from mttu.pseudo_labels.score_table import ScoreRow, ScoreTable
from mttu.pseudo_labels.selection import (
    SelectedCase,
    Selection,
    SelectionCounts,
    count_selected,
    select,
)
from mttu.pseudo_labels.thresholds import LabelledScore, ThresholdRow, search_thresholds

FORMAT_VERSION = 1
PICTURES: Mapping[str, Sequence[str]] = {
    "selection": ("candidates", "pseudo_labels", "selection_error", "uncertainty"),
    "thresholds": ("selection_error",),
}
"""Kind of a report to the names of its pictures, each as `.png` and `.pdf`; one without data is not drawn."""


def check_report(folder: Path, kind: str) -> None:
    """Refuses a folder that holds anything but an earlier report of this kind, because it would be replaced.

    Raises:
        InputError: It is a file, holds other files, or files of these names without a table of this kind.
    """
    folder = folder.resolve()
    recover_folder(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"output {folder}: is a file; give a folder")
    present = sorted(item.name for item in folder.iterdir())
    pictures = [f"{name}.{suffix}" for name in PICTURES[kind] for suffix in ("png", "pdf")]
    foreign = [name for name in present if name not in (f"{kind}.parquet", f"{kind}.csv", *pictures)]
    try:
        own = (pq.read_schema(folder / f"{kind}.parquet").metadata or {}).get(b"kind") == f"mttu {kind}".encode()
    except (OSError, pa.ArrowException):
        own = False
    if foreign or (present and not own):
        named = ", ".join((foreign or present)[:3])
        raise InputError(f"output {folder}: holds {named}, not of an earlier {kind} here; give another folder")


def _write_report(
    folder: Path, kind: str, rows: Sequence[Any], schema: Any, about: Mapping[str, Any], figures: Mapping[str, Figure]
) -> list[Path]:
    """Writes table and figures, in place of an earlier report; returns the pictures."""
    names = []
    with atomic_folder(folder.resolve()) as partial:
        _write_table(partial, kind, rows, schema, about)
        for name, figure in figures.items():
            names += [path.name for path in save_figure(figure, partial / name)]
    return [folder / name for name in names]


def _write_table(folder: Path, kind: str, rows: Sequence[Any], schema: Any, about: Mapping[str, Any]) -> None:
    """Writes rows (dataclasses) as `<kind>.csv`, then `<kind>.parquet` with `about` in its metadata."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)
    metadata = {"kind": f"mttu {kind}", "format_version": str(FORMAT_VERSION), "about": json.dumps(about)}
    write_table(folder / kind, table.replace_schema_metadata(metadata))


_MOST_BINS = 5
_LEAST_CASES = 5
"""Cases per bin; with fewer the error says nothing."""
_UNCERTAINTY_INTERVAL = "95% bootstrap interval over cases"
"""A table of scores names no patients, so several cases of one patient count as independent."""
_LEAST_WIDTH = 1e-6  # equal uncertainties still make a bar
_RESAMPLES = 500


def measure_by_uncertainty(table: ScoreTable, truth: Mapping[str, int], title: str) -> UncertaintyCurve:
    """ECE (eq. 16) of the cases with scores and a true class, in bins of about equal size by rising uncertainty."""
    known = [row for row in table.rows if read_certainty(row) and truth.get(row.case_id, IDH_UNKNOWN) != IDH_UNKNOWN]
    ordered = sorted(known, key=lambda row: (row.uncertainty, row.case_id))
    count = max(1, min(_MOST_BINS, len(ordered) // _LEAST_CASES))
    parts = [[ordered[index] for index in part] for part in np.array_split(np.arange(len(ordered)), count) if len(part)]
    bins = []
    for part in parts:
        low, high = float(part[0].uncertainty or 0.0), float(part[-1].uncertainty or 0.0)
        found = _measure(part, truth)
        wide = max(high, low + _LEAST_WIDTH)
        bins.append(UncertaintyBin(low, wide, len(part), _to_estimate(found), found.expected_when_calibrated))
    return UncertaintyCurve(title, bins, _to_estimate(_measure(ordered, truth)))


def _measure(rows: Sequence[ScoreRow], truth: Mapping[str, int]) -> CalibrationError:
    probabilities: list[Any] = [row.mean_probability for row in rows]
    names = [row.case_id for row in rows]
    return measure_calibration_error(probabilities, [truth[name] for name in names], names, num_resamples=_RESAMPLES)


def _to_estimate(found: CalibrationError) -> Estimate:
    return Estimate(found.ece, found.interval.low, found.interval.high)


_METHODS: tuple[Method, ...] = ("PL", "CPL", "UPS")

SELECTION_SCHEMA = pa.schema(
    [
        pa.field("case_id", pa.string(), nullable=False),
        pa.field("pseudo_label", pa.int8(), nullable=False),
        pa.field("confidence", pa.float64()),
        pa.field("uncertainty", pa.float64()),
        pa.field("meets_thresholds", pa.bool_(), nullable=False),
        pa.field("selected", pa.bool_(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
CALIBRATED_SCHEMA = pa.schema(
    [
        *SELECTION_SCHEMA,
        pa.field("calibrated_probability", pa.float64()),
        pa.field("moved_probability", pa.float64()),
    ]
)
"""Of a selection from calibrated probabilities."""
THRESHOLDS_SCHEMA = pa.schema(
    [
        pa.field("confidence_threshold", pa.float64(), nullable=False),
        pa.field("uncertainty_threshold", pa.float64(), nullable=False),
        pa.field("num_selected", pa.int32(), nullable=False),
        pa.field("num_wrong", pa.int32(), nullable=False),
        pa.field("num_cases", pa.int32(), nullable=False),
        pa.field("error_low", pa.float64()),
        pa.field("error_high", pa.float64()),
    ]
)


@dataclass(frozen=True)
class MethodCounts:
    """What one method selects at the thresholds in use."""

    method: Method
    balanced: bool
    counts: SelectionCounts

    @property
    def accuracy(self) -> Estimate:
        """Share of right pseudo-labels with its 95% Wilson interval."""
        counts = self.counts
        found = wilson_interval(counts.num_right_mutant + counts.num_right_wild, counts.num_known)
        return Estimate(found.estimate, found.low, found.high)


def compare_methods(
    table: ScoreTable,
    settings: SelectionSettings,
    truth: Mapping[str, int] | None,
    correction: Correction | None = None,
) -> list[MethodCounts]:
    """PL, CPL and UPS of one table, each without and with balancing (Table VII and Fig. 5); CPL and UPS by the rule.

    Balanced rows are left out where no class ratio is known.
    """
    rows = []
    for method, balanced in product(_METHODS, (False, True)):
        chosen = settings.model_copy(update={"method": method, "balance": balanced})
        with suppress(InputError):  # no ratio; where the user asked for balancing, `select` has refused already
            rows.append(MethodCounts(method, balanced, count_selected(select(table, chosen, correction), truth)))
    return rows


def write_selection(
    folder: Path,
    table: ScoreTable,
    selection: Selection,
    settings: SelectionSettings,
    truth: Mapping[str, int] | None,
    title: str,
    correction: Correction | None = None,
) -> list[Path]:
    """Writes table and figures of a selection; returns the pictures. `folder` has passed `check_report`."""
    figures = draw_selection(table, selection, settings, truth, title, correction)
    about = _describe_selection(table, selection, settings)
    return _write_report(folder, "selection", selection.cases, _choose_schema(selection), about, figures)


def write_selection_table(
    folder: Path,
    table: ScoreTable,
    selection: Selection,
    settings: SelectionSettings,
    calibrated_on: str | None = None,
) -> None:
    """Writes `selection.csv` and `selection.parquet` alone into a folder of other files.

    `calibrated_on` is the digest of the scores that probabilities were calibrated on.
    """
    about = _describe_selection(table, selection, settings)
    about |= {} if calibrated_on is None else {"calibrated_on": calibrated_on}
    _write_table(folder, "selection", selection.cases, _choose_schema(selection), about)


def _choose_schema(selection: Selection) -> Any:
    return SELECTION_SCHEMA if selection.estimates is None else CALIBRATED_SCHEMA


def _describe_selection(table: ScoreTable, selection: Selection, settings: SelectionSettings) -> dict[str, Any]:
    about = {
        "scores_sha256": table.digest,
        "selection": drop_unchanged("selection.", settings.model_dump(mode="json")),
        "balanced": selection.balanced,
        "wild_per_mutant": selection.wild_per_mutant,
        "notes": list(selection.notes),
    }
    return about if selection.estimates is None else {**about, "estimates": asdict(selection.estimates)}


def read_selection(path: Path) -> tuple[Selection, dict[str, Any]]:
    """Reads a `selection.parquet` that `write_selection_table` wrote, and how it was made.

    Raises:
        InputError: Missing, damaged, or of another kind or format version.
    """
    metadata, table = read_table(path, "selection", FORMAT_VERSION, "select again", "mttu selection")
    if not (table.schema.equals(SELECTION_SCHEMA) or table.schema.equals(CALIBRATED_SCHEMA)):
        raise InputError(f"selection {path}: columns are not those of format {FORMAT_VERSION}; select again")
    about = parse_json(metadata["about"])
    cases = tuple(SelectedCase(**row) for row in table.to_pylist())
    estimates = parse_estimates(about["estimates"]) if "estimates" in about else None
    return Selection(cases, about["balanced"], about["wild_per_mutant"], tuple(about["notes"]), estimates), about


def draw_selection(
    table: ScoreTable,
    selection: Selection,
    settings: SelectionSettings,
    truth: Mapping[str, int] | None,
    title: str,
    correction: Correction | None = None,
) -> dict[str, Figure]:
    """Figures of a selection by name: candidates, and selected numbers by method.

    With known classes also the error of pseudo-labels over both thresholds, and the calibration error over uncertainty.
    """
    known = truth or {}
    thresholds = settings.rule == "thresholds"
    tau_c = settings.confidence_threshold if thresholds and settings.method in ("CPL", "UPS") else None
    tau_u = settings.uncertainty_threshold if thresholds and settings.method == "UPS" else None
    chosen = {case.case_id for case in selection.cases if case.selected}
    candidates = [
        Candidate(
            row.case_id,
            certainty.confidence,
            certainty.uncertainty,
            certainty.predicted_class,
            known.get(row.case_id, IDH_UNKNOWN),
            selected=row.case_id in chosen,
        )
        for row in table.rows
        if (certainty := read_certainty(row, correction)) is not None
    ]
    figures = {"candidates": draw_candidates(candidates, tau_c, tau_u, title, selection.balanced)}
    rows = [_to_bars(row) for row in compare_methods(table, settings, truth, correction)]
    figures["pseudo_labels"] = draw_pseudo_labels({title: rows}, {title: len(candidates)})
    labelled = [
        LabelledScore(one.case_id, one.confidence, one.uncertainty, one.idh == one.predicted, one.idh)
        for one in candidates
        if one.idh != IDH_UNKNOWN
    ]
    if labelled:
        figures["uncertainty"] = draw_ece_by_uncertainty(
            [measure_by_uncertainty(table, known, title)], interval=_UNCERTAINTY_INTERVAL
        )
        figures["selection_error"] = draw_selection_error(
            {title: _to_error_rows(search_thresholds(labelled))},
            None if tau_c is None or tau_u is None else (tau_c, tau_u),
        )
    return figures


def write_thresholds(
    folder: Path, rows: Sequence[ThresholdRow], suggested: ThresholdRow | None, about: Mapping[str, Any], title: str
) -> list[Path]:
    """Writes table and figure of a search; returns the pictures. `folder` has passed `check_report`."""
    content = {**about, "suggested": None if suggested is None else asdict(suggested)}
    chosen = None if suggested is None else (suggested.confidence_threshold, suggested.uncertainty_threshold)
    figures = {"selection_error": draw_selection_error({title: _to_error_rows(rows)}, chosen)}
    return _write_report(folder, "thresholds", rows, THRESHOLDS_SCHEMA, content, figures)


def _to_error_rows(rows: Sequence[ThresholdRow]) -> list[SelectionRow]:
    return [
        SelectionRow(
            row.confidence_threshold, row.uncertainty_threshold, row.num_selected, row.num_wrong, row.num_cases
        )
        for row in rows
    ]


def _to_bars(row: MethodCounts) -> MethodSelection:
    counts = row.counts
    all_known = counts.num_known == counts.num_mutant + counts.num_wild and counts.num_known > 0
    return MethodSelection(
        method=f"{row.method}\nbalanced" if row.balanced else row.method,
        num_mutant=counts.num_mutant,
        num_wild=counts.num_wild,
        num_right_mutant=counts.num_right_mutant if all_known else None,
        num_right_wild=counts.num_right_wild if all_known else None,
        accuracy=row.accuracy,
    )

"""What a selection and a search of thresholds leave behind: a table as Parquet and CSV, and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from mttu.atomic import parse_json
from mttu.config import SelectionSettings
from mttu.config.scoring import Method
from mttu.data.file_kinds import explain_no_parquet
from mttu.data.labels import IDH_UNKNOWN
from mttu.data.score_table import ScoreTable
from mttu.errors import InputError, stop_if_too_many_open
from mttu.figures.candidates import Candidate, draw_candidates
from mttu.figures.estimates import Estimate
from mttu.figures.pseudo_labels import MethodSelection, draw_pseudo_labels
from mttu.figures.selection import SelectionRow, draw_selection_error
from mttu.figures.uncertainty import draw_ece_by_uncertainty
from mttu.metrics.intervals import wilson_interval
from mttu.pseudo_labels import (
    LabelledScore,
    SelectedCase,
    Selection,
    SelectionCounts,
    ThresholdRow,
    count_selected,
    search_thresholds,
    select,
)
from mttu.pseudo_labels.selection import read_figures
from mttu.scoring.report_files import FORMAT_VERSION, write_report, write_table
from mttu.scoring.uncertainty import INTERVAL as UNCERTAINTY_INTERVAL
from mttu.scoring.uncertainty import measure_by_uncertainty
from mttu.tables import read_parquet

METHODS: tuple[Method, ...] = ("PL", "CPL", "UPS")

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
    table: ScoreTable, settings: SelectionSettings, truth: Mapping[str, int] | None
) -> list[MethodCounts]:
    """PL, CPL and UPS of one table, each without and with balancing (Table VII and Fig. 5).

    Balanced rows are left out where no class ratio is known.
    """
    rows = []
    for method in METHODS:
        for balanced in (False, True):
            chosen = settings.model_copy(update={"method": method, "balance": balanced})
            try:
                rows.append(MethodCounts(method, balanced, count_selected(select(table, chosen), truth)))
            except InputError:  # no ratio; where the user asked for balancing, `select` has refused already
                continue
    return rows


def write_selection(
    folder: Path,
    table: ScoreTable,
    selection: Selection,
    settings: SelectionSettings,
    truth: Mapping[str, int] | None,
    title: str,
) -> list[Path]:
    """Writes table and pictures of a selection; an earlier one there is replaced whole.

    Args:
        folder: Passed `check_report`.
        table: Scores that were selected from.
        selection: What `select` said of them.
        settings: The settings in use.
        truth: Case to true class, if known.
        title: Names the set of cases in the pictures.

    Returns:
        The pictures: candidates; selected numbers by method; with a truth also the error over both
        thresholds, and the calibration error over uncertainty.
    """
    figures = draw_selection(table, selection, settings, truth, title)
    about = _describe_selection(table, selection, settings)
    return write_report(folder, "selection", selection.cases, SELECTION_SCHEMA, about, figures)


def write_selection_table(folder: Path, table: ScoreTable, selection: Selection, settings: SelectionSettings) -> None:
    """Writes `selection.csv` and `selection.parquet` alone into a folder of other files."""
    about = _describe_selection(table, selection, settings)
    write_table(folder, "selection", selection.cases, SELECTION_SCHEMA, about)


def _describe_selection(table: ScoreTable, selection: Selection, settings: SelectionSettings) -> dict[str, Any]:
    return {
        "scores_sha256": table.digest,
        "selection": settings.model_dump(mode="json"),
        "balanced": selection.balanced,
        "wild_per_mutant": selection.wild_per_mutant,
        "notes": list(selection.notes),
    }


def read_selection(path: Path) -> tuple[Selection, dict[str, Any]]:
    """Reads a `selection.parquet` that `write_selection_table` wrote, and how it was made.

    Raises:
        InputError: Missing, damaged, or of another kind or format version.
    """
    try:
        metadata, table = pq.read_schema(path).metadata or {}, read_parquet(path)
    except (OSError, pa.ArrowException) as error:
        stop_if_too_many_open(error)
        raise InputError(f"selection {path}: {explain_no_parquet(path, error, 'select again')}") from None
    kind, version = metadata.get(b"kind", b"").decode(), metadata.get(b"format_version", b"").decode()
    if (kind, version) != ("mttu selection", str(FORMAT_VERSION)) or not table.schema.equals(SELECTION_SCHEMA):
        raise InputError(
            f"selection {path}: is {kind or 'no table of mttu'}, format {version}; expected mttu selection, "
            f"format {FORMAT_VERSION}; select again"
        )
    about = parse_json(metadata[b"about"])
    cases = tuple(SelectedCase(**row) for row in table.to_pylist())
    return Selection(cases, about["balanced"], about["wild_per_mutant"], tuple(about["notes"])), about


def draw_selection(
    table: ScoreTable,
    selection: Selection,
    settings: SelectionSettings,
    truth: Mapping[str, int] | None,
    title: str,
) -> dict[str, Figure]:
    """Draws the pictures of a selection by name, see `write_selection`."""
    known = truth or {}
    tau_c = settings.confidence_threshold if settings.method in ("CPL", "UPS") else None
    tau_u = settings.uncertainty_threshold if settings.method == "UPS" else None
    chosen = {case.case_id for case in selection.cases if case.selected}
    candidates = [
        Candidate(
            row.case_id,
            figures_of_case.confidence,
            figures_of_case.uncertainty,
            figures_of_case.predicted_class,
            known.get(row.case_id, IDH_UNKNOWN),
            selected=row.case_id in chosen,
        )
        for row in table.rows
        if (figures_of_case := read_figures(row)) is not None
    ]
    figures = {"candidates": draw_candidates(candidates, tau_c, tau_u, title, selection.balanced)}
    rows = [_to_bars(row) for row in compare_methods(table, settings, truth)]
    figures["pseudo_labels"] = draw_pseudo_labels({title: rows}, {title: len(candidates)})
    labelled = [
        LabelledScore(one.case_id, one.confidence, one.uncertainty, one.idh == one.predicted)
        for one in candidates
        if one.idh != IDH_UNKNOWN
    ]
    if labelled:
        figures["uncertainty"] = draw_ece_by_uncertainty(
            [measure_by_uncertainty(table, known, title)], interval=UNCERTAINTY_INTERVAL
        )
        figures["selection_error"] = draw_selection_error(
            {title: to_error_rows(search_thresholds(labelled))},
            None if tau_c is None or tau_u is None else (tau_c, tau_u),
        )
    return figures


def write_thresholds(
    folder: Path, rows: Sequence[ThresholdRow], suggested: ThresholdRow | None, about: Mapping[str, Any], title: str
) -> list[Path]:
    """Writes table and picture of a search; returns the pictures. `folder` passed `check_report`."""
    content = {**about, "suggested": None if suggested is None else asdict(suggested)}
    chosen = None if suggested is None else (suggested.confidence_threshold, suggested.uncertainty_threshold)
    figures = {"selection_error": draw_selection_error({title: to_error_rows(rows)}, chosen)}
    return write_report(folder, "thresholds", rows, THRESHOLDS_SCHEMA, content, figures)


def to_error_rows(rows: Sequence[ThresholdRow]) -> list[SelectionRow]:
    """Rows of a search as the figure takes them."""
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

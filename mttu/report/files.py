"""The folder of an evaluation: tables of cases, summary, figures, README; written whole or not at all."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from mttu.config import MetricSettings
from mttu.data.labels import IDH_MUTANT
from mttu.data.tables import write_table
from mttu.figures.case_scores import CaseScore, draw_case_scores
from mttu.figures.estimates import Estimate
from mttu.figures.reliability import Reliability, ReliabilityBin, draw_reliability
from mttu.figures.roc import RocCurve, draw_roc
from mttu.figures.style import save_figure
from mttu.files import (
    atomic_folder,
    find_obstacle,
    read_json,
    recover_folder,
    write_json,
    write_text,
)
from mttu.metrics.delong import estimate_auc
from mttu.metrics.empty_masks import HD95, explain_dice, explain_hd95, fill_scores
from mttu.metrics.roc_bands import RocBand, bootstrap_roc

Rows = Sequence[Mapping[str, Any]]
PICTURES = ("roc", "reliability", "segmentation")
"""Names of the figures, each as `.png` and `.pdf`; one without data is not drawn."""
_EARLIER_RESAMPLES = 500
"""Of the bands of ROC curves, where a summary does not say how many were drawn."""


def draw_pictures(region_rows: Rows, idh_rows: Rows, summary: Mapping[str, Any]) -> dict[str, Figure]:
    """Draws the contents of the tables; name, one of `PICTURES`, to figure.

    Args:
        region_rows: Columns of `REGION_SCHEMA`.
        idh_rows: Columns of `IDH_SCHEMA`.
        summary: What `mttu.report.evaluation.evaluate_cases` returned.
    """
    figures, num_resamples = {}, int(summary.get("num_resamples", _EARLIER_RESAMPLES))
    if idh_rows:
        systems = dict.fromkeys(row["system"] for row in idh_rows)
        figures["roc"] = draw_roc([_to_curve(idh_rows, name, num_resamples) for name in systems])
    if summary["idh"] is not None:
        figures["reliability"] = draw_reliability(_to_diagrams(summary["systems"][0]["name"], summary["idh"]))
    if region_rows:
        conventions = MetricSettings(empty_dice=summary["empty_dice"], empty_hd95=summary["empty_hd95"])
        figures["segmentation"] = _draw_segmentation(region_rows, conventions)
    return figures


def _draw_segmentation(rows: Rows, conventions: MetricSettings) -> Figure:
    """Scores as the conventions for empty masks count them, so that means and n are those of the summary."""
    scores = []
    for row in rows:
        if row["status"] != "not-defined":
            filled = fill_scores(row, conventions)
            scores.append(CaseScore(row["case_id"], row["system"], row["region"], filled["dice"], filled["hd95_mm"]))
    penalty_mm = HD95[conventions.empty_hd95].scores["missed"]
    return draw_case_scores(scores, penalty_mm, [explain_dice(conventions), explain_hd95(conventions)])


def _to_curve(rows: Rows, system: str, num_resamples: int) -> RocCurve:
    own = [row for row in rows if row["system"] == system]
    probabilities, idh = [row["mutant_probability"] for row in own], [row["idh"] for row in own]
    auc = estimate_auc(probabilities, idh)
    rates: tuple[list[float], list[float]] = [], []
    band = RocBand()
    if auc.num_mutant and auc.num_wild:
        found = roc_curve(idh, probabilities, pos_label=IDH_MUTANT, drop_intermediate=False)
        rates = found[0].tolist(), found[1].tolist()
        band = bootstrap_roc(probabilities, idh, [row["patient_id"] for row in own], num_resamples)
    estimate = Estimate(auc.auc, auc.low, auc.high)
    ends = band.false_positive_rates, band.low, band.high
    return RocCurve(system, *rates, estimate, auc.num_mutant, auc.num_wild, ends)


def _to_diagrams(name: str, idh: Mapping[str, Any]) -> list[Reliability]:
    """The diagram before calibration, and one after each calibration that was fitted."""
    error = next(one for one in idh["calibration_errors"] if one["binning"] == "equal-width")
    diagrams = [_to_diagram("before calibration" if idh["calibrations"] else name, idh["reliability"], error)]
    for fitted in idh["calibrations"]:
        after = fitted["after"]
        diagrams.append(_to_diagram(fitted["name"], after["reliability"], after["calibration_error"]))
    return diagrams


def _to_diagram(title: str, bars: Rows, error: Mapping[str, Any]) -> Reliability:
    bins = [ReliabilityBin(**{**bar, "accuracy": _to_estimate(bar["accuracy"])}) for bar in bars]
    return Reliability(title, bins, _to_estimate({**error["interval"], "estimate": error["ece"]}))


def _to_estimate(interval: Mapping[str, Any]) -> Estimate:
    return Estimate(interval["estimate"], interval["low"], interval["high"])


FORMAT_VERSION = 2
"""1 had neither lesion-wise scores nor the tables of facts and baselines."""
SUMMARY = "summary.json"
REGION_TABLE, IDH_TABLE, FACT_TABLE, BASELINE_TABLE = TABLES = (
    *("case_scores", "case_idh"),
    *("case_facts", "case_baselines"),
)
README = "README.txt"
OWN_FILES = (
    *(SUMMARY, README),
    *(f"{name}.{kind}" for name in TABLES for kind in ("parquet", "csv")),
    *(f"{name}.{kind}" for name in PICTURES for kind in ("png", "pdf")),
)
"""Everything that an evaluation writes; a folder with anything else is not replaced."""

_SCORES = (
    *("dice", "hd95_mm", "sensitivity", "specificity", "predicted_ml", "truth_ml"),
    *("volume_difference_ml", "relative_volume_difference"),
)
_LESION_SCORES, _LESION_COUNTS = (
    ("lesion_dice", "lesion_hd95_mm"),
    ("num_lesions", "num_missed_lesions", "num_false_lesions"),
)
_LEARNED_FROM = pa.field("learned_from", pa.bool_())


def _texts(*names: str) -> list[Any]:
    return [pa.field(name, pa.string(), nullable=False) for name in names]


REGION_SCHEMA = pa.schema(
    [
        *_texts("case_id", "patient_id", "system", "region"),
        _LEARNED_FROM,
        *_texts("status"),
        *(pa.field(name, pa.float64()) for name in (*_SCORES, *_LESION_SCORES)),
        *(pa.field(name, pa.int32()) for name in _LESION_COUNTS),
        *_texts(*MetricSettings.model_fields),
    ]
)
IDH_SCHEMA = pa.schema(
    [
        *_texts("case_id", "patient_id", "system"),
        _LEARNED_FROM,
        pa.field("idh", pa.int8(), nullable=False),
        pa.field("mutant_probability", pa.float64(), nullable=False),
        pa.field("confidence", pa.float64(), nullable=False),
        pa.field("right", pa.bool_(), nullable=False),
    ]
)

FACT_SCHEMA = pa.schema(
    [
        *_texts("case_id", "patient_id"),
        pa.field("idh", pa.int8(), nullable=False),
        pa.field("grade", pa.string()),
        pa.field("age", pa.float64()),
        pa.field("sex", pa.string()),
        pa.field("site", pa.string()),
    ]
)
BASELINE_SCHEMA = pa.schema(
    [
        *_texts("case_id", "baseline"),
        pa.field("after_surgery", pa.bool_(), nullable=False),
        pa.field("mutant_probability", pa.float64(), nullable=False),
    ]
)

_README = """Scores that mttu computed from predictions and a manifest. Research use only. Not for diagnosis.

case_scores.parquet/.csv  one row per case, region (wt, tc, et) and system; an empty value means that there is none:
  learned_from            the network was trained on a scan of a patient of this id: no fair test; empty: not known
  status                  normal, missed (only the true mask holds the region), spurious (only the predicted one does),
                          both-empty, not-defined (a whole-tumour mask has no parts)
  dice                    0 to 1; of empty masks as empty_dice says
  hd95_mm                 larger of the two directed 95th percentiles between voxel borders; of empty masks as
                          empty_hd95 says
  sensitivity, specificity   of voxels, over the whole volume
  predicted_ml, truth_ml  millilitres
  volume_difference_ml    predicted minus true; relative_volume_difference is the same, divided by the true volume
  lesion_dice, lesion_hd95_mm   lesion-wise as BraTS 2023 (GLI), which has its own rule for empty masks: mean over true
                          lesions above 50 mm3 and false ones; a missed or false lesion has Dice 0 and 374 mm, a case
                          without any has 1 and 0 mm; HD95 weighs the surface by its area
  num_lesions, num_missed_lesions, num_false_lesions   of these; a false lesion is a predicted component that touches no
                          true one
  empty_dice              brats: both masks empty 1, only one empty 0; exclude: left out without a true region, missed 0
  empty_hd95              exclude: left out unless both masks hold the region; brats2020, brats2023: both empty 0, only
                          one empty 373.12866 or 374 mm
case_idh.parquet/.csv     one row per case of known IDH status and system:
  idh                     1 mutant, 0 wild type
  mutant_probability, confidence   the latter is that of the called class, at threshold 0.5; right: whether it is true
case_facts.parquet/.csv   one row per case of the split: what the manifest says of it, age in years; idh -1: not known
case_baselines.parquet/.csv   one row per case and baseline without images; after_surgery: uses the grade, known only
                          then
summary.json              everything that was printed, and more
roc, reliability, segmentation   figures, as .png and .pdf: ROC curves, bands and DeLong's interval, reliability of the
                          called class, Dice and HD95 of every case
"""


def check_output(
    out: Path, own_files: Collection[str] = OWN_FILES, record: str = SUMMARY, what: str = "an evaluation"
) -> list[str]:
    """Problems of writing a folder of results: it cannot be written, or holds other files.

    Args:
        out: Folder.
        own_files: Names of all files that may be replaced.
        record: The JSON file among them by which an earlier folder is known.
        what: What the folder holds.
    """
    recover_folder(out)
    obstacle = find_obstacle(out / record)
    if obstacle:
        return [f"output {out}: {obstacle}"]
    if not out.exists():
        return []
    present = sorted(item.name for item in out.iterdir())
    foreign = [name for name in present if name not in own_files]
    if foreign:
        return [f"output {out}: holds {', '.join(foreign[:3])}, which is not of {what}; give another folder"]
    if present and not _is_ours(out / record):
        return [f"output {out}: holds files, but no {what.split()[-1]}; give another folder"]
    return []


def _is_ours(path: Path) -> bool:
    try:
        return "format_version" in read_json(path)
    except (OSError, ValueError, TypeError):
        return False


def write_evaluation(
    out: Path,
    region_rows: Rows,
    idh_rows: Rows,
    summary: Mapping[str, Any],
    fact_rows: Rows = (),
    baseline_rows: Rows = (),
) -> None:
    """Writes tables, figures and summary, replacing an earlier evaluation.

    Args:
        out: Folder, see `check_output`.
        region_rows: Columns of `REGION_SCHEMA`.
        idh_rows: Columns of `IDH_SCHEMA`.
        summary: JSON values without NaN.
        fact_rows: Columns of `FACT_SCHEMA`.
        baseline_rows: Columns of `BASELINE_SCHEMA`.
    """
    with atomic_folder(out) as partial:
        _write_table(partial, REGION_TABLE, region_rows, REGION_SCHEMA)
        _write_table(partial, IDH_TABLE, idh_rows, IDH_SCHEMA)
        _write_table(partial, FACT_TABLE, fact_rows, FACT_SCHEMA)
        _write_table(partial, BASELINE_TABLE, baseline_rows, BASELINE_SCHEMA)
        write_text(partial / README, _README)
        for name, figure in draw_pictures(region_rows, idh_rows, summary).items():
            save_figure(figure, partial / name)
        write_json(partial / SUMMARY, {**summary, "format_version": FORMAT_VERSION})


def _write_table(folder: Path, name: str, rows: Rows, schema: Any) -> None:
    described = schema.with_metadata({"format_version": str(FORMAT_VERSION)})
    write_table(folder / name, pa.Table.from_pylist([dict(row) for row in rows], schema=described))

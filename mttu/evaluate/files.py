"""The folder of an evaluation: tables of cases, summary, figures, note; written whole or not at all."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mttu.atomic import atomic_file, atomic_folder, read_json, recover_folder, write_json, write_text
from mttu.config import MetricSettings
from mttu.evaluate.pictures import PICTURES, draw_pictures
from mttu.figures.saving import save_figure
from mttu.tables import write_csv

FORMAT_VERSION = 1
SUMMARY = "summary.json"
REGION_TABLE, IDH_TABLE = "case_scores", "case_idh"
README = "README.txt"
OWN_FILES = (
    *(SUMMARY, README),
    *(f"{name}.{kind}" for name in (REGION_TABLE, IDH_TABLE) for kind in ("parquet", "csv")),
    *(f"{name}.{kind}" for name in PICTURES for kind in ("png", "pdf")),
)
"""All that an evaluation writes; a folder with anything else is not replaced."""

_SCORES = (
    *("dice", "hd95_mm", "sensitivity", "specificity", "predicted_ml", "truth_ml"),
    *("volume_difference_ml", "relative_volume_difference"),
)
_WHO = [pa.field("case_id", pa.string(), nullable=False), pa.field("patient_id", pa.string(), nullable=False)]
_SYSTEM = pa.field("system", pa.string(), nullable=False)
_LEARNED_FROM = pa.field("learned_from", pa.bool_())
REGION_SCHEMA = pa.schema(
    [
        *_WHO,
        _SYSTEM,
        pa.field("region", pa.string(), nullable=False),
        _LEARNED_FROM,
        pa.field("status", pa.string(), nullable=False),
        *(pa.field(name, pa.float64()) for name in _SCORES),
        *(pa.field(name, pa.string(), nullable=False) for name in MetricSettings.model_fields),
    ]
)
IDH_SCHEMA = pa.schema(
    [
        *_WHO,
        _SYSTEM,
        _LEARNED_FROM,
        pa.field("idh", pa.int8(), nullable=False),
        pa.field("mutant_probability", pa.float64(), nullable=False),
        pa.field("confidence", pa.float64(), nullable=False),
        pa.field("right", pa.bool_(), nullable=False),
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
  empty_dice              brats: both masks empty 1, only one empty 0; exclude: left out without a true region, missed 0
  empty_hd95              exclude: left out unless both masks hold the region; brats2020, brats2023: both empty 0, only
                          one empty 373.12866 or 374 mm
case_idh.parquet/.csv     one row per case of known IDH status and system:
  idh                     1 mutant, 0 wild type
  mutant_probability, confidence   the latter is that of the called class, at threshold 0.5; right: whether it is true
summary.json              everything that was printed, and more
roc, reliability, segmentation   figures, as .png and .pdf: ROC curves with their DeLong interval, reliability of the
                          called class, Dice and HD95 of every case
"""


def check_output(out: Path) -> list[str]:
    """Says what of the user's would be overwritten."""
    recover_folder(out)
    nearest = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not nearest.is_dir():
        return [f"output {out}: {nearest} is a file; give a folder"]
    if not os.access(nearest, os.W_OK):
        return [f"output {out}: {nearest} is not writable; give another folder"]
    if not out.exists():
        return []
    foreign = sorted(item.name for item in out.iterdir() if item.name not in OWN_FILES)
    if foreign:
        return [f"output {out}: holds {', '.join(foreign[:3])}, which is not of an evaluation; give another folder"]
    if any(out.iterdir()) and not _is_evaluation(out / SUMMARY):
        return [f"output {out}: holds files, but no evaluation; give another folder"]
    return []


def _is_evaluation(path: Path) -> bool:
    try:
        return "format_version" in read_json(path)
    except (OSError, ValueError, TypeError):
        return False


def write_evaluation(
    out: Path,
    region_rows: Sequence[Mapping[str, Any]],
    idh_rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
) -> None:
    """Writes tables, figures and summary, replacing an earlier evaluation.

    Args:
        out: Folder, see `check_output`.
        region_rows: Columns of `REGION_SCHEMA`.
        idh_rows: Columns of `IDH_SCHEMA`.
        summary: JSON values without NaN.
    """
    with atomic_folder(out) as partial:
        _write_table(partial, REGION_TABLE, region_rows, REGION_SCHEMA)
        _write_table(partial, IDH_TABLE, idh_rows, IDH_SCHEMA)
        write_text(partial / README, _README)
        for name, figure in draw_pictures(region_rows, idh_rows, summary).items():
            save_figure(figure, partial / name)
        write_json(partial / SUMMARY, {**summary, "format_version": FORMAT_VERSION})


def _write_table(folder: Path, name: str, rows: Sequence[Mapping[str, Any]], schema: Any) -> None:
    described = schema.with_metadata({"format_version": str(FORMAT_VERSION)})
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=described)
    with atomic_file(folder / f"{name}.parquet") as partial:
        pq.write_table(table, partial)
    with atomic_file(folder / f"{name}.csv") as partial:
        write_csv(table, partial)

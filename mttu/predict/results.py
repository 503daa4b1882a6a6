"""The output folder of a prediction: masks, overlays and one table, replaced whole or not at all.

Files are collected in a hidden folder inside the output folder, the table last, and then renamed into place. A kill
before the table is written leaves the earlier results; after a later kill the next prediction there renames the rest.
"""

import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mttu.cohort.discovery import PREDICTIONS
from mttu.data.manifest import is_one_name
from mttu.data.tables import write_table
from mttu.errors import InputError, name_some
from mttu.figures.overlay import RESEARCH_USE
from mttu.files import PREFIX, drop_link, find_obstacle, read_parquet, remove, write_text

FORMAT_VERSION = 1
TABLE = PREDICTIONS
_STEM = TABLE.removesuffix(".parquet")
_CSV, _README = f"{_STEM}.csv", "README.txt"
_COMMON = (_CSV, _README, TABLE)  # in the order in which they are moved into place
_STAGING = f"{PREFIX}predictions"

SCHEMA = pa.schema(
    [
        pa.field("case_id", pa.string(), nullable=False),
        pa.field("idh_mutant_probability", pa.float64()),
        pa.field("wt_ml", pa.float64()),
        pa.field("tc_ml", pa.float64()),
        pa.field("et_ml", pa.float64()),
        pa.field("no_tumour_found", pa.bool_()),
        pa.field("removed_ml", pa.float64()),
        pa.field("postprocessing_chosen_on", pa.bool_()),
        pa.field("idh_undecided", pa.bool_()),
        pa.field("learned_from", pa.bool_()),
        pa.field("idh_calibrated_probability", pa.float64()),
        pa.field("idh_calibrated_undecided", pa.bool_()),
        pa.field("idh_call", pa.string()),
        pa.field("calibrated_on", pa.bool_()),
        pa.field("in_distribution", pa.bool_()),
        pa.field("distribution_z", pa.float64()),
        pa.field("distribution_farthest", pa.string()),
        pa.field("standing", pa.string()),
        pa.field("samples", pa.int32()),
        pa.field("idh_sample_mean", pa.float64()),
        pa.field("idh_sample_deviation", pa.float64()),
        pa.field("wt_ml_deviation", pa.float64()),
        pa.field("tc_ml_deviation", pa.float64()),
        pa.field("et_ml_deviation", pa.float64()),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("missing", pa.string(), nullable=False),
        pa.field("warnings", pa.string()),
        pa.field("intended_use", pa.string(), nullable=False),
        pa.field("format_version", pa.int32(), nullable=False),
    ]
)

_README_TEXT = f"""{RESEARCH_USE}
Made by mttu from MRI with a neural network. No medical device; not for decisions about patients.

<case_id>_seg.nii.gz      mask on the grid of the case's own images
<case_id>_overlay.png     three planes through the largest cross-section
<case_id>_wt_probability.nii.gz, _tc_..., _et_..., _entropy.nii.gz, _deviation.nii.gz
                          on request (--maps), each 0 to 1: probability of a region, entropy of a voxel's label over the
                          largest that is possible, and standard deviation over samples of its tumour probability. A
                          mask has the most probable label and is post-processed, so it need not be where a probability
                          exceeds one half
predictions.parquet/.csv  one row per case; an empty value means that there is none:
  idh_mutant_probability  0 to 1
  wt_ml, tc_ml, et_ml     millilitres of whole tumour, tumour core, enhancing tumour
  no_tumour_found         no voxel was called tumour
  removed_ml              millilitres of whole tumour that post-processing dropped; empty where masks are as predicted
  postprocessing_chosen_on  a mask of a patient of this id was among those that chose what is dropped: its scores are a
                          little too good; empty where nothing is dropped, or where it is not known
  idh_undecided           idh_mutant_probability lies in the undecided band of the settings
  learned_from            the network was trained on a scan of a patient of this id: no fair test of it
  idh_calibrated_probability  after the temperature that is kept with the checkpoint; empty where none is, or where the
                          cases that it was fitted on do not determine it
  idh_calibrated_undecided  that probability lies in the undecided band; where there is one, it decides, and not
                          idh_undecided
  idh_call                mutant or wild type: whether idh_mutant_probability reaches the threshold that is kept with
                          the checkpoint, inside of the undecided band too; empty where none is kept
  calibrated_on           threshold and temperature were fitted on a scan of a patient of this id: no fair test of them.
                          What they were fitted on, and why there are none, is in the metadata of the .parquet file
  in_distribution         the scan looks like those that the network was trained on, by statistics of intensity and
                          shape; false: do not rely on its results; true does not say that they are right; empty: not
                          known
  distribution_z, distribution_farthest  the statistic that is farthest from the training cases, and its robust z
  standing                all that a reader of the probability needs, in words
  samples                 predictions with dropout (--passes, for each member of an ensemble), or by each member
  idh_sample_mean, idh_sample_deviation  over samples, of the uncalibrated IDH-mutant probability: mean and standard
                          deviation (n - 1); empty with fewer than two samples
  wt_ml_deviation, tc_ml_deviation, et_ml_deviation  standard deviation over samples of the volumes, millilitres
  seconds                 time that the case took
  error                   why the case has no result; empty if it has
  missing                 why there is no IDH probability, or no segmentation, for any case
  warnings                what looks wrong with the case's files but may be right: look at it before you use the result
"""


@dataclass(frozen=True)
class PredictionRow:
    """Result of one case; None where the network has no head for it, or the case failed."""

    case_id: str
    seconds: float
    """Wall time from reading to writing."""
    error: str = ""
    """Why there is no result; empty if there is."""
    idh_mutant_probability: float | None = None
    wt_ml: float | None = None
    """Whole tumour, of the mask as written."""
    tc_ml: float | None = None
    """Tumour core."""
    et_ml: float | None = None
    """Enhancing tumour."""
    no_tumour_found: bool | None = None
    idh_undecided: bool | None = None
    learned_from: bool | None = None
    """Whether the network was trained on a scan of a patient of this id; None if unknown, or with an error."""
    missing: str = ""
    """Why the network has no answer to a task, for any case; empty if it has."""
    idh_calibrated_probability: float | None = None
    """See `mttu.inference.calibration.KeptCalibration.calibrate`."""
    idh_call: str | None = None
    """`mutant` or `wild type` by the kept threshold on `idh_mutant_probability`; None where none is kept."""
    calibrated_on: bool | None = None
    """Whether the kept calibration was fitted on a scan of a patient of this id; None where none was fitted."""
    idh_calibrated_undecided: bool | None = None
    """Whether the calibrated probability lies in the undecided band; None where there is none."""
    in_distribution: bool | None = None
    """Whether the scan looks like those of the training, see `mttu.inference.distribution`; None where not known."""
    distribution_z: float | None = None
    """The largest robust z of its statistics."""
    distribution_farthest: str | None = None
    """The statistic that has it."""
    standing: str | None = None
    """What a reader of the probability needs beside it, in words; None with an error."""
    samples: int | None = None
    """Predictions that the deviations are over; None with fewer than two."""
    idh_sample_mean: float | None = None
    idh_sample_deviation: float | None = None
    wt_ml_deviation: float | None = None
    tc_ml_deviation: float | None = None
    et_ml_deviation: float | None = None
    removed_ml: float | None = None
    """Whole tumour that post-processing dropped, on the prepared grid; None without post-processing."""
    postprocessing_chosen_on: bool | None = None
    """Whether its rules were chosen on a mask of a patient of this id; None without post-processing, or if unknown."""
    warnings: str | None = None
    """What looks wrong with a case that was predicted, see `mttu.cohort.suspicions`."""

    @property
    def volumes_ml(self) -> dict[str, float] | None:
        """Region to volume."""
        named = {"wt": self.wt_ml, "tc": self.tc_ml, "et": self.et_ml}
        return {region: volume for region, volume in named.items() if volume is not None} or None


def mask_name(case_id: str) -> str:
    """File name of a case's mask."""
    return f"{case_id}_seg.nii.gz"


def overlay_name(case_id: str) -> str:
    """File name of a case's overlay."""
    return f"{case_id}_overlay.png"


MAPS = ("wt_probability", "tc_probability", "et_probability", "entropy", "deviation")
"""Kinds of maps that are written on request."""


def map_name(case_id: str, kind: str) -> str:
    """File name of one of a case's maps."""
    return f"{case_id}_{kind}.nii.gz"


def check_output(
    out: Path, case_ids: Sequence[str], own_folders: Collection[Path], with_maps: bool = False
) -> list[str]:
    """Says which files of the user's would be overwritten, or mixed up in `own_folders`, those of the inputs."""
    if out.resolve() in own_folders:
        return [f"output {out}: is one of the input folders; give a folder of its own, e.g. {out / 'predictions'}"]
    obstacle = find_obstacle(out / TABLE)
    if obstacle:
        return [f"output {out}: {obstacle}"]
    earlier = _read_case_ids(out / TABLE)
    lost = sorted(set(earlier or ()) - set(case_ids))
    if lost:
        return [f"output {out}: holds predictions of other cases ({name_some(lost, 3)}); give another folder"]
    new = [case_id for case_id in case_ids if case_id not in (earlier or ())]
    names = [name for case_id in new for name in (mask_name(case_id), overlay_name(case_id))]
    if with_maps:
        unmapped = new if _has_maps(out / TABLE) else case_ids
        names += [map_name(case_id, kind) for case_id in unmapped for kind in MAPS]
    present = [name for name in (*(_COMMON if earlier is None else ()), *names) if os.path.lexists(out / name)]
    if present:
        return [f"output {out}: holds {name_some(present, 3)}, not of an earlier prediction here; give another folder"]
    return []


def _read_case_ids(table: Path) -> list[str] | None:
    """The cases of an earlier prediction, which may lack columns that came later; None if the file is not one."""
    try:
        found = read_parquet(table)
    except (OSError, pa.ArrowException):
        return None
    own = {"case_id", "intended_use", "format_version"} <= set(found.schema.names)  # other versions had other columns
    return [str(value) for value in found["case_id"].to_pylist()] if own else None


def _has_maps(table: Path) -> bool:
    """Whether an earlier prediction wrote maps."""
    try:
        return b"maps" in (pq.read_schema(table).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def open_staging(out: Path) -> Path:
    """An empty hidden folder in `out`; an unfinished one of a killed run is removed."""
    staging = out / _STAGING
    remove(staging)
    staging.mkdir(parents=True)
    return staging


def write_tables(staging: Path, rows: Sequence[PredictionRow], metadata: Mapping[str, Any]) -> None:
    """Writes the table as CSV and as Parquet, the latter with `metadata` in its schema."""
    constants = {"intended_use": RESEARCH_USE, "format_version": FORMAT_VERSION}
    described = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    described |= {name: str(value) for name, value in constants.items()}
    table = pa.Table.from_pylist([asdict(row) | constants for row in rows], schema=SCHEMA.with_metadata(described))
    write_text(staging / _README, _README_TEXT)
    write_table(staging / _STEM, table)


def publish(out: Path) -> None:
    """Moves complete staged results into place, or the rest of them after a kill.

    The earlier table is removed first and the new one moved last, so that a table always lies beside its own files.
    """
    staging = out / _STAGING
    mend = f"remove {staging}, or give another folder"
    links = sorted(path.name for path in staging.iterdir() if path.is_symlink())
    if links:
        raise InputError(f"output {out}: {_STAGING}/{links[0]} in it is a link, and links are not followed; {mend}")
    try:
        rows = [(str(row["case_id"]), row["wt_ml"], row["error"]) for row in read_parquet(staging / TABLE).to_pylist()]
    except (KeyError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"output {out}: {_STAGING}/{TABLE} in it cannot be read ({reason}); {mend}") from None
    foreign = [case_id for case_id, *_ in rows if not is_one_name(case_id)]
    if foreign:
        raise InputError(
            f"output {out}: {_STAGING}/{TABLE} in it names case {foreign[0]!r}, which leads out of the folder and is "
            f"not of mttu; {mend}"
        )
    if _has_maps(out / TABLE):  # first: without the table nobody knows whose they are
        earlier = set(_read_case_ids(out / TABLE) or ())
        for case_id, *_ in rows:
            for kind in MAPS if case_id in earlier else ():
                (out / map_name(case_id, kind)).unlink(missing_ok=True)
    (out / TABLE).unlink(missing_ok=True)
    for case_id, wt_ml, failure in rows:
        for kind in MAPS:
            _place(staging, out, map_name(case_id, kind), expected=True)
        _place(staging, out, mask_name(case_id), expected=wt_ml is not None)
        _place(staging, out, overlay_name(case_id), expected=not failure)
    for name in _COMMON:
        _place(staging, out, name, expected=True)
    shutil.rmtree(staging)


def _place(staging: Path, out: Path, name: str, expected: bool) -> None:
    """Renames a staged file over the earlier one; without a result any more, the earlier one is removed."""
    if (staging / name).exists():
        os.replace(staging / name, out / name)
    elif not expected:
        (out / name).unlink(missing_ok=True)


def recover_output(out: Path) -> None:
    """Completes a `publish` that was killed."""
    staging = out / _STAGING
    drop_link(staging)
    if os.path.lexists(staging / TABLE):
        publish(out)

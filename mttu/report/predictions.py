"""Predictions of a system; the folder that `mttu predict` wrote, read back and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mttu.config.data import RELEASE_METRICS, MetricSettings
from mttu.data.labels import CONVENTIONS
from mttu.data.manifest import Case, is_one_name
from mttu.data.tables import read_table
from mttu.errors import InputError, raise_if_any
from mttu.files import parse_json
from mttu.inference.calibration import KeptCalibration, parse_calibration
from mttu.predict.results import FORMAT_VERSION, TABLE, mask_name

_MEND = "write it again with `mttu predict`"
_NEEDED = ("case_id", "idh_mutant_probability", "wt_ml", "error")


@dataclass(frozen=True)
class Predictions:
    """One system's predictions."""

    name: str
    """Name of the system in tables."""
    folder: Path
    rows: Mapping[str, Mapping[str, Any]]
    """Case to its row of the table."""
    labels: str
    """Label convention of the masks."""
    checkpoint: str
    """Checkpoint that made them, as the table says."""
    masks: Mapping[str, Path]
    """Case to its mask, for the cases that have one."""
    metrics: MetricSettings | None = RELEASE_METRICS
    """Conventions for empty masks in the network's settings; the defaults where the table does not say, None where
    there is no such table."""
    precision: str = "unknown"
    """Number type of the forward passes, as the table says."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Tasks that the network does not predict, with the reason, as the table says."""
    notes: tuple[str, ...] = ()
    """Sentences of the table on missing tasks and members."""
    calibration: KeptCalibration = field(default_factory=KeptCalibration)
    """Calibration kept with the checkpoint."""

    @property
    def is_foreign(self) -> bool:
        """Whether another tool made them."""
        return self.metrics is None

    def probabilities(self, cases: Sequence[Case]) -> dict[str, float]:
        """Case to probability of IDH mutant, for the cases that have one, in their order."""
        values = {case.case_id: self.rows.get(case.case_id, {}).get("idh_mutant_probability") for case in cases}
        return {case_id: float(value) for case_id, value in values.items() if value is not None}


def read_predictions(folder: Path, name: str | None = None) -> Predictions:
    """Reads the table of a prediction; masks are read when they are scored.

    Args:
        folder: Written by `mttu predict`.
        name: Name of the system; the folder's name if not given.

    Raises:
        InputError: No such table, another format, or refused rows; lists all of them.
    """
    path = folder / TABLE
    cure = "give a folder that `mttu predict` wrote, or another tool's with the labels of its masks (--labels)"
    metadata, table = read_table(path, "predictions", FORMAT_VERSION, _MEND, cure=cure)
    missing = [column for column in _NEEDED if column not in table.column_names]
    if missing or metadata.get("labels") not in CONVENTIONS:
        what = f"has no column {', '.join(missing)}" if missing else f"labels are {metadata.get('labels')!r}"
        raise InputError(f"predictions {path}: {what}; {_MEND}")
    rows = table.to_pylist()
    raise_if_any([f"predictions {path}: {problem}; {_MEND}" for problem in _find_problems(rows)])
    kept = KeptCalibration()
    if "calibration" in metadata:  # an older version wrote none
        try:
            kept = parse_calibration(_parse(metadata["calibration"], dict, path))
        except (ValueError, KeyError, TypeError):
            raise InputError(f"predictions {path}: the calibration in its metadata is damaged; {_MEND}") from None
    conventions = metadata.get("metrics", "{}")  # an older version wrote none
    try:
        metrics = MetricSettings.model_validate(_parse(conventions, dict, path))
    except ValidationError:
        reason = f"metrics are {conventions}, which this version does not know"
        raise InputError(f"predictions {path}: {reason}; {_MEND}") from None
    return Predictions(
        folder.resolve().name if name is None else name,
        folder,
        {str(row["case_id"]): row for row in rows},
        metadata["labels"],
        metadata.get("checkpoint", "unknown"),
        {row["case_id"]: folder / mask_name(row["case_id"]) for row in rows if _has_mask(row)},
        metrics,
        metadata.get("precision", "unknown"),
        dict(_parse(metadata.get("missing", "{}"), dict, path)),
        tuple(_parse(metadata.get("notes", "[]"), list, path)),
        kept,
    )


def _has_mask(row: Mapping[str, Any]) -> bool:
    return not row["error"] and row["wt_ml"] is not None


def _parse(text: str, kind: type, path: Path) -> Any:
    """A JSON value of the table's metadata."""
    try:
        content = parse_json(text)
    except ValueError:
        content = None
    if not isinstance(content, kind):
        raise InputError(f"predictions {path}: damaged description {text[:40]!r}; {_MEND}")
    return content


def _find_problems(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    problems, seen = [], set()
    for row in rows:
        case_id, probability = row["case_id"], row["idh_mutant_probability"]
        if not is_one_name(str(case_id)):
            problems.append(f"case {case_id!r}: is no file name, and a mask is named after it")
        if case_id in seen:
            problems.append(f"case {case_id} has two rows")
        seen.add(case_id)
        if probability is not None and not 0 <= probability <= 1:
            problems.append(f"case {case_id}: idh_mutant_probability is {probability}; expected 0 to 1")
    return problems

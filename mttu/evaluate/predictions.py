"""The folder that `mttu predict` wrote, read back and checked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mttu.data.labels import CONVENTIONS
from mttu.data.manifest import Case
from mttu.errors import InputError, raise_if_any
from mttu.predict.results import FORMAT_VERSION, TABLE, mask_name
from mttu.training.kept_calibration import KeptCalibration, parse_calibration

_MEND = "write it again with `mttu predict`"
_NEEDED = ("case_id", "idh_mutant_probability", "wt_ml", "error")


@dataclass(frozen=True)
class Predictions:
    """One system's predictions."""

    name: str
    """What the system is called in tables."""
    folder: Path
    rows: Mapping[str, Mapping[str, Any]]
    """Case to its row of the table."""
    labels: str
    """Label convention of the masks."""
    checkpoint: str
    """Where they come from, as the table says."""
    calibration: KeptCalibration
    """What the checkpoint had with it."""

    def mask(self, case_id: str) -> Path:
        """Path of a case's mask."""
        return self.folder / mask_name(case_id)

    def probabilities(self, cases: Sequence[Case]) -> dict[str, float]:
        """Case to probability of IDH mutant, for those of the cases that have one, in their order."""
        values = {case.case_id: self.rows.get(case.case_id, {}).get("idh_mutant_probability") for case in cases}
        return {case_id: float(value) for case_id, value in values.items() if value is not None}


def read_predictions(folder: Path, name: str | None = None) -> Predictions:
    """Reads the table of a prediction; masks are read when they are scored.

    Args:
        folder: That `mttu predict` wrote.
        name: What to call the system; the folder's name if not given.

    Raises:
        InputError: No such table, another format, or refused rows; lists all of them.
    """
    path = folder / TABLE
    try:
        table = pq.ParquetFile(path).read()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"predictions {folder}: holds no {TABLE}; give a folder that `mttu predict` wrote") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"predictions {path}: no readable Parquet file ({reason}); {_MEND}") from None
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    found = metadata.get("format_version")
    if found != str(FORMAT_VERSION):
        raise InputError(f"predictions {path}: format_version is {found}; expected {FORMAT_VERSION}; {_MEND}")
    missing = [name for name in _NEEDED if name not in table.column_names]
    if missing or metadata.get("labels") not in CONVENTIONS:
        what = f"has no column {', '.join(missing)}" if missing else f"labels are {metadata.get('labels')!r}"
        raise InputError(f"predictions {path}: {what}; {_MEND}")
    rows = table.to_pylist()
    raise_if_any([f"predictions {path}: {problem}; {_MEND}" for problem in _find_problems(rows)])
    by_case = {str(row["case_id"]): row for row in rows}
    called = folder.resolve().name if name is None else name
    kept = KeptCalibration()
    if "calibration" in metadata:  # an older version wrote none
        try:
            kept = parse_calibration(json.loads(metadata["calibration"]))
        except (ValueError, KeyError, TypeError):
            raise InputError(f"predictions {path}: the calibration in its metadata is damaged; {_MEND}") from None
    return Predictions(called, folder, by_case, metadata["labels"], metadata.get("checkpoint", "unknown"), kept)


def _find_problems(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    problems, seen = [], set()
    for row in rows:
        case_id, probability = row["case_id"], row["idh_mutant_probability"]
        if case_id in seen:
            problems.append(f"case {case_id} has two rows")
        seen.add(case_id)
        if probability is not None and not 0 <= probability <= 1:
            problems.append(f"case {case_id}: idh_mutant_probability is {probability}; expected 0 to 1")
    return problems

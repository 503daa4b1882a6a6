"""The folder of an evaluation, read back: its summary and its tables, checked against what `mttu evaluate` writes."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mttu.data.labels import REGIONS
from mttu.data.tables import read_table
from mttu.errors import InputError, collecting, raise_if_any, say_count
from mttu.files import find_byte_names, read_versioned
from mttu.metrics.empty_masks import STATUSES
from mttu.report.files import (
    BASELINE_SCHEMA,
    BASELINE_TABLE,
    FACT_SCHEMA,
    FACT_TABLE,
    FORMAT_VERSION,
    IDH_SCHEMA,
    IDH_TABLE,
    REGION_SCHEMA,
    REGION_TABLE,
    SUMMARY,
)

MEND = "evaluate again with `mttu evaluate`"
_LARGEST = 1e9
"""Largest length, volume or ratio that is believed."""


@dataclass(frozen=True)
class _Kind:
    """What a table holds; an empty value is of no range."""

    schema: Any
    key: Sequence[str]
    """Columns that no two rows share."""
    ranges: Mapping[str, tuple[float, float]]
    names: Mapping[str, Collection[str]]
    """Column to the values that it may have."""


_SHARES = ("dice", "sensitivity", "specificity", "lesion_dice")
_SIZES = ("hd95_mm", "lesion_hd95_mm", "predicted_ml", "truth_ml")
_COUNTS = ("num_lesions", "num_missed_lesions", "num_false_lesions")
_DIFFERENCES = ("volume_difference_ml", "relative_volume_difference")
_TABLES: Mapping[str, _Kind] = {
    REGION_TABLE: _Kind(
        REGION_SCHEMA,
        ("case_id", "system", "region"),
        dict.fromkeys(_SHARES, (0.0, 1.0))
        | dict.fromkeys((*_SIZES, *_COUNTS), (0.0, _LARGEST))
        | dict.fromkeys(_DIFFERENCES, (-_LARGEST, _LARGEST)),
        {"region": tuple(REGIONS), "status": STATUSES},
    ),
    IDH_TABLE: _Kind(
        IDH_SCHEMA, ("case_id", "system"), dict.fromkeys(("idh", "mutant_probability", "confidence"), (0.0, 1.0)), {}
    ),
    FACT_TABLE: _Kind(FACT_SCHEMA, ("case_id",), {"idh": (-1.0, 1.0), "age": (0.0, 150.0)}, {}),
    BASELINE_TABLE: _Kind(BASELINE_SCHEMA, ("case_id", "baseline"), {"mutant_probability": (0.0, 1.0)}, {}),
}


@dataclass(frozen=True)
class EvaluationFolder:
    """What `mttu evaluate` wrote."""

    summary: Mapping[str, Any]
    """Of the right format version, else as it stands there."""
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    """Name, one of `mttu.report.files.TABLES`, to its rows."""


def read_folder(folder: Path) -> EvaluationFolder:
    """Reads the summary, and the tables with their columns and values checked.

    Raises:
        InputError: It is no such folder, of another format, or damaged; lists what is wrong with all tables.
    """
    if not folder.is_dir():
        raise InputError(f"evaluation {folder}: is no folder; give one that `mttu evaluate` wrote")
    raise_if_any(find_byte_names("evaluation", [folder.resolve()]))
    summary = read_versioned(folder / SUMMARY, FORMAT_VERSION, f"give a folder that `mttu evaluate` wrote, or {MEND}")
    problems: list[str] = []
    tables = {}
    for name, kind in _TABLES.items():
        with collecting(problems):
            tables[name] = _read_rows(folder / f"{name}.parquet", kind)
    raise_if_any(problems)
    return EvaluationFolder(summary, tables)


def _read_rows(path: Path, kind: _Kind) -> list[dict[str, Any]]:
    table = read_table(path, "evaluation", FORMAT_VERSION, MEND)[1]
    if not table.schema.equals(kind.schema):
        found = {field.name: field for field in table.schema}
        other = [field.name for field in kind.schema if field.name not in found or found[field.name] != field]
        other += [name for name in found if name not in kind.schema.names]
        what = f"columns {', '.join(other)} are missing, of another kind, or too many" if other else "columns are mixed"
        raise InputError(f"evaluation {path}: {what}; {MEND}")
    rows: list[dict[str, Any]] = table.to_pylist()
    raise_if_any([f"evaluation {path}: {problem}; {MEND}" for problem in _find_problems(rows, kind)])
    return rows


def _find_problems(rows: Sequence[Mapping[str, Any]], kind: _Kind) -> list[str]:
    """Of each column the first value that cannot be, and the first two rows of one key."""
    problems = []
    for column, (low, high) in kind.ranges.items():
        wrong = [row for row in rows if row[column] is not None and not low <= row[column] <= high]
        problems += _describe(wrong, column, f"{low:g} to {high:g}")
    for column, allowed in kind.names.items():
        problems += _describe([row for row in rows if row[column] not in allowed], column, ", ".join(allowed))
    keys = [tuple(row[column] for column in kind.key) for row in rows]
    doubled = [key for key, count in Counter(keys).items() if count > 1]
    return problems + [f"several rows are of {', '.join(key)}" for key in doubled[:1]]


def _describe(wrong: Sequence[Mapping[str, Any]], column: str, allowed: str) -> list[str]:
    if not wrong:
        return []
    more = f", and {say_count(len(wrong) - 1, 'row is', 'rows are')} wrong too" if wrong[1:] else ""
    return [f"case {wrong[0]['case_id']}: {column} is {wrong[0][column]}{more}; expected {allowed}"]

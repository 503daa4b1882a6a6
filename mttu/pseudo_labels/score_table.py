"""The table of Monte Carlo scores: one row per case in a Parquet file, with how it was made in the file's metadata."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mttu.config.earlier import complete_section
from mttu.data.cache import PREPARE
from mttu.data.labels import IDH_MUTANT, IDH_WILD
from mttu.data.tables import check_table_target, read_table
from mttu.errors import InputError, raise_if_any
from mttu.files import atomic_file, parse_json

FORMAT_VERSION = 1
_MEND = "write it again with `mttu score`"
_KIND = "mttu scores"
MEMBERS = pa.field("member_deviation", pa.float64())
"""Last column of the scores of an ensemble."""
SCHEMA = pa.schema(
    [
        pa.field("case_id", pa.string(), nullable=False),
        pa.field("mutant_probabilities", pa.list_(pa.float64())),
        pa.field("mean_probability", pa.float64()),
        pa.field("uncertainty", pa.float64()),
        pa.field("predicted_class", pa.int8()),
        pa.field("confidence", pa.float64()),
        pa.field("deterministic_probability", pa.float64()),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class ScoreRow:
    """Monte Carlo scores of one case; None where the case has an error."""

    case_id: str
    seconds: float
    """Wall time from reading to the last pass."""
    error: str = ""
    """Why there is no score; empty if there is."""
    mutant_probabilities: tuple[float, ...] | None = None
    """IDH-mutant probability of each pass."""
    mean_probability: float | None = None
    """Their mean."""
    uncertainty: float | None = None
    """Standard deviation (ddof 1) of the predicted class's probability over the passes."""
    predicted_class: int | None = None
    """1 mutant, 0 wild type, by `mean_probability`; mutant at exactly one half."""
    confidence: float | None = None
    """Mean probability of the predicted class, at least one half."""
    deterministic_probability: float | None = None
    """IDH-mutant probability without dropout."""
    member_deviation: float | None = None
    """Standard deviation (ddof 1), over the members of an ensemble that predict IDH, of each member's mean over its
    passes: how much they disagree. None for fewer than two."""


@dataclass(frozen=True)
class ScoreTable:
    """Scores of a set of cases, sorted by id."""

    rows: tuple[ScoreRow, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: checkpoint, settings, split, labelled cases, device, threads; JSON values."""

    @property
    def digest(self) -> str:
        """SHA-256 over the sorted rows without `seconds`: equal if and only if all scores are, to the last bit."""
        rows = [{name: value for name, value in to_content(row).items() if name != "seconds"} for row in self.rows]
        rows.sort(key=lambda row: str(row["case_id"]))
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def summarise_passes(
    case_id: str,
    mutant_probabilities: Sequence[float],
    deterministic_probability: float,
    seconds: float,
    member_means: Sequence[float] = (),
) -> ScoreRow:
    """A case's row from its passes (section IV-B); see `ScoreRow` for the arguments. There are at least two passes.

    `member_means` are the means over passes of each member of an ensemble.
    """
    values = np.asarray(mutant_probabilities, dtype=np.float64)
    mean = float(values.mean())
    predicted = IDH_MUTANT if mean >= 0.5 else IDH_WILD
    return ScoreRow(
        case_id=case_id,
        seconds=seconds,
        mutant_probabilities=tuple(values.tolist()),
        mean_probability=mean,
        uncertainty=float(values.std(ddof=1)),  # the same for both classes: p and 1 - p
        predicted_class=predicted,
        confidence=mean if predicted == IDH_MUTANT else 1.0 - mean,
        deterministic_probability=float(deterministic_probability),
        member_deviation=float(np.std(member_means, ddof=1)) if len(member_means) > 1 else None,
    )


def check_score_target(path: Path) -> None:
    """Refuses to write scores over anything else, see `mttu.data.tables.check_table_target`."""
    check_table_target(path, "scores", "table of scores", lambda found: found.get(b"kind") == _KIND.encode())


def write_scores(table: ScoreTable, path: Path) -> None:
    """Writes a table whole or not at all, its rows sorted by case id.

    Raises:
        InputError: See `check_score_target`.
    """
    check_score_target(path)
    rows = [to_content(row) for row in sorted(table.rows, key=lambda row: row.case_id)]
    schema = SCHEMA.append(MEMBERS) if any(MEMBERS.name in row for row in rows) else SCHEMA
    metadata = {"kind": _KIND, "format_version": str(FORMAT_VERSION), "about": json.dumps(table.about, sort_keys=True)}
    with atomic_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema.with_metadata(metadata)), partial)


def read_scores(path: Path) -> ScoreTable:
    """Reads a table that `write_scores` wrote.

    Raises:
        InputError: Missing, no table of scores, another format version, or a case with two rows.
    """
    metadata, table = read_table(
        path,
        "scores",
        FORMAT_VERSION,
        _MEND,
        _KIND,
        cure="write them with `mttu score`",
        lists=["mutant_probabilities"],
    )
    if not (table.schema.equals(SCHEMA) or table.schema.equals(SCHEMA.append(MEMBERS))):
        columns = ", ".join(table.schema.names)
        raise InputError(f"scores {path}: columns ({columns}) are not those of format {FORMAT_VERSION}; {_MEND}")
    rows = [to_row(content) for content in table.to_pylist()]
    counts = Counter(row.case_id for row in rows)
    raise_if_any([f"scores {path}: case {name} has {n} rows; {_MEND}" for name, n in counts.items() if n > 1])
    return ScoreTable(tuple(sorted(rows, key=lambda row: row.case_id)), parse_json(metadata.get("about", "{}")))


def to_content(row: ScoreRow) -> dict[str, Any]:
    """The fields of a row; that of ensembles only where it has a value, so that other tables stay as they were."""
    content = asdict(row)
    return {name: value for name, value in content.items() if name != MEMBERS.name or value is not None}


def to_row(content: Mapping[str, Any]) -> ScoreRow:
    """A row from its fields, as `dataclasses.asdict` or JSON have them."""
    passes = content["mutant_probabilities"]
    return ScoreRow(**{**content, "mutant_probabilities": None if passes is None else tuple(passes)})


def complete_about(name: str, value: object) -> object:
    """An entry of `ScoreTable.about`; a section of settings is completed by the earlier values of newer settings."""
    prefix = {"prepare": PREPARE}.get(name, f"{name}.")
    return complete_section(prefix, value) if isinstance(value, Mapping) else value

"""True IDH classes by case: from a manifest, a clinical table, or the phantom's hidden truth."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from mttu.cohort.clinical import read_clinical_tables
from mttu.cohort.clinical_tables import describe_unused
from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.data.manifest import read_manifest
from mttu.errors import InputError, raise_if_any
from mttu.files import restore

TRUE_IDH = "true_idh"
"""Column of tables that are for evaluation only; `mttu cohort` does not read it, so no network trains on it."""
_CLASSES = {"0": IDH_WILD, "1": IDH_MUTANT}


def read_truth(path: Path, notes: list[str] | None = None) -> dict[str, int]:
    """Case id to 1 mutant or 0 wild type; cases without a known class are not in it.

    Args:
        path: A manifest (`.parquet`), whose pseudo-labels are left out; a CSV with case_id and true_idh (0, 1 or
            nothing); or a clinical table, see `mttu.cohort.clinical.read_clinical_tables`.
        notes: Gets what is not used of the table, or was decided about it.

    Raises:
        InputError: The file cannot be read, gives no class, or gives one case two.
    """
    if path.suffix == ".parquet":
        pairs = [(case.case_id, case.idh) for case in read_manifest(path).cases if not case.pseudo_label]
    else:
        told: list[str] = [] if notes is None else notes
        pairs = _read_hidden(path, told)
        if not pairs:
            tables = read_clinical_tables(path)
            told += [finding.text for finding in tables.findings]
            told += [f"clinical table {warning}" for row in tables.rows for warning in row.warnings]
            pairs = [(name, row.idh) for row in tables.rows for name in sorted(row.ids | row.aliases)]
    truth: dict[str, int] = {}
    problems = []
    for case_id, idh in pairs:
        if idh != IDH_UNKNOWN and truth.setdefault(case_id, idh) != idh:
            problems.append(f"truth {path}: case {case_id} is mutant in one row and wild type in another; correct it")
    raise_if_any(problems)
    if not truth:
        raise InputError(f"truth {path}: no case has a known IDH class; give the manifest or table that says it")
    return truth


def match_truth(truth: Mapping[str, int], case_ids: Sequence[str], path: Path) -> str:
    """Says how many of the scored cases have a true class; `path` is where the truth is from.

    Raises:
        InputError: None of them has one: the truth is of other cases, or their ids are written differently.
    """
    known = sum(case_id in truth for case_id in case_ids)
    if case_ids and not known:
        raise InputError(
            f"truth {path}: names {', '.join(sorted(truth)[:3])} and none of the {len(case_ids)} scored cases, such as "
            f"{', '.join(sorted(case_ids)[:3])}; give the truth of these cases, by the same ids"
        )
    return f"{known} of {len(case_ids)} cases have a true class"


def _read_hidden(path: Path, notes: list[str]) -> list[tuple[str, int]]:
    """Pairs of a table with the columns case_id and true_idh; nothing if it is another table."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            if not {"case_id", TRUE_IDH} <= set(table.fieldnames or []):
                return []
            used = {"case_id": "ids", TRUE_IDH: "idh"}
            notes += [f"truth {path}: {note}" for note in describe_unused(table.fieldnames or [], used, looks={})]
            rows = [(restore(row["case_id"] or ""), (row[TRUE_IDH] or "").strip(), table.line_num) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []  # `read_clinical_tables` says what is wrong
    raise_if_any(
        [
            f"truth {path}: line {line}: {TRUE_IDH} is {text!r}; expected 1 (mutant), 0 (wild type) or nothing"
            for _, text, line in rows
            if text and text not in _CLASSES
        ]
    )
    return [(case_id, _CLASSES.get(text, IDH_UNKNOWN)) for case_id, text, _ in rows]

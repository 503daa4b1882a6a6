"""The clinical table: a CSV with one row per case, read as text so that `NA` stays `NA`."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.errors import InputError, raise_if_any

ID_COLUMNS = ("case_id", "brats_2020_id", "brats_2020_subject_id", "tcia_subject_id", "tcga_tcia_subject_id")
"""A row belongs to the case that one of these names; the BraTS 2020 tables hold two of them."""
PATIENT_COLUMNS = ("patient_id", "tcia_subject_id", "tcga_tcia_subject_id")
"""The first one that is filled in is the patient; else the case is a patient of its own."""
_OTHER_COLUMNS = {"idh": ("idh", "idh_status"), "grade": ("grade",), "age": ("age",), "sex": ("sex", "gender")}

_UNKNOWN = frozenset({"", "na", "n/a", "nan", "none", "unknown"})
_IDH = {
    **dict.fromkeys(("1", "1.0", "mutant", "mutated", "mut"), IDH_MUTANT),
    **dict.fromkeys(("0", "0.0", "wt", "wild", "wildtype", "wild-type", "wild type"), IDH_WILD),
    **dict.fromkeys((*_UNKNOWN, "-1", "-1.0", "nos", "nec"), IDH_UNKNOWN),
}
_SEX = {"f": "female", "female": "female", "m": "male", "male": "male", "other": "other"}
_SPLIT = {
    **{name: name for name in ("train", "val", "unlabelled", "test")},
    **{"training": "train", "validation": "val", "unlabeled": "unlabelled"},
}
OLDEST_YEARS = 120


@dataclass(frozen=True)
class ClinicalRow:
    """One row; None is what it doesn't say."""

    line: int
    """In the file, the header being line 1."""
    ids: frozenset[str]
    patient_id: str | None
    idh: int
    grade: str | None
    age: float | None
    sex: str | None
    split: str | None


def read_clinical(path: Path) -> list[ClinicalRow]:
    """Reads a clinical table.

    Column names count without regard to case: an id (`ID_COLUMNS`), and any of patient_id, idh or IDH_status, grade,
    age, sex or gender, split. Comma, semicolon or tab separate. Other columns are left alone.

    Raises:
        InputError: Lists every refused row with its line, column, value and what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"clinical table {path}: cannot be read ({error}); give a CSV file in UTF-8") from None
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    names = [name.strip().lower().replace(" ", "_") for name in reader.fieldnames or []]
    raise_if_any([f"clinical table {path}: {problem}" for problem in _find_header_problems(names)])
    reader.fieldnames = names
    rows, problems = [], []
    for record in reader:
        if None in record or None in record.values():
            problems.append(f"clinical table {path}: line {reader.line_num} has not {len(names)} values as the header")
            continue
        cells = {name: value.strip() for name, value in record.items()}
        row, refused = _parse(cells, reader.line_num)
        problems += [f"clinical table {path}: line {reader.line_num}: {problem}" for problem in refused]
        rows.append(row)
    raise_if_any(problems)
    return rows


def _find_header_problems(names: Sequence[str]) -> list[str]:
    listed = ", ".join(names) or "none"
    problems = [f"column {name} is there twice" for name in sorted(set(names)) if names.count(name) > 1]
    if not set(ID_COLUMNS) & set(names):
        problems.append(f"no column with ids; expected one of {', '.join(ID_COLUMNS)}; found {listed}")
    if not {"idh", "idh_status", "split"} & set(names):
        problems.append(f"no column idh (or IDH_status) and no column split; found {listed}")
    problems += [
        f"columns {' and '.join(columns)} say the same; keep one of them"
        for columns in _OTHER_COLUMNS.values()
        if len(set(columns) & set(names)) > 1
    ]
    return problems


def _parse(cells: Mapping[str, str], line: int) -> tuple[ClinicalRow, list[str]]:
    problems: list[str] = []

    def read(field: str, convert: Callable[[str], Any], allowed: str) -> Any:
        column = next((name for name in _OTHER_COLUMNS.get(field, (field,)) if name in cells), None)
        if column is None or (cells[column].lower() in _UNKNOWN and field != "idh"):
            return None
        try:
            return convert(cells[column].lower())
        except (KeyError, ValueError):
            problems.append(f"{column} is {cells[column]!r}; expected {allowed}")
            return None

    idh = read("idh", _IDH.__getitem__, "Mutant or 1, WT or 0, NA or -1 or nothing")
    row = ClinicalRow(
        line=line,
        ids=frozenset(filter(None, (_known(cells.get(name)) for name in ID_COLUMNS))),
        patient_id=next(filter(None, (_known(cells.get(name)) for name in PATIENT_COLUMNS)), None),
        idh=IDH_UNKNOWN if idh is None else idh,
        grade=_known(cells.get("grade")),
        age=read("age", _parse_age, f"years, 0 to {OLDEST_YEARS}, or NA or nothing"),
        sex=read("sex", _SEX.__getitem__, "female, male or other, or NA or nothing"),
        split=read("split", _SPLIT.__getitem__, "train, val, unlabelled or test, or nothing"),
    )
    return row, problems


def _known(text: str | None) -> str | None:
    return None if text is None or text.lower() in _UNKNOWN else text


def _parse_age(text: str) -> float:
    age = float(text)
    if not math.isfinite(age) or not 0 <= age <= OLDEST_YEARS:
        raise ValueError
    return age

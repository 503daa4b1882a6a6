"""Table I of the paper for any cohort: its subjects by use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Any

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.data.manifest import Case, Manifest

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "Training data": ("train", "val"),
    "Additional data": ("unlabelled",),
    "Testing data": ("test",),
}
"""The paper's columns as splits; 80 % of its training data train and 20 % validate."""
NONE = "0"
NOTHING = "-"
UNKNOWN = "Unknown"

_SEXES = {"male": "Male", "female": "Female"}
_CLASSES = {IDH_MUTANT: "mutant", IDH_WILD: "wild", IDH_UNKNOWN: UNKNOWN}
_GRADES = ("LGG", "HGG")


@dataclass(frozen=True)
class TableRow:
    """One row; a heading has no cells."""

    title: str
    cells: tuple[str, ...] = ()
    """One per column of `COLUMNS`."""


def table_one(manifest: Manifest) -> list[TableRow]:
    """Subjects, age, sex, grade and IDH status of training, additional and test data, rows and format as in Table I.

    Counts are of subjects; of one with several cases in a column, the first known value counts. Added to the paper's
    rows are: how many ages are known, their mean and standard deviation (n - 1), the cases, and how many of these have
    a tumour mask. A sex or grade without a row in the paper gets one. A row of nothing but 0 or - is left out, except
    the numbers of subjects, known ages, cases and masks, mutant and wild type.
    """
    columns = [[case for case in manifest.cases if case.split in splits] for splits in COLUMNS.values()]
    subjects = [_by_patient(cases) for cases in columns]
    ages = [[age for cases in group if (age := _first(cases, "age")) is not None] for group in subjects]
    sexes = [[_first(cases, "sex") or UNKNOWN for cases in group] for group in subjects]
    sexes = [[_SEXES.get(sex, sex.capitalize()) for sex in group] for group in sexes]
    grades = [[_first(cases, "grade") or UNKNOWN for cases in group] for group in subjects]
    idh = [[_CLASSES[max(case.idh for case in cases)] for cases in group] for group in subjects]

    def count(title: str, values: Sequence[Sequence[str]]) -> TableRow:
        return TableRow(title, tuple(_share(found.count(title), len(found)) for found in values))

    def filled(*rows: TableRow) -> list[TableRow]:
        return [row for row in rows if set(row.cells) - {NONE, NOTHING}]

    def section(title: str, rows: Sequence[TableRow]) -> list[TableRow]:
        return [TableRow(title), *rows] if rows else []

    return [
        TableRow("Subject n", tuple(str(len(group)) for group in subjects)),
        *filled(
            TableRow("Age median (range)", tuple(map(_describe_range, ages))),
            TableRow("Age mean ± SD", tuple(map(_describe_mean, ages))),
        ),
        TableRow("Age known n", tuple(str(len(known)) for known in ages)),
        *section("Sex", filled(*(count(title, sexes) for title in _order(sexes, tuple(_SEXES.values()))))),
        *section("Grade", filled(*(count(title, grades) for title in _order(grades, _GRADES)))),
        TableRow("IDH status"),
        *(count(title, idh) for title in (_CLASSES[IDH_MUTANT], _CLASSES[IDH_WILD])),
        *filled(count(UNKNOWN, idh)),
        TableRow("Cases"),
        TableRow("Case n", tuple(str(len(cases)) for cases in columns)),
        TableRow("With mask", tuple(_share(sum(case.seg is not None for case in own), len(own)) for own in columns)),
    ]


def _by_patient(cases: Sequence[Case]) -> list[list[Case]]:
    patients: dict[str, list[Case]] = {}
    for case in cases:
        patients.setdefault(case.patient_id, []).append(case)
    return list(patients.values())


def _first(cases: Sequence[Case], name: str) -> Any:
    return next((value for case in cases if (value := getattr(case, name)) is not None), None)


def _order(columns: Sequence[Sequence[str]], first: Sequence[str]) -> list[str]:
    """Titles of the rows: the paper's, then what else occurs, then unknown."""
    found = {value for values in columns for value in values}
    return [*first, *sorted(found - {*first, UNKNOWN}), UNKNOWN]


def _share(part: int, whole: int) -> str:
    return f"{part} [{100 * part / whole:.2f}%]" if part else NONE


def _describe_range(ages: Sequence[float]) -> str:
    return f"{median(ages):.4g} ({min(ages):.4g}-{max(ages):.4g})" if ages else NOTHING


def _describe_mean(ages: Sequence[float]) -> str:
    if not ages:
        return NOTHING
    return f"{fmean(ages):.1f} ± {stdev(ages):.1f}" if len(ages) > 1 else f"{fmean(ages):.1f}"

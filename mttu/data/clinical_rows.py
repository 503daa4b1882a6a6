"""Rows of clinical tables, and how rows of several tables that tell of one case become one."""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mttu.data.clinical_values import grade_digit, is_low_grade
from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.errors import name_some, raise_if_any


@dataclass(frozen=True)
class ClinicalRow:
    """What the tables say of one case; None is what they don't say."""

    line: int
    """In the file, the header being line 1."""
    ids: frozenset[str]
    """Names that the case may have as a folder."""
    patient_id: str | None
    idh: int
    """1 mutant, 0 wild type, -1 unknown."""
    grade: str | None
    """See `mttu.data.clinical_values.parse_grade`."""
    age: float | None
    """Years."""
    sex: str | None
    split: str | None
    site: str | None
    """The column of that name, or the site code of a TCGA barcode."""
    aliases: frozenset[str]
    """Names of the same patient in other data sets."""
    source: str
    """The file; of a row that several files make up, file and line are those of the first."""
    problems: tuple[str, ...] = ()
    """Why the row cannot be used, with its place; kept only where cases with errors are left out."""
    warnings: tuple[str, ...] = ()
    """What was decided where its cells could be read in two ways, with its place."""

    @property
    def place(self) -> str:
        """Where the row stands, for messages."""
        return f"{self.source} line {self.line}"


def join_rows(tables: Sequence[Sequence[ClinicalRow]], keep_bad: bool = False) -> list[ClinicalRow]:
    """Makes one row of the rows of different tables that share an id, directly or through others.

    A row that no other table knows stays as it is, so that two rows of one table can still name one case. LGG agrees
    with the grades I to III and HGG with IV; else what two tables say must be equal.

    Args:
        tables: Rows of each.
        keep_bad: Keep what is wrong as a problem of its row.

    Raises:
        InputError: What two tables say differently, with both places, and two rows of one table that tell of a case of
            which another table tells too.
    """
    rows = [row for table in tables for row in table]
    if len(tables) == 1:
        return rows
    table_of = [index for index, table in enumerate(tables) for _ in table]
    joined, problems = [], []
    for group in _group(rows):
        own, counts = [rows[index] for index in group], Counter(table_of[index] for index in group)
        if len(counts) == 1:
            joined += own
            continue
        twice = [rows[index] for index in group if counts[table_of[index]] > 1]
        if twice:
            places = name_some([row.place for row in twice])
            found = [f"two rows of one table ({places}); keep one"]
        else:
            found = find_contradictions(own)
        problems += [f"{_name(twice or own)}: {problem}" for problem in found]
        whole = merge_rows(own)
        joined.append(replace(whole, problems=(*whole.problems, *found)))
    if not keep_bad:
        raise_if_any(problems)
    return joined


def _group(rows: Sequence[ClinicalRow]) -> list[list[int]]:
    """Indices of rows that share an id, directly or through others, in the order of the rows."""
    groups: dict[int, list[int]] = {}
    group_of: dict[str, int] = {}
    for index, row in enumerate(rows):
        known = {group_of[name] for name in row.ids if name in group_of}
        target = max(known, key=lambda key: len(groups[key]), default=index)  # the small join the large, or time grows
        moved = [index, *(member for key in known - {target} for member in groups.pop(key))]
        groups.setdefault(target, []).extend(moved)
        group_of.update((name, target) for member in moved for name in rows[member].ids)
    return sorted(sorted(members) for members in groups.values())


def _name(rows: Sequence[ClinicalRow]) -> str:
    shared = frozenset.intersection(*(row.ids for row in rows)) or rows[0].ids
    return f"case {min(shared)}"


def _same(value: Any) -> Any:
    return value


_IDH_WORDS = {IDH_UNKNOWN: None, IDH_WILD: "wild type", IDH_MUTANT: "mutant"}
_COMPARED: Sequence[tuple[str, Callable[[ClinicalRow], Any], Callable[[Any], Hashable]]] = (
    ("patient", lambda row: row.patient_id, _same),
    ("IDH", lambda row: _IDH_WORDS[row.idh], _same),
    ("grade", lambda row: row.grade, grade_digit),
    ("grade", lambda row: row.grade, is_low_grade),
    ("age", lambda row: row.age, _same),
    ("sex", lambda row: row.sex, _same),
    ("site", lambda row: row.site, _same),
    ("split", lambda row: row.split, _same),
)
"""What is compared, how it is shown, and by what it is compared; None says nothing."""


def find_contradictions(group: Sequence[ClinicalRow], compared: Collection[str] | None = None) -> list[str]:
    """What rows of one case say differently, each with its values and places.

    Args:
        group: The rows.
        compared: Some of patient, IDH, grade, age, sex, site and split; all of them if not given.
    """
    problems = []
    for what, said, key in _COMPARED:
        if compared is not None and what not in compared:
            continue
        first: dict[Hashable, ClinicalRow] = {}
        for row in group:
            if key(said(row)) is not None:
                first.setdefault(key(said(row)), row)
        if len(first) > 1:
            listed = " and ".join(f"{said(row)!r} ({row.place})" for row in first.values())
            problems.append(f"{what} is {listed}; correct one of the tables")
    return list(dict.fromkeys(problems))


def merge_rows(group: Sequence[ClinicalRow]) -> ClinicalRow:
    """One row of several that don't contradict each other; the first that says a thing counts."""

    def first(said: Callable[[ClinicalRow], Any]) -> Any:
        return next((said(row) for row in group if said(row) is not None), None)

    return replace(
        group[0],
        ids=frozenset().union(*(row.ids for row in group)),
        patient_id=first(lambda row: row.patient_id),
        idh=next((row.idh for row in group if row.idh != IDH_UNKNOWN), IDH_UNKNOWN),
        grade=first(lambda row: row.grade),
        age=first(lambda row: row.age),
        sex=first(lambda row: row.sex),
        split=first(lambda row: row.split),
        site=first(lambda row: row.site),
        aliases=frozenset().union(*(row.aliases for row in group)),
        problems=tuple(problem for row in group for problem in row.problems),
        warnings=tuple(warning for row in group for warning in row.warnings),
    )

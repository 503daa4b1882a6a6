"""Rows of clinical tables: what a cell means, nothing guessed, and how rows on one case become one."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mttu.data.labels import CLASS_NAMES, IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.errors import name_some, raise_if_any

OLDEST_YEARS = 120

UNKNOWN = frozenset(
    {"", "na", "n/a", "#n/a", "nan", "none", "null", "unknown", "missing", "not available", "not tested", "-1", "-1.0"}
)
"""Empty in any column: a patient called NA would make one patient of all that lack a name."""

_IDH_CODES = {"1": IDH_MUTANT, "1.0": IDH_MUTANT, "0": IDH_WILD, "0.0": IDH_WILD}
_IDH_WORDS = {
    **dict.fromkeys(("mutant", "mutated", "mut", "mutation", "mutant (nos)", "mutated (nos)"), IDH_MUTANT),
    **dict.fromkeys(("wt", "wild", "wildtype", "wild type"), IDH_WILD),
    **dict.fromkeys(("not mutated", "non mutated", "unmutated", "no mutation"), IDH_WILD),
    **dict.fromkeys(("nos", "nec", "nos/nec", "indeterminate", "inconclusive", "equivocal"), IDH_UNKNOWN),
    **dict.fromkeys(("not done", "not determined", "not assessed"), IDH_UNKNOWN),
}
_IDH_PREFIX = re.compile(r"idh(?:1/2|1|2)? ?(?=[a-z])")
_WORD_DASH = re.compile(r"(?<=[a-z0-9]) ?[-_\u2010\u2011] ?(?=[a-z])")
_OTHER_ACID = "[ACDEFGHIKLMNPQSTVWY]|Ala|Asn|Asp|Cys|Gln|Glu|Gly|His|Ile|Leu|Lys|Met|Phe|Pro|Ser|Thr|Trp|Tyr|Val"
"""All but arginine: R132R changes nothing."""
_VARIANT = re.compile(
    r"(?:(?:IDH1?[ :]*)?\(?(?:p\.)?(?:R|Arg)(?:132|100)|(?:IDH2?[ :]*)?\(?(?:p\.)?(?:R|Arg)(?:172|140))"
    rf"(?:{_OTHER_ACID})\)?(?: mut(?:ant|ated|ation)?)?",
    re.IGNORECASE,
)
"""Only the hot spots of both genes: IDH1 p.V178I, for example, is a common variant of healthy people."""

_GRADE = re.compile(r"(?:who )?(?:cns )?(?:grade ?)?(?:g(?=[1-4]))?(lgg|hgg|i{1,3}|iv|[1-4])(?:\.0)?", re.IGNORECASE)
_DIGITS = {"I": "1", "II": "2", "III": "3", "IV": "4"}
_LOW, _HIGH = ("LGG", "I", "II", "III", "1", "2", "3"), ("HGG", "IV", "4")
_AGE = re.compile(r"(?:>|>=|\u2265)? ?([0-9]{1,3}(?:[.,][0-9]+)?) ?\+?")
_THOUSANDS = re.compile(r"[0-9]{1,3}[.,][0-9]{3}")
_YOUNGEST_WITH_THREE_DIGITS = 18
""""60.463" is an age as BraTS writes it; "1.050" years may be 1050 of something."""
_SEX = {"f": "female", "female": "female", "m": "male", "male": "male", "other": "other"}
_SPLIT = {
    **{name: name for name in ("train", "val", "unlabelled", "test")},
    **{"training": "train", "validation": "val", "unlabeled": "unlabelled"},
}
_BARCODE = re.compile(r"TCGA-([A-Z0-9]{2})-[A-Z0-9]{4}\b")


@dataclass(frozen=True)
class Field:
    """One kind of cell."""

    parse: Callable[[str], Any]
    """Trimmed text to value, None for unknown; raises ValueError, with a reason if there is a special one."""
    allowed: str
    """What is allowed, for the message."""


def _parse_text(text: str) -> str | None:
    """The text with single spaces; None if it says nothing."""
    plain = re.sub(r"\s+", " ", text).strip()
    return None if plain.lower() in UNKNOWN else plain


def known_id(text: str) -> str | None:
    """The id as written, or None if the cell holds none."""
    return None if _parse_text(text) is None else text


def parse_idh(text: str) -> int:
    """IDH status of a cell: 1 mutant, 0 wild type, -1 unknown.

    Case and spaces are ignored, and so is `IDH`, `IDH1` or `IDH2` before a word. A variant is a mutant if it changes
    arginine 132 or 100 of IDH1, or 172 or 140 of IDH2.

    Raises:
        ValueError: Any other text; a part of the text never decides.
    """
    plain = (_parse_text(text) or "").lower()
    if not plain:
        return IDH_UNKNOWN
    if plain in _IDH_CODES:
        return _IDH_CODES[plain]
    spaced = _WORD_DASH.sub(" ", plain)
    words = _IDH_PREFIX.sub("", spaced, count=1) if _IDH_PREFIX.match(spaced) else spaced
    if words in _IDH_WORDS:
        return _IDH_WORDS[words]
    if words in UNKNOWN:
        return IDH_UNKNOWN
    if _VARIANT.fullmatch(spaced) and spaced.count("(") == spaced.count(")"):
        return IDH_MUTANT
    if words in ("positive", "negative"):
        raise ValueError("a stain that shows no R132H does not prove a wild type: write what was concluded")
    raise ValueError


def _parse_grade(text: str) -> str | None:
    """The grade in capitals, without `WHO`, `CNS` or `grade` before it: LGG, HGG, I to IV or 1 to 4."""
    plain = _parse_text(text)
    if plain is None:
        return None
    found = _GRADE.fullmatch(plain)
    if not found:
        raise ValueError
    return found.group(1).upper()


def is_low_grade(grade: str | None) -> bool | None:
    """Whether a grade is low in the sense of BraTS: LGG holds grades II and III, HGG the glioblastomas, grade IV.

    Other authors count grade III as high; the tables of BraTS 2020 do not (Bakas et al. 2017,
    doi:10.1038/sdata.2017.117: TCGA-LGG is II and III, TCGA-GBM is HGG). None for any other grade.
    """
    return True if grade in _LOW else False if grade in _HIGH else None


def _grade_digit(grade: str | None) -> str | None:
    """`1` to `4` for a grade in Roman or other numbers; None for LGG, HGG and unknown."""
    digit = _DIGITS.get(grade or "", grade)
    return digit if digit in _DIGITS.values() else None


def _parse_age(text: str) -> float | None:
    """Age in years, 0 to `OLDEST_YEARS`; of ages that are masked for privacy, `>89` and `90+`, the number.

    Raises:
        ValueError: Any other text; a young age whose three decimals may be thousands, such as `1.050`.
    """
    plain = _parse_text(text)
    if plain is None:
        return None
    found = _AGE.fullmatch(plain)
    number = found.group(1) if found else "-1"
    age = float(number.replace(",", "."))
    if not 0 <= age <= OLDEST_YEARS:
        raise ValueError
    if age < _YOUNGEST_WITH_THREE_DIGITS and _THOUSANDS.fullmatch(number):
        raise ValueError("the mark before three digits may separate thousands; write it without, or fewer digits")
    return age


def _parse_sex(text: str) -> str | None:
    if text.strip() in ("0", "1", "2", "0.0", "1.0", "2.0"):
        raise ValueError("numbers mean one sex in some tables and the other in others")
    return _look_up(text, _SEX)


def _parse_split(text: str) -> str | None:
    return _look_up(text, _SPLIT)


def _look_up(text: str, values: Mapping[str, str]) -> str | None:
    plain = _parse_text(text)
    if plain is None:
        return None
    if plain.lower() not in values:
        raise ValueError
    return values[plain.lower()]


def site_of_barcode(name: str | None) -> str | None:
    """Site code of a TCGA barcode, its second part: `TCGA-DU-7294` is of site `DU`; None for any other name."""
    found = _BARCODE.match(name or "")
    return found.group(1) if found else None


FIELDS: Mapping[str, Field] = {
    "idh": Field(
        parse_idh,
        "Mutant, mutated, 1 or a variant such as IDH1 p.R132H; WT, wildtype or 0; "
        "NA, NOS/NEC, indeterminate, -1 or nothing",
    ),
    "grade": Field(_parse_grade, "LGG or HGG, I to IV or 1 to 4, or NA or nothing"),
    "age": Field(_parse_age, f"years, 0 to {OLDEST_YEARS}, >89 or 90+, or NA or nothing"),
    "sex": Field(_parse_sex, "female or F, male or M, other, or NA or nothing"),
    "site": Field(_parse_text, "any text"),
    "split": Field(_parse_split, "train, val, unlabelled or test, or nothing"),
}
"""What a row can say beside its names."""


@dataclass(frozen=True)
class ClinicalRow:
    """What the tables say of one case; None where they say nothing."""

    line: int
    """Line in the file; the header is line 1."""
    ids: frozenset[str]
    """Names that the case may have as a folder."""
    patient_id: str | None
    idh: int
    """1 mutant, 0 wild type, -1 unknown."""
    grade: str | None
    """LGG, HGG, I to IV or 1 to 4."""
    age: float | None
    """Years."""
    sex: str | None
    """female, male or other."""
    split: str | None
    """train, val, unlabelled or test."""
    site: str | None
    """The column of that name, or the site code of a TCGA barcode."""
    aliases: frozenset[str]
    """Names of the same patient in other data sets."""
    source: str
    """The file; a row joined from several files has the file and the line of the first."""
    problems: tuple[str, ...] = ()
    """Why the row cannot be used, with its place; kept only where cases with errors are left out."""
    warnings: tuple[str, ...] = ()
    """What was decided where its cells could be read in two ways, each with its place."""

    @property
    def place(self) -> str:
        """Where the row stands, for messages."""
        return f"{self.source} line {self.line}"


def join_rows(tables: Sequence[Sequence[ClinicalRow]], keep_bad: bool) -> list[ClinicalRow]:
    """Joins rows of different tables that share an id, directly or through others.

    A row that no other table knows stays as it is, so two rows of one table can still name one case. LGG agrees with
    the grades I to III and HGG with IV; apart from that, what two tables say must be equal.

    Args:
        tables: Rows of each table.
        keep_bad: Keep what is wrong as a problem of its row.

    Raises:
        InputError: What two tables say differently, with both places, and two rows of one table on a case that another
            table has a row for, too.
    """
    rows = [row for table in tables for row in table]
    if len(tables) == 1:
        return rows
    table_of = [index for index, table in enumerate(tables) for _ in table]
    first: dict[str, int] = {}
    shared = [(first.setdefault(name, index), index) for index, row in enumerate(rows) for name in row.ids]
    groups: dict[int, list[int]] = {}
    for index, number in enumerate(number_groups(len(rows), shared)):
        groups.setdefault(number, []).append(index)
    joined, problems = [], []
    for group in groups.values():
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
        common = frozenset.intersection(*(row.ids for row in twice or own)) or (twice or own)[0].ids
        problems += [f"case {min(common)}: {problem}" for problem in found]
        whole = merge_rows(own)
        joined.append(replace(whole, problems=(*whole.problems, *found)))
    if not keep_bad:
        raise_if_any(problems)
    return joined


def number_groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Number of the group of each of `count` things, where pairs are in one group, directly or through others."""
    ends = np.array(list(pairs), int).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    numbers: list[int] = connected_components(graph, directed=False)[1].tolist()
    return numbers


_COMPARED: Sequence[tuple[str, Callable[[ClinicalRow], Any], Callable[[Any], Hashable] | None]] = (
    ("patient", lambda row: row.patient_id, None),
    ("IDH", lambda row: CLASS_NAMES.get(row.idh), None),
    ("grade", lambda row: row.grade, _grade_digit),
    ("grade", lambda row: row.grade, is_low_grade),
    ("age", lambda row: row.age, None),
    ("sex", lambda row: row.sex, None),
    ("site", lambda row: row.site, None),
    ("split", lambda row: row.split, None),
)
"""What is compared, how it is shown, and what it is compared by if not by that; None says nothing."""


def find_contradictions(group: Sequence[ClinicalRow], compared: Collection[str] | None = None) -> list[str]:
    """What rows of one case say differently, each with its values and places.

    Args:
        group: The rows.
        compared: Some of patient, IDH, grade, age, sex, site and split; None: all of them.
    """
    problems = []
    for what, said, key in _COMPARED:
        if compared is not None and what not in compared:
            continue
        first: dict[Hashable, ClinicalRow] = {}
        for row in group:
            value = key(said(row)) if key else said(row)
            if value is not None:
                first.setdefault(value, row)
        if len(first) > 1:
            listed = " and ".join(f"{said(row)!r} ({row.place})" for row in first.values())
            problems.append(f"{what} is {listed}; correct one of the tables")
    return list(dict.fromkeys(problems))


def merge_rows(group: Sequence[ClinicalRow]) -> ClinicalRow:
    """One row of several that don't contradict each other; the first that says a thing counts."""

    def first(name: str) -> Any:
        return next((value for row in group if (value := getattr(row, name)) is not None), None)

    return replace(
        group[0],
        ids=frozenset().union(*(row.ids for row in group)),
        idh=next((row.idh for row in group if row.idh != IDH_UNKNOWN), IDH_UNKNOWN),
        aliases=frozenset().union(*(row.aliases for row in group)),
        problems=tuple(problem for row in group for problem in row.problems),
        warnings=tuple(warning for row in group for warning in row.warnings),
        **{name: first(name) for name in ("patient_id", "grade", "age", "sex", "split", "site")},
    )

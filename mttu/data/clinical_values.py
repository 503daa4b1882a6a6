"""What a cell of a clinical table means: spellings of IDH status, grade, age, sex and split. Nothing is guessed."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD

OLDEST_YEARS = 120

UNKNOWN = frozenset(
    {"", "na", "n/a", "#n/a", "nan", "none", "null", "unknown", "missing", "not available", "not tested", "-1", "-1.0"}
)
"""Says nothing, in any column: a patient called NA would make one patient of all that lack a name."""

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
"""All but arginine, which R132R leaves as it is."""
_VARIANT = re.compile(
    r"(?:(?:IDH1?[ :]*)?\(?(?:p\.)?(?:R|Arg)(?:132|100)|(?:IDH2?[ :]*)?\(?(?:p\.)?(?:R|Arg)(?:172|140))"
    rf"(?:{_OTHER_ACID})\)?(?: mut(?:ant|ated|ation)?)?",
    re.IGNORECASE,
)
"""The hot spots of both genes alone: IDH1 p.V178I, for one, is a common variant of healthy people."""

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
    """For the message."""


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def known_id(text: str) -> str | None:
    """The id as written, or None if the cell holds none."""
    return None if _plain(text).lower() in UNKNOWN else text


def parse_idh(text: str) -> int:
    """IDH status of a cell: 1 mutant, 0 wild type, -1 unknown.

    Case and spaces don't count, nor does `IDH`, `IDH1` or `IDH2` before a word. A variant is a mutant if it changes
    arginine 132 or 100 of IDH1, or 172 or 140 of IDH2.

    Raises:
        ValueError: Any other text; a part of it never decides.
    """
    plain = _plain(text).lower()
    if plain in UNKNOWN:
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


def parse_grade(text: str) -> str | None:
    """The grade as written, in capitals and without `WHO`, `CNS` or `grade` before it: LGG, HGG, I to IV or 1 to 4."""
    plain = _plain(text)
    if plain.lower() in UNKNOWN:
        return None
    found = _GRADE.fullmatch(plain)
    if not found:
        raise ValueError
    return found.group(1).upper()


def is_low_grade(grade: str | None) -> bool | None:
    """Whether a grade is low in the sense of BraTS: LGG holds grades II and III, HGG the glioblastomas, grade IV.

    Other authors count grade III as high; the tables of BraTS 2020 do not (Bakas et al. 2017,
    doi:10.1038/sdata.2017.117: TCGA-LGG is II and III, TCGA-GBM is HGG).

    Args:
        grade: See `parse_grade`.

    Returns:
        None if the grade is unknown, or none that `parse_grade` gives.
    """
    return True if grade in _LOW else False if grade in _HIGH else None


def grade_digit(grade: str | None) -> str | None:
    """`1` to `4` for a grade in Roman or other numbers; None for LGG, HGG and unknown."""
    digit = _DIGITS.get(grade or "", grade)
    return digit if digit in _DIGITS.values() else None


def parse_age(text: str) -> float | None:
    """Age in years, 0 to `OLDEST_YEARS`; of the ages that are hidden on purpose, `>89` and `90+`, the number.

    Raises:
        ValueError: Any other text; a young age whose three decimals may be thousands, such as `1.050`.
    """
    plain = _plain(text)
    if plain.lower() in UNKNOWN:
        return None
    found = _AGE.fullmatch(plain)
    number = found.group(1) if found else "-1"
    age = float(number.replace(",", "."))
    if not 0 <= age <= OLDEST_YEARS:
        raise ValueError
    if age < _YOUNGEST_WITH_THREE_DIGITS and _THOUSANDS.fullmatch(number):
        raise ValueError("the mark before three digits may separate thousands; write it without, or fewer digits")
    return age


def parse_sex(text: str) -> str | None:
    """Returns female, male, other or None."""
    plain = _plain(text).lower()
    if plain in UNKNOWN:
        return None
    if plain in ("0", "1", "2", "0.0", "1.0", "2.0"):
        raise ValueError("numbers mean one sex in some tables and the other in others")
    if plain not in _SEX:
        raise ValueError
    return _SEX[plain]


def parse_split(text: str) -> str | None:
    """Returns train, val, unlabelled, test or None."""
    plain = _plain(text).lower()
    if plain in UNKNOWN:
        return None
    if plain not in _SPLIT:
        raise ValueError
    return _SPLIT[plain]


def parse_site(text: str) -> str | None:
    """The site as written."""
    plain = _plain(text)
    return None if plain.lower() in UNKNOWN else plain


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
    "grade": Field(parse_grade, "LGG or HGG, I to IV or 1 to 4, or NA or nothing"),
    "age": Field(parse_age, f"years, 0 to {OLDEST_YEARS}, >89 or 90+, or NA or nothing"),
    "sex": Field(parse_sex, "female or F, male or M, other, or NA or nothing"),
    "site": Field(parse_site, "any text"),
    "split": Field(parse_split, "train, val, unlabelled or test, or nothing"),
}
"""What a row can say beside its names."""

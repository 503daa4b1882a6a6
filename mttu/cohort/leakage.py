"""One patient under several names: merged into one, and never on two sides of a split.

Names are linked by patient id, by file names, by a crosswalk file, and by images that show the same brain
(`mttu.cohort.copies`). Unlabelled cases count as training: the network sees both.
"""

import csv
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from mttu.cohort.clinical_rows import FIELDS, number_groups
from mttu.cohort.clinical_tables import EVERYWHERE, normalise_column
from mttu.cohort.copies import SameBrain
from mttu.cohort.table_files import LARGEST_BYTES
from mttu.data.file_kinds import LOOKED_AT_BYTES, explain_no_table
from mttu.data.findings import Finding, to_findings
from mttu.data.manifest import Case
from mttu.data.names import NameIndex
from mttu.errors import InputError, raise_if_any, say_count

RULES: Sequence[tuple[re.Pattern[str], str]] = (
    (re.compile(r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})(?![A-Z0-9])", re.IGNORECASE), "patient of a TCGA barcode"),
    (re.compile(r"BraTS1[789]_(.+)", re.IGNORECASE), "BraTS 2017 to 2019 name a patient alike"),
)
"""Patterns whose first group is the same for all names of a patient, and why.

TCGA barcodes: the first three parts name the participant, the rest the sample (Genomic Data Commons, TCGA Barcode).
BraTS: `name_mapping.csv` of BraTS 2019 and 2020 has Brats17_X, Brats18_X and BraTS19_X in one row.
"""

BRATS_NUMBER = re.compile(r"(BraTS2021_|BraTS-GLI-)(\d{5})(?!\d)", re.IGNORECASE)
"""BraTS 2021 and, from 2023 on, BraTS-GLI give a subject the same number: `BraTS2023_2017_GLI_Mapping.xlsx`, a part of
BraTS 2023, has BraTS-GLI-00006-000 and BraTS2021_00006 in one row. This rule can be switched off, since later editions
add subjects and may renumber them."""
UCSF_PDGM = re.compile(r"UCSF-PDGM-0*(\d+)(?!\d)", re.IGNORECASE)
LATER_EXAMINATIONS: Mapping[str, str] = {
    "315": "433",  # now UCSF-PDGM-0433_FU007d
    "278": "431",  # now UCSF-PDGM-0431_FU001d
    "175": "396",  # now UCSF-PDGM-0396_FU175d
    "138": "429",  # now UCSF-PDGM-0429_FU003d
    "181": "409",  # now UCSF-PDGM-0409_FU001d
    "289": "391",  # now UCSF-PDGM-0391_FU016d
}
"""Up to its second version UCSF-PDGM gave these numbers to later examinations of the patients on the right; its third
version renamed them (version notes of the collection at The Cancer Imaging Archive, doi:10.7937/tcia.bdgf-8v37)."""


def known_patients(names: Iterable[str], brats_numbers: bool = True) -> Mapping[str, str]:
    """Patients that the names of a case or row identify, each with the reason.

    Args:
        names: All names.
        brats_numbers: Whether the number of BraTS 2021 carries over to BraTS-GLI.
    """
    found = {}
    for name in names:
        for pattern, reason in RULES:
            if match := pattern.match(name):
                found[f"{pattern.pattern} {match[1].casefold()}"] = f"{reason}: {match[1]}"
        if brats_numbers and (match := BRATS_NUMBER.match(name)):
            found[f"BraTS 2021 {match[2]}"] = f"BraTS 2021 and BraTS-GLI number a subject alike: {match[2]}"
        if match := UCSF_PDGM.match(name):
            patient = LATER_EXAMINATIONS.get(match[1], match[1])
            found[f"UCSF-PDGM {patient}"] = f"UCSF-PDGM's own list of later examinations: UCSF-PDGM-{patient:0>4}"
    return found


def name_carried_numbers(names: Sequence[Sequence[str]]) -> list[str]:
    """Names of BraTS-GLI that are taken as those of BraTS 2021 with the same number: `X as Y`, sorted.

    Args:
        names: Names of each case: its own first, then its other names.
    """
    old: dict[str, str] = {}
    new: dict[str, str] = {}  # name to number
    for own in names:
        for name in own:
            match = BRATS_NUMBER.match(name)
            if match and match[1].endswith("_"):
                old.setdefault(match[2], name)
            elif match and name == own[0]:
                new[name] = match[2]
    return [f"{name} as {old[number]}" for name, number in sorted(new.items()) if number in old]


_GIVE = "give a CSV file in UTF-8"
_NO_NAME = frozenset({"", "-", "na", "n/a", "nan", "none", "unknown"})
_SIDES = {"train": "training", "unlabelled": "training", "val": "val", "test": "test"}
_MOST_NAMED = 4


@dataclass(frozen=True)
class CrosswalkRow:
    """One patient under several names."""

    line: int
    """Line in the file; the header is line 1."""
    names: tuple[str, ...]
    problems: tuple[str, ...] = ()
    """Why neither the row nor the cases that it names can be used; kept only where cases with errors are left out."""


@dataclass(frozen=True)
class OtherNames:
    """Names of a case beside its id and its patient's."""

    case_id: str
    file_patient: str
    """Patient by the file names; a clinical table may give another id."""
    row_ids: frozenset[str] = frozenset()
    """Names in its clinical row."""
    aliases: frozenset[str] = frozenset()
    """Names of the patient in other data sets, from its clinical row."""
    line: int = 0
    """Line of the clinical row."""


@dataclass(frozen=True)
class Link:
    """Why two cases are of one patient."""

    first: str
    """Case id."""
    second: str
    reason: str
    same_image: bool = False


@dataclass(frozen=True)
class LinkedCases:
    """Cases whose patient ids name every patient once."""

    cases: list[Case]
    """In the order given; cases of one patient have the first of its ids in alphabetical order."""
    links: list[Link]
    """Enough to connect all cases of each patient."""
    unknown_names: int
    """Names in the crosswalk that are no case or patient here; normal, since it may list a whole data set."""


@dataclass(frozen=True)
class Leaks:
    """What is wrong with the splits of linked cases."""

    problems: list[str]
    """One patient on two sides, to be refused: a sentence for each pair of cases."""
    of_cases: list[str]
    """The same, a sentence for each of the two cases."""
    warnings: list[str]
    """One image twice on one side, which counts twice."""


def read_crosswalk(path: Path, findings: list[Finding] | None = None, keep_bad: bool = False) -> list[CrosswalkRow]:
    """Reads a table with a row for each patient and a column for each naming, e.g. BraTS 2021 and UCSF ids.

    Column titles are free, but columns that a clinical table has for other things than names (grade, age, split and so
    on) are not used. Nothing, `NA`, `unknown` and the like stand for no name. Comma, semicolon or tab separate.

    Args:
        path: CSV in UTF-8.
        findings: A note on columns that are not used is added.
        keep_bad: Keep what is wrong with rows in `CrosswalkRow.problems`, and add it as warnings.

    Raises:
        InputError: No table, or a name in two rows that disagree; lists all of them with lines and values.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"crosswalk {path}: is no file; {_GIVE}")
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
        if len(data) > LARGEST_BYTES:
            raise InputError(f"crosswalk {path}: is larger than {LARGEST_BYTES >> 20} MiB; {_GIVE}")
        kind = explain_no_table(data[:LOOKED_AT_BYTES], _GIVE)
        if kind is not None:
            raise InputError(f"crosswalk {path}: {'; '.join(kind).removeprefix('it ')}")
        text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig").read()
        header = text.partition("\n")[0]
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
        records = [(reader.line_num, [cell.strip() for cell in record]) for record in reader if any(record)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"crosswalk {path}: cannot be read ({error}); {_GIVE}") from None
    notes: list[Finding] = [] if findings is None else findings
    titles = records[0][1] if records else []
    facts = {name for role in FIELDS for name in EVERYWHERE[role]}
    ids = {column for column, title in enumerate(titles) if normalise_column(title) not in facts}
    if len(ids) < 2:  # refused below, because of what its rows say
        ids = set(range(len(titles)))
    others = [title for column, title in enumerate(titles) if column not in ids]
    if others:
        count = say_count(len(others), "column holds no names and is", "columns hold no names and are")
        notes.append(Finding("note", "", f"crosswalk {path}: {count} not used: {', '.join(others)}"))
    if len(titles) < 2:
        found = ", ".join(titles) or "nothing"
        raise InputError(f"crosswalk {path}: has the columns {found}; expected a header and two or more columns of ids")
    problems: dict[str, set[int]] = {}  # sentence to lines
    rows = []
    known: dict[str, dict[int, tuple[str, int]]] = {}  # name to column to what its patient is called there, and line
    refused: set[str] = set()
    for line, cells in records[1:]:
        is_crooked = len(cells) != len(titles)
        named = {
            column: cell
            for column, cell in enumerate(cells)
            if (is_crooked or column in ids) and cell.lower() not in _NO_NAME
        }
        rows.append(CrosswalkRow(line, tuple(dict.fromkeys(named.values()))))
        if is_crooked:
            problems[f"line {line} has {len(cells)} values; expected {len(titles)} as in the header"] = {line}
            continue
        for name in named.values():
            for column, (other, before) in known.setdefault(name, {}).items():
                if named.get(column, other) != other and name not in refused:
                    refused.add(name)
                    sentence = (
                        f"{name!r} is in lines {before} and {line}, which disagree in column {titles[column]!r} "
                        f"({other!r} and {named[column]!r}); write all names of a patient into one row, "
                        "and leave columns out that hold no ids"
                    )
                    problems[sentence] = {before, line}
            for column, other in named.items():
                known[name].setdefault(column, (other, line))
    told = [f"crosswalk {path}: {problem}" for problem in problems]
    if not keep_bad:
        raise_if_any(told)
    notes += to_findings("warning", told)
    return [replace(row, problems=tuple(text for text, lines in problems.items() if row.line in lines)) for row in rows]


def link_patients(
    cases: Sequence[Case],
    same_brains: Iterable[SameBrain] = (),
    crosswalk: Sequence[CrosswalkRow] = (),
    other_names: Sequence[OtherNames] = (),
    brats_numbers: bool = True,
) -> LinkedCases:
    """Finds out which cases are of one patient, and gives them one patient id.

    A name in the crosswalk is any name of a case or its patient. Where none is spelt exactly so, upper and lower case
    and leading zeros are ignored (`UCSF-PDGM-004` is `UCSF-PDGM-0004`).

    Args:
        cases: Splits may still be empty.
        same_brains: What `mttu.cohort.copies.find_same_brains` returned; ids of `cases`.
        crosswalk: What `read_crosswalk` returned.
        other_names: What files and tables call the cases; names of cases that are not in `cases` are ignored.
        brats_numbers: See `known_patients`.

    Raises:
        InputError: No name in the crosswalk is known, or one fits several patients, or is in a row that cannot be used;
            lists all, the latter two for each case that may be meant.
    """
    here = {case.case_id for case in cases}
    others = [names for names in other_names if names.case_id in here]
    links = _link_names(cases, others, brats_numbers)
    of_files = [(names.file_patient, names.case_id) for names in others]
    named = [names for names in others if names.aliases]
    tables = [CrosswalkRow(names.line, (names.case_id, *sorted(names.aliases))) for names in named]
    sources = [f"case {names.case_id}: clinical table" for names in named]
    found, unknown = _link_rows(_merge(cases, links), of_files, tables, sources)
    links += found
    if crosswalk:
        of_rows = [(name, names.case_id) for names in others for name in (*names.row_ids, *names.aliases)]
        own = [(case.patient_id, case.case_id) for case in cases]
        left_out = {
            name
            for one in other_names
            if one.case_id not in here
            for name in (one.case_id, one.file_patient, *one.row_ids, *one.aliases)
        }
        origins = ["crosswalk"] * len(crosswalk)
        found, missing = _link_rows(_merge(cases, links), (*of_files, *of_rows, *own), crosswalk, origins, left_out)
        links += found
        unknown += missing
    links += [
        Link(pair.first, pair.second, f"same image (similarity {pair.similarity:.3f})", same_image=True)
        for pair in same_brains
    ]
    return LinkedCases(_merge(cases, links), links, unknown)


def _link_names(cases: Sequence[Case], others: Sequence[OtherNames], brats_numbers: bool) -> list[Link]:
    """Links by patient id, by the patient of the file names where a table gave another, and by public names."""
    patient_of = {case.case_id: case.patient_id for case in cases}
    by_patient: dict[str, list[str]] = {}
    by_file: dict[str, list[str]] = {}
    by_name: dict[str, list[tuple[str, str]]] = {}
    for case in cases:
        by_patient.setdefault(case.patient_id, []).append(case.case_id)
    for names in others:
        by_file.setdefault(names.file_patient, []).append(names.case_id)
    beside = {names.case_id: (names.file_patient, *sorted(names.row_ids | names.aliases)) for names in others}
    for case in cases:
        own = (case.case_id, case.patient_id, *beside.get(case.case_id, ()))
        for patient, reason in known_patients(own, brats_numbers).items():
            by_name.setdefault(patient, []).append((case.case_id, reason))
    return [
        *(
            Link(first, second, f"patient id {patient}")
            for patient, ids in by_patient.items()
            for first, second in pairwise(ids)
        ),
        *(
            Link(first, second, f"same patient in the file names ({patient})")
            for patient, ids in by_file.items()
            if any(patient_of[case_id] != patient for case_id in ids)
            for first, second in pairwise(ids)
        ),
        *(
            Link(first, second, reason)
            for same in by_name.values()
            for (first, reason), (second, _) in pairwise(same)
            if patient_of[first] != patient_of[second]
        ),
    ]


def _link_rows(
    cases: Sequence[Case],
    other_names: Iterable[tuple[str, str]],
    rows: Sequence[CrosswalkRow],
    sources: Sequence[str],
    left_out: Collection[str] = (),
) -> tuple[list[Link], int]:
    """Links between one case of each patient that a row names, and how many names are unknown.

    Args:
        cases: Cases with one patient id for all that are known to be one patient.
        other_names: Names beside the cases' ids and patients, each with its case.
        rows: One patient each.
        sources: Where each row is from, as a sentence on it begins.
        left_out: Names of cases that were found but are not among these; a row with such a name does not belong to
            other data.
    """
    patient_of = {case.case_id: case.patient_id for case in cases}
    cases_of: dict[str, list[str]] = {}
    for case in cases:
        cases_of.setdefault(case.patient_id, []).append(case.case_id)
    elsewhere = NameIndex((name, name) for name in left_out)
    own = [(name, case.case_id) for case in cases for name in (case.case_id, case.patient_id)]
    index = NameIndex((name, patient_of[case_id]) for name, case_id in (*own, *other_names))
    links, problems, unknown, known = [], [], 0, 0

    def refuse(source: str, text: str, patients: Iterable[str]) -> None:
        """Adds a sentence for each case of the patients, or for the one case whose clinical row it is about."""
        if source.startswith("case "):
            problems.append(f"{source}: {text}")
        else:
            ids = sorted({case_id for patient in patients for case_id in cases_of[patient]})
            problems.extend(f"case {case_id}: {source} {text}" for case_id in ids)

    for row, source in zip(rows, sources, strict=True):
        patients: set[str] = set()
        for name in row.names:
            fitting = index.find_exact(name) if name in left_out else index.find(name)
            if len(fitting) > 1:
                listed = " or ".join(sorted(fitting)[:_MOST_NAMED])
                refuse(source, f"line {row.line}: {name!r} may be patient {listed}; write the one you mean", fitting)
            patients |= fitting
            known += bool(fitting or (left_out and elsewhere.find(name)))
            unknown += not fitting
        for problem in row.problems:
            refuse(source, problem, patients)
        reason = f"{source.rpartition(': ')[2]} line {row.line} ({', '.join(row.names)})"
        links += [Link(cases_of[first][0], cases_of[second][0], reason) for first, second in pairwise(sorted(patients))]
    if rows and not known:
        given = ", ".join([name for row in rows for name in row.names][:_MOST_NAMED]) or "no name at all"
        ours = ", ".join([case.case_id for case in cases][:_MOST_NAMED])
        problems.append(f"{sources[0]}: names {given}, ...; none is a case or a patient here ({ours}, ...)")
    raise_if_any(list(dict.fromkeys(problems)))
    return links, unknown


def _merge(cases: Sequence[Case], links: Sequence[Link]) -> list[Case]:
    """Gives linked cases the first of their patient ids."""
    place = {case.case_id: index for index, case in enumerate(cases)}
    groups = number_groups(len(cases), [(place[link.first], place[link.second]) for link in links])
    name: dict[int, str] = {}
    for group, case in zip(groups, cases, strict=True):
        name[group] = min(name.get(group, case.patient_id), case.patient_id)
    return [replace(case, patient_id=name[group]) for group, case in zip(groups, cases, strict=True)]


def find_leaks(cases: Sequence[Case], links: Iterable[Link]) -> Leaks:
    """Looks for patients on two sides of the splits, and for images that occur twice.

    Args:
        cases: Cases with their splits; an empty split is no side.
        links: What `link_patients` returned.
    """
    split = {case.case_id: case.split for case in cases}
    reasons: dict[tuple[str, str], list[Link]] = {}
    for link in links:
        first, second = sorted((link.first, link.second))
        reasons.setdefault((first, second), []).append(link)
    leaks = Leaks([], [], [])
    for (first, second), found in reasons.items():
        why = "; ".join(link.reason for link in found)
        places = {_SIDES[split[name]] for name in (first, second) if split[name]}
        named = " and ".join(f"{name} ({split[name]})" if split[name] else name for name in (first, second))
        if len(places) > 1:
            counts = " (unlabelled counts as training)" if "unlabelled" in (split[first], split[second]) else ""
            leaks.problems.append(
                f"cases {named}: are one patient on two sides{counts}: {why}; put both into one split, or leave one out"
            )
            leaks.of_cases.extend(
                f"case {one}: is one patient with {other} on two sides ({split[one]}, {split[other]}){counts}: {why}; "
                "put both into one split, or leave one out"
                for one, other in ((first, second), (second, first))
            )
        elif any(link.same_image for link in found):
            leaks.warnings.append(f"cases {named}: show one brain under two names: {why}; it counts twice; drop one")
    return leaks

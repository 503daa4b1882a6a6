"""Folders that `mttu evaluate` wrote, read back as systems to compare: each case averaged over the folders first."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from statistics import fmean
from typing import Any

from mttu.data.labels import REGIONS
from mttu.errors import InputError, collecting, name_some, raise_if_any
from mttu.files import find_byte_names
from mttu.metrics.comparisons import check_same_cases
from mttu.report.evaluation_folder import MEND, read_folder
from mttu.report.files import BASELINE_TABLE, FACT_TABLE, IDH_TABLE, REGION_TABLE, SUMMARY
from mttu.tables.scores import LESIONS, SEGMENTATION

_SCORES = {"dice": "dice", "hd95": "hd95_mm", "lesion_dice": "lesion_dice", "lesion_hd95": "lesion_hd95_mm"}
"""Metric to its column in the table of regions."""
_TITLES = {
    "patient_id": "patients",
    "idh": "IDH statuses",
    "grade": "grades",
    "age": "ages",
    "sex": "sexes",
    "site": "sites",
}
PROBABILITY = "mutant_probability"
_MEASURED = (*SEGMENTATION, *LESIONS, PROBABILITY)

Scores = Mapping[str, float | None]
"""Names in `SEGMENTATION` and `LESIONS`, and `PROBABILITY`; None where undefined."""


@dataclass(frozen=True)
class EvaluatedSummary:
    """What `summary.json` says of an evaluation."""

    split: str
    synthetic: bool
    empty_masks: str
    """Conventions for empty masks, in words."""
    systems: Sequence[str]
    """Names; the first is the one that is read."""
    checkpoint: str
    """Checkpoint of the first system, empty where it is not told."""
    failed: Sequence[str]
    """Cases that the first system could not predict."""
    chosen_on: Sequence[str] = ()
    """Cases whose patients chose which components of its masks are dropped."""
    chosen_not_said: Sequence[str] = ()
    """Cases of which it does not say that, though components of their masks may be dropped."""


@dataclass(frozen=True)
class Evaluated:
    """What a folder holds of its first system."""

    folder: Path
    summary: EvaluatedSummary
    scores: Mapping[str, Scores]
    """Case to its scores."""
    masks: frozenset[str]
    """Cases whose masks were scored."""
    classified: frozenset[str]
    """Cases whose IDH probability was scored."""
    facts: Mapping[str, Mapping[str, Any]]
    """Case to its row of the table of facts."""
    baselines: Sequence[Mapping[str, Any]]
    """Rows of the table of baselines."""
    regions: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """Case to region to its row of the table of regions."""
    learned_from: int
    """Cases of patients that the network was trained on."""
    not_said: int
    """Cases for which it is not known whether the network was trained on their patients."""

    @property
    def cases(self) -> frozenset[str]:
        """Cases of which anything was scored."""
        return self.masks | self.classified


@dataclass(frozen=True)
class System:
    """One system of a comparison: the folders of its trainings."""

    name: str
    repeats: Sequence[Evaluated]

    @property
    def masks(self) -> frozenset[str]:
        """Cases whose masks were scored in any folder."""
        return frozenset[str]().union(*(one.masks for one in self.repeats))

    @property
    def classified(self) -> frozenset[str]:
        """Cases whose IDH probability was scored in any folder."""
        return frozenset[str]().union(*(one.classified for one in self.repeats))

    @property
    def is_pooled(self) -> bool:
        """Whether its cases are those of several networks, as of folds: a folder lacks some that did not fail."""
        scored = self.masks | self.classified
        return any(scored - one.cases - set(one.summary.failed) for one in self.repeats)

    def average(self) -> dict[str, Scores]:
        """Case to its scores, each the mean over the folders that have it."""
        return {case_id: self._average(case_id) for case_id in sorted(self.masks | self.classified)}

    def _average(self, case_id: str) -> Scores:
        known = [one.scores[case_id] for one in self.repeats if case_id in one.scores]
        values = {name: [value for one in known if (value := one[name]) is not None] for name in _MEASURED}
        return {name: fmean(own) if own else None for name, own in values.items()}


def read_evaluated(folder: Path) -> Evaluated:
    """Reads a folder that `mttu evaluate` wrote; of several systems in it, the first.

    Raises:
        InputError: It is no such folder, or of another format.
    """
    found = read_folder(folder)
    summary, tables = read_summary(folder, found.summary), found.tables
    system = summary.systems[0]
    regions, idh = ([row for row in tables[name] if row["system"] == system] for name in (REGION_TABLE, IDH_TABLE))
    scores: dict[str, dict[str, float | None]] = {row["case_id"]: dict.fromkeys(_MEASURED) for row in (*regions, *idh)}
    for row in regions:
        scores[row["case_id"]] |= {f"{name}_{row['region']}": row[column] for name, column in _SCORES.items()}
    for row in idh:
        scores[row["case_id"]][PROBABILITY] = row["mutant_probability"]
    facts = {row["case_id"]: row for row in tables[FACT_TABLE]}
    lost = sorted(scores.keys() - facts.keys())
    if lost:
        raise InputError(f"evaluation {folder}: {FACT_TABLE} lacks the cases {name_some(lost)}; {MEND}")
    return Evaluated(
        folder,
        summary,
        scores,
        frozenset(row["case_id"] for row in regions),
        frozenset(row["case_id"] for row in idh),
        facts,
        tables[BASELINE_TABLE],
        _group(regions),
        len({row["case_id"] for row in (*regions, *idh) if row["learned_from"]}),
        len({row["case_id"] for row in (*regions, *idh) if row["learned_from"] is None}),
    )


def read_summary(folder: Path, content: Mapping[str, Any]) -> EvaluatedSummary:
    """What a folder's `summary.json` says.

    Args:
        folder: For messages.
        content: See `mttu.report.evaluation_folder.read_folder`.

    Raises:
        InputError: It is damaged.
    """
    damaged = InputError(f"{folder / SUMMARY}: damaged; {MEND}")
    try:
        systems, cases = content["systems"], content.get("cases", {})
        names = [system["name"] for system in systems]
        lists = "failed", "postprocessing_chosen_on", "postprocessing_chosen_not_said"
        failed, chose, silent = (list(cases.get(name, {}).get(names[0], [])) for name in lists)
        checkpoint = systems[0].get("checkpoint", "")
        found = EvaluatedSummary(
            *(content["split"], content["synthetic"], content["empty_masks"], names, checkpoint),
            *(failed, chose, silent),
        )
    except (KeyError, TypeError, IndexError, AttributeError):
        raise damaged from None
    texts = [found.split, found.empty_masks, checkpoint, *names]
    texts += [*failed, *chose, *silent]
    if not all(isinstance(one, str) for one in texts) or not isinstance(found.synthetic, bool):
        raise damaged
    return found


def _group(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    grouped: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["case_id"], {})[row["region"]] = row
    return grouped


def read_systems(named: Sequence[tuple[str, Sequence[str]]]) -> list[System]:
    """Reads the folders of systems, several of one that was trained repeatedly, and checks that they fit.

    Args:
        named: Name and folders of each system, see `split_system`.

    Raises:
        InputError: A folder or a name is wrong, or two systems were not scored alike on the same cases; lists all.
    """
    problems = find_byte_names("system", [name for name, _ in named])
    systems: list[System] = []
    for name, places in named:
        repeats: list[Evaluated] = []
        for place in places:
            with collecting(problems):
                repeats.append(read_evaluated(Path(place)))
        systems.append(System(name, repeats))
    problems += find_name_problems(named)
    raise_if_any(problems)
    if len(systems) == 1 and not any(one.baselines for one in systems[0].repeats):
        raise InputError(
            f"system {named[0][0]}: has nothing to be compared with; give another one, or evaluate with baselines"
        )
    raise_if_any(_find_differences(systems))
    return systems


def split_system(text: str) -> tuple[str, list[str]]:
    """Name and places of a system, of `PLACE` or `NAME=PLACE,PLACE,...`; a path that is there is one place."""
    if _is_there(text):
        return Path(text).resolve().name, [text]
    name, sign, rest = text.partition("=")
    places = (rest if sign else text).split(",")
    return (name if sign else Path(places[0]).resolve().name), places


def _is_there(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # longer than a path can be, as a list of many is
        return False


def find_name_problems(systems: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Names without or with several systems, and places that a system has twice."""
    names = [name for name, _ in systems]
    twice = []
    for name, places in systems:
        whole = [os.path.abspath(place) for place in places]
        twice += [(name, one) for one, at in dict(zip(places, whole, strict=True)).items() if whole.count(at) > 1]
    problems = [f"system {name}: {one} is given twice; give each training once" for name, one in twice]
    return problems + [
        f"system {name}: {names.count(name)} systems have this name; write NAME=FOLDER"
        for name in dict.fromkeys(names)
        if names.count(name) > 1 or not name
    ]


def _find_differences(systems: Sequence[System]) -> list[str]:
    """What keeps systems from being compared: other cases, other truth, other conventions."""
    problems: list[str] = []
    for what, cases in (
        ("masks", {system.name: system.masks for system in systems}),
        ("IDH", {system.name: system.classified for system in systems}),
    ):
        with collecting(problems):
            check_same_cases({f"{name} ({what})": dict.fromkeys(own) for name, own in cases.items() if own})
    folders = [one for system in systems for one in system.repeats]
    conventions = {one.folder: one.summary.empty_masks for one in folders if one.masks}
    if len(set(conventions.values())) > 1:
        shown = "; ".join(f"{name} in {folder}" for folder, name in conventions.items())
        problems.append(
            f"comparison: empty masks count as {shown}; evaluate all with the same --empty-dice, --empty-hd95"
        )
    seen: dict[str, Evaluated] = {}
    for one in folders:
        for first in {id(seen[case_id]): seen[case_id] for case_id in one.facts if case_id in seen}.values():
            both = sorted(case_id for case_id in one.facts if seen.get(case_id) is first)
            problems += _find_other_truth(first, one, both)
        seen |= {case_id: one for case_id in one.facts if case_id not in seen}
    return problems


def _find_other_truth(first: Evaluated, second: Evaluated, both: Sequence[str]) -> list[str]:
    """Those of some cases of both folders of which their manifests say other things, or whose true masks differ."""
    columns = [name for name in next(iter(first.facts.values()), {}) if name != "case_id"]
    other = {
        _TITLES.get(name, name): [one for one in both if first.facts[one][name] != second.facts[one].get(name)]
        for name in columns
    }
    for region in REGIONS:
        volumes = [
            {case_id: own[region]["truth_ml"] for case_id, own in one.regions.items() if region in own}
            for one in (first, second)
        ]
        scored = [case_id for case_id in both if case_id in volumes[0] and case_id in volumes[1]]
        other[f"true volumes of {region.upper()}"] = [one for one in scored if not _is_equal(volumes, one)]
    return [
        f"comparison: {first.folder} and {second.folder} have other {what} for {name_some(cases)}; evaluate both with "
        "the same manifest"
        for what, cases in other.items()
        if cases
    ]


def _is_equal(volumes: Sequence[Mapping[str, float | None]], case_id: str) -> bool:
    one, other = (own[case_id] for own in volumes)
    return one == other if one is None or other is None else isclose(one, other, rel_tol=1e-6, abs_tol=1e-6)

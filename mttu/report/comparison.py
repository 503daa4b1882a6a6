"""Systems beside each other on the same cases: scores with intervals, tests against one of them, subgroups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD, REGIONS
from mttu.errors import InputError, name_some, raise_if_any
from mttu.figures.estimates import Estimate
from mttu.metrics.classification import score_classification
from mttu.metrics.clinical_baselines import is_high_grade
from mttu.metrics.delong import estimate_auc
from mttu.metrics.intervals import Interval, bootstrap_over_patients, describe
from mttu.report.evaluated import PROBABILITY, Scores, System
from mttu.report.tables import FEW
from mttu.tables.case_tests import compare_on_cases
from mttu.tables.scores import IDH, LESIONS, METRICS, SEGMENTATION, Difference, Row, Score, Summary

_NAMES = (*SEGMENTATION, *LESIONS)
_REGION_PLACES = {metric: [_NAMES.index(f"{metric}_{region}") for region in REGIONS] for metric in ("dice", "hd95")}
_REPEAT = "mean"
FEWEST = 5
"""Cases of a site that has a line of its own among the subgroups; the others are taken together."""


@dataclass(frozen=True)
class Participant:
    """A row of a comparison: a system, or a baseline without images."""

    name: str
    scores: Mapping[str, Scores]
    """Case to its scores."""


@dataclass(frozen=True)
class Subgroup:
    """Scores of one participant within some of the cases."""

    kind: str
    """all, grade, age, sex or site."""
    title: str
    participant: str
    num_cases: int
    num_mutant: int
    num_wild: int
    num_dice: int
    """Cases with a Dice of all three regions."""
    auc: Estimate
    """With DeLong's interval."""
    dice: Estimate
    """Mean of the three regions' means over cases, as in the table, with the bootstrap's interval."""


@dataclass(frozen=True)
class Comparison:
    """What `mttu compare` shows."""

    summary: Summary
    subgroups: Sequence[Subgroup]
    notes: Sequence[str]


def compare_systems(systems: Sequence[System], reference: str | None, num_resamples: int) -> Comparison:
    """Scores every system, and the baselines without images of the first system that has any.

    Args:
        systems: See `mttu.report.evaluated.read_systems`.
        reference: System that the others are compared with; None: the first.
        num_resamples: Resamples of each bootstrap.

    Raises:
        InputError: No system has this name, or a baseline has two probabilities for a case.
    """
    names = [system.name for system in systems]
    reference = names[0] if reference is None else reference
    if reference not in names:
        raise InputError(f"--reference {reference!r}: no such system; choose one of {name_some(names)}")
    facts = {case_id: row for system in systems for one in system.repeats for case_id, row in one.facts.items()}
    own = [Participant(system.name, system.average()) for system in systems]
    baselines, fitted_by_fold = _list_baselines(systems, facts)
    pooled = [system.name for system in systems if system.is_pooled]
    pooled += [one.name for one in baselines if fitted_by_fold]
    summary = _summarise([*own, *baselines], reference, facts, num_resamples, pooled)
    subgroups = [
        _measure_subgroup(kind, title, cases, participant, facts, num_resamples)
        for kind, title, cases in _list_subgroups(own, facts)
        for participant in own
    ]
    return Comparison(summary, subgroups, [*_list_notes(systems, facts), *_note_few(own, baselines)])


def _list_baselines(
    systems: Sequence[System], facts: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Participant], bool]:
    """The baselines of the first system that has any, on the compared cases; whether they were fitted fold by fold.

    Raises:
        InputError: Two folders of the system have other probabilities for a case.
    """
    compared = frozenset[str]().union(*(system.classified for system in systems))
    system = next((one for one in systems if any(repeat.baselines for repeat in one.repeats)), None)
    found: dict[str, dict[str, Scores]] = {}
    other: dict[str, set[str]] = {}
    for row in (row for one in (system.repeats if system else ()) for row in one.baselines):
        case_id, value = row["case_id"], row["mutant_probability"]
        if case_id in compared and facts[case_id]["idh"] != IDH_UNKNOWN:
            title = f"{row['baseline']}, no image{', after surgery' if row['after_surgery'] else ''}"
            known = found.setdefault(title, {}).setdefault(case_id, {**dict.fromkeys(_NAMES), PROBABILITY: value})[
                PROBABILITY
            ]
            if known is not None and not isclose(known, value, abs_tol=1e-9):
                other.setdefault(title, set()).add(case_id)
    raise_if_any(
        [
            f"system {'' if system is None else system.name}: its folders have other probabilities of the baseline "
            f"{title} for {name_some(sorted(cases))}; evaluate all with the same manifest, or without baselines"
            for title, cases in other.items()
        ]
    )
    return [Participant(title, scores) for title, scores in found.items()], system is not None and system.is_pooled


def _note_few(systems: Sequence[Participant], baselines: Sequence[Participant]) -> list[str]:
    """Baselines that have fewer cases than the systems beside them."""
    most = max(sum(own[PROBABILITY] is not None for own in one.scores.values()) for one in systems)
    return [
        f"{one.name}: is known for {len(one.scores)} of the {most} cases, so that its row is of other cases"
        for one in baselines
        if len(one.scores) < most
    ]


@dataclass(frozen=True)
class _Columns:
    """Scores of a participant as arrays over all compared cases; NaN where it has none."""

    values: NDArray[np.float64]
    """(cases, names)."""
    probability: NDArray[np.float64]
    idh: NDArray[np.int64]
    """-1 where the status or the probability is not known."""


def _to_columns(scores: Mapping[str, Scores], case_ids: Sequence[str], facts: Mapping[str, Any]) -> _Columns:
    values = np.full((len(case_ids), len(_NAMES)), np.nan)
    probability, idh = np.full(len(case_ids), np.nan), np.full(len(case_ids), IDH_UNKNOWN)
    for place, case_id in enumerate(case_ids):
        own = scores.get(case_id)
        if own is not None:
            values[place] = [np.nan if own[name] is None else own[name] for name in _NAMES]
            if (known := own[PROBABILITY]) is not None:
                probability[place], idh[place] = known, facts[case_id]["idh"]
    return _Columns(values, probability, idh)


def _average(values: NDArray[np.float64], names: Sequence[str]) -> dict[str, float | None]:
    """Name to the mean of its column over the cases that have a value."""
    known = ~np.isnan(values)
    counts = known.sum(axis=0).tolist()
    sums = np.where(known, values, 0.0).sum(axis=0).tolist()
    return {name: total / n if n else None for name, total, n in zip(names, sums, counts, strict=True)}


def _average_regions(values: NDArray[np.float64], metric: str = "dice") -> float | None:
    """Mean of the three regions' means over cases; None if a region has none."""
    names = [f"{metric}_{region}" for region in REGIONS]
    means = list(_average(values[:, _REGION_PLACES[metric]], names).values())
    return None if None in means else fmean(value for value in means if value is not None)


def _measure(columns: _Columns, rows: NDArray[np.int64]) -> dict[str, float | None]:
    """Name in `METRICS` to value on some cases, as in `mttu.tables.scores.measure_cell`."""
    values, idh = columns.values[rows], columns.idh[rows]
    found = _average(values, _NAMES)
    for metric in _REGION_PLACES:
        found[metric] = _average_regions(values, metric)
    known = idh != IDH_UNKNOWN
    scores = score_classification(columns.probability[rows][known], idh[known])
    return {**found, **{name: getattr(scores, name) for name in IDH}}


def _subtract(
    own: _Columns, other: _Columns, rows: NDArray[np.int64], measured: Sequence[Mapping[str, float | None]]
) -> dict[str, float | None]:
    """First minus second on the cases that both have a score for; `measured` is what `_measure` found for each."""
    values = own.values[rows] - other.values[rows]
    joint = np.stack([values[:, places].mean(axis=1) for places in _REGION_PLACES.values()], axis=1)
    found = {**_average(values, _NAMES), **_average(joint, list(_REGION_PLACES))}
    pair = measured
    if not np.array_equal(own.idh, other.idh):
        both = rows[(own.idh[rows] != IDH_UNKNOWN) & (other.idh[rows] != IDH_UNKNOWN)]
        pair = [vars(score_classification(one.probability[both], one.idh[both])) for one in (own, other)]
    for name in IDH:
        first, second = (scores[name] for scores in pair)
        found[name] = None if first is None or second is None else first - second
    return found


def _count(columns: _Columns, metric: str) -> int:
    """Cases that define a metric."""
    if metric in IDH:
        return int((columns.idh != IDH_UNKNOWN).sum())
    places = _REGION_PLACES.get(metric) or [_NAMES.index(metric)]
    return int((~np.isnan(columns.values[:, places])).all(axis=1).sum())


def _summarise(
    participants: Sequence[Participant],
    reference: str,
    facts: Mapping[str, Any],
    num_resamples: int,
    pooled: Sequence[str],
) -> Summary:
    case_ids = sorted({case_id for one in participants for case_id in one.scores})
    patients = [facts[case_id]["patient_id"] for case_id in case_ids]
    columns = {one.name: _to_columns(one.scores, case_ids, facts) for one in participants}
    cells = {
        one.name: {
            _REPEAT: [
                {"case_id": case_id, "idh": facts[case_id]["idh"], **scores} for case_id, scores in one.scores.items()
            ]
        }
        for one in participants
    }
    tests = compare_on_cases(cells, reference, pooled)

    def measure(places: NDArray[np.int64]) -> dict[str, float | None]:
        """`METRIC of NAME` and, for all but the reference, its difference, `METRIC less NAME`."""
        measured = {name: _measure(own, places) for name, own in columns.items()}
        found: dict[str, float | None] = {}
        for name, own in columns.items():
            found |= {f"{metric} of {name}": value for metric, value in measured[name].items()}
            if name != reference:
                pair = measured[name], measured[reference]
                less = _subtract(own, columns[reference], places, pair)
                found |= {f"{metric} less {name}": value for metric, value in less.items()}
        return found

    intervals = bootstrap_over_patients(measure, patients, num_resamples)
    metrics = tuple(
        metric for metric in METRICS if any(intervals[f"{metric} of {name}"].estimate is not None for name in columns)
    )
    rows = []
    for one in participants:
        scores = {
            metric: _to_score(columns[one.name], metric, intervals[f"{metric} of {one.name}"]) for metric in metrics
        }
        differences = {}
        for metric in metrics if one.name != reference else ():
            less, test = intervals[f"{metric} less {one.name}"], tests.found[one.name].get(metric)
            told = {} if test is None else vars(test)
            differences[metric] = Difference({}, less.estimate, less.low, less.high, **told)
        rows.append(Row(one.name, one.name, len(one.scores), scores, differences))
    return Summary(reference, metrics, tuple(rows), tests=tests.name, over="cases")


def _to_score(columns: _Columns, name: str, found: Interval) -> Score:
    std = None
    if name in _NAMES:
        values = columns.values[:, _NAMES.index(name)]
        std = describe(values[~np.isnan(values)].tolist()).std
    low, high = found.low, found.high
    if name in IDH and low == high:  # an AUC or share of 0 or 1 says nothing about its own uncertainty
        low = high = None
    return Score(_count(columns, name), found.estimate, std, low, high)


def _list_subgroups(
    participants: Sequence[Participant], facts: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, str, list[str]]]:
    """Kind, title and cases of each subgroup; a case whose fact is not known is in none of that kind."""
    case_ids = sorted({case_id for one in participants for case_id in one.scores})
    grades = {case_id: is_high_grade(facts[case_id]["grade"]) for case_id in case_ids}
    ages = {case_id: age for case_id in case_ids if (age := facts[case_id]["age"]) is not None}
    cut = round(median(ages.values())) if ages else 0
    titles = {
        "grade": {case_id: "high grade (4)" if high else "low grade (2, 3)" for case_id, high in grades.items()},
        "age": {case_id: f"age {'below' if age < cut else 'from'} {cut}" for case_id, age in ages.items()},
        "sex": {case_id: facts[case_id]["sex"] for case_id in case_ids},
        "site": _name_sites({case_id: facts[case_id]["site"] for case_id in case_ids}),
    }
    titles["grade"] = {case_id: title for case_id, title in titles["grade"].items() if grades[case_id] is not None}
    groups = [("all", "all cases", case_ids)]
    for kind, known in titles.items():
        groups += [
            (kind, title, [case_id for case_id in case_ids if known.get(case_id) == title])
            for title in sorted({title for title in known.values() if title})
        ]
    return groups


def _name_sites(sites: Mapping[str, str | None]) -> dict[str, str]:
    """Case to its site, or to all sites of few cases together."""
    known = {case_id: site for case_id, site in sites.items() if site}
    counts = {site: list(known.values()).count(site) for site in set(known.values())}
    small = f"sites of fewer than {FEWEST} cases"
    return {case_id: f"site {site}" if counts[site] >= FEWEST else small for case_id, site in known.items()}


def _measure_subgroup(
    kind: str,
    title: str,
    case_ids: Sequence[str],
    participant: Participant,
    facts: Mapping[str, Mapping[str, Any]],
    num_resamples: int,
) -> Subgroup:
    own = {case_id: participant.scores[case_id] for case_id in case_ids if case_id in participant.scores}
    known = {
        case_id: value
        for case_id, scores in own.items()
        if (value := scores[PROBABILITY]) is not None and facts[case_id]["idh"] != IDH_UNKNOWN
    }
    auc = estimate_auc(list(known.values()), [facts[case_id]["idh"] for case_id in known])
    columns = _to_columns(own, list(own), facts)
    patients = [facts[case_id]["patient_id"] for case_id in own]
    dice = bootstrap_over_patients(
        lambda places: {"dice": _average_regions(columns.values[places])}, patients, num_resamples
    )["dice"]
    return Subgroup(
        kind,
        title,
        participant.name,
        len(own),
        auc.num_mutant,
        auc.num_wild,
        _count(columns, "dice"),
        Estimate(auc.auc, auc.low, auc.high),
        Estimate(dice.estimate, dice.low, dice.high),
    )


def _list_notes(systems: Sequence[System], facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What limits the comparison."""
    folders = [one for system in systems for one in system.repeats]
    notes = []
    if any(one.summary.synthetic for one in folders):
        notes.append("the data are synthetic: these scores say nothing about patients")
    notes += [note for system in systems for note in _describe_system(system)]
    splits = sorted({one.summary.split for one in folders})
    if len(splits) > 1:
        notes.append(f"the folders name different splits: {', '.join(splits)}")
    cases = frozenset[str]().union(*(one.cases for one in folders))
    if len({facts[case_id]["patient_id"] for case_id in cases}) < len(cases):
        notes.append(
            "several cases per patient: tests on cases take them as independent; use the bootstrap's intervals"
        )
    statuses = [facts[case_id]["idh"] for case_id in frozenset[str]().union(*(one.classified for one in folders))]
    if statuses and min(statuses.count(IDH_MUTANT), statuses.count(IDH_WILD)) < FEW:
        notes.append(f"fewer than {FEW} cases of an IDH class: DeLong's intervals and p-values are too optimistic")
    return notes


def _describe_system(system: System) -> list[str]:
    """What limits the scores of one system."""
    notes, cases = [], [one.cases for one in system.repeats]
    if system.is_pooled:
        notes.append(
            f"{system.name}: its {len(cases)} folders have different cases, as folds do; its AUC ranks probabilities "
            "of different networks together, and neither AUC nor accuracy is tested"
        )
    elif len({(one.masks, one.classified) for one in system.repeats}) > 1:
        uneven = sorted(frozenset[str]().union(*cases) - frozenset.intersection(*cases))
        what = name_some(uneven) if uneven else "some cases"
        notes.append(f"{system.name}: not every folder has all scores of {what}, which are means over fewer trainings")
    for one in system.repeats:
        if one.learned_from:
            notes.append(f"{system.name}: was trained on patients of {one.learned_from} cases: no fair test")
        if one.not_said:
            notes.append(
                f"{system.name}: does not say of {one.not_said} cases whether it was trained on their patients: "
                "whether this is a fair test is not known"
            )
        if one.summary.chosen_on:
            notes.append(
                f"{system.name}: which components of masks are dropped was chosen on patients of "
                f"{len(one.summary.chosen_on)} cases: their masks' scores are a little too good"
            )
        if one.summary.chosen_not_said:
            notes.append(
                f"{system.name}: does not say on whom it was chosen which components of "
                f"{len(one.summary.chosen_not_said)} masks are dropped: whether their scores are a little too good is "
                "not known"
            )
        if one.summary.failed:
            notes.append(f"{system.name}: predictions that failed, in no score: {name_some(one.summary.failed)}")
        if one.summary.systems[1:]:
            others = name_some(one.summary.systems[1:])
            notes.append(f"{one.folder}: also has scores of {others}, which are left out")
    return list(dict.fromkeys(notes))

"""Tests of the rows of a table against the reference row case by case, each case averaged over the repeats first."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from mttu.data.labels import IDH_UNKNOWN, REGIONS
from mttu.metrics.classification import DEFAULT_THRESHOLD
from mttu.metrics.comparisons import adjust_holm, compare_mcnemar, compare_paired_t
from mttu.metrics.delong import compare_auc
from mttu.search.tables import SEGMENTATION, CaseScores, CaseTests

Cells = Mapping[str, Sequence[CaseScores]]
"""Repeat to the scores of its cases."""
_PROBABILITY = "mutant_probability"
_PAIRED = {
    **{name: (name,) for name in SEGMENTATION},
    **{metric: tuple(f"{metric}_{region}" for region in REGIONS) for metric in ("dice", "hd95")},
}
"""Metrics that are compared by a paired t-test, with the scores whose mean they are."""
TESTED = (*_PAIRED, "auc", "accuracy")

NAME = (
    "on the cases, each averaged over the repeats that both rows have: paired t-test for Dice and HD95, DeLong's test "
    "for AUC, McNemar's for accuracy"
)


def compare_on_cases(cells: Mapping[str, Cells], reference: str) -> CaseTests:
    """Compares every row with the reference, metric by metric.

    Args:
        cells: Row to its finished repeats.
        reference: Row that the others are compared with.

    Returns:
        Tests of dice_wt, dice_tc, dice_et, dice (mean of the three regions), hd95 alike, auc, and accuracy at threshold
        0.5, adjusted by Holm over the rows. None where a test is not defined.
    """
    found = {row: _test(_pair(cells[row], cells[reference])) for row in cells if row != reference}
    adjusted = {metric: adjust_holm([values[metric] for values in found.values()]) for metric in TESTED}
    p = {
        row: {metric: (values[metric], adjusted[metric][place]) for metric in TESTED}
        for place, (row, values) in enumerate(found.items())
    }
    return CaseTests(NAME, p)


_Pairs = list[tuple[dict[str, Any], dict[str, Any]]]


def _pair(own: Cells, other: Cells) -> _Pairs:
    """The cases that both have, each score averaged over the repeats in which both have it."""
    found: dict[str, list[tuple[CaseScores, CaseScores]]] = {}
    for repeat in own.keys() & other.keys():
        second = {case["case_id"]: case for case in other[repeat]}
        for case in own[repeat]:
            if case["case_id"] in second:
                found.setdefault(case["case_id"], []).append((case, second[case["case_id"]]))
    return [_average(found[case_id]) for case_id in sorted(found)]


def _average(repeats: Sequence[tuple[CaseScores, CaseScores]]) -> tuple[dict[str, Any], dict[str, Any]]:
    averages: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for name in (*SEGMENTATION, _PROBABILITY):
        both = [pair for pair in repeats if all(case[name] is not None for case in pair)]
        for place, average in enumerate(averages):
            average[name] = fmean(pair[place][name] for pair in both) if both else None
            average["idh"] = repeats[0][place]["idh"]
    return averages


def _test(pairs: _Pairs) -> dict[str, float | None]:
    """Metric to p."""
    known = [
        pair for pair in pairs if pair[0]["idh"] != IDH_UNKNOWN and all(case[_PROBABILITY] is not None for case in pair)
    ]
    idh = [own["idh"] for own, _ in known]
    own, other = ([pair[place][_PROBABILITY] for pair in known] for place in (0, 1))
    right = [
        [(value >= DEFAULT_THRESHOLD) == bool(status) for value, status in zip(values, idh, strict=True)]
        for values in (own, other)
    ]
    return {
        **{metric: _compare_means(pairs, names) for metric, names in _PAIRED.items()},
        "auc": compare_auc(own, other, idh).p,
        "accuracy": compare_mcnemar(*right).p,
    }


def _compare_means(pairs: _Pairs, names: Sequence[str]) -> float | None:
    defined = [pair for pair in pairs if all(case[name] is not None for case in pair for name in names)]
    own, other = ([fmean(pair[place][name] for name in names) for pair in defined] for place in (0, 1))
    return compare_paired_t(own, other).p

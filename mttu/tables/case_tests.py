"""Tests of the rows of a table against the reference row case by case, each case averaged over the repeats first."""

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

from mttu.data.labels import IDH_UNKNOWN, REGIONS
from mttu.metrics.classification import DEFAULT_THRESHOLD
from mttu.metrics.comparisons import adjust_holm, compare_mcnemar, compare_paired_t
from mttu.metrics.delong import compare_auc
from mttu.tables.scores import LESIONS, SEGMENTATION, CaseScores, CaseTest, CaseTests

Cells = Mapping[str, Sequence[CaseScores]]
"""Repeat to the scores of its cases."""
_PROBABILITY = "mutant_probability"
_PAIRED = {
    **{name: (name,) for name in (*SEGMENTATION, *LESIONS)},
    **{metric: tuple(f"{metric}_{region}" for region in REGIONS) for metric in ("dice", "hd95")},
}
"""Metrics that are compared by a paired t-test, with the scores whose mean they are."""
_UNTESTED = "not tested: several networks"
NAME = "on cases: paired t-test for Dice and HD95, DeLong's test for AUC, McNemar's for accuracy"
EXPLANATION = (
    "These tests take each case's mean over the seeds that both rows have, so AUC and accuracy are those of the mean "
    "probability; a case without a score in either row is left out (table.csv has the number of pairs). They do not "
    "cover the spread between trainings. Sensitivity and specificity are not tested."
)


def compare_on_cases(cells: Mapping[str, Cells], reference: str, pooled: Collection[str] = ()) -> CaseTests:
    """Compares every row with the reference, metric by metric.

    The repeats are seeds, all scored on the same cases. Probabilities of folds are not for this: those of different
    networks are on different scales, see `mttu.metrics.delong`.

    Args:
        cells: Row to its finished repeats.
        reference: Row that the others are compared with.
        pooled: Rows whose cases are those of several networks; neither their AUC nor their accuracy is tested.

    Returns:
        Tests of dice_wt, dice_tc, dice_et, dice (mean of the three regions), hd95 alike, auc, and accuracy at threshold
        0.5, adjusted by Holm over the rows.
    """
    found = {row: _test(_pair(cells[row], cells[reference])) for row in cells if row != reference}
    for row, values in found.items():
        if {row, reference} & set(pooled):
            values |= {metric: (_UNTESTED, values[metric][1], None) for metric in ("auc", "accuracy")}
    tests: dict[str, dict[str, CaseTest]] = {row: {} for row in found}
    for metric in (*_PAIRED, "auc", "accuracy"):
        adjusted = adjust_holm([values[metric][2] for values in found.values()])
        for (row, values), p_holm in zip(found.items(), adjusted, strict=True):
            tests[row][metric] = CaseTest(*values[metric], p_holm)
    return CaseTests(NAME, tests)


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
    first, second = repeats[0]
    averages: tuple[dict[str, Any], dict[str, Any]] = ({"idh": first["idh"]}, {"idh": second["idh"]})
    for name in (*SEGMENTATION, *LESIONS, _PROBABILITY):
        both = [pair for pair in repeats if all(case.get(name) is not None for case in pair)]
        for place, average in enumerate(averages):
            average[name] = fmean(pair[place][name] for pair in both) if both else None
    return averages


def _test(pairs: _Pairs) -> dict[str, tuple[str, int, float | None]]:
    """Metric to the name of the test, the number of pairs, and p."""
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
        "auc": ("DeLong on cases", len(known), compare_auc(own, other, idh).p),
        "accuracy": ("McNemar exact on cases", len(known), compare_mcnemar(*right).p),
    }


def _compare_means(pairs: _Pairs, names: Sequence[str]) -> tuple[str, int, float | None]:
    defined = [pair for pair in pairs if all(case[name] is not None for case in pair for name in names)]
    own, other = ([fmean(pair[place][name] for name in names) for pair in defined] for place in (0, 1))
    return "paired t on cases", len(defined), compare_paired_t(own, other).p

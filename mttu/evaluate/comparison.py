"""Two systems on the same cases: paired tests, adjusted for their number."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mttu.data.labels import IDH_MUTANT, REGIONS
from mttu.evaluate.plan import EvaluationPlan
from mttu.evaluate.predictions import Predictions
from mttu.metrics.classification import DEFAULT_THRESHOLD
from mttu.metrics.comparisons import (
    adjust_holm,
    align_cases,
    compare_mcnemar,
    compare_paired_t,
    compare_two_samples_t,
    compare_wilcoxon,
)
from mttu.metrics.delong import compare_auc
from mttu.metrics.empty_masks import fill_scores
from mttu.metrics.intervals import bootstrap_mean

COMPARED = ("dice", "hd95_mm")


def report_comparison(plan: EvaluationPlan, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tests of the first system against the second.

    A pair of cases counts for a score if the conventions for empty masks give both systems one; the others are counted
    in `pairs_left_out`. Holm's adjustment is over the tests of one kind: those of all regions and scores; DeLong's and
    McNemar's together.

    Args:
        plan: Of two systems.
        rows: Region scores of both.

    Raises:
        InputError: The systems have scores for different cases.
    """
    first, second = plan.systems
    regions = tuple(REGIONS) if plan.can_compare("segmentation") else ()
    tests = [test for region in regions for name in COMPARED for test in _compare_region(rows, plan, region, name)]
    idh = _compare_idh(plan) if plan.can_compare("idh") else {}
    for kind in dict.fromkeys(test["name"] for test in tests):
        _adjust([test for test in tests if test["name"] == kind])
    _adjust(list(idh.values()))
    return {"first": first.name, "second": second.name, "segmentation": tests, "idh": idh}


def _table(rows: Sequence[Mapping[str, Any]], system: Predictions, region: str) -> dict[str, Mapping[str, Any]]:
    return {row["case_id"]: row for row in rows if row["system"] == system.name and row["region"] == region}


def _compare_region(
    rows: Sequence[Mapping[str, Any]], plan: EvaluationPlan, region: str, score: str
) -> list[dict[str, Any]]:
    tables = {system.name: _table(rows, system, region) for system in plan.systems}
    case_ids = align_cases(tables)
    first, second = tables.values()
    pairs, patients = [], []
    for case_id in case_ids:
        one, other = (fill_scores(table[case_id], plan.metrics)[score] for table in (first, second))
        if one is not None and other is not None:
            pairs.append((one, other))
            patients.append(first[case_id]["patient_id"])
    left, right = [one for one, _ in pairs], [other for _, other in pairs]
    differences = [one - other for one, other in pairs]
    interval = asdict(bootstrap_mean(differences, patients, num_resamples=plan.num_resamples))
    common = {"region": region, "score": score, "pairs_left_out": len(case_ids) - len(pairs)}
    return [
        {**common, "interval_of_difference": interval, **asdict(compare(left, right))}
        for compare in (compare_paired_t, compare_wilcoxon, compare_two_samples_t)
    ]


def _compare_idh(plan: EvaluationPlan) -> dict[str, dict[str, Any]]:
    tables = {system.name: system.probabilities(plan.with_idh(system)) for system in plan.systems}
    case_ids = align_cases(tables)
    if not case_ids:
        return {}
    status = {case.case_id: case.idh for case in plan.cases}
    idh = [status[case_id] for case_id in case_ids]
    first, second = ([table[case_id] for case_id in case_ids] for table in tables.values())
    right = [
        [(value >= DEFAULT_THRESHOLD) == (own == IDH_MUTANT) for value, own in zip(values, idh, strict=True)]
        for values in (first, second)
    ]
    return {"auc": asdict(compare_auc(first, second, idh)), "accuracy": asdict(compare_mcnemar(*right))}


def _adjust(tests: Sequence[dict[str, Any]]) -> None:
    for test, p in zip(tests, adjust_holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = p

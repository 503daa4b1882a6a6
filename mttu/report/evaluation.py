"""Scores of every case, and their summary."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes

from mttu import __version__
from mttu.data.labels import IDH_MUTANT, find_regions, to_classes
from mttu.data.manifest import Case
from mttu.data.volumes import differ, read_scaling, read_volume
from mttu.errors import InputError, raise_if_any
from mttu.metrics.empty_masks import fill_scores, name_conventions
from mttu.metrics.reliability import call_top_label
from mttu.metrics.segmentation import RegionScores, score_regions
from mttu.report.plan import EvaluationPlan, collecting
from mttu.report.predictions import Predictions
from mttu.report.summary import report_baselines, report_comparison, report_idh, report_segmentation

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Evaluation:
    """Tables of cases, and their summary."""

    region_rows: Rows
    """See `mttu.report.files.REGION_SCHEMA`; by system, case and region."""
    idh_rows: Rows
    """See `mttu.report.files.IDH_SCHEMA`."""
    summary: Mapping[str, Any]
    """JSON values."""


def evaluate_cases(plan: EvaluationPlan, on_case: Callable[[int, str], None] | None = None) -> Evaluation:
    """Scores every case of a plan and summarises.

    Args:
        plan: See `plan_evaluation`.
        on_case: Called after each mask with the number of scored masks and the case.

    Raises:
        InputError: Masks that cannot be read or lie on other grids; lists all of them.
    """
    region_rows: Rows = []
    problems: list[str] = []
    pairs = [(system, case) for system in plan.systems for case in _by_id(plan.with_masks(system))]
    for done, (system, case) in enumerate(pairs, start=1):
        with collecting(problems):
            scores = score_masks(case, system)
            region_rows += [_region_row(case, plan, system, region, own) for region, own in scores.items()]
        if on_case is not None:
            on_case(done, case.case_id)
    raise_if_any(problems)
    idh_rows = [row for system in plan.systems for row in _idh_rows(plan.with_idh(system), system)]
    return Evaluation(region_rows, idh_rows, _summarise(plan, region_rows))


def score_masks(case: Case, system: Predictions) -> Mapping[str, RegionScores]:
    """Scores a predicted mask against the true one, both on the original grid.

    Args:
        case: Has a true mask.
        system: Has a mask of the case.

    Raises:
        InputError: A mask cannot be read, holds labels that its convention lacks, or the grids differ.
    """
    case_id, said = case.case_id, f"{case.case_id} (prediction)"
    if case.seg is None:
        raise InputError(f"case {case_id}: the manifest has no tumour mask")
    truth, predicted = read_volume(case.seg, case_id), read_volume(system.mask(case_id), said)
    difference = differ(truth, predicted)
    if difference:
        raise InputError(
            f"case {case_id}: true and predicted mask have different grids: {difference}; predict from the images that "
            "the true mask belongs to"
        )
    defined = set(find_regions(case.labels)) & set(find_regions(system.labels))
    return score_regions(
        to_classes(predicted.get_fdata(dtype=np.float32), system.labels, said, read_scaling(predicted)),
        to_classes(truth.get_fdata(dtype=np.float32), case.labels, case_id, read_scaling(truth)),
        voxel_sizes(truth.affine).tolist(),
        sorted(defined),
    )


def _by_id(cases: Sequence[Case]) -> list[Case]:
    return sorted(cases, key=lambda case: case.case_id)


def _describe(case: Case, system: Predictions) -> dict[str, Any]:
    """What rows of both tables begin with."""
    learned_from = system.rows[case.case_id].get("learned_from")
    row = {"case_id": case.case_id, "patient_id": case.patient_id, "system": system.name}
    return {**row, "learned_from": learned_from}


def _region_row(
    case: Case, plan: EvaluationPlan, system: Predictions, region: str, scores: RegionScores
) -> dict[str, Any]:
    """Scores by the conventions that the row names; its status says what the masks hold."""
    row = {**_describe(case, system), "region": region, **vars(scores)}
    return {**row, **fill_scores(row, plan.metrics), **plan.metrics.model_dump()}


def _idh_rows(cases: Sequence[Case], system: Predictions) -> Rows:
    rows: Rows = []
    probabilities = system.probabilities(cases)
    for case in _by_id(cases):
        probability = probabilities[case.case_id]
        confidence, mutant = call_top_label(np.array([probability]))
        right = bool(mutant[0]) == (case.idh == IDH_MUTANT)
        scores = {"mutant_probability": probability, "confidence": float(confidence[0]), "right": right}
        rows.append({**_describe(case, system), "idh": case.idh, **scores})
    return rows


def _summarise(plan: EvaluationPlan, region_rows: Rows) -> dict[str, Any]:
    system = plan.systems[0]
    own = [row for row in region_rows if row["system"] == system.name]
    told = ("name", "checkpoint", "labels", "precision")
    return {
        "mttu_version": __version__,
        "split": plan.split,
        "empty_masks": name_conventions(plan.metrics),
        **plan.metrics.model_dump(),
        "systems": [{**{key: getattr(one, key) for key in told}, "notes": list(one.notes)} for one in plan.systems],
        "synthetic": plan.manifest.synthetic,
        "cases": {
            "in_split": len(plan.cases),
            "failed": {one.name: plan.failed(one) for one in plan.systems},
            "learned_from": {one.name: plan.learned_from(one) for one in plan.systems},
            "learned_from_not_said": {one.name: plan.not_said(one) for one in plan.systems},
            "without_true_mask": sum(case.seg is None for case in plan.cases),
            "masks_scored": len(plan.with_masks(system)),
            "idh_scored": len(plan.with_idh(system)),
        },
        "segmentation": report_segmentation(own, plan.metrics, plan.num_resamples),
        "idh": report_idh(plan.with_idh(system), plan.fit(system), system, plan.num_resamples),
        "baselines": report_baselines(plan, system) if plan.baselines else None,
        "comparison": report_comparison(plan, region_rows) if len(plan.systems) > 1 else None,
    }

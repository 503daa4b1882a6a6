"""Scoring case after case, then the summary."""

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
from mttu.report.plan import EvaluationPlan
from mttu.report.predictions import Predictions
from mttu.report.summary import report_baselines, report_comparison, report_idh, report_segmentation

OnScored = Callable[[int, str], None]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Evaluation:
    """Tables of cases, and what they come to."""

    region_rows: Rows
    """See `mttu.report.files.REGION_SCHEMA`; sorted by system, case and region."""
    idh_rows: Rows
    """See `mttu.report.files.IDH_SCHEMA`."""
    summary: Mapping[str, Any]
    """JSON values."""


def evaluate_cases(plan: EvaluationPlan, on_case: OnScored | None = None) -> Evaluation:
    """Scores every case of a plan and summarises.

    Args:
        plan: See `plan_evaluation`.
        on_case: Told how many masks are scored, and the newest case.

    Raises:
        InputError: Masks that cannot be read or lie on other grids; lists all of them.
    """
    region_rows: Rows = []
    problems: list[str] = []
    done = 0
    for system in plan.systems:
        for case in sorted(plan.with_masks(system), key=lambda case: case.case_id):
            try:
                scores = score_masks(case, system)
                region_rows += [_region_row(case, plan, system, region, own) for region, own in scores.items()]
            except InputError as error:
                problems += error.problems
            done += 1
            if on_case is not None:
                on_case(done, case.case_id)
    raise_if_any(problems)
    idh_rows = [row for system in plan.systems for row in _idh_rows(plan.with_idh(system), system)]
    return Evaluation(region_rows, idh_rows, _summarise(plan, region_rows))


def score_masks(case: Case, system: Predictions) -> Mapping[str, RegionScores]:
    """Scores a predicted mask against the true one, both on the original grid.

    Raises:
        InputError: A mask cannot be read, holds other labels than its convention, or the grids differ.
    """
    case_id = case.case_id
    if case.seg is None:
        raise InputError(f"case {case_id}: the manifest has no tumour mask")
    truth = read_volume(case.seg, case_id)
    predicted = read_volume(system.mask(case_id), f"{case_id} (prediction)")
    difference = differ(truth, predicted)
    if difference:
        raise InputError(
            f"case {case_id}: true and predicted mask have different grids: {difference}; predict from the images that "
            "the true mask belongs to"
        )
    defined = set(find_regions(case.labels)) & set(find_regions(system.labels))
    return score_regions(
        to_classes(
            predicted.get_fdata(dtype=np.float32), system.labels, f"{case_id} (prediction)", read_scaling(predicted)
        ),
        to_classes(truth.get_fdata(dtype=np.float32), case.labels, case_id, read_scaling(truth)),
        voxel_sizes(truth.affine).tolist(),
        sorted(defined),
    )


def _region_row(
    case: Case, plan: EvaluationPlan, system: Predictions, region: str, scores: RegionScores
) -> dict[str, Any]:
    """Scores as the conventions count them, which the row names; its status says what the masks held."""
    who = {"case_id": case.case_id, "patient_id": case.patient_id, "system": system.name, "region": region}
    row = {**who, "learned_from": _learned_from(case, system), **vars(scores)}
    return {**row, **fill_scores(row, plan.metrics), **plan.metrics.model_dump()}


def _learned_from(case: Case, system: Predictions) -> bool | None:
    return system.rows[case.case_id].get("learned_from")


def _idh_rows(cases: Sequence[Case], system: Predictions) -> Rows:
    rows: Rows = []
    probabilities = system.probabilities(cases)
    for case in sorted(cases, key=lambda case: case.case_id):
        probability = probabilities[case.case_id]
        confidence, mutant = call_top_label(np.array([probability]))
        rows.append(
            {
                "case_id": case.case_id,
                "patient_id": case.patient_id,
                "system": system.name,
                "learned_from": _learned_from(case, system),
                "idh": case.idh,
                "mutant_probability": probability,
                "confidence": float(confidence[0]),
                "right": bool(mutant[0]) == (case.idh == IDH_MUTANT),
            }
        )
    return rows


def _describe(system: Predictions) -> dict[str, Any]:
    names = ("name", "checkpoint", "labels", "precision")
    return {**{name: getattr(system, name) for name in names}, "notes": list(system.notes)}


def _summarise(plan: EvaluationPlan, region_rows: Rows) -> dict[str, Any]:
    system = plan.systems[0]
    own = [row for row in region_rows if row["system"] == system.name]
    return {
        "mttu_version": __version__,
        "split": plan.split,
        "empty_masks": name_conventions(plan.metrics),
        **plan.metrics.model_dump(),
        "systems": [_describe(one) for one in plan.systems],
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

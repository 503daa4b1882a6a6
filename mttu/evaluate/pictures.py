"""Figures of an evaluation, from its tables and its summary."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from mttu.config import MetricSettings
from mttu.data.labels import IDH_MUTANT
from mttu.figures.case_scores import CaseScore, draw_case_scores
from mttu.figures.estimates import Estimate
from mttu.figures.reliability import Reliability, ReliabilityBin, draw_reliability
from mttu.figures.roc import RocCurve, draw_roc
from mttu.metrics.delong import estimate_auc
from mttu.metrics.empty_masks import HD95, explain_dice, explain_hd95, fill_scores

PICTURES = ("roc", "reliability", "segmentation")
"""Names of the figures, each as `.png` and `.pdf`; one without data is not drawn."""


def draw_pictures(
    region_rows: Sequence[Mapping[str, Any]], idh_rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> dict[str, Figure]:
    """Draws what the tables hold.

    Args:
        region_rows: Columns of `mttu.evaluate.files.REGION_SCHEMA`.
        idh_rows: Columns of `mttu.evaluate.files.IDH_SCHEMA`.
        summary: From `mttu.evaluate.run.evaluate_cases`.

    Returns:
        Name, one of `PICTURES`, to figure.
    """
    figures = {}
    if idh_rows:
        figures["roc"] = draw_roc([_to_curve(name, rows) for name, rows in _by_system(idh_rows).items()])
    if summary["idh"] is not None:
        figures["reliability"] = draw_reliability(_to_diagrams(summary["systems"][0]["name"], summary["idh"]))
    if region_rows:
        conventions = MetricSettings(empty_dice=summary["empty_dice"], empty_hd95=summary["empty_hd95"])
        figures["segmentation"] = _draw_segmentation(region_rows, conventions)
    return figures


def _draw_segmentation(rows: Sequence[Mapping[str, Any]], conventions: MetricSettings) -> Figure:
    """Scores as the conventions for empty masks count them, so that means and n are those of the summary."""
    scores = []
    for row in rows:
        if row["status"] != "not-defined":
            filled = fill_scores(row, conventions)
            scores.append(CaseScore(row["case_id"], row["system"], row["region"], filled["dice"], filled["hd95_mm"]))
    penalty_mm = HD95[conventions.empty_hd95].scores["missed"]
    return draw_case_scores(scores, penalty_mm, [explain_dice(conventions), explain_hd95(conventions)])


def _by_system(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    systems: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        systems.setdefault(row["system"], []).append(row)
    return systems


def _to_curve(name: str, rows: Sequence[Mapping[str, Any]]) -> RocCurve:
    probabilities, idh = [row["mutant_probability"] for row in rows], [row["idh"] for row in rows]
    auc = estimate_auc(probabilities, idh)
    false_rates: list[float] = []
    true_rates: list[float] = []
    if auc.num_mutant and auc.num_wild:
        found = roc_curve(idh, probabilities, pos_label=IDH_MUTANT, drop_intermediate=False)
        false_rates, true_rates = found[0].tolist(), found[1].tolist()
    estimate = Estimate(auc.auc, auc.low, auc.high)
    return RocCurve(name, false_rates, true_rates, estimate, auc.num_mutant, auc.num_wild)


def _to_diagrams(name: str, idh: Mapping[str, Any]) -> list[Reliability]:
    """Before calibration, and after each that was fitted."""
    error = next(one for one in idh["calibration_errors"] if one["binning"] == "equal-width")
    diagrams = [_to_diagram("before calibration" if idh["calibrations"] else name, idh["reliability"], error)]
    for fitted in idh["calibrations"]:
        after = fitted["after"]
        diagrams.append(_to_diagram(fitted["name"], after["reliability"], after["calibration_error"]))
    return diagrams


def _to_diagram(title: str, bars: Sequence[Mapping[str, Any]], error: Mapping[str, Any]) -> Reliability:
    bins = [
        ReliabilityBin(bar["low"], bar["high"], bar["num_cases"], bar["mean_confidence"], _to_estimate(bar["accuracy"]))
        for bar in bars
    ]
    return Reliability(title, bins, Estimate(error["ece"], error["interval"]["low"], error["interval"]["high"]))


def _to_estimate(interval: Mapping[str, Any]) -> Estimate:
    return Estimate(interval["estimate"], interval["low"], interval["high"])

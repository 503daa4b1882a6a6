"""Validation on whole volumes: each case on one rank, the table of case scores gathered, then summarised."""

import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch

from mttu.config import Config
from mttu.config.training import ValidationMetric
from mttu.data.absent_classes import count_classes, describe_classes
from mttu.data.cache import CachedCase
from mttu.data.labels import REGIONS, find_regions
from mttu.data.loaders import read_prepared
from mttu.data.manifest import Case
from mttu.errors import RunError
from mttu.inference.device import Precision
from mttu.inference.windows import VolumePrediction, predict_volume, segment
from mttu.metrics.calibration import fit_calibration
from mttu.metrics.classification import score_classification
from mttu.metrics.empty_masks import fill_dice, fill_hd95
from mttu.metrics.segmentation import count_overlaps, score_regions
from mttu.networks import Network
from mttu.training.runtime import Runtime, agreeing, gather_over_ranks

SECONDS = "seconds"
"""Of a case's row: the time that its prediction took."""
TIE_BREAK = 0.001
"""Weight of the cross entropy in `dice_plus_auc`."""
EMPTY = ("both-empty", "missed", "spurious")
"""Kinds of empty masks that are counted beside each mean Dice."""


def score_case(
    network: Network,
    case: Case,
    cached: CachedCase,
    config: Config,
    device: torch.device,
    precision: Precision,
    distances: bool = False,
) -> dict[str, Any]:
    """Scores one prepared case.

    With `distances` also hd95_wt, hd95_tc, hd95_et in mm, which take longer, None where undefined, and where the
    convention for empty masks leaves the case out; and seconds, the time that the prediction alone took.

    Returns:
        case_id; idh; mutant_probability, None without an IDH head that ever saw a label; dice_wt, dice_tc, dice_et,
        None without a mask that defines the region, or where the convention for empty masks leaves the case out;
        status_wt, status_tc, status_et, see `mttu.metrics.empty_masks.Status`; where there is a mask, which classes
        it and the prediction hold, see `mttu.data.absent_classes.describe_classes`.
    """
    image = read_prepared(cached, config)
    started = time.monotonic()
    try:
        prediction = predict_volume(network, image, config.patch.size, config.inference, device, precision)
    except FloatingPointError as error:
        raise RunError(f"validation case {case.case_id}: {error}", all_ranks=False) from None
    seconds = time.monotonic() - started
    row = score_prediction(prediction, case, cached, config, network.learned_parts, distances)
    return {**row, SECONDS: seconds} if distances else row


def score_prediction(
    prediction: VolumePrediction,
    case: Case,
    cached: CachedCase,
    config: Config,
    learned_parts: bool,
    distances: bool = False,
) -> dict[str, Any]:
    """The row of `score_case`, without seconds, of a prediction by a network that learned the tumour's parts or not."""
    row: dict[str, Any] = {"case_id": case.case_id, "idh": case.idh, "mutant_probability": None}
    names = ("dice", "status", "hd95") if distances else ("dice", "status")
    row |= {f"{score}_{region}": None for score in names for region in REGIONS}
    if prediction.idh_probabilities is not None:
        row["mutant_probability"] = float(prediction.idh_probabilities[1])
    if prediction.seg_probabilities is not None and cached.seg is not None:
        voxel_mm3 = config.data.prepare.spacing_mm**3
        classes = segment(prediction.seg_probabilities, config.inference, voxel_mm3, learned_parts).cpu()
        overlaps = count_overlaps(classes.numpy(), np.asarray(cached.seg))
        row |= describe_classes(classes.numpy(), cached.seg)
        for region in find_regions(case.labels if learned_parts else "whole-tumour"):
            overlap = overlaps[region]
            dice = fill_dice(overlap.dice, overlap.status, config.metrics)
            row |= {f"dice_{region}": dice, f"status_{region}": overlap.status}
        if distances:
            spacing_mm = (config.data.prepare.spacing_mm,) * 3
            found = score_regions(classes.numpy(), np.asarray(cached.seg), spacing_mm)
            row |= {f"hd95_{name}": fill_hd95(one.hd95_mm, one.status, config.metrics) for name, one in found.items()}
    return row


def summarise(rows: Sequence[Mapping[str, Any]], metric: ValidationMetric) -> tuple[dict[str, float], float | None]:
    """Metrics over the rows of `score_case`, named `val/...`, and the score that a checkpoint is chosen by.

    Metrics that are not defined are left out; the score is None if none of its parts is defined.
    """
    metrics: dict[str, float] = {}
    for region in REGIONS:
        known = [row[f"dice_{region}"] for row in rows if row[f"dice_{region}"] is not None]
        if known:
            metrics[f"val/dice_{region}"] = fmean(known)
        if any(row[f"status_{region}"] is not None for row in rows):
            for status in EMPTY:
                count = sum(row[f"status_{region}"] == status for row in rows)
                metrics[f"val/{status.replace('-', '_')}_{region}"] = float(count)
    dices = [value for name, value in metrics.items() if name.startswith("val/dice_")]
    if dices:
        metrics["val/dice"] = fmean(dices)
    metrics |= count_classes(rows)
    classified = [row for row in rows if row["mutant_probability"] is not None]
    idh = score_classification([row["mutant_probability"] for row in classified], [row["idh"] for row in classified])
    found = {
        "idh_ce": idh.cross_entropy,
        "idh_accuracy": idh.accuracy,
        "idh_auc": idh.auc,
        "idh_sensitivity": idh.sensitivity,
        "idh_specificity": idh.specificity,
        "idh_brier": idh.brier,
    }
    metrics |= {f"val/{name}": value for name, value in found.items() if value is not None}
    dice, ce, auc = (metrics.get(f"val/{name}") for name in ("dice", "idh_ce", "idh_auc"))
    scores: dict[ValidationMetric, float | None] = {
        "dice": dice,
        "dice_plus_auc": None if dice is None and auc is None else (dice or 0.0) + (auc or 0.0),
        "idh_auc": auc,
        "negative_idh_ce": None if ce is None else -ce,
        "dice_minus_ce": None if dice is None and ce is None else (dice or 0.0) - (ce or 0.0),
    }
    score = scores[metric]
    if score is not None and metric == "dice_plus_auc":
        score -= _tie_break(classified)
    if score is not None:
        metrics["val/score"] = score
    return metrics, score


def _tie_break(classified: Sequence[Mapping[str, Any]]) -> float:
    """Cross entropy of the IDH status at the temperature that makes it least, about ln 2 at most, times `TIE_BREAK`.

    One pair of cases more in the right order outweighs it where there are fewer than 1400 pairs.
    """
    known = [row for row in classified if row["idh"] >= 0]
    probabilities, idh = [row["mutant_probability"] for row in known], [row["idh"] for row in known]
    if len(set(idh)) < 2:
        return 0.0
    calibrated = fit_calibration(probabilities, idh).apply(probabilities)
    return TIE_BREAK * (score_classification(calibrated.tolist(), idh).cross_entropy or 0.0)


def evaluate(
    network: Network, cases: Sequence[tuple[Case, CachedCase]], config: Config, runtime: Runtime, precision: Precision
) -> tuple[dict[str, float], float | None, list[dict[str, Any]]]:
    """Metrics, score and the rows of all cases, sorted by case; each rank scores its share and returns the same."""
    share = cases[runtime.rank :: runtime.world_size]
    with agreeing(runtime):
        rows = [score_case(network, case, cached, config, runtime.device, precision) for case, cached in share]
    table = sorted(gather_over_ranks(rows), key=lambda row: str(row["case_id"]))
    return *summarise(table, config.train.validation_metric), table

"""Regions over cases: mean, spread, interval, and how many masks were empty."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mttu.config import MetricSettings
from mttu.data.labels import REGIONS
from mttu.metrics.empty_masks import METRICS, fill_scores, summarise_region
from mttu.metrics.intervals import bootstrap_mean


def report_segmentation(
    rows: Sequence[Mapping[str, Any]], settings: MetricSettings, num_resamples: int
) -> dict[str, Any] | None:
    """Summary of each region; None without scored masks.

    Args:
        rows: Of one system, see `mttu.evaluate.files.REGION_SCHEMA`.
        settings: Conventions for empty masks.
        num_resamples: Of the bootstrap.

    Returns:
        Region to counts and, for each metric, spread and interval of the mean over patients.
    """
    if not rows:
        return None
    report: dict[str, Any] = {}
    for region in REGIONS:
        own = sorted((row for row in rows if row["region"] == region), key=lambda row: str(row["case_id"]))
        summary = asdict(summarise_region(own, region, settings))
        filled = [fill_scores(row, settings) for row in own]
        for name in METRICS:
            known = [(scores[name], row["patient_id"]) for scores, row in zip(filled, own, strict=True)]
            values = [value for value, _ in known if value is not None]
            patients = [patient for value, patient in known if value is not None]
            summary["metrics"][name]["interval_of_mean"] = asdict(
                bootstrap_mean(values, patients, num_resamples=num_resamples)
            )
        report[region] = summary
    return report

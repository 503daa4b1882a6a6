"""What a region scores that the true or the predicted mask does not hold: three conventions, none of them silent.

| | Dice: both empty, spurious, missed | HD95: both empty, one empty |
| --- | --- | --- |
| exclude-empty | left out, left out, 0 | left out, left out |
| brats2020 | 1, 0, 0 | 0 mm, 373.12866 mm |
| brats2023 | 1, 0, 0 | 0 mm, 374 mm |

exclude-empty is what the paper's tables show: one penalty of 373 mm among 70 cases would force a standard deviation
above any in them. A distance needs both masks and is left out without; Dice needs a true region, as MONAI has it, so a
missed region counts 0. By these distances alone a system that misses more may look better: read the counts beside them,
or compare systems under brats2020. 373.12866 mm is the diagonal of 240 x 240 x 155 mm, and stays that on other grids.
brats2023 means the two values; the lesion-wise scores of that challenge are another thing.

Sensitivity and relative volume difference need a true region under all conventions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mttu.errors import InputError
from mttu.metrics.intervals import Spread, describe

STATUSES = ("normal", "missed", "spurious", "both-empty", "not-defined")
METRICS = ("dice", "hd95_mm", "sensitivity", "specificity", "volume_difference_ml", "relative_volume_difference")


@dataclass(frozen=True)
class Convention:
    """Scores of empty masks; None leaves the case out."""

    title: str
    dice_both_empty: float | None = None
    dice_spurious: float | None = None
    hd95_both_empty_mm: float | None = None
    hd95_one_empty_mm: float | None = None


CONVENTIONS: Mapping[str, Convention] = {
    "exclude-empty": Convention("empty masks left out, missed regions have Dice 0"),
    "brats2020": Convention("BraTS to 2021", 1.0, 0.0, 0.0, 373.12866),
    "brats2023": Convention("BraTS 2023, values of the penalty", 1.0, 0.0, 0.0, 374.0),
}


def find_convention(name: str) -> Convention:
    """The convention of that name.

    Raises:
        InputError: Unknown name; lists the known ones.
    """
    if name not in CONVENTIONS:
        known = ", ".join(f"{key} ({convention.title})" for key, convention in CONVENTIONS.items())
        raise InputError(f"empty masks {name!r}: unknown convention; choose one of {known}")
    return CONVENTIONS[name]


def fill_scores(row: Mapping[str, Any], convention: str) -> dict[str, float | None]:
    """The scores of a case's region as a convention counts them; None where it leaves the case out.

    Args:
        row: Has `status` and the `METRICS`, see `mttu.metrics.segmentation.RegionScores`.
        convention: Name in `CONVENTIONS`.
    """
    rule, status = find_convention(convention), row["status"]
    scores: dict[str, float | None] = {name: row[name] for name in METRICS}
    if status == "both-empty":
        scores |= {"dice": rule.dice_both_empty, "hd95_mm": rule.hd95_both_empty_mm}
    elif status == "spurious":
        scores |= {"dice": rule.dice_spurious, "hd95_mm": rule.hd95_one_empty_mm}
    elif status == "missed":
        scores |= {"hd95_mm": rule.hd95_one_empty_mm}
    return scores


@dataclass(frozen=True)
class RegionSummary:
    """Scores of a region over cases, with how many cases were which."""

    region: str
    convention: str
    counts: Mapping[str, int]
    """Status to number of cases, for all of `STATUSES`."""
    metrics: Mapping[str, Spread]
    """Score to mean, spread and `n`, the number of cases that it is taken over."""


def summarise_region(rows: Sequence[Mapping[str, Any]], region: str, convention: str) -> RegionSummary:
    """Summary of one region over the table of case scores.

    The same bits for any order of rows, so a table gathered over ranks gives what one rank's gives.

    Args:
        rows: `case_id`, `region`, `status` and the `METRICS`; rows of other regions are passed over.
        region: Name in `mttu.data.labels.REGIONS`.
        convention: Name in `CONVENTIONS`.

    Raises:
        InputError: Unknown convention.
        ValueError: A case has two rows for the region, or an unknown status.
    """
    own = sorted((row for row in rows if row["region"] == region), key=lambda row: str(row["case_id"]))
    case_ids = [row["case_id"] for row in own]
    twice = sorted({case_id for case_id in case_ids if case_ids.count(case_id) > 1})
    if twice:
        raise ValueError(f"region {region}: cases {', '.join(twice)} have two rows")
    filled = [fill_scores(row, convention) for row in own]
    counts = {status: sum(row["status"] == status for row in own) for status in STATUSES}
    if sum(counts.values()) != len(own):
        raise ValueError(f"region {region}: a status is none of {', '.join(STATUSES)}")
    spreads = {name: describe([value for scores in filled if (value := scores[name]) is not None]) for name in METRICS}
    return RegionSummary(region, convention, counts, spreads)

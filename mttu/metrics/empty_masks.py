"""What a region scores when it is missing from the true or the predicted mask; configured separately for Dice and HD95.

| Dice | both empty | spurious | missed |
| --- | --- | --- | --- |
| brats | 1 | 0 | 0 |
| exclude | left out | left out | 0 |

| HD95 | both empty | one empty |
| --- | --- | --- |
| exclude | left out | left out |
| brats2020 | 0 mm | 373.12866 mm |
| brats2023 | 0 mm | 374 mm |

The settings are `metrics.empty_dice` and `metrics.empty_hd95`. The defaults are those of the authors' release: Dice as
in the BraTS challenges, distances without empty masks. One penalty of 373 mm among 70 cases would give a standard
deviation above any in the paper's tables. Without penalties, a system that misses more may have a smaller mean
distance: read the counts beside it, or compare systems under brats2020. 373.12866 mm is the diagonal of
240 x 240 x 155 mm, and is used on other grids too. brats2023 is that challenge's value; its lesion-wise scores
are in `mttu.metrics.lesions`, whatever the settings.
Excluding Dice is MONAI's convention: a false alarm where there is no region costs nothing.

Sensitivity and relative volume difference always need a true region.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mttu.config import MetricSettings
from mttu.errors import raise_if_any
from mttu.metrics.intervals import Spread, describe

Status = Literal["normal", "missed", "spurious", "both-empty", "not-defined"]
"""normal: both masks hold the region. missed: only the true one does. spurious: only the predicted one does.
not-defined: a whole-tumour mask doesn't say where the region lies."""
STATUSES: tuple[Status, ...] = get_args(Status)
METRICS = ("dice", "hd95_mm", "sensitivity", "specificity", "volume_difference_ml", "relative_volume_difference")


@dataclass(frozen=True)
class Convention:
    """Score of one metric where a mask is empty; None leaves the case out."""

    title: str
    scores: Mapping[str, float | None]
    """By status; any other status keeps the score that the masks give."""


DICE: Mapping[str, Convention] = {
    "brats": Convention("both empty 1, only one empty 0", {"both-empty": 1.0, "spurious": 0.0}),
    "exclude": Convention("left out without a true region, missed 0", {"both-empty": None, "spurious": None}),
}
"""Values of `metrics.empty_dice`."""


def _penalise(both_empty_mm: float | None, one_empty_mm: float | None) -> Mapping[str, float | None]:
    return {"both-empty": both_empty_mm, "spurious": one_empty_mm, "missed": one_empty_mm}


HD95: Mapping[str, Convention] = {
    "exclude": Convention("left out unless both masks hold the region", _penalise(None, None)),
    "brats2020": Convention("both empty 0 mm, only one empty 373.12866 mm", _penalise(0.0, 373.12866)),
    "brats2023": Convention("both empty 0 mm, only one empty 374 mm", _penalise(0.0, 374.0)),
}
"""Values of `metrics.empty_hd95`."""

BOTH: Mapping[str, MetricSettings] = {
    "exclude-empty": MetricSettings(empty_dice="exclude", empty_hd95="exclude"),
    "brats2020": MetricSettings(empty_dice="brats", empty_hd95="brats2020"),
    "brats2023": MetricSettings(empty_dice="brats", empty_hd95="brats2023"),
}
"""One name for both choices."""


def choose_conventions(
    start: MetricSettings, both: str | None = None, dice: str | None = None, hd95: str | None = None
) -> MetricSettings:
    """Conventions by name; the name of one metric takes precedence over that of both.

    Args:
        start: Used where nothing is named.
        both: Name in `BOTH`.
        dice: Name in `DICE`.
        hd95: Name in `HD95`.

    Raises:
        InputError: Unknown names; lists the known ones.
    """
    choices = [("masks", both, {name: name_conventions(settings) for name, settings in BOTH.items()})]
    for metric, name, conventions in (("Dice", dice, DICE), ("HD95", hd95, HD95)):
        choices.append((f"masks in {metric}", name, {key: known.title for key, known in conventions.items()}))
    raise_if_any(
        [
            f"empty {what} {name!r}: unknown convention; choose one of "
            + ", ".join(f"{key} ({title})" for key, title in known.items())
            for what, name, known in choices
            if name is not None and name not in known
        ]
    )
    found = BOTH[both] if both is not None else start
    chosen = {name: value for name, value in (("empty_dice", dice), ("empty_hd95", hd95)) if value is not None}
    return found.model_copy(update=chosen)


def name_conventions(settings: MetricSettings) -> str:
    """Both names, for the title of a table: `Dice brats, HD95 exclude`."""
    return f"Dice {settings.empty_dice}, HD95 {settings.empty_hd95}"


def explain_dice(settings: MetricSettings) -> str:
    """One sentence on the convention of Dice."""
    return f"Dice of empty masks: {DICE[settings.empty_dice].title} ({settings.empty_dice})."


def explain_hd95(settings: MetricSettings) -> str:
    """One sentence on the convention of HD95."""
    return f"HD95 of empty masks: {HD95[settings.empty_hd95].title} ({settings.empty_hd95})."


def fill_dice(dice: float | None, status: str, settings: MetricSettings) -> float | None:
    """A case's Dice under the convention; None excludes the case."""
    return DICE[settings.empty_dice].scores.get(status, dice)


def fill_hd95(hd95_mm: float | None, status: str, settings: MetricSettings) -> float | None:
    """A case's HD95 in mm under the convention; None excludes the case."""
    return HD95[settings.empty_hd95].scores.get(status, hd95_mm)


def fill_scores(row: Mapping[str, Any], settings: MetricSettings) -> dict[str, float | None]:
    """The scores of a case's region under the conventions; None where they exclude the case.

    Args:
        row: Has `status` and the `METRICS`, see `mttu.metrics.segmentation.RegionScores`.
        settings: Conventions.
    """
    status = row["status"]
    dice = fill_dice(row["dice"], status, settings)
    hd95_mm = fill_hd95(row["hd95_mm"], status, settings)
    return {**{name: row[name] for name in METRICS}, "dice": dice, "hd95_mm": hd95_mm}


@dataclass(frozen=True)
class RegionSummary:
    """Scores of a region over cases, with the number of cases of each status."""

    region: str
    convention: str
    """Names of both conventions."""
    counts: Mapping[str, int]
    """Status to number of cases, for all of `STATUSES`."""
    metrics: Mapping[str, Spread]
    """Score to its spread over the cases that have one."""


def summarise_region(rows: Sequence[Mapping[str, Any]], region: str, settings: MetricSettings) -> RegionSummary:
    """Summary of one region over the table of case scores; bit-identical for any order of rows.

    Args:
        rows: `case_id`, `region`, `status` and the `METRICS`; rows of other regions are ignored.
        region: Name in `mttu.data.labels.REGIONS`.
        settings: Conventions for empty masks.

    Raises:
        ValueError: A case has two rows for the region, or an unknown status.
    """
    own = [row for row in rows if row["region"] == region]
    twice = sorted(case_id for case_id, count in Counter(row["case_id"] for row in own).items() if count > 1)
    if twice:
        raise ValueError(f"region {region}: cases {', '.join(twice)} have two rows")
    filled = [fill_scores(row, settings) for row in own]
    counts: dict[str, int] = {status: sum(row["status"] == status for row in own) for status in STATUSES}
    if sum(counts.values()) != len(own):
        raise ValueError(f"region {region}: a status is none of {', '.join(STATUSES)}")
    spreads = {name: describe([value for scores in filled if (value := scores[name]) is not None]) for name in METRICS}
    return RegionSummary(region, name_conventions(settings), counts, spreads)

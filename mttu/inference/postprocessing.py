"""Connected components of predicted masks: which are dropped, chosen on validation and kept beside the checkpoint.

As nnU-Net does (Isensee et al., Nature Methods 2021, doi:10.1038/s41592-020-01008-z), and for each region: all but the
largest component, or those smaller than a volume, are dropped if the mean Dice of validation cases grows by it. Voxels
that share a face, an edge or a corner belong to one component. `postprocessing.json` says what was chosen, on how many
cases, with which settings, and their scores before and after.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import generate_binary_structure, label

from mttu.config import Config
from mttu.config.data import MetricSettings
from mttu.data.labels import REGIONS
from mttu.inference.kept import find_changes, read_kept, write_kept
from mttu.inference.windows import NECROSIS
from mttu.metrics.empty_masks import fill_dice, fill_hd95
from mttu.metrics.segmentation import count_overlaps, score_regions
from mttu.patients import KnownPatients, read_patients

FORMAT_VERSION = 1
POSTPROCESSING = "postprocessing.json"
VOLUMES_MM3 = (10.0, 50.0, 100.0, 500.0, 1000.0)
"""Smallest volumes that are tried."""
LEAST_GAIN = 0.0005
"""Of mean Dice, by which a rule must be better than none: half of the last digit that tables show."""

_EDEMA = 2
_BELOW = {"wt": 0, "tc": _EDEMA, "et": NECROSIS}
"""What a dropped voxel becomes: background; edema, which stays whole tumour; NCR/NET, which stays tumour core."""
_MEND = "write it again with `mttu postprocess`, or remove it: then masks stay as they are predicted"
_NEIGHBOURS = generate_binary_structure(3, 3)


@dataclass(frozen=True)
class Rule:
    """Which components of a region are dropped."""

    largest_only: bool = False
    """All but the largest, the first of equals."""
    min_mm3: float = 0.0
    """Those with less volume than this. Of the whole tumour the largest stays even if it is smaller: a network of
    gliomas that finds one small one must not say that there is none."""

    def describe(self) -> str:
        """In words, after the name of the region."""
        return "largest component only" if self.largest_only else f"no component below {self.min_mm3:g} mm3"


Rules = Mapping[str, Rule]
"""Region to its rule; a region that is left as it is is not among them."""
CANDIDATES: Mapping[str, tuple[Rule, ...]] = {
    region: (
        *(Rule(min_mm3=volume) for volume in VOLUMES_MM3),
        *((Rule(largest_only=True),) if region == "wt" else ()),
    )
    for region in REGIONS
}
"""What is tried for each region, the mildest first. Core and enhancing tumour often have several true components."""


def postprocess(classes: NDArray[np.uint8], rules: Rules, voxel_mm3: float) -> NDArray[np.uint8]:
    """Drops components, of WT first, then of TC, then of ET; without rules the mask itself.

    Args:
        classes: (H, W, D), classes 0 to 3, or 0 and `WHOLE_TUMOUR`.
        rules: What is dropped.
        voxel_mm3: Volume of a voxel of this grid.
    """
    for region, members in REGIONS.items():
        if region in rules:
            dropped = _find_dropped(np.isin(classes, members), rules[region], voxel_mm3, keeps_one=region == "wt")
            classes = np.where(dropped, np.uint8(_BELOW[region]), classes)
    return classes


def _find_dropped(mask: NDArray[np.bool_], rule: Rule, voxel_mm3: float, keeps_one: bool) -> NDArray[np.bool_]:
    components, count = label(mask, _NEIGHBOURS)
    if not count:
        return np.zeros_like(mask)
    voxels = np.bincount(components.ravel(), minlength=count + 1)
    voxels[0] = 0  # the background
    dropped = np.ones(count + 1, np.bool_) if rule.largest_only else voxels * voxel_mm3 < rule.min_mm3
    if rule.largest_only or keeps_one:
        dropped[voxels.argmax()] = False
    dropped[0] = False
    return np.asarray(dropped[components])


@dataclass(frozen=True)
class ScoredMask:
    """Predicted and true mask of a validation case, (H, W, D) classes on one grid."""

    predicted: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    regions: tuple[str, ...]
    """Those that both define."""

    def apply(self, rules: Rules) -> NDArray[np.uint8]:
        """The predicted mask without what the rules drop."""
        return postprocess(self.predicted, rules, float(np.prod(self.spacing_mm)))


def choose_rules(masks: Sequence[ScoredMask], metrics: MetricSettings) -> dict[str, Rule]:
    """For WT, then TC, then ET: the rule with the largest mean Dice, given the rules before it.

    Mean over regions of the mean over cases, under the convention for empty masks. The mildest of equals is chosen, and
    none where the gain is below `LEAST_GAIN`.
    """
    rules: dict[str, Rule] = {}
    best = _measure_dice(masks, rules, metrics)
    for region, candidates in CANDIDATES.items():
        scores = [_measure_dice(masks, {**rules, region: rule}, metrics) for rule in candidates]
        score = max(scores)
        if score >= best + LEAST_GAIN:
            rules[region], best = candidates[scores.index(score)], score
    return rules


def _measure_dice(masks: Sequence[ScoredMask], rules: Rules, metrics: MetricSettings) -> float:
    by_region: dict[str, list[float]] = {}
    for mask in masks:
        overlaps = count_overlaps(mask.apply(rules), mask.truth)
        for region in mask.regions:
            dice = fill_dice(overlaps[region].dice, overlaps[region].status, metrics)
            if dice is not None:
                by_region.setdefault(region, []).append(dice)
    return fmean(map(fmean, by_region.values())) if by_region else 0.0


def measure_masks(masks: Sequence[ScoredMask], rules: Rules, metrics: MetricSettings) -> dict[str, float]:
    """Mean `dice_wt`, `hd95_wt` (mm) and so on, over the cases that the convention for empty masks does not exclude."""
    found: dict[str, list[float]] = {}
    for mask in masks:
        scores = score_regions(mask.apply(rules), mask.truth, mask.spacing_mm, mask.regions)
        for region in mask.regions:
            one = scores[region]
            values = {
                f"dice_{region}": fill_dice(one.dice, one.status, metrics),
                f"hd95_{region}": fill_hd95(one.hd95_mm, one.status, metrics),
            }
            for name, value in values.items():
                if value is not None:
                    found.setdefault(name, []).append(value)
    return {name: fmean(values) for name, values in found.items()}


@dataclass(frozen=True)
class KeptPostprocessing:
    """What was chosen, and on which cases."""

    rules: Rules = field(default_factory=dict)
    num_cases: int = 0
    """Validation cases that it was chosen on."""
    before: Mapping[str, float] = field(default_factory=dict)
    """Their scores as predicted, see `measure_masks`."""
    after: Mapping[str, float] = field(default_factory=dict)
    """Their scores with these rules: a little too good, since the rules were chosen by them."""
    notes: tuple[str, ...] = ()
    """What was left out."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the masks were made with, see `describe_masks`."""
    patients: KnownPatients | None = field(default_factory=KnownPatients)
    """Those whose masks chose; None where it does not say, e.g. in a bundle."""

    def describe(self) -> str:
        """One sentence for a person."""
        if not self.num_cases:
            return "masks, nothing post-processed: nothing was chosen for this checkpoint"
        start = f"post-processing, chosen on {self.num_cases} validation cases: "
        if not self.rules:
            return f"{start}nothing, as no rule made their mean Dice better"
        told = ", ".join(f"{region.upper()} {rule.describe()}" for region, rule in self.rules.items())
        changes = [
            f"{name.split('_')[0].replace('dice', 'Dice').replace('hd95', 'HD95')} {region.upper()} "
            f"{self.before[name]:{form}} before, {self.after[name]:{form}} after"
            for region in REGIONS
            for name, form in ((f"dice_{region}", ".3f"), (f"hd95_{region}", ".1f"))
            if name in self.before and name in self.after
        ]
        return f"{start}{told} ({'; '.join(changes)})"

    def to_json(self) -> dict[str, Any]:
        """JSON values, without the patients."""
        content = asdict(replace(self, patients=None)) | {"notes": list(self.notes)}
        del content["patients"]
        return content


def fit_postprocessing(
    masks: Sequence[ScoredMask],
    metrics: MetricSettings,
    notes: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    patients: KnownPatients | None = None,
) -> KeptPostprocessing:
    """Chooses rules on masks of cases that the network did not learn from, and scores these before and after.

    The last three arguments are fields of `KeptPostprocessing`.
    """
    rules = choose_rules(masks, metrics)
    before = measure_masks(masks, {}, metrics)
    after = measure_masks(masks, rules, metrics) if rules else before
    named = KnownPatients() if patients is None else patients
    return KeptPostprocessing(rules, len(masks), before, after, tuple(notes), dict(settings or {}), named)


def describe_masks(config: Config) -> dict[str, Any]:
    """Settings that decide how a network's mask of a case is made, as dotted JSON values."""
    inference = config.inference
    return {
        "patch.size": list(config.patch.size),
        "inference.overlap": inference.overlap,
        "inference.flips": inference.flips,
        "inference.min_enhancing_mm3": inference.min_enhancing_mm3,
    }


def explain_other_settings(kept: KeptPostprocessing, config: Config) -> str:
    """Why the rules do not hold for these settings, which make masks in another way; empty if they do."""
    changes = find_changes(kept.settings, describe_masks(config)) if kept.rules else ""
    return f"the kept rules were chosen with {changes}" if changes else ""


def write_postprocessing(folder: Path, kept: KeptPostprocessing) -> None:
    """Writes `postprocessing.json` into a checkpoint or ensemble folder, bound to the weights that it already holds."""
    patients = None if kept.patients is None else kept.patients.to_json()
    write_kept(folder, POSTPROCESSING, FORMAT_VERSION, {"patients": patients, "postprocessing": kept.to_json()})


def read_postprocessing(checkpoint: Path) -> KeptPostprocessing:
    """Reads the post-processing of a checkpoint or ensemble folder, or of a run folder with either inside.

    One that has none, e.g. of an earlier version, gives one without rules and cases.

    Raises:
        InputError: `postprocessing.json` is damaged, of another format, or of other weights.
    """

    def parse(content: Mapping[str, Any]) -> KeptPostprocessing:
        patients = None if content["patients"] is None else read_patients(content["patients"])
        return _parse(content["postprocessing"], patients)

    kept = read_kept(checkpoint, POSTPROCESSING, FORMAT_VERSION, parse, "was chosen for", _MEND)
    return kept or KeptPostprocessing()


def _parse(content: Mapping[str, Any], patients: KnownPatients | None) -> KeptPostprocessing:
    rules = {region: Rule(**one) for region, one in content["rules"].items()}
    before, after = ({name: float(one) for name, one in content[part].items()} for part in ("before", "after"))
    for region, rule in rules.items():
        if region not in REGIONS or not isinstance(rule.largest_only, bool):
            raise ValueError(region)
        if not (isfinite(rule.min_mm3) and rule.min_mm3 >= 0):
            raise ValueError(rule.min_mm3)
    return KeptPostprocessing(
        {region: rules[region] for region in REGIONS if region in rules},
        int(content["num_cases"]),
        before,
        after,
        tuple(str(note) for note in content["notes"]),
        dict(content["settings"]),
        patients,
    )

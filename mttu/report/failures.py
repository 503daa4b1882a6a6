"""The worst cases of an evaluation, with their overlays and what is odd about them."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any
from urllib.parse import quote

import numpy as np

from mttu.data.labels import CLASS_NAMES, IDH_MUTANT, REGIONS
from mttu.data.manifest import Case, Manifest
from mttu.data.volumes import read_volume
from mttu.errors import name_some
from mttu.files import atomic_file, atomic_folder, write_csv_rows, write_json, write_text
from mttu.metrics.classification import DEFAULT_THRESHOLD
from mttu.predict.results import overlay_name
from mttu.report.evaluated import PROBABILITY, Evaluated
from mttu.report.files import check_output
from mttu.report.other_tools import MADE_BY
from mttu.report.plan import hide_pseudo_labels
from mttu.report.predictions import Predictions
from mttu.tables.files import escape_markdown

FORMAT_VERSION = 1
RECORD, CSV, PAGE, OVERLAYS = "failures.json", "failures.csv", "failures.md", "overlays"
OWN_FILES = (RECORD, CSV, PAGE, OVERLAYS)
FEW = 5
"""Cases of a site below which it is called rare, if they are at most a quarter of all."""
EXTREME = 10
"""Percentile of the tumours' volumes below which, or above 100 minus which, one is called small or large."""
RATIO = 3.0
"""How many times wider or narrower than the others' median an image's intensity range is called odd."""
REFERENCES = 10
"""Other cases whose images say what is usual."""
_STEP = 2


@dataclass(frozen=True)
class Failure:
    """One of the worst cases."""

    case_id: str
    dice: float | None
    """Mean of the regions."""
    mutant_probability: float | None
    idh: int
    reasons: Sequence[str]
    """Why it is among the worst."""
    oddities: Sequence[str]
    """What is unlike the other cases."""


def find_mismatches(evaluated: Evaluated, manifest: Manifest, predictions: Predictions | None) -> list[str]:
    """Why a manifest or predictions are not those of an evaluation.

    Args:
        evaluated: Scores.
        manifest: The cohort.
        predictions: None for those of another tool, which have no table.
    """
    known = {case.case_id: case for case in hide_pseudo_labels(manifest).cases}
    lost = sorted(evaluated.cases - known.keys())
    turned = [one for one in sorted(evaluated.cases - set(lost)) if known[one].idh != evaluated.facts[one]["idh"]]
    problems = [
        f"manifest: {what} {name_some(cases)} of evaluation {evaluated.folder}; give the one that was evaluated"
        for what, cases in (("lacks the cases", lost), ("has other IDH statuses for", turned))
        if cases
    ]
    told, cure = evaluated.summary.checkpoint, "give the folder that was evaluated"
    if predictions is None:
        ours = told not in ("", MADE_BY)
        return [
            *problems,
            *([f"predictions: have no table, but those evaluated are of {told}; {cure}"] if ours else []),
        ]
    where = f"predictions {predictions.folder}"
    absent = sorted(evaluated.cases - predictions.rows.keys())
    if absent:
        problems.append(f"{where}: lack the cases {name_some(absent)} of evaluation {evaluated.folder}; {cure}")
    if told and told != predictions.checkpoint:
        problems.append(f"{where}: were made by {predictions.checkpoint}, but those evaluated by {told}; {cure}")
    probabilities = {one: predictions.rows[one]["idh_mutant_probability"] for one in evaluated.classified - set(absent)}
    other = sorted(one for one, value in probabilities.items() if value != evaluated.scores[one][PROBABILITY])
    if other:
        problems.append(f"{where}: have other IDH probabilities for {name_some(other)} than those evaluated; {cure}")
    return problems


def find_failures(
    evaluated: Evaluated,
    manifest: Manifest,
    most: int,
    on_case: Callable[[int, str], None] | None = None,
    predictions: Predictions | None = None,
) -> list[Failure]:
    """The cases of lowest Dice, then those whose IDH status was called wrong with the most confidence.

    Args:
        evaluated: Scores.
        manifest: The cohort, for the images.
        most: How many of either kind, at most.
        on_case: Called after each case whose images were read, with their number and the case.
        predictions: Those that were evaluated, for what their table says of a case; None if it has none.
    """
    table = {} if predictions is None else predictions.rows
    dices = {case_id: dice for case_id in evaluated.masks if (dice := _average_dice(evaluated, case_id)) is not None}
    reasons: dict[str, list[str]] = {}
    for rank, case_id in enumerate(sorted(dices, key=lambda one: (dices[one], one))[:most], start=1):
        reasons.setdefault(case_id, []).append(f"Dice {dices[case_id]:.3f}, number {rank} from below of {len(dices)}")
    for case_id in _list_wrong(evaluated)[:most]:
        probability, idh = evaluated.scores[case_id][PROBABILITY], evaluated.facts[case_id]["idh"]
        said = f"IDH {CLASS_NAMES[idh]}, but the mutant probability is {probability:.2f}"
        reasons.setdefault(case_id, []).append(said)
    ranges = _measure_ranges(list(reasons), evaluated, manifest, on_case)
    return [
        Failure(
            case_id,
            dices.get(case_id),
            evaluated.scores[case_id][PROBABILITY],
            evaluated.facts[case_id]["idh"],
            own,
            [
                *_describe_masks(evaluated, case_id),
                *_describe_site(evaluated, case_id),
                *_compare(case_id, ranges),
                *_describe_prediction(table.get(case_id, {})),
            ],
        )
        for case_id, own in reasons.items()
    ]


def _average_dice(evaluated: Evaluated, case_id: str) -> float | None:
    known = [value for region in REGIONS if (value := evaluated.scores[case_id][f"dice_{region}"]) is not None]
    return fmean(known) if known else None


def _list_wrong(evaluated: Evaluated) -> list[str]:
    """Cases whose status is called wrong at threshold 0.5, the surest first."""
    doubts = {}
    for case_id in sorted(evaluated.classified):
        probability = evaluated.scores[case_id][PROBABILITY] or 0.0
        if (probability >= DEFAULT_THRESHOLD) != (evaluated.facts[case_id]["idh"] == IDH_MUTANT):
            doubts[case_id] = abs(probability - DEFAULT_THRESHOLD)
    return sorted(doubts, key=lambda case_id: -doubts[case_id])


_ET = {
    "both-empty": "no enhancing tumour in either mask",
    "spurious": "no enhancing tumour in the true mask, but in the predicted one",
    "missed": "the enhancing tumour was missed",
}


def _describe_masks(evaluated: Evaluated, case_id: str) -> list[str]:
    """Size, missing ET and lesions."""
    regions = evaluated.regions.get(case_id, {})
    if "wt" not in regions:
        return []
    found, whole = [], regions["wt"]
    volumes = [one["wt"]["truth_ml"] for one in evaluated.regions.values() if one["wt"]["truth_ml"] is not None]
    own = whole["truth_ml"]
    if own is not None:
        low, high = np.percentile(volumes, (EXTREME, 100 - EXTREME)).tolist()
        size = "small" if own < low else "large" if own > high else ""
        found += [f"{size} tumour: {own:.1f} ml, the median is {median(volumes):.1f} ml"] if size else []
    if "et" in regions and regions["et"]["status"] in _ET:
        found.append(_ET[regions["et"]["status"]])
    if (whole["num_lesions"] or 0) > 1:
        found.append(f"{whole['num_lesions']} lesions, {whole['num_missed_lesions']} missed")
    if whole["num_false_lesions"]:
        found.append(f"{whole['num_false_lesions']} predicted components touch no lesion")
    return found


def _describe_site(evaluated: Evaluated, case_id: str) -> list[str]:
    sites = [row["site"] for row in evaluated.facts.values()]
    own = evaluated.facts[case_id]["site"]
    count = sites.count(own)
    if own is None or count >= FEW or count > len(sites) / 4:
        return []
    return [f"rare site {own}: {count} of {len(sites)} cases"]


def _describe_prediction(row: Mapping[str, Any]) -> list[str]:
    """What the table of predictions says of a case; an older one says nothing."""
    found = []
    if row.get("in_distribution") is False:
        farthest, z = row.get("distribution_farthest"), row.get("distribution_z")
        found.append("unlike the training cases" + ("" if z is None else f": {farthest}, robust z {z:.1f}"))
    return [*found, row["warnings"]] if row.get("warnings") else found


Ranges = Mapping[str, Mapping[str, float]]
"""Case to modality to the width from the 1st to the 99th percentile inside the head."""


def _measure_ranges(
    case_ids: Sequence[str], evaluated: Evaluated, manifest: Manifest, on_case: Callable[[int, str], None] | None
) -> Ranges:
    """Of the worst cases, and of some others, spread over the rest; those whose images are gone are left out."""
    known = {case.case_id: case for case in manifest.cases}
    others = [case_id for case_id in sorted(evaluated.scores) if case_id not in case_ids]
    spread = others[:: max(1, len(others) // REFERENCES)][:REFERENCES]
    ranges = {}
    for done, case_id in enumerate([*case_ids, *spread], start=1):
        case = known.get(case_id)
        if case is not None and all(path.is_file() for path in case.images.values()):
            ranges[case_id] = _measure_range(case)
        if on_case is not None:
            on_case(done, case_id)
    return ranges


def _measure_range(case: Case) -> dict[str, float]:
    found = {}
    for modality, path in case.images.items():
        values = read_volume(path, case.case_id).get_fdata(dtype=np.float32)[::_STEP, ::_STEP, ::_STEP]
        inside = values[values != 0]
        if inside.size:
            low, high = np.percentile(inside, (1, 99)).tolist()
            found[modality] = high - low
    return found


def _compare(case_id: str, ranges: Ranges) -> list[str]:
    """Modalities whose intensities span much more or less than those of the other cases."""
    found = []
    for modality, own in ranges.get(case_id, {}).items():
        others = [one[modality] for other, one in ranges.items() if other != case_id and modality in one]
        usual = median(others) if others else 0.0
        if usual > 0 and not usual / RATIO <= own <= usual * RATIO:
            found.append(f"{modality} intensities span {own:.4g}, the others' median is {usual:.4g}")
    return found


def check_failures(out: Path) -> list[str]:
    """Problems of writing failures there, see `mttu.report.files.check_output`."""
    return check_output(out, OWN_FILES, RECORD, "a list of failures")


def write_failures(out: Path, failures: Sequence[Failure], evaluated: Evaluated, predictions: Path) -> None:
    """Writes the list as a table and as a page with overlays, replacing an earlier one.

    Args:
        out: Folder, see `check_failures`.
        failures: What is listed.
        evaluated: Where they are from.
        predictions: Folder that `mttu predict` wrote, with the overlays.
    """
    blocks = [f"# Worst cases of {escape_markdown(evaluated.folder.name)}", "Research use only. Not for diagnosis."]
    with atomic_folder(out) as partial:
        (partial / OVERLAYS).mkdir()
        for one in failures:
            name, lines = overlay_name(one.case_id), [*one.reasons, *(f"odd: {text}" for text in one.oddities)]
            title = escape_markdown(one.case_id)
            blocks += [f"## {title}", "\n".join(f"- {escape_markdown(line)}" for line in lines)]
            overlay = predictions / name
            if overlay.is_file() and overlay.stat().st_size:
                shutil.copyfile(overlay, partial / OVERLAYS / name)
                blocks.append(f"![{title}]({OVERLAYS}/{quote(name)})")
        write_text(partial / PAGE, "\n\n".join(blocks) + "\n")
        with atomic_file(partial / CSV) as file:
            columns = ("case_id", "dice", "mutant_probability", "idh", "reasons", "oddities")
            write_csv_rows(file, columns, [_to_line(one) for one in failures])
        write_json(partial / RECORD, {"format_version": FORMAT_VERSION, "scores": str(evaluated.folder)})


def _to_line(one: Failure) -> list[Any]:
    return [one.case_id, one.dice, one.mutant_probability, one.idh, "; ".join(one.reasons), "; ".join(one.oddities)]

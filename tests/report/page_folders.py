"""Run folders, evaluations and cohorts that pages are made of in tests."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from mttu.data.manifest import Manifest, write_manifest
from mttu.inference.postprocessing import Rule
from mttu.report.files import write_evaluation
from mttu.self_training.round_folder import RoundRecord, write_history, write_record

EVIL = '<img src=x onerror="alert(1)">&'
"""A name that would act if it were not escaped; a folder may have it."""
RULES = {"wt": Rule(largest_only=True)}
DICES = {0: 0.9, 1: 0.2, 2: 0.5, 3: 0.7}
"""Number of a test case to its Dice: the best is 0, the worst 1, the median of four the lower one of 3 and 2."""


def make_patients(phantom_manifest: Manifest) -> Manifest:
    """A cohort that says that it is none of phantoms: the val cases of `finished_training`, and four that test."""
    others = [case for case in phantom_manifest.cases if case.split != "val"]
    test = {case.case_id for case in others[:4]}
    split = {case.case_id: "test" if case.case_id in test else "train" for case in others}
    cases = tuple(replace(case, split=split.get(case.case_id, "val")) for case in phantom_manifest.cases)
    return replace(phantom_manifest, cases=cases, synthetic=False)


def write_scores(folder: Path, manifest: Manifest, checkpoint: str, failed: tuple[str, ...] = ()) -> Path:
    """An evaluation folder of the test cases with the Dice of `DICES` in every region."""
    system = "mttu"
    rows: list[dict[str, Any]] = [
        {
            "case_id": case.case_id,
            "patient_id": case.patient_id,
            "system": system,
            "region": region,
            "learned_from": False,
            "status": "normal",
            "dice": DICES[number],
            "hd95_mm": 2.0,
            **dict.fromkeys(("sensitivity", "specificity", "predicted_ml", "truth_ml"), 1.0),
            **dict.fromkeys(("volume_difference_ml", "relative_volume_difference"), 0.0),
            "empty_dice": "brats",
            "empty_hd95": "exclude",
        }
        for number, case in enumerate(manifest.split("test"))
        for region in ("wt", "tc", "et")
    ]
    cases = {
        "in_split": 4,
        "masks_scored": 4,
        "idh_scored": 0,
        "without_true_mask": 0,
        "failed": {system: list(failed)},
    }
    summary = {
        "split": "test",
        "synthetic": manifest.synthetic,
        "systems": [{"name": system, "checkpoint": checkpoint, "notes": [EVIL]}],
        "cases": {**cases, "learned_from": {}, "learned_from_not_said": {}},
        "empty_masks": "Dice brats, HD95 exclude",
        "empty_dice": "brats",
        "empty_hd95": "exclude",
        **dict.fromkeys(("segmentation", "idh", "baselines", "comparison")),
    }
    write_evaluation(folder, rows, [], summary)
    return folder


def make_rounds(folder: Path, manifest: Manifest, checkpoint: Path) -> Path:
    """A self-training of two rounds that nobody finished; round 1 has the larger score; one case is the pool."""
    first, *others = manifest.cases
    manifest = replace(manifest, cases=(replace(first, split="unlabelled"), *others))
    for number, score in enumerate((0.4, 0.6)):
        place = folder / f"round_{number}"
        place.mkdir(parents=True)
        shutil.copytree(checkpoint, place / "best")
        write_manifest(manifest, place / "manifest.parquet")
        write_history([{"epoch": 1, "train/loss": 1.0}], place)
        record = RoundRecord(
            number, {}, "", "", None, None, 1, 1, 8, 3 * number, 2 * number, None, None, {"val/score": score}, (EVIL,)
        )
        write_record(record, place)
    return folder

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mttu.data.manifest import Case, Manifest, write_manifest
from mttu.predict.results import PredictionRow, mask_name, open_staging, overlay_name, publish, write_tables
from mttu.report import Evaluation, evaluate_cases, plan_evaluation

WritePredictions = Callable[..., Path]
SPLITS = ("test", "test", "test", "test", "val", "val", "train", "train")
IDH = (1, 0, 1, 0, 1, 0, 1, 0)
GRADES = ("LGG", "HGG", "LGG", "HGG", "LGG", "HGG", "LGG", "HGG")
PROBABILITIES = (0.9, 0.2, 0.4, 0.6, 0.3, 0.1, 0.9, 0.1)


@pytest.fixture(scope="session")
def cohort(phantom_manifest: Manifest) -> Manifest:
    """Eight phantom cases: four test, two val, two train; mutant and wild type, low and high grade by turns."""
    cases = [
        replace(case, split=split, idh=idh, grade=grade, age=40.0 + 5 * number, site="AB"[number % 2])
        for number, (case, split, idh, grade) in enumerate(
            zip(phantom_manifest.cases, SPLITS, IDH, GRADES, strict=True)
        )
    ]
    return replace(phantom_manifest, cases=tuple(cases))


@pytest.fixture
def manifest(cohort: Manifest, tmp_path: Path) -> Path:
    """`cohort` as a file."""
    path = tmp_path / "cohort.parquet"
    write_manifest(cohort, path)
    return path


@pytest.fixture
def evaluate(manifest: Path, tmp_path: Path) -> Callable[..., Evaluation]:
    """Evaluates predictions of `cohort`; settings as of `plan_evaluation`."""

    def run(predictions: Path, manifest: Path = manifest, num_resamples: int = 100, **settings: Any) -> Evaluation:
        plan = plan_evaluation(predictions, manifest, tmp_path / "out", num_resamples=num_resamples, **settings)
        return evaluate_cases(plan)

    return run


@pytest.fixture
def write_predictions(cohort: Manifest, tmp_path: Path) -> WritePredictions:
    """Writes a prediction folder: each true mask shifted, the probabilities as given, some cases failed.

    `taught_by` are splits that the network learned from, `calibrated_on` and `chosen_on` those that its calibration
    and its post-processing are from; None where it does not say. Without `chosen_on` masks are not post-processed.
    """

    def write(
        name: str,
        shift: int = 1,
        probabilities: Sequence[float | None] = PROBABILITIES,
        failed: Sequence[str] = (),
        cases: Sequence[Case] = cohort.cases,
        change: Callable[[np.ndarray], np.ndarray] = lambda seg: seg,
        metadata: Mapping[str, object] = {"labels": "brats", "checkpoint": "run/best"},
        taught_by: Sequence[str] | None = ("train",),
        calibrated_on: Sequence[str] | None = (),
        chosen_on: Sequence[str] | None = (),
    ) -> Path:
        out = tmp_path / name
        staging = open_staging(out)
        rows = []
        for case, probability in zip(cases, probabilities, strict=False):
            if case.case_id in failed:
                rows.append(PredictionRow(case.case_id, 1.0, f"case {case.case_id}: broken"))
                continue
            image = nib.load(case.seg)
            seg = change(np.roll(np.asarray(image.dataobj), shift, axis=0))
            nib.save(nib.Nifti1Image(seg.astype(np.uint8), image.affine), staging / mask_name(case.case_id))
            (staging / overlay_name(case.case_id)).write_bytes(b"")
            row = PredictionRow(case.case_id, 1.0, "", probability, 1.0, 1.0, 1.0, False, False)
            learned, calibrated, chose = (
                None if splits is None else case.split in splits for splits in (taught_by, calibrated_on, chosen_on)
            )
            if chosen_on != ():
                row = replace(row, removed_ml=0.0, postprocessing_chosen_on=chose)
            rows.append(replace(row, learned_from=learned, calibrated_on=calibrated))
        write_tables(staging, rows, dict(metadata))
        publish(out)
        return out

    return write

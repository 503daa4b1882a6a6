"""Prediction of case after case; one that fails becomes a row with its reason."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mttu import __version__
from mttu.cohort.copies import choose_modality, find_copies, find_same_images
from mttu.cohort.suspicions import find_suspicions
from mttu.data.geometry import Geometry, restore_mask
from mttu.data.labels import from_classes
from mttu.data.manifest import Case
from mttu.data.preprocess import prepare_sources
from mttu.data.sources import read_sources
from mttu.data.volumes import write_mask
from mttu.figures.overlay import draw_overlay
from mttu.files import atomic_file, lock_folder
from mttu.inference.cases import run_cases, run_or_refuse
from mttu.inference.distribution import LIMIT
from mttu.inference.postprocessing import postprocess
from mttu.inference.uncertainty import Samples, predict_passes
from mttu.inference.windows import import_monai, predict_ensemble, segment
from mttu.metrics.segmentation import measure_volumes_ml
from mttu.networks.ensemble import describe_checkpoint
from mttu.predict.maps import write_maps
from mttu.predict.plan import InputCase, PredictionPlan
from mttu.predict.results import (
    MAPS,
    PredictionRow,
    map_name,
    mask_name,
    open_staging,
    overlay_name,
    publish,
    write_tables,
)
from mttu.predict.standing import Ground, add_probability, add_standing, is_undecided, name_decisive

OnPredicted = Callable[[int, PredictionRow], None]


def predict_cases(plan: PredictionPlan, on_case: OnPredicted | None = None) -> list[PredictionRow]:
    """Predicts every case of a plan; returns one row per case, in the order of the plan.

    `on_case` is told how many cases are done, and the newest row; warnings of cases that share voxels come later.

    Raises:
        InputError: Another process predicts into the same folder.
    """
    digests: dict[str, Mapping[str, str]] = {}
    import_monai()
    with lock_folder(plan.out):
        staging = open_staging(plan.out)
        rows = run_cases(plan.cases, lambda one: _predict_or_explain(plan, one, staging, digests), on_case)
        rows = _warn_of_copies(plan, rows, digests)
        write_tables(staging, rows, _describe(plan))
        publish(plan.out)
    return rows


def _warn_of_copies(
    plan: PredictionPlan, rows: list[PredictionRow], digests: Mapping[str, Mapping[str, str]]
) -> list[PredictionRow]:
    """Adds warnings of volumes that are copies of another case's, to the rows of both."""
    modalities = plan.config.data.modalities
    cases = [
        replace(one.case, seg=None, images={name: one.case.images[name] for name in modalities})
        for one in plan.cases
        if one.case is not None and one.case_id in digests
    ]
    warnings = {row.case_id: [row.warnings] if row.warnings else [] for row in rows}
    found = [*find_copies(cases, cases, digests, choose_modality(modalities)), *find_same_images(cases, digests)]
    for finding in found:
        warnings[finding.case_id].append(finding.text)
    return [replace(row, warnings="; ".join(warnings[row.case_id]) or None) for row in rows]


def _describe(plan: PredictionPlan) -> dict[str, object]:
    return {
        "mttu_version": __version__,
        **describe_checkpoint(plan.checkpoint),
        "missing": dict(plan.missing),
        "notes": list(plan.notes),
        "labels": plan.labels,
        "modalities": list(plan.config.data.modalities),
        "patch": plan.config.patch.model_dump(mode="json"),
        "inference": plan.config.inference.model_dump(mode="json"),
        "metrics": plan.config.metrics.model_dump(mode="json"),
        "device": plan.device.type,
        "precision": plan.precision,
        "threads": torch.get_num_threads(),
        "calibration": plan.calibration.to_json(),
        "distribution": {"num_cases": plan.distribution.num_cases, "limit": LIMIT, "reason": plan.distribution.reason},
        **({} if plan.postprocessing is None else {"postprocessing": plan.postprocessing.to_json()}),
        **({"passes": plan.passes, "mc": plan.config.mc.model_dump(mode="json")} if plan.passes else {}),
        **({"maps": list(MAPS)} if plan.maps else {}),
    }


def _predict_or_explain(
    plan: PredictionPlan, one: InputCase, staging: Path, digests: dict[str, Mapping[str, str]]
) -> PredictionRow:
    started = time.perf_counter()
    refuse = partial(PredictionRow, one.case_id, 0.0)
    row = refuse(one.error)
    if (case := one.case) is not None:
        row = run_or_refuse(one.case_id, lambda: _predict(plan, one, case, staging, digests), refuse)
    if row.error:
        maps = [map_name(one.case_id, kind) for kind in MAPS]
        for name in (mask_name(one.case_id), overlay_name(one.case_id), *maps):
            (staging / name).unlink(missing_ok=True)
    return replace(row, seconds=time.perf_counter() - started)


def _predict(
    plan: PredictionPlan, one: InputCase, case: Case, staging: Path, digests: dict[str, Mapping[str, str]]
) -> PredictionRow:
    """Reads, predicts, writes mask and overlay; adds the digests of the case's volumes. Its own mask is not read."""
    settings, modalities = plan.config.inference, plan.config.data.modalities
    ground = _find_ground(plan)
    case = replace(case, seg=None)
    sources = read_sources(case, modalities)
    digests[case.case_id] = sources.digests
    suspicions = find_suspicions(case, modalities, sources, one.is_synthetic)
    prepared = prepare_sources(case, sources, plan.config.data.prepare)
    image = np.asarray(prepared.image, dtype=np.float32)
    voxel_mm3 = float(np.prod(prepared.geometry.spacing_mm))
    rules = plan.postprocessing.rules if plan.postprocessing else {}
    samples = Samples(settings, voxel_mm3, plan.tells_parts, rules, sums_voxels=plan.maps)
    observe = samples.add if len(plan.networks) > 1 and not plan.passes else None
    volume = torch.from_numpy(image)
    prediction = predict_ensemble(
        plan.networks, volume, plan.config.patch.size, settings, plan.device, plan.precision, observe
    )
    _sample_passes(plan, case.case_id, volume, samples)
    row = PredictionRow(
        case.case_id,
        seconds=0.0,
        learned_from=ground.knows(case.patient_id),
        missing="; ".join(plan.missing.values()),
        warnings="; ".join(text.removeprefix(f"case {case.case_id}: ") for text in suspicions) or None,
    )
    classes = None
    if prediction.seg_probabilities is not None:
        classes = segment(prediction.seg_probabilities, settings, voxel_mm3, plan.tells_parts).cpu().numpy()
        removed_ml = chosen_on = None
        if plan.postprocessing is not None:
            voted = plan.postprocessing.patients
            chosen_on = None if voted is None else case.patient_id in voted
            found = np.count_nonzero(classes)
            classes = postprocess(classes, plan.postprocessing.rules, voxel_mm3)
            removed_ml = float(found - np.count_nonzero(classes)) * voxel_mm3 / 1000.0
        restored = write_segmentation(staging / mask_name(case.case_id), classes, prepared.geometry, plan.labels)
        volumes = measure_volumes_ml(torch.from_numpy(restored), prepared.geometry.voxel_ml * 1000.0)
        row = replace(
            row,
            wt_ml=volumes["wt"],
            tc_ml=volumes["tc"] if plan.tells_parts else None,
            et_ml=volumes["et"] if plan.tells_parts else None,
            no_tumour_found=volumes["wt"] == 0.0,
            removed_ml=removed_ml,
            postprocessing_chosen_on=chosen_on,
        )
        if plan.maps:
            probabilities = prediction.seg_probabilities
            write_maps(staging, case.case_id, probabilities, samples, plan.tells_parts, prepared.geometry)
    if prediction.idh_probabilities is not None:
        row = add_probability(row, float(prediction.idh_probabilities[1]), case.patient_id, ground)
    distance = plan.distribution.judge(prepared.image, modalities, prepared.geometry.spacing_mm)
    row = add_standing(_add_deviations(row, samples, plan.tells_parts), ground, distance, one.is_patient_told)
    _write_overlay(plan, row, image, classes, staging / overlay_name(case.case_id))
    return row


def _find_ground(plan: PredictionPlan) -> Ground:
    band = plan.config.inference.undecided_band
    return Ground(band, plan.calibration, plan.distribution, plan.known_patients)


def _sample_passes(plan: PredictionPlan, case_id: str, volume: Tensor, samples: Samples) -> None:
    """Adds `plan.passes` predictions by each network with dropout on."""
    if not plan.passes:
        return
    config = plan.config
    for number, network in enumerate(plan.networks, 1):
        for one in predict_passes(
            network,
            volume,
            case_id,
            config.patch.size,
            config.mc,
            config.inference,
            plan.device,
            plan.precision,
            number,
        ):
            samples.add(one)


def _add_deviations(row: PredictionRow, samples: Samples, tells_parts: bool) -> PredictionRow:
    """The row with what the samples say; the row itself where there are fewer than two."""
    if samples.num < 2:
        return row
    parts = samples.volume_deviation_ml if tells_parts else lambda region: None
    return replace(
        row,
        samples=samples.num,
        idh_sample_mean=samples.idh_mean,
        idh_sample_deviation=samples.idh_deviation,
        wt_ml_deviation=samples.volume_deviation_ml("wt"),
        tc_ml_deviation=parts("tc"),
        et_ml_deviation=parts("et"),
    )


def write_segmentation(
    path: Path, classes: NDArray[np.uint8], geometry: Geometry, convention: str
) -> NDArray[np.uint8]:
    """Writes a mask on the original grid, with the header of the case's images and the labels of a convention.

    Args:
        path: `.nii.gz` to write.
        classes: (H, W, D) on the prepared grid, 0 to 3.
        geometry: Position of the prepared grid on the original one.
        convention: Label convention of the file.

    Returns:
        The classes on the original grid.
    """
    restored = restore_mask(classes, geometry)
    write_mask(path, from_classes(restored, convention), geometry)
    return restored


def _write_overlay(
    plan: PredictionPlan, row: PredictionRow, image: NDArray[np.float32], classes: NDArray[np.uint8] | None, path: Path
) -> None:
    modalities = plan.config.data.modalities
    channel = modalities.index("flair") if "flair" in modalities else 0
    low, high = plan.config.inference.undecided_band
    remarks = []
    if row.no_tumour_found:
        remarks.append("no tumour found")
    if row.idh_calibrated_probability is not None:
        remarks.append(f"calibrated {row.idh_calibrated_probability:.2f}")
    if row.idh_call is not None:
        remarks.append(f"{row.idh_call} at threshold {plan.calibration.threshold:.2f}")
    if is_undecided(row):
        remarks.append(f"undecided ({name_decisive(row)}, {low:.2f} to {high:.2f})")
    figure = draw_overlay(
        image[channel],
        classes,
        row.case_id,
        modalities[channel],
        plan.config.data.prepare.spacing_mm,
        row.idh_mutant_probability,
        row.volumes_ml,
        [*remarks, *plan.missing.values()],
        standing=_name_standing(row),
        is_warning=row.in_distribution is False or row.learned_from is True,
    )
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": f"mttu {__version__}"})


def _name_standing(row: PredictionRow) -> str:
    """The deviation over samples, and the row's standing, for a line of the overlay."""
    found = [row.standing] if row.standing else []
    if row.idh_sample_deviation is not None:
        found.insert(0, f"deviation of the IDH probability over {row.samples} samples {row.idh_sample_deviation:.2f}")
    return "; ".join(found)

"""`mttu postprocess`: which components of a checkpoint's masks are dropped, chosen on validation cases.

A command of its own, not a step of training: it needs the best weights, which are known when a training ends; it serves
ensembles and checkpoints of earlier versions too; and whoever looks at its figures decides.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import find_objects

from mttu.config import Config
from mttu.data.labels import find_regions
from mttu.data.manifest import Case, read_manifest
from mttu.data.preprocess import prepare_case
from mttu.errors import InputError, RunError, collecting, raise_if_any
from mttu.files import find_obstacle
from mttu.inference.device import choose_device, choose_precision
from mttu.inference.postprocessing import (
    POSTPROCESSING,
    KeptPostprocessing,
    ScoredMask,
    describe_masks,
    fit_postprocessing,
    write_postprocessing,
)
from mttu.inference.windows import import_monai, predict_ensemble, segment
from mttu.networks import Network
from mttu.networks.checkpoint import find_checkpoint
from mttu.networks.ensemble import describe_checkpoint, read_known_patients, read_members
from mttu.networks.learned import explain_missing_answers, tell_parts
from mttu.patients import KnownPatients, choose_key, name_patients

OnCase = Callable[[int, str], None]
"""Told how many cases are done, and the newest one."""


@dataclass(frozen=True)
class PostprocessingPlan:
    """What `find_postprocessing` needs, checked."""

    checkpoint: Path
    networks: tuple[Network, ...]
    config: Config
    cases: tuple[Case, ...]
    """Val cases with a mask whose patients no network learned from."""
    device: torch.device
    notes: tuple[str, ...]
    """Which val cases are not among them."""
    weights_sha256: str
    """Of the networks, as `describe_checkpoint` has it."""
    known_patients: KnownPatients = field(default_factory=KnownPatients)
    """Those that the networks learned from."""


def plan_postprocessing(
    checkpoint: Path, manifest: Path, device: Literal["auto", "cpu", "gpu"] = "auto"
) -> PostprocessingPlan:
    """Reads a checkpoint and chooses the cases of a manifest's split val; never those of another split.

    Raises:
        InputError: The checkpoint cannot be read or written to, does not segment or does not say whom it learned from,
            or no val case remains; lists all problems.
    """
    problems: list[str] = []
    chosen = torch.device("cpu")
    with collecting(problems):
        chosen = choose_device(device)
    with collecting(problems):
        found = read_manifest(manifest)
    with collecting(problems):
        obstacle = find_obstacle(find_checkpoint(checkpoint) / POSTPROCESSING)
        problems += [f"checkpoint {checkpoint}: {obstacle}"] if obstacle else []
        weights = describe_checkpoint(checkpoint)["weights_sha256"]
        networks, config = read_members(checkpoint)
    raise_if_any(problems)
    missing = explain_missing_answers(networks)
    if "segmentation" in missing:
        raise InputError(f"checkpoint {checkpoint}: {missing['segmentation']}; there are no masks to post-process")
    known = read_known_patients(checkpoint)
    if known is None:
        raise InputError(
            f"checkpoint {checkpoint}: does not say whom it learned from, so nothing can be chosen on held-out cases"
        )
    val = found.split("val")
    with_mask = [case for case in val if case.seg is not None]
    learned = known.find(case.patient_id for case in with_mask)
    cases = [case for case in with_mask if case.patient_id not in learned]
    left_out = {
        "without a mask": len(val) - len(with_mask),
        "of patients that the network learned from": len(with_mask) - len(cases),
    }
    notes = tuple(f"{count} val cases {why} were left out" for why, count in left_out.items() if count)
    if not cases:
        raise InputError(
            f"manifest {manifest}: no val case is left to choose on ({'; '.join(notes) or 'it has none'}); an ensemble "
            "of folds learned from all of them: choose for a training of its own, or bring new val cases"
        )
    placed = tuple(network.to(chosen) for network in networks)
    return PostprocessingPlan(checkpoint, placed, config, tuple(cases), chosen, notes, weights, known)


def find_postprocessing(plan: PostprocessingPlan, on_case: OnCase | None = None) -> KeptPostprocessing:
    """Predicts the cases of a plan, chooses rules by their Dice and writes them beside the weights.

    Raises:
        InputError: A case cannot be prepared.
        RunError: A network's output is not finite, or the weights were replaced meanwhile; nothing is written.
    """
    import_monai()
    masks: list[ScoredMask] = []
    for case in plan.cases:
        masks.append(_predict(plan, case))
        if on_case is not None:
            on_case(len(masks), case.case_id)
    # by what depends on the images, as the key of the patients that taught does
    key = choose_key(plan.known_patients, (mask.predicted.tobytes().hex() for mask in masks))
    patients = name_patients((case.patient_id for case in plan.cases), key)
    kept = fit_postprocessing(masks, plan.config.metrics, plan.notes, describe_masks(plan.config), patients)
    if describe_checkpoint(plan.checkpoint)["weights_sha256"] != plan.weights_sha256:
        raise RunError(f"checkpoint {plan.checkpoint}: its weights were replaced meanwhile; nothing is kept; run again")
    write_postprocessing(find_checkpoint(plan.checkpoint), kept)
    return kept


def _predict(plan: PostprocessingPlan, case: Case) -> ScoredMask:
    """The mask that `mttu predict` would write without rules, beside the true one, both cut to what they hold."""
    config = plan.config
    prepared = prepare_case(case, config.data.modalities, config.data.prepare)
    image = torch.from_numpy(np.asarray(prepared.image, dtype=np.float32))
    precision = choose_precision(config.train.precision, plan.device)
    try:
        prediction = predict_ensemble(plan.networks, image, config.patch.size, config.inference, plan.device, precision)
    except FloatingPointError as error:
        raise RunError(f"case {case.case_id}: {error}") from None
    if prediction.seg_probabilities is None or prepared.seg is None:
        raise InputError(f"case {case.case_id}: has no mask to compare with")
    parts, spacing_mm = tell_parts(plan.networks), prepared.geometry.spacing_mm
    classes = segment(prediction.seg_probabilities, config.inference, float(np.prod(spacing_mm)), parts).cpu().numpy()
    regions = find_regions(case.labels if parts else "whole-tumour")
    (box,) = find_objects((np.bitwise_or(classes, prepared.seg) > 0).view(np.uint8), 1)
    if box is None:  # no tumour in either
        box = (slice(0, 1),) * 3
    return ScoredMask(classes[box].copy(), prepared.seg[box].copy(), spacing_mm, regions)

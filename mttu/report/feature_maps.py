"""Fig. 2 of a checkpoint: the feature maps of one window of each case, in one plane."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mttu.config import Config
from mttu.data.labels import CLASS_NAMES, IDH_MUTANT, IDH_WILD
from mttu.data.loaders import crop
from mttu.data.manifest import Case, Manifest, read_manifest
from mttu.data.preprocess import prepare_case
from mttu.errors import InputError, collecting, raise_if_any
from mttu.figures.features import FeatureCase, draw_feature_maps
from mttu.figures.overlay import PLANES, Plane
from mttu.inference.device import Precision, choose_device, choose_precision
from mttu.inference.passes import find_window
from mttu.inference.windows import predict_volume, segment
from mttu.networks import Network, build_network
from mttu.networks.checkpoint import read_checkpoint
from mttu.networks.learned import tell_parts
from mttu.report.pictures import PictureFile, choose_file, describe_idh, find_cases

PLANE_NAMES = tuple(plane.title.lower() for plane in PLANES)
DEFAULT_SPLIT = "val"

Centre = Literal["mask", "prediction", "brain"]
CENTRES: Mapping[Centre, str] = {
    "mask": "centred on the tumour of its mask",
    "prediction": "centred on the predicted tumour",
    "brain": "centred on the brain, as no tumour is known",
}


@dataclass(frozen=True)
class FeatureMapPlan:
    """Everything that `compute_feature_maps` and `draw_features` need, checked."""

    network: Network
    config: Config
    cases: tuple[Case, ...]
    plane: Plane
    index: int | None
    """Position of the plane in the window; None: the largest section of the mask."""
    modality: str
    levels: tuple[str, ...]
    channels: Mapping[str, int]
    """Level to the channel that is shown; of the others, the mean of absolute values."""
    device: torch.device
    precision: Precision
    """Of a predicted mask; feature maps are always computed in float32."""
    file: PictureFile


def plan_feature_maps(
    checkpoint: Path,
    manifest: Path,
    output: Path,
    case_ids: Sequence[str] = (),
    split: str | None = None,
    plane: str = "axial",
    index: int | None = None,
    modality: str | None = None,
    levels: Sequence[str] = (),
    channels: Mapping[str, int] | None = None,
    device: str = "auto",
) -> FeatureMapPlan:
    """Reads checkpoint and manifest and checks that what is asked for is there; no image is read.

    Args:
        checkpoint: Of one network, of any kind.
        manifest: Manifest with the cases.
        output: See `mttu.report.pictures.choose_file`.
        case_ids: Cases that are shown. None: the first IDH mutant and the first wild type of a split, as in Fig. 2.
        split: The split that those are taken from, val if None; pseudo-labels do not count.
        plane: A name in `PLANE_NAMES`.
        index: Position of the plane in the window, counted from 0; None: the largest section of the mask.
        modality: Image that is shown, one that the network sees; FLAIR if it is among them, else the first.
        levels: Names of feature levels; all that the network computes if none is given.
        channels: Level to the channel that is shown, counted from 0.
        device: auto, cpu or gpu.

    Raises:
        InputError: Lists every problem.
    """
    problems: list[str] = []
    read: tuple[Network, Config] | None = None
    cohort: Manifest | None = None
    file, chosen = PictureFile(output, ()), torch.device("cpu")
    cases: tuple[Case, ...] = ()
    with collecting(problems):
        file = choose_file(output)
    with collecting(problems):
        chosen = choose_device(device)
    with collecting(problems):
        read = read_checkpoint(checkpoint)
    with collecting(problems):
        cohort = read_manifest(manifest)
        cases = _choose_cases(cohort, manifest, case_ids, split)
    if plane not in PLANE_NAMES:
        problems.append(f"--plane {plane!r}: unknown; choose one of {', '.join(PLANE_NAMES)}")
    if read is not None and cohort is not None:
        missing = [name for name in read[1].data.modalities if name not in cohort.modalities]
        if missing:
            trained = ", ".join(read[1].data.modalities)
            problems.append(
                f"manifest {manifest}: has no {', '.join(missing)}; the checkpoint was trained on {trained}"
            )
    asked = tuple(dict.fromkeys(levels))
    if read is not None:
        with collecting(problems):
            asked = _check_levels(checkpoint, read[1], asked, channels or {})
        problems += _find_view_problems(read[1], plane, index, modality)
    raise_if_any(problems)
    if read is None:
        raise ValueError("a checkpoint that was not read is a problem")
    network, config = read
    known = config.data.modalities
    return FeatureMapPlan(
        network=network.to(chosen),
        config=config,
        cases=cases,
        plane=PLANES[PLANE_NAMES.index(plane)],
        index=index,
        modality=modality or ("flair" if "flair" in known else known[0]),
        levels=asked,
        channels=channels or {},
        device=chosen,
        precision=choose_precision(config.train.precision, chosen),
        file=file,
    )


def _choose_cases(manifest: Manifest, path: Path, case_ids: Sequence[str], split: str | None) -> tuple[Case, ...]:
    if case_ids:
        if split is not None:
            raise InputError("--split: chooses the cases where none is named with --case; leave one of them out")
        return find_cases(manifest, path, case_ids)
    name = DEFAULT_SPLIT if split is None else split
    found, problems = [], []
    for idh in (IDH_MUTANT, IDH_WILD):
        case = next((case for case in manifest.split(name) if case.idh == idh and not case.pseudo_label), None)
        if case is None:
            told = f"split {name} has no case that is known to be IDH {CLASS_NAMES[idh]}"
            problems.append(f"manifest {path}: {told}; choose another split, or name cases with --case")
        else:
            found.append(case)
    raise_if_any(problems)
    return tuple(found)


def list_levels(config: Config) -> dict[str, tuple[int, ...]]:
    """Name to shape (C, h, w, d) of each feature level of a network fed with a window; nothing is computed.

    They are all volumes that `encode` of the network returns but the image itself.
    """
    with torch.device("meta"), torch.inference_mode():
        network = build_network(config.network, config.patch.size).eval()
        image = torch.empty(1, config.network.in_channels, *config.patch.size)
        return {name: tuple(level.shape[1:]) for name, level in _select_levels(network.encode(image), image).items()}


def _select_levels(features: Mapping[str, Tensor], image: Tensor) -> dict[str, Tensor]:
    return {name: level for name, level in features.items() if level.ndim == 5 and level is not image}


def _check_levels(
    checkpoint: Path, config: Config, asked: tuple[str, ...], channels: Mapping[str, int]
) -> tuple[str, ...]:
    """The levels that are shown; refuses names and channels that the network does not have."""
    known = list_levels(config)
    if not known:
        raise InputError(f"checkpoint {checkpoint}: its {config.network.kind} network has no feature levels")
    unknown = [name for name in asked if name not in known]
    problems = [f"--levels {name}: the network has no such level; it has {', '.join(known)}" for name in unknown]
    shown = asked or tuple(known)
    for name, channel in channels.items():
        if name not in shown:
            problems.append(f"--channel {name}={channel}: {name} is not shown; shown are {', '.join(shown)}")
        elif name in known and not 0 <= channel < known[name][0]:
            problems.append(f"--channel {name}={channel}: {name} has the channels 0 to {known[name][0] - 1}")
    raise_if_any(problems)
    return shown


def _find_view_problems(config: Config, plane: str, index: int | None, modality: str | None) -> list[str]:
    problems = []
    if plane in PLANE_NAMES and index is not None:
        size = config.patch.size[PLANES[PLANE_NAMES.index(plane)].axis]
        if not 0 <= index < size:
            problems.append(f"--slice {index}: the window has the {plane} planes 0 to {size - 1} (patch.size)")
    if modality is not None and modality not in config.data.modalities:
        seen = ", ".join(config.data.modalities)
        problems.append(f"--modality {modality!r}: the network does not see it; choose one of {seen}")
    return problems


def draw_features(
    plan: FeatureMapPlan, on_case: Callable[[int, str], None] | None = None
) -> tuple[list[Path], dict[str, Centre]]:
    """Computes and draws all cases of a plan; the picture is written when all of them are done.

    Args:
        plan: See `plan_feature_maps`.
        on_case: Called after each case with the number of those that are done, and its id.

    Returns:
        The files, and for each case what its window is centred on.

    Raises:
        InputError: Cases that cannot be read or computed; lists all of them, and nothing is written.
    """
    problems: list[str] = []
    shown, centres = [], {}
    for done, case in enumerate(plan.cases, start=1):
        with collecting(problems):
            drawn, centres[case.case_id] = compute_feature_maps(plan, case)
            shown.append(drawn)
        if on_case is not None:
            on_case(done, case.case_id)
    raise_if_any(problems)
    figure = draw_feature_maps(shown, plan.plane.title, plan.channels, plan.index, plan.modality.upper())
    return plan.file.write(figure), centres


def compute_feature_maps(plan: FeatureMapPlan, case: Case) -> tuple[FeatureCase, Centre]:
    """The levels of one window of `patch.size`, centred on the tumour as Monte Carlo's is (`mc.windows=tumour`).

    The tumour is that of the case's mask; without one, the predicted one; without that, the middle of the brain.

    Raises:
        InputError: The case cannot be read or prepared, or the network's output is not finite.
    """
    size = plan.config.patch.size
    prepared = prepare_case(case, plan.config.data.modalities, plan.config.data.prepare)
    classes, centre = prepared.seg, "mask"
    start = None if classes is None else find_window(classes > 0, size)
    if start is None:
        predicted = _predict_mask(plan, case, prepared.image, prepared.geometry.spacing_mm)
        start = None if predicted is None else find_window(predicted > 0, size)
        classes, centre = predicted if classes is None else classes, "prediction"
    if start is None:
        start, centre = find_window((prepared.image != 0).any(axis=0), size), "brain"
    if start is None:
        raise InputError(f"case {case.case_id}: its image is zero everywhere")
    image = crop(prepared.image, start, size).astype(np.float32)
    title = f"{case.case_id}\n{describe_idh(case)}"
    if prepared.seg is None and classes is not None:
        title += "\nmask: predicted"
    channel = plan.config.data.modalities.index(plan.modality)
    shown = None if classes is None else crop(classes, start, size)
    return FeatureCase(title, image[channel], shown, _encode(plan, image)), centre  # type: ignore[return-value]


def _encode(plan: FeatureMapPlan, image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """The levels (C, h, w, d) that are shown, of a window (C, H, W, D)."""
    window = torch.from_numpy(image)[None].to(plan.device)
    with torch.inference_mode():
        found = _select_levels(plan.network.encode(window), window)
    return {name: found[name][0].float().cpu().numpy() for name in plan.levels}


def _predict_mask(
    plan: FeatureMapPlan, case: Case, image: NDArray[np.float16], spacing_mm: Sequence[float]
) -> NDArray[np.uint8] | None:
    """Predicted classes (H, W, D); None of a network that does not segment."""
    if "segmentation" not in plan.network.learned_tasks:
        return None
    settings = plan.config.inference
    volume = torch.from_numpy(image)
    try:
        prediction = predict_volume(plan.network, volume, plan.config.patch.size, settings, plan.device, plan.precision)
    except FloatingPointError as error:
        raise InputError(f"case {case.case_id}: {error}") from None
    if prediction.seg_probabilities is None:
        return None
    parts = tell_parts([plan.network])
    found = segment(prediction.seg_probabilities, settings, float(np.prod(spacing_mm)), parts)
    return np.asarray(found.cpu().numpy())

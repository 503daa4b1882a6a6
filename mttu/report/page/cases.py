"""The cases that a page shows: slices, surfaces and feature maps, small enough to travel inside it.

A run's network predicts them anew on the prepared grid, where image, true mask, prediction and uncertainty share their
voxels. Nothing here is drawn of a case unless pictures were asked for.
"""

import base64
import gzip
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mttu.data.labels import REGIONS, WHOLE_TUMOUR
from mttu.data.manifest import Case
from mttu.data.preprocess import prepare_case
from mttu.errors import InputError
from mttu.figures.mesh import Mesh, build_mesh, measure_vertices
from mttu.figures.overlay import PLANES, choose_slices, scale_grey
from mttu.figures.surface import find_border, measure_distances
from mttu.inference.distribution import Distance
from mttu.inference.postprocessing import postprocess
from mttu.inference.windows import predict_volume, segment
from mttu.networks import Network
from mttu.networks.learned import tell_parts
from mttu.networks.monte_carlo import drop_by_pass, find_places, name_pass
from mttu.networks.rivals.rival import Rival
from mttu.predict.results import PredictionRow
from mttu.predict.standing import add_probability, add_standing
from mttu.report.feature_maps import FeatureMapPlan
from mttu.report.page.runs import ShownRun
from mttu.report.pictures import describe_idh

LARGEST_MM = 5.0
"""End of the colour scale of distances, as in Fig. 4."""
MOST_VOXELS = 13_000_000
"""Of all cases of a page; where they would have more, every second voxel is shown, and so on. Three brains at 1 mm have
fewer."""
_GREYS = 64
"""Grey levels of a slice, so that it is small; a screen shows few more."""
_EDEMA = 2
"""Class that stands for a tumour without parts: its colour is that of the whole tumour."""
_LABELS = 4
"""Numbers of classes in a packed voxel: the truth's, plus this times the prediction's."""


@dataclass(frozen=True)
class ShownCase:
    """One case, ready for the page."""

    case_id: str
    place: str
    """Best, Median or Worst."""
    score: float
    """Mean Dice that it was chosen by."""
    facts: tuple[str, ...]
    """IDH status, predicted probability and its standing, volumes, post-processing, distances; in words."""
    data: Mapping[str, Any]
    """JSON values for the viewers of the page."""


def choose_cases(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Place and case of the best, the median (the lower of two) and the worst score; fewer where there are fewer."""
    ordered = sorted(scores, key=lambda case_id: (-scores[case_id], case_id))
    if not ordered:
        return []
    places = {"Median": len(ordered) // 2, "Worst": len(ordered) - 1, "Best": 0}
    chosen = {ordered[index]: place for place, index in places.items()}  # of two cases none is the median
    return [(place, case_id) for case_id, place in sorted(chosen.items(), key=lambda item: ordered.index(item[0]))]


def show_case(
    plan: FeatureMapPlan,
    run: ShownRun,
    case: Case,
    place: str,
    score: float,
    passes: int,
    most_voxels: int = MOST_VOXELS,
) -> ShownCase:
    """Predicts a case anew, post-processed as `mttu predict` does, and packs what the page's viewers need.

    Args:
        plan: Network, settings, device and modality.
        run: Its post-processing, and what its probabilities stand on.
        case: With a true mask.
        place: See `ShownCase`.
        score: See `ShownCase`.
        passes: Monte Carlo passes of the uncertainty; 0: the entropy of the prediction itself.
        most_voxels: Of its slices.

    Raises:
        InputError: The case cannot be read or prepared, or the network's output is not finite.
    """
    prepared = prepare_case(case, plan.config.data.modalities, plan.config.data.prepare)
    if prepared.seg is None:
        raise InputError(f"case {case.case_id}: the manifest has no tumour mask; leave it out")
    volume = torch.from_numpy(prepared.image)
    try:
        prediction = predict_volume(
            plan.network, volume, plan.config.patch.size, plan.config.inference, plan.device, plan.precision
        )
        if prediction.seg_probabilities is None:
            raise InputError(f"case {case.case_id}: the network does not segment; leave --pictures out")
        uncertainty = _measure_uncertainty(plan, volume, case.case_id, prediction.seg_probabilities, passes)
    except FloatingPointError as error:
        raise InputError(f"case {case.case_id}: {error}") from None
    spacing_mm = prepared.geometry.spacing_mm
    voxel_mm3 = float(np.prod(spacing_mm))
    found = segment(prediction.seg_probabilities, plan.config.inference, voxel_mm3, tell_parts([plan.network]))
    rules = run.postprocessing.rules
    predicted = postprocess(found.cpu().numpy(), rules, voxel_mm3)
    facts = [f"True status: {describe_idh(case)}"]
    if prediction.idh_probabilities is not None:
        scan = (prepared.image, plan.config.data.modalities, spacing_mm)
        far = run.ground.distribution.judge(*scan)
        facts += _describe_probability(float(prediction.idh_probabilities[1]), case, run, far)
    masks = {"true": prepared.seg, "predicted": predicted}
    facts += [f"{name} whole tumour {np.count_nonzero(mask) * voxel_mm3 / 1000:.1f} ml" for name, mask in masks.items()]
    facts.append(f"voxels of {' x '.join(f'{side:g}' for side in spacing_mm)} mm")
    if rules:
        told = ", ".join(f"{region.upper()} {rule.describe()}" for region, rule in rules.items()).replace("mm3", "mm³")
        facts.append(f"prediction post-processed: {told}")
    channel = plan.config.data.modalities.index(plan.modality)
    image = prepared.image[channel].astype(np.float32)
    surface, distance = _pack_surfaces(predicted, prepared.seg, spacing_mm)
    data = {
        "case": case.case_id,
        **_pack_slices(image, prepared.seg, predicted, uncertainty, most_voxels),
        "surface": surface,
    }
    return ShownCase(case.case_id, place, score, (*facts, *distance), data)


def _describe_probability(
    mutant_probability: float, case: Case, run: ShownRun, distance: Distance | None
) -> tuple[str, str]:
    """The probability, and what it stands on, in the words of `mttu predict`."""
    row = PredictionRow(case.case_id, 0.0, learned_from=run.ground.knows(case.patient_id))
    row = add_standing(add_probability(row, mutant_probability, case.patient_id, run.ground), run.ground, distance)
    calibrated = row.idh_calibrated_probability
    told = "not calibrated" if calibrated is None else f"calibrated {calibrated:.2f}"
    return f"predicted probability of IDH mutant {mutant_probability:.2f} ({told})", row.standing or ""


def _measure_uncertainty(
    plan: FeatureMapPlan,
    volume: torch.Tensor,
    case_id: str,
    without_dropout: torch.Tensor,
    passes: int,
) -> NDArray[np.float32]:
    """Entropy of the mean class probabilities of each voxel over Monte Carlo passes, as a share of its largest, ln 4.

    Masks are those of `mttu score` with all dropout on. Without passes, or in a network without dropout, it is the
    entropy of the prediction itself.
    """
    places = list_dropout(plan.network) if passes else ()
    mean = without_dropout
    if places:
        on_cpu = plan.device.type == "cpu"
        total = torch.zeros_like(without_dropout)
        with torch.random.fork_rng([] if on_cpu else [plan.device], device_type="cuda" if on_cpu else plan.device.type):
            for number in range(passes):
                key = name_pass(plan.config.mc.seed, case_id, number)
                with drop_by_pass(plan.network, places, [key]):
                    one = predict_volume(
                        plan.network, volume, plan.config.patch.size, plan.config.inference, plan.device, plan.precision
                    )
                if one.seg_probabilities is not None:
                    total += one.seg_probabilities
        mean = total / passes
    entropy = -(mean * mean.clamp_min(1e-12).log()).sum(dim=0) / math.log(len(mean))
    return np.asarray(entropy.clamp(0.0, 1.0).cpu().numpy(), dtype=np.float32)


def list_dropout(network: Network) -> tuple[str, ...]:
    """Places of dropout that passes can draw masks for; none where the network has no such dropout."""
    if isinstance(network, Rival) and network.idh_head is None:
        return ()
    try:
        return find_places(network, "all")
    except InputError:
        return ()


def _pack_slices(
    image: NDArray[np.float32],
    truth: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    uncertainty: NDArray[np.float32],
    most_voxels: int,
) -> dict[str, Any]:
    """Grey levels, classes and uncertainty of each voxel, (H, W, D) in C order, for the slice viewer."""
    start = choose_slices(image, truth > 0)
    step = 1
    while math.prod(-(-extent // step) for extent in image.shape) > most_voxels:
        step += 1
    grey = np.rint(scale_grey(image) * (_GREYS - 1))[::step, ::step, ::step]
    inside = image[::step, ::step, ::step] != 0
    doubt = np.where(inside, np.rint(uncertainty[::step, ::step, ::step] * (_GREYS - 1)), 0)
    classes = _show(truth) + _LABELS * _show(predicted)
    return {
        "shape": list(grey.shape),
        "start": [index // step for index in start],
        "levels": _GREYS - 1,
        "planes": [{"title": plane.title, "axis": plane.axis, "edges": list(plane.edges)} for plane in PLANES],
        "grey": _pack(grey.astype(np.uint8)),
        "classes": _pack(classes[::step, ::step, ::step]),
        "uncertainty": _pack(doubt.astype(np.uint8)),
    }


def _show(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Classes 0 to 3; a tumour without parts in the colour of the whole tumour."""
    return np.where(classes == WHOLE_TUMOUR, _EDEMA, classes).astype(np.uint8)


def _pack_surfaces(
    predicted: NDArray[np.uint8], truth: NDArray[np.uint8], spacing_mm: tuple[float, float, float]
) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Meshes of the predicted and the true whole tumour, and the distance between them in words."""
    masks = {"prediction": np.isin(predicted, REGIONS["wt"]), "truth": np.isin(truth, REGIONS["wt"])}
    meshes = {name: build_mesh(mask, spacing_mm) for name, mask in masks.items() if mask.any()}
    if not meshes:
        return None, ("no tumour in truth and prediction",)
    places = np.concatenate([mesh.vertices_mm for mesh in meshes.values()])
    centre = (places.min(axis=0) + places.max(axis=0)) / 2
    radius = float(np.linalg.norm(places - centre, axis=1).max())
    packed: dict[str, Any] = {"radius": radius, "largest": LARGEST_MM}
    said: tuple[str, ...] = ()
    for name, mesh in meshes.items():
        packed[name] = _pack_mesh(mesh, centre)
    if len(meshes) == len(masks):
        distances = measure_vertices(meshes["prediction"], masks["prediction"], masks["truth"], spacing_mm)
        shares = np.clip(distances / LARGEST_MM, 0.0, 1.0)
        packed["prediction"]["distance"] = _pack(np.rint(255 * shares).astype(np.uint8))
        border = find_border(masks["prediction"])
        voxels = measure_distances(masks["prediction"], masks["truth"], spacing_mm)[border]
        said = (f"surface distance mean {voxels.mean():.1f} mm, largest {voxels.max():.1f} mm",)
    return packed, said or ("no surface distance: a mask is empty",)


def _pack_mesh(mesh: Mesh, centre: NDArray[np.float64]) -> dict[str, Any]:
    """Vertices in twentieths of a millimetre from the centre, and the corners of the faces."""
    vertices = np.rint((mesh.vertices_mm - centre) * 20).astype("<i2")
    return {"vertices": _pack(vertices), "faces": _pack(mesh.faces.astype("<u4"))}


def _pack(values: NDArray[Any]) -> str:
    """Bytes in C order, compressed, as text; the same bytes for the same values."""
    return base64.b64encode(gzip.compress(np.ascontiguousarray(values).tobytes(), 9, mtime=0)).decode()

"""Whole volumes through a network: blended sliding windows, test-time flips, post-processing. No files, no Ray.

Axes are (C, H, W, D). A window is a forward pass of its own, so a case's result depends on no other case.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, combinations
from math import ceil, prod

import torch
from torch import Tensor, nn

from mttu.config import InferenceSettings
from mttu.data.labels import WHOLE_TUMOUR
from mttu.errors import raise_if_any
from mttu.inference.device import Precision

NECROSIS, ENHANCING = 1, 3
"""Labels: enhancing tumour of too small a volume becomes NCR/NET."""
MOST_WINDOWS = 2**18
"""Of a case: windows times flips, or times Monte Carlo passes. The paper's window needs half as many for a whole grid
of 0.5 mm at the largest overlap with flips; small windows at that overlap would be 100 million."""

_AXES = (-3, -2, -1)
FLIPS = tuple(chain.from_iterable(combinations(_AXES, count) for count in range(4)))
"""Axes of each orientation, of volumes (..., H, W, D): none, then H (left to right), W, D, then two, then all."""


@dataclass(frozen=True)
class VolumePrediction:
    """Prediction for one volume; None for a task that the network has no head for, or whose head never saw a label."""

    seg_probabilities: Tensor | None
    """(4, H, W, D), float32, sums to 1 over labels; on the device of the forward pass."""
    idh_logits: Tensor | None
    """(F, 2), float32, CPU: mean over windows, one row per flip (F = 1 without test-time augmentation), and those of
    each member of an ensemble."""

    @property
    def idh_probabilities(self) -> Tensor | None:
        """(2,), wild type and mutant: softmax of each row's mean logits, then the mean over flips and members."""
        return None if self.idh_logits is None else self.idh_logits.softmax(dim=-1).mean(dim=0)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every submodule is back in its own mode (frozen batch norm stays frozen)."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def import_monai() -> None:
    """Imports MONAI, which takes seconds, so that this counts for no case, and fails for none.

    A process that runs no case, such as the one that starts the workers, does without.
    """
    import monai.inferers  # noqa: F401


def explain_windows(
    shape: Sequence[int], patch_size: Sequence[int], overlap: float, times: int = 1, setting: str = ""
) -> list[str]:
    """Why a volume (H, W, D) has too many windows; empty if it has not.

    Each window goes through the network `times` times, as the named setting says.
    """
    windows = prod(
        1 + ceil(max(0, extent - side) / max(1, int(side * (1 - overlap))))
        for extent, side in zip(shape, patch_size, strict=True)
    )
    if windows * times <= MOST_WINDOWS:
        return []
    size, grid = ("x".join(map(str, axes)) for axes in (patch_size, shape))
    return [
        f"patch.size {size} and inference.overlap {overlap} need {windows} windows for {grid} voxels"
        f"{f', and {setting} {times} times as many' if times > 1 else ''}; at most {MOST_WINDOWS} go through a network"
        f"; choose larger windows or a smaller overlap{f', or change {setting}' if times > 1 else ''}"
    ]


def predict_volume(
    network: nn.Module,
    image: Tensor,
    patch_size: Sequence[int],
    settings: InferenceSettings,
    device: torch.device,
    precision: Precision = "float32",
) -> VolumePrediction:
    """Slides a window over one prepared volume (section V-B; windows as in the authors' release).

    Each window's softmax is blended with Gaussian weights. Probabilities are blended, not logits: every window's vote
    is bounded, so one over-confident window border cannot outvote its neighbours, and the result sums to 1. IDH logits
    of the same passes are averaged over all windows, softmax after. A volume smaller than the window is padded with
    zeros (the background of prepared images).

    Args:
        network: Already on `device`; left in the mode it was found in. Tasks that its `learned_tasks` lack are not
            answered; a network without such a list has learned all of its tasks.
        image: (C, H, W, D), any float type and device.
        patch_size: Window in voxels.
        settings: Overlap and flips.
        device: Where the forward pass runs and the blended volume is kept.
        precision: `bfloat16` runs the forward pass under autocast; IDH head, softmax and blending stay float32.

    Raises:
        InputError: See `explain_windows`.
        FloatingPointError: The network's output is not finite.
    """
    logits: list[Tensor] = []
    flips: Sequence[tuple[int, ...]] = FLIPS if settings.flips else FLIPS[:1]
    raise_if_any(explain_windows(image.shape[1:], patch_size, settings.overlap, len(flips), "inference.flips"))
    volume = image.to(device=device, dtype=torch.float32)

    def predict_flips() -> Iterator[Tensor | None]:
        for axes in flips:
            probabilities, idh_logits = _slide(network, volume.flip(axes), patch_size, settings.overlap, precision)
            if idh_logits is not None:
                logits.append(idh_logits)
            yield probabilities.flip(axes) if probabilities is not None and axes else probabilities

    with _evaluating(network), torch.inference_mode():
        mean = _average(predict_flips())
    prediction = VolumePrediction(mean, torch.stack(logits).cpu() if logits else None)
    for name, tensor in (("seg_logits", mean), ("idh_logits", prediction.idh_logits)):
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            raise FloatingPointError(f"the network's {name} are not finite: its weights or this image are damaged")
    return prediction


def predict_ensemble(
    networks: Sequence[nn.Module],
    image: Tensor,
    patch_size: Sequence[int],
    settings: InferenceSettings,
    device: torch.device,
    precision: Precision = "float32",
    observe: Callable[[VolumePrediction], None] | None = None,
) -> VolumePrediction:
    """Mean over networks of their probabilities, voxel by voxel and for IDH (Lakshminarayanan et al., 2017).

    The mean of a task is over the members that learned it. One network gives the bits of `predict_volume`, which see
    for the arguments. `observe` is called with each member's prediction, whose memory is used again afterwards.

    Raises:
        FloatingPointError: A network's output is not finite; says which member's.
    """
    logits: list[Tensor] = []

    def predict_members() -> Iterator[Tensor | None]:
        for number, network in enumerate(networks, 1):
            try:
                one = predict_volume(network, image, patch_size, settings, device, precision)
            except FloatingPointError as error:
                raise FloatingPointError(name_member(str(error), number, len(networks))) from None
            if one.idh_logits is not None:
                logits.append(one.idh_logits)
            if observe is not None:
                observe(one)
            yield one.seg_probabilities

    with torch.inference_mode():
        mean = _average(predict_members())
        return VolumePrediction(mean, torch.cat(logits) if logits else None)


def _average(volumes: Iterable[Tensor | None]) -> Tensor | None:
    """Mean of the volumes that are not None, added up in place of the first, so that few are held at a time."""
    total: Tensor | None = None
    count = 0
    for volume in volumes:
        if volume is not None:
            total = volume if total is None else total.add_(volume)
            count += 1
    return total.div_(count) if total is not None and count > 1 else total


def name_member(message: str, number: int, members: int) -> str:
    """The message, with the number of the member of an ensemble that it is about."""
    return message if members == 1 else f"member {number} of {members}: {message}"


def _slide(
    network: nn.Module, volume: Tensor, patch_size: Sequence[int], overlap: float, precision: Precision
) -> tuple[Tensor | None, Tensor | None]:
    """Blended label probabilities (4, H, W, D) and mean IDH logits (2,) of one orientation of a volume."""
    from monai.inferers import sliding_window_inference  # see import_monai

    idh_logits: list[Tensor] = []
    segments = False
    learned: Collection[str] = getattr(network, "learned_tasks", ("segmentation", "idh"))

    def forward(window: Tensor) -> Tensor:
        nonlocal segments
        with torch.autocast(window.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            outputs = network(window)
        if "idh_logits" in outputs and "idh" in learned:
            idh_logits.append(outputs["idh_logits"][0].float())
        if "seg_logits" in outputs and "segmentation" in learned:
            segments = True
            return torch.softmax(outputs["seg_logits"].float(), dim=1)
        return torch.zeros_like(window[:, :1])  # nothing to blend, but the sliding window wants a volume

    blended = sliding_window_inference(
        volume[None], tuple(patch_size), sw_batch_size=1, predictor=forward, overlap=overlap, mode="gaussian"
    )
    mean_logits = torch.stack(idh_logits).mean(dim=0) if idh_logits else None
    return blended[0] if segments else None, mean_logits


def segment(
    probabilities: Tensor, settings: InferenceSettings, voxel_volume_mm3: float, tells_parts: bool = True
) -> Tensor:
    """Most probable label per voxel; too little enhancing tumour becomes NCR/NET.

    A few enhancing voxels are more often a false alarm than a finding, and cost a whole Dice score where the truth has
    none; the tumour core keeps its extent (as in the authors' release and most BraTS entries).

    Args:
        probabilities: (4, H, W, D).
        settings: `min_enhancing_mm3`; 0 leaves the labels as they are.
        voxel_volume_mm3: Of this grid.
        tells_parts: False for a network that learned the whole tumour only, see `MttuNet.learned_parts`.

    Returns:
        (H, W, D), uint8 labels 0 to 3, or 0 and `WHOLE_TUMOUR`, on the device of `probabilities`.
    """
    labels = probabilities.argmax(dim=0).to(torch.uint8)
    if not tells_parts:
        return (labels > 0).to(torch.uint8) * WHOLE_TUMOUR
    enhancing = labels == ENHANCING
    if float(enhancing.sum()) * voxel_volume_mm3 < settings.min_enhancing_mm3:
        labels = labels.masked_fill(enhancing, NECROSIS)
    return labels

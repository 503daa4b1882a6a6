"""Monte Carlo passes over a whole volume. No files, no Ray. Axes are (C, H, W, D)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mttu.config import InferenceSettings, MonteCarloSettings
from mttu.data.loaders import crop
from mttu.errors import raise_if_any
from mttu.inference.device import Precision
from mttu.inference.windows import explain_windows
from mttu.networks import Network
from mttu.networks.monte_carlo import IdhPasses, name_pass


@dataclass(frozen=True)
class PassLogits:
    """IDH logits of one case, means over its windows; float32, CPU."""

    passes: Tensor
    """(T, 2), one row per stochastic pass."""
    deterministic: Tensor
    """(2,), dropout off."""

    @property
    def mutant_probabilities(self) -> list[float]:
        """IDH-mutant probability of each pass: softmax of its mean logits."""
        return [float(value) for value in self.passes.softmax(dim=-1)[:, 1]]

    @property
    def deterministic_probability(self) -> float:
        """IDH-mutant probability without dropout."""
        return float(self.deterministic.softmax(dim=-1)[1])


def run_passes(
    network: Network,
    image: Tensor,
    case_id: str,
    patch_size: Sequence[int],
    settings: MonteCarloSettings,
    inference: InferenceSettings,
    device: torch.device,
    precision: Precision = "float32",
    member: int = 1,
) -> PassLogits:
    """T stochastic passes over one prepared volume, and one without dropout.

    Windows are those of `mttu.inference.windows.predict_volume` without flips; logits are averaged over windows, pass
    by pass. A pass has the same masks in every window of the case: masks drawn anew per window would average out, and
    the deviation over passes would shrink with the number of windows.

    The image is (C, H, W, D), of any float type and device; the network is on `device`, in evaluation mode, with an IDH
    head. The case and the number of the network in its ensemble (`member`) decide the masks.

    Raises:
        InputError: See `IdhPasses` and `explain_windows`.
        FloatingPointError: Logits are not finite.
    """
    from monai.inferers import sliding_window_inference  # see mttu.inference.windows.import_monai

    raise_if_any(explain_windows(image.shape[1:], patch_size, inference.overlap, settings.passes, "mc.passes"))
    idh_passes = IdhPasses(network, settings.active_dropout)
    keys = [name_pass(settings.seed, case_id, number, member) for number in range(settings.passes)]
    size = settings.passes_per_forward
    chunks = [keys[start : start + size] for start in range(0, len(keys), size)]
    windows: list[Tensor] = []

    def forward(window: Tensor) -> Tensor:
        with torch.autocast(window.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            shared = idh_passes.share(window)
            logits = torch.cat([idh_passes.finish(shared), *(idh_passes.run(shared, chunk) for chunk in chunks)])
        windows.append(logits.float())
        return torch.zeros_like(window[:, :1])  # nothing to blend, but the sliding window wants a volume

    volume = image.to(device=device, dtype=torch.float32)
    on_cpu = device.type == "cpu"
    fork = torch.random.fork_rng([] if on_cpu else [device], device_type="cuda" if on_cpu else device.type)
    with torch.inference_mode(), fork:
        sliding_window_inference(
            volume[None], tuple(patch_size), sw_batch_size=1, predictor=forward, overlap=inference.overlap
        )
    mean = torch.stack(windows).mean(dim=0).cpu()  # (1 + T, 2)
    if not bool(torch.isfinite(mean).all()):
        raise FloatingPointError("the network's idh_logits are not finite: its weights or this image are damaged")
    return PassLogits(mean[1:], mean[0])


def cut_tumour_window(
    image: NDArray[np.float16], classes: NDArray[np.uint8], patch_size: Sequence[int]
) -> NDArray[np.float16] | None:
    """The window of `find_window` around the tumour, (C, *patch_size); None without tumour.

    Args:
        image: (C, H, W, D).
        classes: (H, W, D), above 0 in the tumour.
        patch_size: Window in voxels; a volume smaller than it is padded with zeros on both sides.
    """
    start = find_window(classes > 0, patch_size)
    return None if start is None else crop(image, start, patch_size)


def find_window(inside: NDArray[np.bool_], patch_size: Sequence[int]) -> tuple[int, ...] | None:
    """First voxel of the window centred on a bounding box, moved into the volume where possible; None without a voxel.

    It is negative on an axis where the volume (H, W, D) is smaller than the window.
    """
    places = np.nonzero(inside)
    if not len(places[0]):
        return None
    start = []
    for axis, side, extent in zip(places, patch_size, inside.shape, strict=True):
        first = (int(axis.min()) + int(axis.max()) + 1 - side) // 2
        start.append(min(max(0, first), extent - side) if extent >= side else (extent - side) // 2)
    return tuple(start)

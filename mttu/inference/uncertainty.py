"""How much a prediction varies: over passes with dropout, over the members of an ensemble, or over both.

Not in the paper, which has Monte Carlo dropout for the IDH status alone (section IV-B). Here whole volumes go through
the network with dropout on (Gal and Ghahramani, ICML 2016), so that masks vary too. The masks of dropout are those of
`mttu.inference.passes`. Axes are (C, H, W, D).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mttu.config import InferenceSettings, MonteCarloSettings
from mttu.data.labels import REGIONS, WHOLE_TUMOUR
from mttu.errors import InputError, raise_if_any
from mttu.inference.device import Precision
from mttu.inference.postprocessing import Rules, postprocess
from mttu.inference.windows import FLIPS, VolumePrediction, explain_windows, predict_volume, segment
from mttu.networks import Network
from mttu.networks.monte_carlo import drop_by_pass, find_places, name_pass


def check_passes(networks: Sequence[Network], settings: MonteCarloSettings) -> None:
    """Refuses networks that have nothing to drop.

    Raises:
        InputError: Says which setting is in the way.
    """
    for network in networks:
        if not find_places(network, settings.active_dropout):
            raise InputError(
                f"mc.active_dropout={settings.active_dropout}: no dropout there has a probability above 0 "
                "(network.dropout), so all passes would be equal; predict without passes, or with a network that was "
                "trained with dropout"
            )


def predict_passes(
    network: Network,
    image: Tensor,
    case_id: str,
    patch_size: Sequence[int],
    settings: MonteCarloSettings,
    inference: InferenceSettings,
    device: torch.device,
    precision: Precision = "float32",
    member: int = 1,
) -> Iterator[VolumePrediction]:
    """`settings.passes` predictions of a volume (C, H, W, D) with dropout on.

    A pass has the same masks in every window of the case; they depend on seed, case, pass and the number of the network
    in its ensemble (`member`), as in `mttu.inference.passes.run_passes`, whose probabilities these are.

    Raises:
        InputError: See `explain_windows`.
        FloatingPointError: The network's output is not finite.
    """
    times = settings.passes * (len(FLIPS) if inference.flips else 1)
    raise_if_any(explain_windows(image.shape[1:], patch_size, inference.overlap, times, "the number of passes"))
    places = find_places(network, settings.active_dropout)
    on_cpu = device.type == "cpu"
    for number in range(settings.passes):
        key = name_pass(settings.seed, case_id, number, member)
        fork = torch.random.fork_rng([] if on_cpu else [device], device_type="cuda" if on_cpu else device.type)
        with fork, drop_by_pass(network, places, [key]):
            found = predict_volume(network, image, patch_size, inference, device, precision)
        yield found


@dataclass
class Samples:
    """Predictions of one volume that differ by dropout or by network, of which only sums are kept.

    Those of voxels take 16 bytes for each.
    """

    inference: InferenceSettings
    voxel_mm3: float
    """Of the prepared grid."""
    tells_parts: bool = True
    rules: Rules = field(default_factory=dict)
    """Post-processing, so that volumes are those of masks as they are written."""
    sums_voxels: bool = True
    """Whether `measure_deviation` will be asked for."""
    mutant_probabilities: list[float] = field(default_factory=list)
    volumes_ml: dict[str, list[float]] = field(default_factory=dict)
    """Region to its volume in each sample."""
    _sum: Tensor | None = None
    _squares: Tensor | None = None

    def add(self, prediction: VolumePrediction) -> None:
        """Counts a sample; its tensors may be changed afterwards."""
        if prediction.idh_probabilities is not None:
            self.mutant_probabilities.append(float(prediction.idh_probabilities[1]))
        probabilities = prediction.seg_probabilities
        if probabilities is None:
            return
        labels = segment(probabilities, self.inference, self.voxel_mm3, self.tells_parts).cpu().numpy()
        counts = np.bincount(postprocess(labels, self.rules, self.voxel_mm3).ravel(), minlength=WHOLE_TUMOUR + 1)
        for region, members in REGIONS.items():
            volume = float(counts[list(members)].sum()) * self.voxel_mm3 / 1000.0
            self.volumes_ml.setdefault(region, []).append(volume)
        if not self.sums_voxels:
            return
        tumour = (1.0 - probabilities[0]).double()  # a difference of squares in float32 would be noise
        self._sum = tumour if self._sum is None else self._sum.add_(tumour)
        self._squares = tumour.square() if self._squares is None else self._squares.add_(tumour.square())

    @property
    def num(self) -> int:
        """Samples of the task that has most; deviations need two."""
        return max(len(self.mutant_probabilities), self._num_masks)

    @property
    def _num_masks(self) -> int:
        return len(self.volumes_ml.get("wt", []))

    @property
    def idh_mean(self) -> float | None:
        """Mean over samples of the mutant probability; None for fewer than two."""
        return float(np.mean(self.mutant_probabilities)) if len(self.mutant_probabilities) > 1 else None

    @property
    def idh_deviation(self) -> float | None:
        """Standard deviation (ddof 1) over samples of the mutant probability; None for fewer than two."""
        return _deviate(self.mutant_probabilities)

    def volume_deviation_ml(self, region: str) -> float | None:
        """Standard deviation (ddof 1) over samples of a region's volume; None for fewer than two."""
        return _deviate(self.volumes_ml.get(region, []))

    def measure_deviation(self) -> NDArray[np.float32] | None:
        """Standard deviation (ddof 1) over samples of each voxel's tumour probability, (H, W, D); None for too few."""
        if self._sum is None or self._squares is None or self._num_masks < 2:
            return None
        squares = self._squares - self._sum.square() / self._num_masks
        deviation: NDArray[np.float32] = (squares.clamp(min=0) / (self._num_masks - 1)).sqrt().float().cpu().numpy()
        return deviation


def _deviate(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def map_regions(probabilities: Tensor, tells_parts: bool = True) -> dict[str, NDArray[np.float32]]:
    """Probability of each region, (H, W, D), from those of the labels (4, H, W, D); WT alone without parts."""
    classes = len(probabilities)
    found = {}
    for region, members in REGIONS.items():
        if tells_parts or region == "wt":
            own = [index for index in members if index < classes]
            found[region] = probabilities[own].sum(dim=0).float().cpu().numpy()
    return found


def measure_entropy(probabilities: Tensor, tells_parts: bool = True) -> NDArray[np.float32]:
    """Entropy of each voxel's label, (H, W, D), divided by its largest: 0 certain, 1 all labels (4, H, W, D) alike.

    Without parts, that of tumour or not.
    """
    if not tells_parts:
        background = probabilities[:1]
        probabilities = torch.cat([background, 1.0 - background])
    terms = torch.special.entr(probabilities.clamp(0.0, 1.0)).sum(dim=0)
    entropy: NDArray[np.float32] = (terms / math.log(len(probabilities))).clamp(0.0, 1.0).float().cpu().numpy()
    return entropy

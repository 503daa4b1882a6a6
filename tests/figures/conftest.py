"""Tables from the phantom cohort: a tiny untrained network's Monte Carlo passes, features and masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mttu.config import override
from mttu.data.cache import open_cached
from mttu.data.manifest import Manifest
from mttu.figures.selection import Candidate
from mttu.networks import build_network
from mttu.search.presets import preset

NETWORK: dict[str, Any] = {
    "network.widths": [4, 4, 8, 8],
    "network.bottleneck.width": 16,
    "network.bottleneck.num_heads": 2,
    "network.bottleneck.mlp_width": 16,
    "network.bottleneck.position_grid": [2, 2, 2],
    "network.idh_head.hidden": [8],
    "patch.size": [16, 16, 16],
}


@dataclass(frozen=True)
class PhantomCase:
    """A prepared phantom case with what the untrained network makes of it, on an even grid."""

    case_id: str
    idh: int
    image: NDArray[np.float32]
    classes: NDArray[np.uint8]
    levels: dict[str, NDArray[np.float32]]
    candidate: Candidate


@pytest.fixture(scope="session")
def phantom_cases(phantom_manifest: Manifest, phantom_cache: Path) -> Sequence[PhantomCase]:
    """All eight cases: 16^3 voxels around the lesion, four Monte Carlo passes."""
    torch.manual_seed(0)
    network = build_network(override(preset("demo"), NETWORK).network)
    found = []
    for case in phantom_manifest.cases:
        cached = open_cached(phantom_cache, case.case_id)
        seg = np.array(cached.seg)
        centre = np.argwhere(seg > 0).mean(axis=0).round().astype(int)
        start = np.clip(centre - 8, 0, np.array(seg.shape) - 16)
        box = tuple(slice(first, first + 16) for first in start)
        image = torch.from_numpy(np.array(cached.image[(slice(None), *box)], dtype=np.float32))[None]
        with torch.no_grad():
            levels = {name: level[0].numpy() for name, level in network.eval().encode(image).items()}
            network.train()
            passes = torch.stack([network(image)["idh_logits"].softmax(dim=1)[0] for _ in range(4)])
        mean, deviation = passes.mean(dim=0), passes.std(dim=0)
        predicted = int(mean.argmax())
        values = float(mean[predicted]), float(deviation[predicted])
        candidate = Candidate(case.case_id, *values, predicted, case.idh, selected=False)
        found.append(PhantomCase(case.case_id, case.idh, image[0, 0].numpy(), seg[box], levels, candidate))
    return found

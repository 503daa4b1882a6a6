"""The figures of the authors' released network, reproduced at full size."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mttu.config import Config
from mttu.networks import MttuNet, build_network

TOLERANCE = 1e-4


def fill_by_rule(network: MttuNet) -> None:
    """Deterministic weights: parameter number i is made of randn with seed 1000 + i, in the order of execution."""
    for index, (name, parameter) in enumerate(network.named_parameters()):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1000 + index))
        with torch.no_grad():
            parameter.copy_(rule(name, noise))


def rule(name: str, noise: Tensor) -> Tensor:
    if "position" in name:
        return 0.02 * noise
    if name.endswith("bias"):
        return 0.05 * noise
    if noise.ndim == 1:  # gain of a norm
        return 1 + 0.1 * noise
    fan_in = noise.shape[0] if "upsample" in name else noise[0].numel()
    return noise / fan_in**0.5


@pytest.mark.slow
def test_reproduces_the_released_network() -> None:
    reference = json.loads((Path(__file__).parent / "release_parity.json").read_text())
    network = build_network(Config().network).eval()
    fill_by_rule(network)
    image = torch.randn(1, 4, 128, 128, 128, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        features = network.encode(image)
        logits = network.run_heads(features)
    assert logits["idh_logits"][0].tolist() == pytest.approx(reference["idh_logits"], abs=TOLERANCE)
    probabilities = logits["seg_logits"][0].softmax(0)
    voxels = torch.tensor(reference["voxels"])
    found = probabilities[:, voxels[:, 0], voxels[:, 1], voxels[:, 2]].T
    torch.testing.assert_close(found, torch.tensor(reference["seg_probabilities"]), atol=TOLERANCE, rtol=0)
    for name, expected in reference["features"].items():
        level = features[name]
        assert float(level.double().mean()) == pytest.approx(expected["mean"], abs=TOLERANCE), name
        assert float(level.double().std()) == pytest.approx(expected["std"], abs=TOLERANCE), name
        first = level.flatten()[: len(expected["first"])].tolist()
        assert first == pytest.approx(expected["first"], abs=TOLERANCE), name
    counts = torch.bincount(probabilities.argmax(0).flatten(), minlength=4)
    torch.testing.assert_close(counts, torch.tensor(reference["argmax_counts"]), atol=20, rtol=0)  # near ties

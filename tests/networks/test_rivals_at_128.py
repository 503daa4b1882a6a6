"""Networks other than MTTU-Net with their default options at the paper's patch size: shapes and memory."""

from pathlib import Path

import pytest
import torch

from mttu.config import RivalSettings
from mttu.config.network import RIVALS
from mttu.networks import build_network

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_gib():
    """The most memory that this process has held since the last write to CLEAR; 0 where the system does not say."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM:")), 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RIVALS)
def test_a_forward_pass_at_128(kind):
    """In float32 on one thread, as all tests: about four minutes for all networks."""
    torch.manual_seed(0)
    size = (128, 128, 128)
    if CLEAR.exists():
        CLEAR.write_text("5")
    network = build_network(RivalSettings(kind=kind, tasks=RIVALS[kind]), size).eval()
    with torch.inference_mode():
        logits = network(torch.randn(1, 4, *size))
    assert peak_gib() < 12
    shapes = {"segmentation": ("seg_logits", (1, 4, *size)), "idh": ("idh_logits", (1, 2))}
    assert {name: tuple(one.shape) for name, one in logits.items()} == dict(shapes[task] for task in RIVALS[kind])
    for one in logits.values():
        assert bool(one.isfinite().all())
        assert float(one.std()) > 0

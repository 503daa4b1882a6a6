"""Each network other than MTTU-Net learns one batch by heart, by the steps of a training."""

from dataclasses import replace

import pytest
import torch
from test_loop import CPU, batch_of, run_epoch

from mttu.config import override
from mttu.config.network import RIVALS
from mttu.losses import segmentation_loss, segmentation_sums
from mttu.search.ablations import changes_of
from mttu.search.presets import preset
from mttu.training.state import create_state

AT_16 = {
    "unet": {"channels": [8, 16, 32, 64]},
    "vnet": {"dropout": 0.0},
    "dmfnet": {},
    "unetr": {},
    "seresnet101": {"dropout": 0.0},
    "resnet50": {},
    "sgpnet-style": {},
    "cmsvnet": {},
    "dynunet": {"channels": [16, 32, 64, 128]},
    "segresnet": {"dropout": 0.0},
}
"""Networks that learn from images of 16^3, with the options that make them; the others need 32^3."""
SLOWLY = {"dynunet", "segresnet", "swinunetr"}
"""Our IDH head reads levels of theirs that no norm has bounded."""
MOST_STEPS = 40


def settings_of(kind, tiny):
    """The row of Table VI at the preset's size, but for both tasks where the network can, and without dropout."""
    changes = {"network.kind": kind, **changes_of(kind, preset("demo")), "network.tasks": list(RIVALS[kind])}
    changes |= {f"network.options.{name}": value for name, value in AT_16.get(kind, {}).items()}
    common = {"network.dropout": 0.0, "patch.size": [16 if kind in AT_16 else 32] * 3}
    common |= {"loss.segmentation": "dice_ce", "loss.include_background": False}
    return override(override(tiny, changes), {**common, "optim.lr": 2e-3 if kind in SLOWLY else 1e-2})


def draw_batch(size):
    """Each part of the tumour is bright in a modality of its own; the mutant has stripes in another."""
    batch = batch_of(0.3 * torch.randn(2, 4, size, size, size, generator=torch.Generator().manual_seed(0)))
    seg = batch_of(torch.zeros(2, 4, 16, 16, 16)).seg
    for axis in (1, 2, 3):
        seg = seg.repeat_interleave(size // 16, axis)
    for value in (1, 2, 3):
        batch.image[:, value] += 2.0 * (seg == value)
    batch.image[0, 0] += 3.0 * (torch.arange(size) // 2 % 2)[:, None, None]
    return replace(batch, seg=seg)


def least_without_looking(batch, config):
    """The least segmentation loss of the same probabilities in all voxels."""
    logits = torch.zeros(1, 4, 1, 1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(50):
        optimizer.zero_grad()
        everywhere = logits.expand(2, -1, *batch.seg.shape[1:])
        loss = segmentation_loss(segmentation_sums(everywhere, batch.seg, batch.has_seg, config.loss), config.loss)
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.slow
@pytest.mark.parametrize("kind", RIVALS)
def test_one_batch_is_overfitted(kind, tiny, tmp_path):
    """What a network can reach without looking at the image: one answer for all voxels, and for both cases log 2."""
    config = settings_of(kind, tiny)
    batch = draw_batch(config.patch.size[0])
    limits = {"segmentation": 0.75 * least_without_looking(batch, config), "idh": 0.2}
    state = create_state(config, CPU)
    losses = []
    for _ in range(MOST_STEPS):
        metrics = run_epoch(state, config, tmp_path, batch, RIVALS[kind], weights=(1.0, 1.0))
        losses.append({task: metrics[f"train/loss_{task}"] for task in RIVALS[kind]})
        if all(loss < limits[task] for task, loss in losses[-1].items()):
            break
    assert all(loss > limits[task] for task, loss in losses[0].items()), losses[0]
    assert all(loss < limits[task] for task, loss in losses[-1].items()), losses[-1]

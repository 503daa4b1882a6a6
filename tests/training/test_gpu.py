"""Training and inference on a CUDA device against the CPU; bit-equality is not promised there, closeness is."""

from dataclasses import replace

import pytest
import torch

from mttu.config import override
from mttu.data.cache import open_cached
from mttu.data.loaders import read_prepared
from mttu.inference.windows import predict_volume
from mttu.networks.batch_norm import BatchNorm3d, synchronise
from mttu.training.loop import fit
from mttu.training.run import task_of
from mttu.training.runtime import LocalRuntime
from mttu.training.state import create_state

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
CUDA = torch.device("cuda")


def test_training_runs_in_bfloat16_and_resumes(tiny, tmp_path):
    task = task_of(tiny)
    state = fit(task, LocalRuntime(tmp_path / "train", device=CUDA))
    assert state.epoch == tiny.train.epochs
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.network.state_dict().values())
    longer = override(tiny, {"train.epochs": tiny.train.epochs + 1})
    resumed = fit(replace(task, config=longer), LocalRuntime(tmp_path / "train", device=CUDA))
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3, 4]


def test_first_losses_agree_with_the_cpu(tiny, tmp_path):
    still = {f"network.dropout.{place}": 0.0 for place in ("stem", "embedding", "attention", "projection", "branch")}
    config = override(tiny, {**still, "network.dropout.mlp": 0.0, "network.dropout.head": 0.0, "train.epochs": 1})
    rows = []
    for name, device in (("cpu", torch.device("cpu")), ("gpu", CUDA)):
        task = task_of(override(config, {"train.precision": "float32"}))
        rows.append(fit(task, LocalRuntime(tmp_path / name, device=device)).history[0])
    assert rows[0]["train/loss"] == pytest.approx(rows[1]["train/loss"], abs=2e-3)


def test_whole_volume_probabilities_agree_with_the_cpu(tiny, phantom_manifest, phantom_cache):
    network = create_state(tiny, torch.device("cpu")).network
    image = read_prepared(open_cached(phantom_cache, phantom_manifest.cases[0].case_id), tiny)
    expected = predict_volume(network, image, tiny.patch.size, tiny.inference, torch.device("cpu"))
    found = predict_volume(network.to(CUDA), image, tiny.patch.size, tiny.inference, CUDA)
    torch.testing.assert_close(found.seg_probabilities.cpu(), expected.seg_probabilities, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.idh_logits, expected.idh_logits, atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_synchronised_batch_norm_equals_torch_s_on_the_whole_batch_and_waits_for_nothing(dtype):
    """Two ranks with the same samples: what the other adds up is known."""
    torch.manual_seed(0)
    x, slope = (torch.randn(2, 8, 6, 5, 4, device=CUDA, dtype=dtype) + 1 for _ in range(2))
    x = x.contiguous(memory_format=torch.channels_last_3d)
    own, whole = (norm(8).to(CUDA) for norm in (BatchNorm3d, torch.nn.BatchNorm3d))
    synchronise(own, lambda tensor: 2 * tensor)
    one, twice = x.clone().requires_grad_(), torch.cat([x, x]).requires_grad_()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = own(one)
        (found * slope).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = whole(twice)
    (expected * torch.cat([slope, slope])).sum().backward()
    allowed = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close((found, one.grad), (expected[:2], twice.grad[:2]), **allowed)
    torch.testing.assert_close(
        (2 * own.weight.grad, 2 * own.bias.grad), (whole.weight.grad, whole.bias.grad), **allowed
    )
    torch.testing.assert_close(list(own.buffers()), list(whole.buffers()), rtol=1e-5, atol=1e-5)

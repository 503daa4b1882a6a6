"""Training and inference on a CUDA device against the CPU; bit-equality is not promised there, closeness is."""

from dataclasses import replace

import pytest
import torch

from mttu.config import override
from mttu.data.cache import open_cached
from mttu.data.loaders import read_prepared
from mttu.inference.windows import predict_volume
from mttu.networks.batch_norm import BatchNorm3d, synchronise
from mttu.networks.cpu.steps import activate
from mttu.networks.monte_carlo import IdhPasses, drop_by_pass, name_pass
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
    """Two ranks with the same samples: what the other adds up is known. Torch's is computed in double precision."""
    x, slope = some_features(dtype)
    own = BatchNorm3d(8).to(CUDA)
    synchronise(own, lambda tensor: 2 * tensor)
    one = x.clone().requires_grad_()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = own(one)
        (found * slope).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    whole = torch.nn.BatchNorm3d(8).double()
    twice = torch.cat([x, x]).cpu().double().requires_grad_()
    expected = whole(twice)
    (expected * torch.cat([slope, slope]).cpu()).sum().backward()
    of_values = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
    close((found, one.grad), (expected[:2], twice.grad[:2]), **of_values)
    close((2 * own.weight.grad, 2 * own.bias.grad), (whole.weight.grad, whole.bias.grad), rtol=1e-4, atol=1e-3)
    close(tuple(own.buffers()), tuple(whole.buffers()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_and_activation_equal_torch_s_in_double_precision(dtype, training):
    x, slope = some_features(dtype)
    own, whole = BatchNorm3d(8).to(CUDA).train(training), torch.nn.BatchNorm3d(8).double().train(training)
    one, reference = x.clone().requires_grad_(), x.cpu().double().requires_grad_()
    found = activate(one, own, 0.01)
    expected = torch.nn.functional.leaky_relu(whole(reference), 0.01)
    (found * slope).sum().backward()
    (expected * slope.cpu()).sum().backward()
    of_values = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
    close((found, one.grad), (expected, reference.grad), **of_values)
    close((own.weight.grad, own.bias.grad), (whole.weight.grad, whole.bias.grad), rtol=1e-2, atol=1e-2)
    close(tuple(own.buffers()), tuple(whole.buffers()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("active", ["head", "transformer+head", "all"])
def test_monte_carlo_passes_repeat_and_equal_the_naive_form(tiny, active):
    network = create_state(tiny, torch.device("cpu")).network.to(CUDA).eval()
    image = torch.randn(1, 4, 16, 16, 16, generator=torch.Generator().manual_seed(0)).to(CUDA)
    passes = IdhPasses(network, active)
    keys = [name_pass(0, "case", number) for number in range(3)]
    before = torch.get_rng_state()
    with torch.inference_mode():
        first, again = (torch.cat([passes.run(passes.share(image), [key]) for key in keys]) for _ in range(2))
        naive = []
        for key in keys:
            with drop_by_pass(network, passes.places, [key]):
                naive.append(network(image)["idh_logits"])
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])
    torch.testing.assert_close(first, torch.cat(naive), atol=1e-5, rtol=1e-5)
    assert torch.equal(torch.get_rng_state(), before)  # of the CPU: only the GPU's is reseeded


def some_features(dtype):
    """A batch (2, 8, 6, 5, 4), channels last, and slopes of its output, both on the GPU."""
    torch.manual_seed(0)
    x, slope = (torch.randn(2, 8, 6, 5, 4, device=CUDA, dtype=dtype) + 1 for _ in range(2))
    return x.contiguous(memory_format=torch.channels_last_3d), slope


def close(found, expected, **allowed):
    """Tensors on the GPU against those of a reference in double precision on the CPU."""
    for one, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(one.detach().cpu().double(), reference.detach().double(), **allowed)

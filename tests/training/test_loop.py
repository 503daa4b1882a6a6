import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from mttu.config import override
from mttu.config.sharing import without_paths
from mttu.data import cache
from mttu.data.augment import Augmentation
from mttu.data.loaders import Batch
from mttu.errors import RunError
from mttu.networks.checkpoint import read_checkpoint
from mttu.training.inputs import open_task
from mttu.training.loop import clip_gradients, fit, set_learning_rate, train_epoch
from mttu.training.run import task_of
from mttu.training.runtime import LocalRuntime
from mttu.training.state import create_state

CPU = torch.device("cpu")


def run_epoch(state, config, folder, batch, labelled=("segmentation", "idh"), weights=(0.5, 0.5)):
    """The metrics of an epoch of one step."""
    runtime = LocalRuntime(folder)
    return train_epoch(state, state.network, [batch], [labelled], torch.tensor(weights), config, runtime)


def everything(state):
    """All tensors of a state by name."""
    found = {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
    found |= {f"weighting.{name}": tensor for name, tensor in state.weighting.state_dict().items()}
    for index, slots in state.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{name}": tensor for name, tensor in slots.items()}
    return found


def assert_same(one, two):
    first, second = everything(one), everything(two)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different
    assert one.history == two.history
    assert one.best.epoch == two.best.epoch
    assert all(torch.equal(one.best.weights[name], two.best.weights[name]) for name in one.best.weights)


class StoppedError(Exception):
    pass


def stop_after(epoch):
    def on_report(number, metrics):
        if number == epoch:
            raise StoppedError

    return on_report


@pytest.mark.parametrize("stop", [1, 2])
def test_stop_and_resume_keeps_the_bits(tiny, tmp_path, stop):
    task = task_of(tiny)
    unbroken = fit(task, LocalRuntime(tmp_path / "unbroken"))
    with pytest.raises(StoppedError):
        fit(task, LocalRuntime(tmp_path / "broken", on_report=stop_after(stop)))
    assert_same(unbroken, fit(task, LocalRuntime(tmp_path / "broken")))
    assert set(everything(unbroken)) >= {"weighting.log_sigma.segmentation", "weighting.log_sigma.idh"}


def test_the_seed_decides(tiny, tmp_path):
    one = fit(task_of(tiny), LocalRuntime(tmp_path / "one"))
    other = fit(task_of(override(tiny, {"train.seed": 1})), LocalRuntime(tmp_path / "other"))
    name = next(iter(everything(one)))
    assert not torch.equal(everything(one)[name], everything(other)[name])


def test_reports_name_metrics_and_keep_two_checkpoints(tiny, tmp_path):
    seen = {}
    runtime = LocalRuntime(tmp_path / "train", on_report=lambda epoch, metrics: seen.update({epoch: dict(metrics)}))
    state = fit(task_of(tiny), runtime)
    assert sorted(seen) == [1, 2, 3]
    assert {"train/loss", "train/loss_segmentation", "train/loss_idh", "train/sigma_idh", "train/lr"} <= set(seen[1])
    # every sample has a label, and both classes have the weight one half
    assert seen[1]["train/loss_idh_per_label"] == pytest.approx(2 * seen[1]["train/loss_idh"])
    assert "val/dice_wt" not in seen[1]
    assert {"val/dice_wt", "val/dice_tc", "val/dice_et", "val/idh_ce", "val/score"} <= set(seen[2])
    assert "val/score" in seen[3]
    assert sorted(folder.name for folder in (tmp_path / "train").iterdir()) == ["epoch_00002", "epoch_00003"]
    scores = {epoch: seen[epoch]["val/score"] for epoch in (2, 3)}
    assert state.best.epoch == max(scores, key=scores.get)
    network, config = read_checkpoint(tmp_path / "train" / "epoch_00003")
    assert config == without_paths(tiny)
    best = network.state_dict()
    assert all(torch.equal(best[name], state.best.weights[name]) for name in best)


def test_without_validation_cases_the_last_epoch_is_kept(tiny, tmp_path):
    state = fit(replace(task_of(tiny), val=()), LocalRuntime(tmp_path))
    assert state.best.epoch == tiny.train.epochs


def test_learning_rate_decays_to_zero_as_a_polynomial(tiny):
    config = override(tiny, {"train.epochs": 10, "optim.lr": 0.1})
    state = create_state(config, CPU)
    rates = []
    for epoch in range(10):
        state.epoch = epoch
        set_learning_rate(state, config)
        rates.append(state.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1 * (1 - epoch / 10) ** 0.9 for epoch in range(10)])


def batch_of(image, idh=(1, 0)):
    seg = torch.zeros(image.shape[0], *image.shape[2:], dtype=torch.uint8)
    seg[:, 4:12, 4:12, 4:12] = 1
    seg[:, 5:11, 5:11, 5:11] = 3
    seg[:, 4:12, 4:12, 12:14] = 2
    return Batch(
        image=image,
        seg=seg,
        has_seg=torch.ones(len(image), dtype=torch.bool),
        only_wt=torch.zeros(len(image), dtype=torch.bool),
        idh=torch.tensor(idh),
        case_ids=("first", "second"),
        augmentations=(Augmentation((False,) * 3, 0.0, (1.0,) * 4, (0.0,) * 4),) * len(image),
    )


def test_one_batch_is_overfitted(tiny, tmp_path):
    config = override(tiny, {f"network.dropout.{place}": 0.0 for place in ("stem", "head", "attention", "mlp")})
    torch.manual_seed(0)
    image = 0.3 * torch.randn(2, 4, 16, 16, 16)
    batch = batch_of(image)
    for value in (1, 2, 3):
        image[:, value] += 2.0 * (batch.seg == value)
    image[0, 0] += 1.0  # the mutant is brighter
    state = create_state(config, CPU)
    for group in state.optimizer.param_groups:
        group["lr"] = 0.01
    metrics = [run_epoch(state, config, tmp_path, batch) for _ in range(80)]
    assert metrics[0]["train/loss_segmentation"] > 0.6
    assert metrics[-1]["train/loss_segmentation"] < 0.1
    assert metrics[-1]["train/loss_idh"] < 0.02
    assert metrics[-1]["train/sigma_segmentation"] < metrics[0]["train/sigma_segmentation"]


def test_a_gradient_longer_than_the_limit_is_scaled_down_as_a_whole(tiny):
    def gradients_after(limit, length):
        config = override(tiny, {"optim.clip_norm": limit})
        state = create_state(config, CPU)
        parameters = [*state.network.parameters(), *state.weighting.parameters()]
        generator = torch.Generator().manual_seed(4)
        raw = [torch.randn(parameter.shape, generator=generator) for parameter in parameters]
        factor = length / torch.cat([tensor.flatten() for tensor in raw]).norm()
        for parameter, gradient in zip(parameters, raw, strict=True):
            parameter.grad = gradient * factor
        parameters[0].grad = None  # a parameter that no task reached in this step
        before = [parameter.grad.clone() for parameter in parameters[1:]]
        clip_gradients(state, config)
        assert parameters[0].grad is None
        return before, [parameter.grad for parameter in parameters[1:]]

    before, after = gradients_after(2.0, 50.0)
    norm = torch.cat([gradient.flatten() for gradient in after]).norm().item()
    assert norm == pytest.approx(2.0, rel=1e-4)
    scale = norm / torch.cat([gradient.flatten() for gradient in before]).norm().item()
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old * scale)
    assert after[-1].ndim == 0  # a sigma
    for limit, length in ((2.0, 1.9), (None, 50.0)):
        assert all(torch.equal(old, new) for old, new in zip(*gradients_after(limit, length), strict=True))


def test_the_loop_clips_before_it_steps(tiny, tmp_path):
    image = torch.randn(2, 4, 16, 16, 16, generator=torch.Generator().manual_seed(3))
    norms = []
    for limit in (None, 1e-3):
        config = override(tiny, {"optim.clip_norm": limit})
        state = create_state(config, CPU)
        run_epoch(state, config, tmp_path, batch_of(image))
        parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
        norms.append(torch.cat([item.grad.flatten() for item in parameters if item.grad is not None]).norm().item())
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


def stop_message(tiny, tmp_path, image, weights=(0.5, 0.5)):
    state = create_state(tiny, CPU)
    before = {name: tensor.clone() for name, tensor in state.network.named_parameters()}
    with pytest.raises(RunError) as caught:
        run_epoch(state, tiny, tmp_path, batch_of(image), weights=weights)
    assert all(torch.equal(before[name], tensor) for name, tensor in state.network.named_parameters())
    return str(caught.value)


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_case(tiny, tmp_path):
    image = torch.randn(2, 4, 16, 16, 16)
    image[1, 0, 0, 0, 0] = math.nan
    message = stop_message(tiny, tmp_path, image)
    assert message.startswith("epoch 1, step 1: the loss is nan; stopped before the optimiser step. Cases: second. ")


def test_without_a_bad_image_all_cases_of_the_step_are_named(tiny, tmp_path):
    message = stop_message(tiny, tmp_path, torch.randn(2, 4, 16, 16, 16), weights=(math.inf, 0.5))
    assert "the loss is inf" in message or "the loss is nan" in message
    assert "Cases: first, second. " in message


def test_exhausted_gpu_memory_says_what_to_lower(tiny, tmp_path, monkeypatch):
    def exhaust(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("mttu.training.loop.train_epoch", exhaust)
    with pytest.raises(RunError, match=r"train\.batch_per_worker \(now 2\), then patch\.size \(now \[16, 16, 16\]\)"):
        fit(task_of(tiny), LocalRuntime(tmp_path))


def test_a_batch_without_idh_labels_leaves_its_sigma_untouched(tiny, tmp_path):
    state = create_state(tiny, CPU)
    batch = batch_of(torch.randn(2, 4, 16, 16, 16), idh=(-1, -1))
    metrics = run_epoch(state, tiny, tmp_path, batch, {"segmentation"})
    assert not [name for name in metrics if "loss_idh" in name]
    assert metrics["train/sigma_idh"] == 1.0
    assert metrics["train/sigma_segmentation"] != 1.0


@pytest.mark.parametrize(
    ("labelled", "levels", "still"),
    [
        ({"segmentation"}, ["F4", "F5"], ("idh_head.",)),
        ({"idh"}, ["F4", "F5"], ("decoder.",)),
        ({"idh"}, ["F1", "F2"], ("decoder.", "bottleneck.", "encoder.levels.2.", "encoder.levels.3.")),
        (set(), ["F4", "F5"], ("",)),
    ],
)
def test_a_step_without_a_label_moves_nothing_that_only_its_task_reaches(tiny, tmp_path, labelled, levels, still):
    """After a step with all labels there are moments and decay that would move it."""
    config = override(tiny, {"optim.weight_decay": 0.1, "network.idh_head.levels": levels})
    state, full = create_state(config, CPU), batch_of(torch.randn(2, 4, 16, 16, 16))
    run_epoch(state, config, tmp_path, full)

    def read():
        slots = state.optimizer.state
        return {
            name: [value.clone() for value in (parameter.detach(), *slots[parameter].values())]
            for name, parameter in state.network.named_parameters()
        }

    before = read()
    idh = full.idh if "idh" in labelled else torch.full((2,), -1)
    batch = replace(full, idh=idh, has_seg=torch.full((2,), "segmentation" in labelled))
    run_epoch(state, config, tmp_path, batch, labelled)
    for name, after in read().items():
        same = [torch.equal(*pair) for pair in zip(before[name], after, strict=True)]
        assert all(same) if name.startswith(still) else not any(same[:-1]), name  # the last: AMSGrad's largest moment


def test_a_head_that_never_sees_a_label_keeps_its_first_weights(tiny, tmp_path):
    task = task_of(override(tiny, {"optim.weight_decay": 0.1}))
    train, val = (tuple(replace(case, idh=-1) for case in cases) for cases in (task.train, task.val))
    state = fit(replace(task, train=train, val=val), LocalRuntime(tmp_path))
    first = dict(create_state(task.config, CPU).network.named_parameters())
    same = {name for name, tensor in state.network.named_parameters() if torch.equal(tensor, first[name])}
    assert same == {name for name in first if "idh_head" in name}


def test_each_prepared_case_is_opened_once(tiny, monkeypatch):
    task, mapped, load = task_of(tiny), Counter(), np.load

    def count(path, **options):
        mapped[path] += 1
        return load(path, **options)

    monkeypatch.setattr(np, "load", count)
    opened = open_task(task)
    assert [one.case_id for one in opened.dataset.cached] == [case.case_id for case in task.train]
    assert [one.case_id for _, one in opened.validation] == [case.case_id for case in task.val]
    assert mapped == {
        task.cache_dir / case.case_id / name: 1 for case in (*task.train, *task.val) for name in cache.FILES[:2]
    }


def test_importing_the_loop_takes_no_cohort_builder_and_nothing_that_takes_seconds():
    """MONAI imports all of itself, MLflow and scikit-learn with it; what it sets for cuBLAS is set without it."""
    slow = ("monai", "sklearn", "mlflow", "openpyxl", "ray", "mttu.cohort")
    script = f"import os, sys, mttu.training.loop; print([name for name in {slow} if name in sys.modules])"
    script += "; print(os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", ":4096:8"]

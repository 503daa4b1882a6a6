"""A mean teacher for cases without a mask: against numpy, over micro-batches, through kills; nothing else changes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from test_ranks import assert_close, global_batch, take_step, taught, trace_of, without_masks
from torch import nn

from mttu.config import Config, PrepareSettings, override
from mttu.data.cache import cache_case
from mttu.data.manifest import read_manifest, write_manifest
from mttu.errors import InputError
from mttu.losses import TEACHER, TaskWeighting
from mttu.networks.checkpoint import write_checkpoint
from mttu.training.inputs import check_inputs
from mttu.training.loop import fit, losses_of, train_epoch
from mttu.training.run import task_of
from mttu.training.runtime import LocalRuntime
from mttu.training.start import load_start
from mttu.training.state import create_state, read_state, write_state
from mttu.training.teacher import Teacher, supervise, weigh_teacher

CPU = torch.device("cpu")
ON = {"teacher.masks": True}


class Slope(nn.Module):
    """Logits that depend on the image, and on the place along H, so that a mirrored image has other answers."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, image):
        return {"seg_logits": self.gain * image + torch.linspace(-1, 1, image.shape[2])[:, None, None]}


def answer_in_numpy(image, flips):
    """The mean over orientations of the softmax of `Slope`; mirrored along the axis H of (C, H, W, D)."""
    place = np.linspace(-1, 1, image.shape[1])[:, None, None]
    found = [softmax(2 * image + place, axis=0)]
    if flips == 2:
        found.append(softmax(2 * image[:, ::-1] + place, axis=0)[:, ::-1])
    return np.mean(found, axis=0)


@pytest.mark.parametrize("flips", [1, 2])
def test_the_loss_and_its_gradient_are_those_of_numpy(flips):
    """Two samples without a mask of three; sure voxels of the brain alone; weighted as after 3 of 10 epochs."""
    config = override(Config(), {**ON, "teacher.confidence": 0.8, "teacher.flips": flips, "train.epochs": 10})
    config = override(config, {"teacher.ramp_share": 0.5, "teacher.weight": 2.0})
    batch = without_masks(global_batch(0, 3), [False, True, False])
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(3, 4, 16, 16, 16, generator=generator)
    image[:, :, :5] = 0  # outside of the brain, where `Slope` is never as sure
    image[0, 1:, 8:, 8:] = 0  # inside: one modality is not 0
    logits = torch.randn(3, 4, 16, 16, 16, generator=generator, requires_grad=True)
    teacher = Teacher(Slope())
    sums = supervise(teacher, image, {"seg_logits": logits}, batch, config, epoch=3)
    losses, labelled = losses_of({TEACHER: sums}, config)
    losses[TEACHER].backward()

    weight = 2 * math.exp(-5 * (1 - 3 / 5) ** 2)
    total, count, inside, gradients = 0.0, 0, 0, {}
    for place in (0, 2):
        one, own = image[place].double().numpy(), softmax(logits[place].detach().double().numpy(), axis=0)
        q = answer_in_numpy(one, flips)
        brain = (one != 0).any(axis=0)
        sure = brain & (q.max(axis=0) >= 0.8)
        total -= (q * np.log(own)).sum(axis=0)[sure].sum()
        count, inside = count + sure.sum(), inside + brain.sum()
        gradients[place] = (own - q) * sure
    assert 0.05 < count / inside < 0.95
    assert inside == 2 * 11 * 16 * 16
    assert labelled == {TEACHER: True}
    assert losses[TEACHER].item() == pytest.approx(weight * total / count, rel=1e-5)
    for place, expected in gradients.items():
        np.testing.assert_allclose(logits.grad[place], weight * expected / count, atol=1e-9)
    assert not logits.grad[1].any()
    metrics = teacher.describe_epoch({"train/loss_teacher": losses[TEACHER].item()}, config, 3)
    assert metrics == {
        "train/loss_teacher": pytest.approx(total / count, rel=1e-5),
        "train/teacher_sure": pytest.approx(count / inside),
    }
    assert teacher.describe_epoch({}, config, 4) == {}  # of an epoch in which each case has a mask


def test_the_weight_grows_as_in_laine_and_aila():
    config = override(Config(), {**ON, "teacher.weight": 3.0, "teacher.ramp_share": 0.2, "train.epochs": 40})
    found = [weigh_teacher(config, epoch) for epoch in (0, 2, 6, 8, 39)]
    assert found == pytest.approx([3 * math.exp(-5), 3 * math.exp(-5 * 0.75**2), 3 * math.exp(-5 / 16), 3, 3])
    assert weigh_teacher(override(config, {"teacher.ramp_share": 0.0}), 0) == 3


def test_the_average_by_hand(tiny):
    """Kept shares 1/2, 0.6 and 0.6 of all weights and running statistics; counts are copied."""
    torch.manual_seed(0)
    student = create_state(tiny, CPU).network
    teacher = Teacher(student)
    expected = {name: value.double().numpy() for name, value in student.state_dict().items()}
    for step, keep in enumerate((1 / 2, 0.6, 0.6), 1):
        with torch.no_grad():
            for value in student.state_dict().values():
                value.copy_(torch.randn(value.shape)) if value.is_floating_point() else value.fill_(step)
        teacher.follow(student, decay=0.6)
        for name, value in student.state_dict().items():
            new = value.double().numpy()
            expected[name] = keep * expected[name] + (1 - keep) * new if value.is_floating_point() else new
    kinds = {name.rpartition(".")[2] for name in expected}
    assert {"weight", "running_mean", "running_var", "num_batches_tracked"} <= kinds
    for name, value in teacher.network.state_dict().items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6, err_msg=name)
    assert not any(module.training for module in teacher.network.modules())


@pytest.mark.parametrize("weighting", ["uncertainty", "pcgrad"])
@pytest.mark.parametrize(("masks", "held"), [([False, True, True, False], 1), ([False] * 4, 2)])
def test_gradients_of_micro_batches_are_those_of_one_large_batch(tmp_path, weighting, masks, held):
    """Micro-batches with and without a mask, or none with one; without any there is no gradient for sigma."""
    runtime = LocalRuntime(tmp_path)
    settings = {"loss.task_weighting": weighting, "teacher.flips": 2}
    batch = without_masks(global_batch(0, 4), masks)
    whole, expected = take_step(taught(4, settings), runtime, [batch])
    places = range(0, 4, held)
    parts = [without_masks(global_batch(at, at + held), masks[at : at + held]) for at in places]
    found, metrics = take_step(taught(held, settings), runtime, parts)
    assert 0.01 < metrics["train/teacher_sure"] < 0.99
    assert metrics["train/loss_teacher"] > 0
    assert ("train/loss_segmentation" in metrics) == any(masks)
    assert metrics == pytest.approx(expected, rel=1e-5)
    traces = [{name: value for name, value in trace_of(state).items() if value is not None} for state in (found, whole)]
    assert_close(*traces)
    assert ("log_sigma.segmentation" in traces[0]) == (any(masks) and weighting == "uncertainty")
    plain, _ = take_step(override(taught(4, settings), {"teacher.masks": False}), runtime, [batch])
    for name, parameter in plain.network.decoder.named_parameters(prefix="decoder"):
        assert parameter.grad is None or not torch.equal(parameter.grad, traces[0][name]), name


def test_it_has_the_weight_of_the_segmentation_and_teaches_its_sigma_nothing():
    weighting = TaskWeighting(["segmentation", "idh"], Config().loss)
    with torch.no_grad():
        weighting.log_sigma["segmentation"].fill_(0.3)
    losses = {name: torch.tensor(value, requires_grad=True) for name, value in (("segmentation", 0.5), (TEACHER, 0.2))}
    joint = weighting(losses, {"segmentation": True, TEACHER: True})
    assert joint.item() == pytest.approx(0.5 * math.exp(-0.6) * 0.7 + 0.3)
    joint.backward()
    assert losses[TEACHER].grad == losses["segmentation"].grad
    assert weighting.log_sigma["segmentation"].grad.item() == pytest.approx(1 - math.exp(-0.6) * 0.5)
    weighting.zero_grad()
    weighting(losses, {"segmentation": False, TEACHER: True}).backward()
    assert weighting.log_sigma["segmentation"].grad is None


@pytest.mark.parametrize("confidence", [0.0, 0.999])
def test_a_step_without_a_mask_moves_the_decoder_only_where_the_teacher_is_sure(tmp_path, confidence):
    """After a step with masks there are moments and decay that would move it."""
    config = override(taught(4), {"optim.weight_decay": 0.1, "teacher.confidence": confidence})
    runtime, weights = LocalRuntime(tmp_path), torch.tensor([0.5, 0.5])
    state = create_state(config, CPU)
    full = replace(global_batch(0, 4), has_seg=torch.ones(4, dtype=torch.bool))
    train_epoch(state, state.network, [full], [("segmentation", "idh")], weights, config, runtime)
    before = {name: value.clone() for name, value in state.network.named_parameters()}
    bare = replace(without_masks(full, [False] * 4), idh=torch.full((4,), -1))
    metrics = train_epoch(state, state.network, [bare], [()], weights, config, runtime)
    same = {name for name, value in state.network.named_parameters() if torch.equal(value, before[name])}
    head = {name for name in before if name.startswith("idh_head")}
    assert same == (head if confidence == 0 else set(before))
    assert metrics["train/teacher_sure"] == 1 - (confidence > 0)
    assert ("train/loss_teacher" in metrics) == (confidence == 0)
    assert "train/loss_segmentation" not in metrics


def test_it_draws_no_random_number(tiny):
    """With every dropout on; so the student's masks are those that it has without a teacher."""
    places = ("stem", "embedding", "attention", "projection", "branch", "mlp", "head")
    config = override(tiny, {**ON, **{f"network.dropout.{place}": 0.3 for place in places}})
    state = create_state(config, CPU)
    batch = without_masks(global_batch(0, 2), [False, False])
    torch.manual_seed(5)
    outputs = state.network.train()(batch.image)
    before = torch.get_rng_state()
    first = supervise(state.teacher, batch.image, outputs, batch, config, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(supervise(state.teacher, batch.image, outputs, batch, config, 0), first)


@pytest.fixture
def bare(tiny, phantom_manifest, tmp_path):
    """The tiny settings with a teacher that is sure of every voxel, on a cohort where half of the training cases have
    no mask.
    """
    train = [case.case_id for case in phantom_manifest.split("train")]
    cases = tuple(replace(case, seg=None) if case.case_id in train[1:3] else case for case in phantom_manifest.cases)
    write_manifest(replace(phantom_manifest, cases=cases), tmp_path / "bare.parquet")
    for case in read_manifest(tmp_path / "bare.parquet").cases:
        cache_case(case, tmp_path / "bare-cache", phantom_manifest.modalities, PrepareSettings())
    paths = {"data.manifest": str(tmp_path / "bare.parquet"), "data.cache_dir": str(tmp_path / "bare-cache")}
    return override(tiny, {**paths, **ON, "teacher.confidence": 0.0})


def read_newest(folder):
    return torch.load(sorted(folder.glob("epoch_*"))[-1] / "state.pt", weights_only=True)


def flatten_state(content):
    """Every value by its path."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else None
    if items is None:
        return {(): content}
    return {(key, *path): value for key, item in items for path, value in flatten_state(item).items()}


def assert_same(one, two):
    one, two = flatten_state(one), flatten_state(two)
    assert one.keys() == two.keys()
    for path, value in one.items():
        assert torch.equal(value, two[path]) if isinstance(value, torch.Tensor) else value == two[path], path


def test_a_training_that_was_killed_goes_on_to_the_same_bits(bare, tmp_path):
    """In micro-batches, so that each step looks twice at what the teacher says."""
    task = replace(task_of(override(bare, {"train.batch_per_worker": 1, "train.epochs": 2})), val=())

    def kill(epoch, metrics):
        if epoch == 1:
            raise KeyboardInterrupt

    state = fit(task, LocalRuntime(tmp_path / "unbroken"))
    assert all(row["train/loss_teacher"] > 0 for row in state.history)
    assert [row["train/teacher_sure"] for row in state.history] == [1.0] * 2
    with pytest.raises(KeyboardInterrupt):
        fit(task, LocalRuntime(tmp_path / "killed", on_report=kill))
    fit(task, LocalRuntime(tmp_path / "killed"))
    unbroken = read_newest(tmp_path / "unbroken")
    assert unbroken["teacher"]["steps"] == 2 * 2
    assert_same(unbroken, read_newest(tmp_path / "killed"))


def test_where_each_case_has_a_mask_a_teacher_changes_no_bit(tiny, tmp_path):
    """And without one a checkpoint holds what it held before there were teachers."""
    for name, masks in (("off", False), ("on", True)):
        config = override(tiny, {"teacher.masks": masks, "train.epochs": 1})
        fit(replace(task_of(config), val=()), LocalRuntime(tmp_path / name))
    expected, found = read_newest(tmp_path / "off"), read_newest(tmp_path / "on")
    assert list(expected) == ["format_version", "network", "weighting", "optimizer", "epoch", "history", "best"]
    assert found.pop("teacher")["steps"] == 2
    assert_same(expected, found)


def test_without_one_cases_without_a_mask_are_trained_on_as_before(bare, tmp_path):
    rows = []
    for masks in (False, True):
        config = override(bare, {"teacher.masks": masks, "train.epochs": 1})
        rows += fit(replace(task_of(config), val=()), LocalRuntime(tmp_path / str(masks))).history
    names = [{name for name in row if "teacher" in name} for row in rows]
    assert names == [set(), {"train/loss_teacher", "train/teacher_sure"}]
    assert rows[0]["train/loss_segmentation"] != rows[1]["train/loss_segmentation"]  # after the first step


def test_a_checkpoint_without_a_teacher_goes_on_without_one_only(tiny, tmp_path):
    state = create_state(tiny, CPU)
    write_state(state, tiny, tmp_path)
    read_state(create_state(tiny, CPU), tmp_path, CPU)
    with pytest.raises(
        InputError, match=r"holds no teacher, which teacher\.masks=true goes on with; set teacher\.masks"
    ):
        read_state(create_state(override(tiny, ON), CPU), tmp_path, CPU)


def test_it_starts_from_the_weights_that_the_network_starts_from(tiny, tmp_path):
    torch.manual_seed(9)
    weights = create_state(override(tiny, {"train.seed": 4}), CPU).network.state_dict()
    write_checkpoint(tmp_path / "best", weights, tiny, {})
    config = override(tiny, {**ON, "train.start_from": str(tmp_path / "best")})
    state = create_state(config, CPU)
    fresh = state.teacher.network.state_dict()
    assert all(torch.equal(fresh[name], value) for name, value in state.network.state_dict().items())
    load_start(state, config, CPU)
    assert_same(state.teacher.state_dict(), {"network": weights, "steps": 0})


def test_what_a_teacher_cannot_teach_is_refused(bare, tmp_path):
    with pytest.raises(
        InputError, match=r"teacher\.masks is true but network\.tasks is idh; .* set teacher\.masks=fal"
    ):
        override(bare, {"network.tasks": ["idh"]})
    with pytest.raises(InputError, match=r"teacher\.flips: .* less than or equal to 8, found 9"):
        override(bare, {"teacher.flips": 9})
    check_inputs(bare)
    manifest = read_manifest(bare.data.manifest)
    whole = tuple(replace(case, labels="whole-tumour" if case.seg else case.labels) for case in manifest.cases)
    write_manifest(replace(manifest, cases=whole), bare.data.manifest)
    with pytest.raises(InputError, match="no training mask tells the parts of a tumour, without which a teacher would"):
        check_inputs(bare)

"""Losses against numbers worked out by hand."""

import itertools
import math

import pytest
import torch
from monai.losses import DiceLoss

from mttu.config import LossSettings
from mttu.data.labels import WHOLE_TUMOUR
from mttu.losses import (
    TaskWeighting,
    combine,
    idh_class_weights,
    idh_loss,
    idh_sums,
    mix_losses,
    project_conflicts,
    segmentation_loss,
    segmentation_sums,
    whole_tumour_sums,
)


def logits_of(probabilities):
    """(B, K, voxels) probabilities as logits of shape (B, K, voxels, 1, 1)."""
    return torch.tensor(probabilities).log()[..., None, None]


def seg_loss(logits, seg, has_seg=None, **changes):
    settings = LossSettings(**changes)
    has_seg = torch.ones(len(seg), dtype=torch.bool) if has_seg is None else torch.tensor(has_seg)
    sums = segmentation_sums(logits, torch.tensor(seg)[..., None, None], has_seg, settings)
    return segmentation_loss(sums, settings)


# Two samples of two voxels and three classes; rows are classes.
PROBABILITIES = [
    [[0.5, 0.2], [0.3, 0.2], [0.2, 0.6]],
    [[0.7, 0.1], [0.1, 0.8], [0.2, 0.1]],
]
SEG = [[0, 2], [0, 1]]


def test_dice_pools_the_batch_over_foreground():
    # class 1: intersection 0.8, size (0.3+0.2+0.1+0.8) + 1; class 2: intersection 0.6, size (0.2+0.6+0.2+0.1) + 1
    expected = 1 - 2 / 2 * (0.8 / 2.4 + 0.6 / 2.1)
    assert float(seg_loss(logits_of(PROBABILITIES), SEG)) == pytest.approx(expected, abs=1e-5)


def test_dice_with_background():
    # class 0: intersection 0.5 + 0.7, size (0.5+0.2+0.7+0.1) + 2
    expected = 1 - 2 / 3 * (1.2 / 3.5 + 0.8 / 2.4 + 0.6 / 2.1)
    assert float(seg_loss(logits_of(PROBABILITIES), SEG, include_background=True)) == pytest.approx(expected, abs=1e-5)


def test_dice_per_sample():
    first = 1 - (0 / 0.5 + 0.6 / 1.8)  # class 1 is absent: 0 / (0.3 + 0.2)
    second = 1 - (0.8 / 1.9 + 0 / 0.3)
    loss = seg_loss(logits_of(PROBABILITIES), SEG, dice_pool="sample")
    assert float(loss) == pytest.approx((first + second) / 2, abs=1e-5)


@pytest.mark.parametrize("kind", ["dice", "dice_ce"])
@pytest.mark.parametrize("pool", ["batch", "sample"])
def test_a_sample_without_mask_changes_nothing(pool, kind):
    logits = logits_of(PROBABILITIES).requires_grad_()
    loss = seg_loss(logits, SEG, has_seg=[True, False], dice_pool=pool, segmentation=kind)
    alone = seg_loss(logits[:1], SEG[:1], dice_pool=pool, segmentation=kind)
    assert loss.item() == pytest.approx(alone.item(), abs=1e-6)
    loss.backward()
    assert logits.grad[0].abs().sum() > 0
    assert logits.grad[1].abs().sum() == 0


def test_dice_of_a_perfect_prediction_is_zero():
    seg = torch.tensor([[0, 1, 2, 3]])
    logits = 50 * torch.nn.functional.one_hot(seg, 4).movedim(-1, 1).float()[..., None, None]
    assert float(seg_loss(logits, seg.tolist())) == pytest.approx(0.0, abs=2e-5)


@pytest.mark.parametrize(("pool", "teaches"), [("batch", True), ("sample", False)])
def test_a_crop_without_tumour_teaches_only_where_dice_is_pooled(pool, teaches):
    logits = torch.zeros(2, 4, 8, 1, 1, requires_grad=True)
    seg_loss(logits, [[0] * 8, [1, 1, 2, 2, 3, 3, 0, 0]], dice_pool=pool).backward()
    assert bool(logits.grad[0].abs().max() > 1e-4) == teaches
    assert logits.grad[1].abs().max() > 1e-4


def test_focal_segmentation_is_the_mean_over_voxels():
    true = [0.5, 0.6, 0.7, 0.8]
    expected = sum(-((1 - p) ** 2) * math.log(p) for p in true) / 4
    assert float(seg_loss(logits_of(PROBABILITIES), SEG, segmentation="focal")) == pytest.approx(expected, abs=1e-6)


TRUE = (0.5, 0.6, 0.7, 0.8)  # probabilities of the true classes of SEG
DICE = 1 - (0.8 / 2.4 + 0.6 / 2.1)
CE = -sum(math.log(p) for p in TRUE) / 4


@pytest.mark.parametrize(("weights", "expected"), [((0.5, 0.5), (DICE + CE) / 2), ((0.25, 2.0), DICE / 4 + 2 * CE)])
def test_dice_with_cross_entropy(weights, expected):
    changes = {"dice_weight": weights[0], "ce_weight": weights[1], "segmentation": "dice_ce"}
    assert float(seg_loss(logits_of(PROBABILITIES), SEG, **changes)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("pool", ["batch", "sample"])
@pytest.mark.parametrize("background", [True, False])
def test_dice_with_cross_entropy_equals_torch_and_monai(pool, background):
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(3, 4, 6, 5, 4, generator=generator)
    seg = torch.randint(0, 4, (3, 6, 5, 4), generator=generator)
    settings = LossSettings(segmentation="dice_ce", dice_pool=pool, include_background=background)
    sums = segmentation_sums(logits, seg.to(torch.uint8), torch.ones(3, dtype=torch.bool), settings)
    exact = {"smooth_nr": 0, "smooth_dr": 1e-5}
    dice = DiceLoss(background, to_onehot_y=True, softmax=True, batch=pool == "batch", **exact)
    expected = (dice(logits, seg[:, None]) + torch.nn.functional.cross_entropy(logits, seg)) / 2
    assert segmentation_loss(sums, settings).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("kind", ["dice", "dice_ce", "focal"])
def test_sums_of_parts_of_a_batch_add_up(kind):
    generator = torch.Generator().manual_seed(8)
    logits, has_seg = torch.randn(4, 4, 6, 5, 4, generator=generator), torch.tensor([True, False, True, True])
    seg, settings = torch.randint(0, 4, (4, 6, 5, 4), generator=generator), LossSettings(segmentation=kind)
    whole = segmentation_sums(logits, seg, has_seg, settings)
    parts = [segmentation_sums(logits[part], seg[part], has_seg[part], settings) for part in (slice(2), slice(2, 4))]
    torch.testing.assert_close(parts[0] + parts[1], whole)
    assert float(whole[-1]) > 0
    assert float(segmentation_sums(logits, seg, torch.zeros(4, dtype=torch.bool), settings)[-1]) == 0


def test_cross_entropy_teaches_a_crop_without_tumour():
    logits = torch.zeros(1, 4, 8, 1, 1, requires_grad=True)
    seg_loss(logits, [[0] * 8], dice_pool="sample", segmentation="dice_ce").backward()
    assert bool((logits.grad[0, 0] < 0).all())
    assert bool((logits.grad[0, 1:] > 0).all())


def test_one_of_the_weights_must_count():
    with pytest.raises(ValueError, match="dice_weight and ce_weight are both 0"):
        LossSettings(dice_weight=0, ce_weight=0)


W = WHOLE_TUMOUR


def mixed_loss(logits, seg, only_wt, has_seg=None, **changes):
    settings, seg, only_wt = LossSettings(**changes), torch.tensor(seg)[..., None, None], torch.tensor(only_wt)
    has_seg = torch.ones(len(seg), dtype=torch.bool) if has_seg is None else torch.tensor(has_seg)
    full = segmentation_sums(logits, seg, has_seg & ~only_wt, settings)
    return mix_losses(full, whole_tumour_sums(logits, seg, only_wt, settings), settings)


# The whole tumour's probabilities, 1 - p0: 0.5 and 0.8 in the first sample, 0.3 and 0.9 in the second.
def test_dice_of_whole_tumour_masks_pools_the_batch():
    expected = 1 - 2 * (0.8 + 0.9) / (0.5 + 0.8 + 0.3 + 0.9 + 2)
    loss = mixed_loss(logits_of(PROBABILITIES), [[0, W], [0, W]], [True, True])
    assert float(loss) == pytest.approx(expected, abs=1e-5)
    background = 2 * (0.5 + 0.7) / (0.5 + 0.2 + 0.7 + 0.1 + 2)
    both = mixed_loss(logits_of(PROBABILITIES), [[0, W], [0, W]], [True, True], include_background=True)
    assert float(both) == pytest.approx(1 - (1 - expected + background) / 2, abs=1e-5)


def test_dice_of_whole_tumour_masks_per_sample():
    expected = 1 - (2 * 0.8 / (1.3 + 1) + 2 * (0.3 + 0.9) / (1.2 + 2)) / 2
    loss = mixed_loss(logits_of(PROBABILITIES), [[0, W], [W, W]], [True, True], dice_pool="sample")
    assert float(loss) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_of_whole_tumour_masks(gamma):
    expected = sum(-((1 - p) ** gamma) * math.log(p) for p in (0.5, 0.8, 0.3, 0.9)) / 4
    changes = {"segmentation": "focal", "focal_gamma": gamma}
    loss = mixed_loss(logits_of(PROBABILITIES), [[0, W], [W, W]], [True, True], **changes)
    assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_dice_with_cross_entropy_of_whole_tumour_masks():
    dice = 1 - 2 * (0.8 + 0.9) / (0.5 + 0.8 + 0.3 + 0.9 + 2)
    ce = -sum(math.log(p) for p in (0.5, 0.8, 0.7, 0.9)) / 4
    loss = mixed_loss(logits_of(PROBABILITIES), [[0, W], [0, W]], [True, True], segmentation="dice_ce")
    assert float(loss) == pytest.approx((dice + ce) / 2, abs=1e-5)


MIXED = [
    (
        {"segmentation": "dice_ce"},
        (1 - 0.6 / 1.8 - (math.log(0.5) + math.log(0.6)) / 2) / 2,
        (1 - 2 * 0.9 / 2.2 - (math.log(0.7) + math.log(0.9)) / 2) / 2,
    ),
    ({}, 1 - 0.6 / 1.8, 1 - 2 * 0.9 / 2.2),
    ({"dice_pool": "sample"}, 1 - 0.6 / 1.8, 1 - 2 * 0.9 / 2.2),
    (
        {"segmentation": "focal"},
        -(0.5**2 * math.log(0.5) + 0.4**2 * math.log(0.6)) / 2,
        -(0.3**2 * math.log(0.7) + 0.1**2 * math.log(0.9)) / 2,
    ),
]


@pytest.mark.parametrize(("changes", "full", "whole"), MIXED)
@pytest.mark.parametrize("counts", [(1, 1), (2, 1), (1, 3)])
def test_a_sample_weighs_the_same_whichever_mask_it_has(changes, full, whole, counts):
    rows = [0] * counts[0] + [1] * counts[1] + [0]  # the last one has no mask
    seg = [[0, 2]] * counts[0] + [[0, W]] * counts[1] + [[0, 0]]
    only_wt = [False] * counts[0] + [True] * counts[1] + [False]
    logits = logits_of([PROBABILITIES[row] for row in rows]).requires_grad_()
    loss = mixed_loss(logits, seg, only_wt, [True] * sum(counts) + [False], **changes)
    assert loss.item() == pytest.approx((counts[0] * full + counts[1] * whole) / sum(counts), abs=1e-5)
    loss.backward()
    strength = logits.grad.abs().sum(dim=(1, 2, 3, 4))
    assert (strength[:-1] > 0).all()
    assert strength[-1] == 0


def test_a_whole_tumour_mask_moves_the_parts_together_by_their_probabilities():
    logits = logits_of([[[0.4], [0.3], [0.2], [0.1]]]).requires_grad_()
    mixed_loss(logits, [[W]], [True], segmentation="focal", focal_gamma=0.0).backward()
    # -log(1 - p0): p0 for the background, -p0 p_k / (1 - p0) for part k
    expected = [0.4, -0.4 * 0.3 / 0.6, -0.4 * 0.2 / 0.6, -0.4 * 0.1 / 0.6]
    assert logits.grad.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_whole_tumour_masks_stay_finite_far_from_one_half():
    logits = torch.tensor([[[200.0], [-200.0], [-250.0], [-300.0]]])[..., None, None].requires_grad_()
    loss = mixed_loss(logits, [[W]], [True], segmentation="focal", focal_gamma=0.0)
    assert loss.item() == pytest.approx(400.0)
    loss.backward()
    assert bool(logits.grad.isfinite().all())


def former_focal(logits, seg, has_seg, gamma):
    log_true = torch.nn.functional.cross_entropy(logits.float(), seg.long(), reduction="none").neg()
    focal = -((1 - log_true.exp()) ** gamma) * log_true
    keep = has_seg.to(focal.dtype)
    return (keep @ focal.sum(dim=(1, 2, 3))) / (keep.sum() * seg[0].numel()).clamp(min=1)


def former_dice(logits, seg, has_seg):
    probabilities, keep = logits.float().softmax(dim=1), has_seg.float()
    sums = []
    for index in (1, 2, 3):
        of_class, predicted = (seg == index).float(), probabilities[:, index]
        size = predicted.sum(dim=(1, 2, 3)) + of_class.sum(dim=(1, 2, 3))
        sums.append(((predicted * of_class).sum(dim=(1, 2, 3)), size))
    intersection, size = (torch.stack(part, dim=1) for part in zip(*sums, strict=True))
    return 1 - 2 * ((keep @ intersection) / (keep @ size + 1e-5)).mean()


@pytest.mark.parametrize("has_seg", [[True, True, False], [False, False, False]])
@pytest.mark.parametrize("kind", ["dice", "focal"])
def test_without_a_whole_tumour_mask_not_a_bit_changes(has_seg, kind):
    generator = torch.Generator().manual_seed(5)
    seg = torch.randint(0, 4, (3, 9, 7, 5), generator=generator, dtype=torch.uint8)
    logits = torch.randn(3, 4, 9, 7, 5, generator=generator)
    settings, mask = LossSettings(segmentation=kind), torch.tensor(has_seg)
    none = torch.zeros(3, dtype=torch.bool)
    found, before = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    whole = whole_tumour_sums(found, seg, none, settings)
    loss = mix_losses(segmentation_sums(found, seg, mask & ~none, settings), whole, settings)
    former = former_dice(before, seg, mask) if kind == "dice" else former_focal(before, seg, mask, 2.0)
    loss.backward()
    former.backward()
    assert whole.tolist() == [0.0] * len(whole)
    assert torch.equal(loss, former)
    assert torch.equal(found.grad, before.grad)


def idh(probabilities, labels, weights=(0.4, 0.6), **changes):
    logits = torch.tensor([[1 - p, p] for p in probabilities]).log().requires_grad_()
    sums = idh_sums(logits, torch.tensor(labels), torch.tensor(weights), LossSettings(**changes))
    return idh_loss(sums), sums, logits


def test_idh_cross_entropy_is_divided_by_all_samples():
    loss, _, _ = idh([0.9, 0.2, 0.7], [1, 0, -1])
    assert float(loss) == pytest.approx(-(0.6 * math.log(0.9) + 0.4 * math.log(0.8)) / 3, abs=1e-6)


def test_class_weights_do_not_cancel_in_a_batch_of_one_class():
    loss, _, _ = idh([0.9, 0.8], [1, 1])
    assert float(loss) == pytest.approx(-0.6 * (math.log(0.9) + math.log(0.8)) / 2, abs=1e-6)


def test_unselected_pseudo_labels_do_not_count():
    loss, sums, logits = idh([0.9, 0.2], [1, -1])
    assert float(loss) == pytest.approx(-0.6 * math.log(0.9) / 2, abs=1e-6)
    assert sums[-1] == 1
    loss.backward()
    assert logits.grad[1].abs().sum() == 0


def test_a_batch_without_labels_has_zero_loss_and_zero_gradient():
    loss, sums, logits = idh([0.9, 0.2], [-1, -1])
    loss.backward()
    assert float(loss) == 0
    assert sums[-1] == 0
    assert logits.grad.abs().sum() == 0


def test_focal_idh():
    loss, _, _ = idh([0.9, 0.2], [1, 0], idh="focal", focal_gamma=3.0)
    expected = -(0.6 * 0.1**3 * math.log(0.9) + 0.4 * 0.2**3 * math.log(0.8)) / 2
    assert float(loss) == pytest.approx(expected, abs=1e-7)


def test_class_weights_of_the_paper():
    wild, mutant = idh_class_weights([1] * 57 + [0] * 91 + [-1] * 221)
    assert (wild, mutant) == pytest.approx((57 / 148, 91 / 148))
    assert idh_class_weights([-1]) == (0.5, 0.5)


def test_uncertainty_weighting_and_its_gradient():
    weighting = TaskWeighting(["segmentation", "idh"], LossSettings())
    with torch.no_grad():
        weighting.log_sigma["segmentation"].fill_(0.3)
    losses = {"segmentation": torch.tensor(0.8), "idh": torch.tensor(0.5)}
    loss = weighting(losses, {"segmentation": True, "idh": True})
    assert float(loss) == pytest.approx(0.5 * math.exp(-0.6) * 0.8 + 0.3 + 0.25)
    loss.backward()
    assert float(weighting.log_sigma["segmentation"].grad) == pytest.approx(1 - math.exp(-0.6) * 0.8)
    assert float(weighting.log_sigma["idh"].grad) == pytest.approx(1 - 0.5)


def test_a_task_without_labels_leaves_its_sigma_alone():
    weighting = TaskWeighting(["segmentation", "idh"], LossSettings())
    unlabelled = torch.tensor(0.0, requires_grad=True)
    loss = weighting({"segmentation": torch.tensor(0.8), "idh": unlabelled * 3}, {"segmentation": True, "idh": False})
    loss.backward()
    assert float(loss) == pytest.approx(0.4)
    assert weighting.log_sigma["idh"].grad is None
    assert float(unlabelled.grad) == 0.0


def test_sigmas_are_kept_within_their_limit():
    weighting = TaskWeighting(["idh"], LossSettings(log_sigma_limit=2.0))
    with torch.no_grad():
        weighting.log_sigma["idh"].fill_(-7.0)
    weighting.clamp()
    assert float(weighting.log_sigma["idh"]) == -2.0


def test_equal_weights_have_no_parameters():
    weighting = TaskWeighting(["segmentation", "idh"], LossSettings(task_weighting="equal"))
    losses = {"segmentation": torch.tensor(0.8), "idh": torch.tensor(0.5)}
    assert float(weighting(losses, {"segmentation": True, "idh": True})) == pytest.approx(1.3)
    assert not list(weighting.parameters())


def test_combine_takes_the_value_of_all_ranks_and_the_gradient_of_its_own():
    own = torch.tensor([1.0, 2.0], requires_grad=True)
    total = combine(own, torch.tensor([11.0, 22.0]), gradient_scale=2.0)
    assert total.tolist() == [11.0, 22.0]
    total.sum().backward()
    assert own.grad.tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # conflicting: g1.g2 = -2; g1 - (-2/4) g2 = (1, 0); g2 - (-2/2) g1 = (-1, 1); sum
        ((1.0, 1.0), (0.0, -2.0), (2.0, -1.0)),
        ((1.0, 0.0), (0.0, 3.0), (1.0, 3.0)),  # orthogonal
        ((1.0, 2.0), (2.0, 1.0), (3.0, 3.0)),  # aligned
        ((1.0, 2.0), (-1.0, -2.0), (0.0, 0.0)),  # opposite
        ((1.0, 2.0), (0.0, 0.0), (1.0, 2.0)),
    ],
)
def test_conflicting_gradients_are_projected(first, second, expected):
    found = project_conflicts([torch.tensor(first), torch.tensor(second)], seed=0)
    assert found.tolist() == pytest.approx(expected)


def test_three_tasks_are_projected_in_an_order_that_the_seed_decides():
    gradients = [torch.tensor(one) for one in ((1.0, 0.5, 0.0), (-1.0, 1.0, 0.5), (0.2, -1.0, -1.0))]

    def project(orders):
        total = torch.zeros(3)
        for index, order in enumerate(orders):
            own = gradients[index]
            for other in order:
                dot = float(own @ gradients[other])
                if dot < 0:
                    own = own - dot / float(gradients[other] @ gradients[other]) * gradients[other]
            total = total + own
        return total

    choices = [[(1, 2), (2, 1)], [(0, 2), (2, 0)], [(0, 1), (1, 0)]]
    possible = [project(orders) for orders in itertools.product(*choices)]
    found = [project_conflicts(gradients, seed) for seed in range(40)]
    assert all(any(torch.allclose(one, other, atol=1e-6) for other in possible) for one in found)
    assert len({tuple(one.tolist()) for one in found}) > 1
    assert torch.equal(found[3], project_conflicts(gradients, 3))

"""Losses of both tasks and their weighting (section III-B, eq. 13-15 and 20), exact over ranks and micro-batches.

Each loss is a function of sums over samples and voxels. A rank computes its own sums; `combine` replaces their values
by the sums over the global batch and keeps the rank's own gradient, so that gradients added up over ranks equal those
of one process on the whole batch. The same holds for the micro-batches of a rank. Shapes: B samples of the rank or
micro-batch, K labels, H x W x D voxels.

A mask of the whole tumour only supervises two labels: background, with the network's probability p0, and whole tumour,
with the sum of the others. Its samples have a loss of their own, see `whole_tumour_sums` and `mix_losses`.
"""

from collections.abc import Mapping, Sequence
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mttu.config import LossSettings
from mttu.data.labels import WHOLE_TUMOUR


def combine(sums: Tensor, total: Tensor, gradient_scale: float) -> Tensor:
    """The value of the sums over the global batch, with the gradient of this part of it; bit-equal on every rank.

    `sums` are of this rank or one of its micro-batches, with gradient; `total` are the same over all, without. The
    gradient is multiplied by `gradient_scale`: the world size where gradients are averaged over ranks afterwards.
    """
    return total + gradient_scale * (sums - sums.detach())


def _dice_sums(logits: Tensor, seg: Tensor, has_seg: Tensor, settings: LossSettings) -> Tensor:
    """Sums that the Dice loss (eq. 13) is a function of.

    Returns:
        Pooled over the batch: (2K' + 1,) intersections, sizes and the number of samples with a mask, K' labels.
        Per sample: (2,) the sum of the samples' losses and the number of samples with a mask.
    """
    probabilities = logits.float().softmax(dim=1)
    keep = has_seg.to(probabilities.dtype)
    intersections, sizes = [], []
    # label by label: a one-hot mask of all labels would double the memory of the loss
    for label in range(0 if settings.include_background else 1, logits.shape[1]):
        of_label = (seg == label).to(probabilities.dtype)
        predicted = probabilities[:, label]
        intersections.append((predicted * of_label).sum(dim=(1, 2, 3)))
        sizes.append(predicted.sum(dim=(1, 2, 3)) + of_label.sum(dim=(1, 2, 3)))
    intersection, size = torch.stack(intersections, dim=1), torch.stack(sizes, dim=1)  # (B, K') each
    if settings.dice_pool == "batch":
        return torch.cat([keep @ intersection, keep @ size, keep.sum()[None]])
    per_sample = 1 - 2 * (intersection / (size + settings.dice_epsilon)).mean(dim=1)
    return torch.stack([keep @ per_sample, keep.sum()])


def _dice_loss(sums: Tensor, settings: LossSettings) -> Tensor:
    """Dice loss (eq. 13) from the sums over all ranks, a scalar in [0, 1]."""
    if settings.dice_pool == "sample":
        return sums[0] / sums[1].clamp(min=1)
    count = (len(sums) - 1) // 2
    return 1 - 2 * (sums[:count] / (sums[count:-1] + settings.dice_epsilon)).mean()


def segmentation_sums(logits: Tensor, seg: Tensor, has_seg: Tensor, settings: LossSettings) -> Tensor:
    """Sums that the chosen segmentation loss is a function of; those of parts of a batch add up to those of the batch.

    Args:
        logits: (B, K, H, W, D).
        seg: Label of each voxel, (B, H, W, D), integer.
        has_seg: (B,) bool; a sample without a mask contributes nothing.
        settings: Kind of loss, pooling, labels and epsilon.

    Returns:
        Dice: see `_dice_sums`. Focal: (2,) sum over voxels of the focal loss, and the number of voxels, of the samples
        with a mask. Dice and cross entropy: the same two of the cross entropy, then those of Dice. The last one is 0 if
        no sample has a mask.
    """
    if settings.segmentation == "dice":
        return _dice_sums(logits, seg, has_seg, settings)
    losses = F.cross_entropy(logits.float(), seg.long(), reduction="none", ignore_index=WHOLE_TUMOUR)
    if settings.segmentation == "focal":
        log_true = losses.neg()
        losses = -((1 - log_true.exp()) ** settings.focal_gamma) * log_true
    keep = has_seg.to(losses.dtype)
    sums = torch.stack([keep @ losses.sum(dim=(1, 2, 3)), keep.sum() * seg.shape[1:].numel()])
    if settings.segmentation == "focal":
        return sums
    return torch.cat([sums, _dice_sums(logits, seg, has_seg, settings)])


def segmentation_loss(sums: Tensor, settings: LossSettings) -> Tensor:
    """The chosen segmentation loss from the sums over all ranks.

    Dice (eq. 13), the mean focal loss over voxels, or the weighted sum of Dice and mean cross entropy over voxels.
    """
    if settings.segmentation == "dice":
        return _dice_loss(sums, settings)
    per_voxel = sums[0] / sums[1].clamp(min=1)
    if settings.segmentation == "focal":
        return per_voxel
    return settings.dice_weight * _dice_loss(sums[2:], settings) + settings.ce_weight * per_voxel


def whole_tumour_sums(logits: Tensor, seg: Tensor, only_wt: Tensor, settings: LossSettings) -> Tensor:
    """`segmentation_sums` of two labels over the samples (`only_wt`, (B,) bool) whose mask has the whole tumour only.

    The labels are background and whole tumour (`seg` above 0), with the probabilities p0 and p1 + ... + p(K-1).
    """
    chosen = logits[only_wt].float()
    two_classes = torch.stack([chosen[:, 0], chosen[:, 1:].logsumexp(dim=1)], dim=1)
    return segmentation_sums(two_classes, seg[only_wt] > 0, only_wt[only_wt], settings)


def mix_losses(full: Tensor, whole: Tensor, settings: LossSettings) -> Tensor:
    """Segmentation loss of a global batch: (n_full L_full + n_wt L_wt) / (n_full + n_wt), n counts samples.

    So a sample weighs the same whichever mask it has. Without a sample of the second kind it is L_full to the bit.
    `full` are the `segmentation_sums` over all ranks of the samples with a mask of all parts, `whole` the
    `whole_tumour_sums`.
    """
    loss = segmentation_loss(full, settings)
    if not bool(whole[-1] > 0):
        return loss
    # all patches have one size, so counts of voxels (focal loss) give the same weights as counts of samples
    return (full[-1] * loss + whole[-1] * segmentation_loss(whole, settings)) / (full[-1] + whole[-1])


def teacher_sums(logits: Tensor, probabilities: Tensor, inside: Tensor, confidence: float) -> Tensor:
    """Sums that the loss of samples without a mask is a function of: soft cross entropy where their teacher is sure.

    Args:
        logits: (N, K, H, W, D), the network's.
        probabilities: (N, K, H, W, D), the teacher's, without gradient.
        inside: (N, H, W, D) bool, voxels of the brain.
        confidence: Least probability of the teacher's most probable label for a voxel to count.

    Returns:
        (3,) sum of the cross entropies -sum_k q_k log p_k of the voxels that count, their number, and the number of
        voxels inside.
    """
    sure = inside & (probabilities.amax(dim=1) >= confidence)
    target = torch.where(sure[:, None], probabilities, torch.zeros_like(probabilities))
    total = F.cross_entropy(logits.float(), target, reduction="sum")
    return torch.stack([total, sure.sum().to(total), inside.sum().to(total)])


def teacher_loss(sums: Tensor) -> Tensor:
    """Mean soft cross entropy of the voxels that count, from the sums over all ranks."""
    return sums[0] / sums[1].clamp(min=1)


def idh_sums(
    logits: Tensor, idh: Tensor, class_weights: Tensor, settings: LossSettings, terms: Tensor | None = None
) -> Tensor:
    """Sums that the IDH loss (eq. 14, with the selection mask g of eq. 20) is a function of.

    Args:
        logits: (B, 2); class 0 wild type, class 1 mutant.
        idh: (B,) 1 mutant, 0 wild type, -1 unknown, as is a pseudo-label that was not selected.
        class_weights: (2,) weight of wild type and mutant, see `idh_class_weights`.
        settings: Cross entropy or focal loss.
        terms: (B, 2) how much the terms of wild type and mutant count, in place of `idh`, where there are soft labels:
            g (1 - p) and g p, see `mttu.data.manifest.Case.idh_terms`. Each term has its class weight and, in the focal
            form, the factor of its own probability. For hard labels the same bits as without.

    Returns:
        (3,) weighted sum of losses, number m of all samples, number of samples that count.
    """
    if terms is not None:
        return _soft_idh_sums(logits, terms, class_weights, settings)
    counts = idh >= 0
    target = idh.clamp(min=0).long()
    log_true = F.log_softmax(logits.float(), dim=1).gather(1, target[:, None])[:, 0]
    losses = -class_weights.to(log_true)[target] * log_true
    if settings.idh == "focal":
        losses = losses * (1 - log_true.exp()) ** settings.focal_gamma
    total = torch.where(counts, losses, torch.zeros_like(losses)).sum()
    return torch.stack([total, total.new_tensor(float(len(idh))), counts.sum().to(total.dtype)])


def _soft_idh_sums(logits: Tensor, terms: Tensor, class_weights: Tensor, settings: LossSettings) -> Tensor:
    absent = terms == 0  # their logarithm is masked before anything is computed from it: no gradient, and no 0 * inf
    log_probabilities = F.log_softmax(logits.float(), dim=1).masked_fill(absent, -1.0)
    weights = class_weights.to(log_probabilities)

    def sum_terms(label: int) -> Tensor:
        """(B,) of one class, contiguous as that of hard labels: a CPU's last bits depend on where a value lies."""
        log_own = log_probabilities[:, label].contiguous()
        losses = -weights[label] * log_own
        if settings.idh == "focal":
            losses = losses * (1 - log_own.exp()) ** settings.focal_gamma
        return terms[:, label].to(losses) * losses

    total = (sum_terms(0) + sum_terms(1)).sum()
    counts = ~absent.all(dim=1)
    return torch.stack([total, total.new_tensor(float(len(terms))), counts.sum().to(total.dtype)])


def idh_loss(sums: Tensor) -> Tensor:
    """IDH loss (eq. 14, 20) from the sums over all ranks: divided by m, all samples of the global batch."""
    return sums[0] / sums[1].clamp(min=1)


def idh_class_weights(labels: Sequence[int]) -> tuple[float, float]:
    """(w_wild, w_mutant) = (N_mutant, N_wild) / (N_mutant + N_wild), below eq. 14; unknown (-1) is left out.

    (0.5, 0.5) without any known status.
    """
    mutant, wild = labels.count(1), labels.count(0)
    known = mutant + wild
    return (mutant / known, wild / known) if known else (0.5, 0.5)


TEACHER = "teacher"
"""Name of the loss of samples without a mask: a part of the segmentation loss that is no label."""


class TaskWeighting(nn.Module):
    """Uncertainty weighting (eq. 15; Cipolla, Gal and Kendall, CVPR 2018): 0.5 exp(-2 s) L + s with s = log(sigma).

    A teacher's loss (`TEACHER`) has the weight of the segmentation, as if it were added to that loss: both train the
    decoder by masks, and their balance with the other task is one. But sigma learns from true masks alone: it is the
    noise of labels, and in steps without a mask the small loss of a teacher would drive it towards its limit.

    Its parameters see the losses of the global batch on every rank and stay bit-equal without communication. With equal
    weights (Table V) it has none.
    """

    def __init__(self, tasks: Sequence[str], settings: LossSettings) -> None:
        super().__init__()
        self.limit = settings.log_sigma_limit
        learned = tasks if settings.task_weighting == "uncertainty" else ()
        self.log_sigma = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in learned})

    def forward(self, losses: Mapping[str, Tensor], labelled: Mapping[str, bool], learn: bool = True) -> Tensor:
        """The joint loss, a scalar.

        Args:
            losses: Task, or `TEACHER`, to its loss over the global batch.
            labelled: Task to whether the global batch has any label for it. Without one the whole term, its sigma
                included, is left out; the loss stays in the graph with a gradient of zero.
            learn: Whether the sigmas get a gradient: in one micro-batch of a step only, as it is of the global batch.
        """
        terms = []
        for task, loss in losses.items():
            if not labelled[task]:
                terms.append(0.0 * loss)
            elif task == TEACHER and "segmentation" in self.log_sigma:
                terms.append(0.5 * torch.exp(-2 * self.log_sigma["segmentation"].detach()) * loss)
            elif task in self.log_sigma:
                log_sigma = self.log_sigma[task] if learn else self.log_sigma[task].detach()
                terms.append(0.5 * torch.exp(-2 * log_sigma) * loss + log_sigma)
            else:
                terms.append(loss)
        return torch.stack(terms).sum()

    @torch.no_grad()
    def clamp(self) -> None:
        """Keeps every log(sigma) within its limit; called after each optimiser step."""
        for log_sigma in self.log_sigma.values():
            log_sigma.clamp_(-self.limit, self.limit)


def project_conflicts(gradients: Sequence[Tensor], seed: int) -> Tensor:
    """Sum of the tasks' gradients after gradient surgery (PCGrad; Yu et al., NeurIPS 2020, Algorithm 1).

    From each task's gradient the part is removed that points against another task's: g_i - (g_i . g_j / |g_j|^2) g_j
    where g_i . g_j < 0, for the other tasks j in random order. Each g_j is the gradient before surgery.

    Args:
        gradients: One per task, all (N,), over the parameters that the tasks share; of the global batch.
        seed: Of the order; with two tasks there is only one.

    Returns:
        (N,); the plain sum where no two gradients conflict.
    """
    order = Random(seed)
    projected = []
    for index, gradient in enumerate(gradients):
        others = [other for place, other in enumerate(gradients) if place != index]
        order.shuffle(others)
        for other in others:
            conflict = torch.dot(gradient, other).clamp(max=0)
            # without a conflict this adds exactly 0; a gradient of zeros conflicts with none
            gradient = gradient - conflict / other.square().sum().clamp(min=torch.finfo(other.dtype).tiny) * other
        projected.append(gradient)
    return torch.stack(projected).sum(dim=0)

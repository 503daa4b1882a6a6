"""IDH losses of soft labels: against torch's own with probabilities as targets; with hard labels, bit by bit."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mttu.config import LossSettings
from mttu.losses import idh_loss, idh_sums

FOCAL = LossSettings(idh="focal", focal_gamma=1.5)
WEIGHTS = torch.tensor([0.4, 0.6])


def draw(count=7, seed=3):
    """Logits, probabilities of mutation, weights g."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, 2, generator=generator)
    return logits, torch.rand(count, generator=generator), torch.rand(count, generator=generator)


def terms_of(p, g):
    return torch.stack([g * (1 - p), g * p], dim=1)


def loss_and_gradient(logits, idh, settings, terms=None):
    logits = logits.clone().requires_grad_()
    sums = idh_sums(logits, idh, WEIGHTS, settings, terms)
    idh_loss(sums).backward()
    return sums.detach(), logits.grad


def test_cross_entropy_is_torchs_with_probabilities_as_targets():
    logits, p, g = draw()
    found, gradient = loss_and_gradient(logits, torch.ones(7), LossSettings(), terms_of(p, g))
    logits.requires_grad_()
    each = F.cross_entropy(logits, torch.stack([1 - p, p], dim=1), weight=WEIGHTS, reduction="none")
    expected = (g * each).sum() / 7  # divided by m, all samples, not by the sum of weights
    expected.backward()
    assert float(idh_loss(found)) == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient, logits.grad)


def test_focal_loss_by_numpy():
    logits, p, g = draw()
    found, gradient = loss_and_gradient(logits, torch.ones(7), FOCAL, terms_of(p, g))

    def loss_of(values):
        q = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
        targets = np.stack([1 - p.double().numpy(), p.double().numpy()], axis=1)
        each = -(targets * [0.4, 0.6] * (1 - q) ** 1.5 * np.log(q)).sum(axis=1)
        return (g.double().numpy() * each).sum() / 7

    values = logits.double().numpy()
    assert float(idh_loss(found)) == pytest.approx(loss_of(values), rel=1e-6)
    for place in np.ndindex(values.shape):
        step = np.zeros_like(values)
        step[place] = 1e-6
        slope = (loss_of(values + step) - loss_of(values - step)) / 2e-6
        assert float(gradient[place]) == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("settings", [LossSettings(), FOCAL], ids=["cross entropy", "focal"])
def test_hard_labels_of_weight_1_have_the_bits_of_today(settings):
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        count = seed + 1
        logits = 10 * torch.randn(count, 2, generator=generator)
        idh = torch.randint(-1, 2, (count,), generator=generator)
        terms = torch.stack([idh == 0, idh == 1], dim=1).float()
        found, expected = (loss_and_gradient(logits, idh, settings, one) for one in (terms, None))
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("settings", [LossSettings(), FOCAL], ids=["cross entropy", "focal"])
def test_parts_of_a_batch_add_up(settings):
    logits, p, g = draw(8)
    terms = terms_of(p, g)
    terms[2:4] = 0.0
    whole = idh_sums(logits, torch.ones(8), WEIGHTS, settings, terms)
    parts = [idh_sums(logits[at : at + 2], torch.ones(2), WEIGHTS, settings, terms[at : at + 2]) for at in (0, 2, 4, 6)]
    torch.testing.assert_close(torch.stack(parts).sum(dim=0), whole)
    assert whole[1:].tolist() == [8, 6]
    assert parts[1].tolist() == [0, 2, 0]  # a label of weight 0 counts as none


def test_a_label_without_weight_teaches_nothing_whatever_the_output():
    logits = torch.tensor([[0.0, 300.0], [-300.0, 300.0], [1.0, 2.0]])
    terms = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    for settings in (LossSettings(), LossSettings(idh="focal", focal_gamma=0.5)):
        sums, gradient = loss_and_gradient(logits, torch.tensor([1, 1, 1]), settings, terms)
        assert sums.tolist() == [0, 3, 1]
        assert gradient[1:].abs().sum() == 0

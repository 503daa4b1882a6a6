"""Predictions of an ensemble: the mean of its members' probabilities."""

import json

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from mttu.config import InferenceSettings
from mttu.inference.windows import predict_ensemble, predict_volume
from mttu.networks.ensemble import write_ensemble
from mttu.predict import plan_predictions, predict_cases

CPU = torch.device("cpu")
PATCH = (16, 16, 16)


class Scaled(nn.Module):
    """Each voxel's logits, and those of IDH, are multiples of the image."""

    def __init__(self, factor, tasks=("seg", "idh")):
        super().__init__()
        self.factor, self.tasks = factor, tasks

    def forward(self, image):
        image = image * self.factor
        outputs = {
            "seg_logits": torch.cat([image * factor for factor in (0.0, 1.0, -1.0, 2.0)], dim=1),
            "idh_logits": torch.stack([image[:, 0, 0, 0, 0], image.mean(dim=(1, 2, 3, 4))], dim=1),
        }
        return {name: tensor for name, tensor in outputs.items() if name.startswith(self.tasks)}


@pytest.fixture
def image():
    return torch.randn(1, 20, 17, 16, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("flips", [False, True])
def test_probabilities_are_the_means_of_the_members(image, flips):
    settings = InferenceSettings(flips=flips)
    members = [Scaled(factor) for factor in (0.5, 1.0, -3.0)]
    alone = [predict_volume(member, image, PATCH, settings, CPU) for member in members]
    found = predict_ensemble(members, image, PATCH, settings, CPU)
    torch.testing.assert_close(
        found.seg_probabilities, torch.stack([one.seg_probabilities for one in alone]).mean(dim=0)
    )
    torch.testing.assert_close(
        found.idh_probabilities, torch.stack([one.idh_probabilities for one in alone]).mean(dim=0)
    )
    logits = torch.stack([one.idh_logits for one in alone]).mean(dim=(0, 1))
    assert not torch.allclose(
        found.idh_probabilities, logits.softmax(dim=-1), atol=1e-4, rtol=0
    )  # not of the mean logits


@pytest.mark.parametrize("tasks", [("seg", "idh"), ("seg",), ("idh",)])
def test_one_member_gives_the_bits_of_the_network_alone(image, tasks):
    alone = predict_volume(Scaled(1.3, tasks), image, PATCH, InferenceSettings(), CPU)
    found = predict_ensemble([Scaled(1.3, tasks)], image, PATCH, InferenceSettings(), CPU)
    for name in ("seg_probabilities", "idh_logits", "idh_probabilities"):
        expected = getattr(alone, name)
        assert (expected is None) == (getattr(found, name) is None) == (name[:3] not in tasks)
        assert expected is None or torch.equal(getattr(found, name), expected)


def test_a_member_whose_output_is_not_finite_is_named(image):
    with pytest.raises(FloatingPointError, match="member 2 of 2: the network's seg_logits are not finite"):
        predict_ensemble([Scaled(1.0), Scaled(float("nan"))], image, PATCH, InferenceSettings(), CPU)


def test_only_members_that_learned_a_task_have_a_say(image):
    members = [Scaled(factor) for factor in (0.5, 1.0, -3.0)]
    members[1].learned_tasks = frozenset({"segmentation"})
    members[2].learned_tasks = frozenset({"idh"})
    found = predict_ensemble(members, image, PATCH, InferenceSettings(), CPU)
    with_decoder, with_head = ([Scaled(factor) for factor in factors] for factors in ((0.5, 1.0), (0.5, -3.0)))
    expected = predict_ensemble(with_decoder, image, PATCH, InferenceSettings(), CPU).seg_probabilities
    assert torch.equal(found.seg_probabilities, expected)
    expected = predict_ensemble(with_head, image, PATCH, InferenceSettings(), CPU).idh_probabilities
    assert torch.equal(found.idh_probabilities, expected)


def predict(checkpoint, cases, out):
    (row,) = predict_cases(plan_predictions(checkpoint, [cases / "a"], out))
    assert row.error == ""
    return row.idh_mutant_probability, np.asarray(nib.load(out / "a_seg.nii.gz").dataobj)


def metadata(out):
    found = pq.read_schema(out / "predictions.parquet").metadata
    return {name.decode(): value.decode() for name, value in found.items()}


def test_an_ensemble_predicts_like_any_checkpoint(write_tiny, cases, tmp_path):
    first, second = (write_tiny(tmp_path / name / "best", spoil=spoil) for name, spoil in (("one", 3.0), ("two", -3.0)))
    probabilities = {name: predict(tmp_path / name, cases, tmp_path / f"out_{name}") for name in ("one", "two")}
    write_ensemble(tmp_path / "both", [first, second])
    write_ensemble(tmp_path / "only", [second])
    idh, mask = predict(tmp_path / "both", cases, tmp_path / "out_both")
    expected = [probabilities[name][0] for name in ("one", "two")]
    assert abs(expected[0] - expected[1]) > 1e-3
    assert idh == pytest.approx(sum(expected) / 2, abs=1e-6)
    assert np.array_equal(mask, probabilities["one"][1])  # the weights differ in the IDH head alone
    alone, alone_mask = predict(tmp_path / "only", cases, tmp_path / "out_only")
    assert alone == probabilities["two"][0]
    assert np.array_equal(alone_mask, probabilities["two"][1])
    assert [json.loads(metadata(tmp_path / f"out_{name}")["ensemble"]) for name in ("one", "both", "only")] == [
        False,
        True,
        True,
    ]
    assert [metadata(tmp_path / f"out_{name}")["members"] for name in ("one", "both", "only")] == ["1", "2", "1"]

"""Deviations over passes and members, and maps of a voxel's probability; worked by hand where they can be."""

import math

import numpy as np
import pytest
import torch

from mttu.config import InferenceSettings, MonteCarloSettings, override
from mttu.errors import InputError
from mttu.inference.passes import run_passes
from mttu.inference.postprocessing import Rule
from mttu.inference.uncertainty import Samples, check_passes, map_regions, measure_entropy, predict_passes
from mttu.inference.windows import VolumePrediction, predict_volume
from mttu.networks import build_network
from mttu.search.presets import preset

CPU = torch.device("cpu")
PATCH = (16, 16, 16)
MC = MonteCarloSettings(passes=3, seed=2)
INFERENCE = InferenceSettings(overlap=0.25)


@pytest.fixture(scope="module")
def network():
    config = override(preset("demo"), {"network.widths": [4, 4, 8, 8], "network.bottleneck.width": 16})
    torch.manual_seed(0)
    return build_network(config.network).eval()


def predicted(tumour, mutant=0.5):
    """Two voxels, whose tumour is edema with these probabilities."""
    edema = torch.tensor(tumour).reshape(1, 2, 1, 1)
    nothing = torch.zeros_like(edema)
    seg = torch.cat([1 - edema, nothing, edema, nothing])
    return VolumePrediction(seg, torch.tensor([[math.log(1 - mutant), math.log(mutant)]]))


def test_a_pass_has_the_probability_that_scoring_gives_it_and_leaves_no_dropout_on(network):
    image = torch.randn(4, 16, 16, 28, generator=torch.Generator().manual_seed(1))
    before = predict_volume(network, image, PATCH, INFERENCE, CPU)
    found = list(predict_passes(network, image, "case", PATCH, MC, INFERENCE, CPU))
    scored = run_passes(network, image, "case", PATCH, MC, INFERENCE, CPU)
    torch.testing.assert_close(torch.cat([one.idh_logits for one in found]), scored.passes)
    assert len(found) == 3
    assert not torch.equal(found[0].seg_probabilities, found[1].seg_probabilities)
    again = predict_volume(network, image, PATCH, INFERENCE, CPU)
    assert torch.equal(again.seg_probabilities, before.seg_probabilities)
    (other,) = predict_passes(
        network, image, "case", PATCH, MC.model_copy(update={"passes": 1}), INFERENCE, CPU, member=2
    )
    assert not torch.equal(other.idh_logits, found[0].idh_logits)  # a member has masks of its own


def test_too_many_windows_are_refused_before_the_first_pass(network, monkeypatch):
    monkeypatch.setattr("mttu.inference.windows.MOST_WINDOWS", 5)
    with pytest.raises(InputError, match=r"need 2 windows .* and the number of passes 3 times as many"):
        next(predict_passes(network, torch.zeros(4, 16, 16, 28), "case", PATCH, MC, INFERENCE, CPU))


def test_a_network_without_dropout_is_refused():
    parts = ("stem", "embedding", "attention", "projection", "branch", "mlp", "head")
    settings = override(preset("demo"), {f"network.dropout.{part}": 0.0 for part in parts}).network
    network = build_network(settings).eval()
    with pytest.raises(InputError, match=r"mc\.active_dropout=all: no dropout there .* predict without passes"):
        check_passes([network], MC)


def test_deviations_are_over_samples():
    samples = Samples(INFERENCE, voxel_mm3=500.0)
    for tumour, mutant in (([0.9, 0.1], 0.2), ([0.7, 0.1], 0.4), ([0.8, 0.7], 0.6)):
        samples.add(predicted(tumour, mutant))
    assert samples.num == 3
    assert samples.idh_mean == pytest.approx(0.4)
    assert samples.idh_deviation == pytest.approx(0.2)
    assert samples.volumes_ml["wt"] == [0.5, 0.5, 1.0]
    assert samples.volume_deviation_ml("wt") == pytest.approx(math.sqrt(1 / 12))
    assert samples.volume_deviation_ml("et") == 0.0
    np.testing.assert_allclose(samples.measure_deviation().ravel(), [0.1, math.sqrt(0.12)], atol=1e-6)


def test_volumes_of_samples_are_those_of_post_processed_masks():
    samples = Samples(INFERENCE, 1000.0, rules={"wt": Rule(largest_only=True)})
    one = predicted([0.9, 0.1]).seg_probabilities
    three = torch.cat([one, one[:, 1:], one[:, :1]], dim=1)  # tumour, none, none, tumour
    samples.add(VolumePrediction(three, None))
    assert samples.volumes_ml["wt"] == [1.0]


def test_voxels_are_summed_only_where_they_are_asked_for():
    samples = Samples(INFERENCE, 1000.0, sums_voxels=False)
    samples.add(VolumePrediction(predicted([0.9, 0.1]).seg_probabilities, None))
    samples.add(VolumePrediction(predicted([0.9, 0.9]).seg_probabilities, None))
    assert (samples.num, samples.volumes_ml["wt"], samples._sum) == (2, [1.0, 2.0], None)
    assert samples.measure_deviation() is None


def test_one_sample_has_no_deviation():
    samples = Samples(INFERENCE, 1.0)
    assert (samples.num, samples.idh_mean, samples.measure_deviation()) == (0, None, None)
    samples.add(predicted([0.9, 0.1]))
    found = samples.num, samples.idh_mean, samples.idh_deviation, samples.volume_deviation_ml("wt")
    assert found == (1, None, None, None)
    assert samples.measure_deviation() is None


def test_regions_and_entropy_of_a_voxel():
    probabilities = torch.tensor([[0.25, 1.0], [0.25, 0.0], [0.25, 0.0], [0.25, 0.0]]).reshape(4, 2, 1, 1)
    regions = {name: values.ravel().tolist() for name, values in map_regions(probabilities).items()}
    assert regions == {"wt": [0.75, 0.0], "tc": [0.5, 0.0], "et": [0.25, 0.0]}
    assert list(map_regions(probabilities, tells_parts=False)) == ["wt"]
    np.testing.assert_allclose(measure_entropy(probabilities).ravel(), [1.0, 0.0], atol=1e-6)
    of_two = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    np.testing.assert_allclose(measure_entropy(probabilities, tells_parts=False).ravel(), [of_two, 0.0], atol=1e-6)

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from mttu.config import InferenceSettings, MonteCarloSettings, override
from mttu.errors import InputError
from mttu.inference.passes import cut_tumour_window, run_passes
from mttu.inference.windows import predict_volume
from mttu.networks import build_network
from mttu.networks.monte_carlo import IdhPasses, name_pass
from mttu.search.presets import preset

CPU = torch.device("cpu")
PATCH = (16, 16, 16)
SETTINGS = MonteCarloSettings(passes=3, seed=2)
INFERENCE = InferenceSettings(overlap=0.25)


@pytest.fixture(scope="module")
def network():
    config = override(preset("demo"), {"network.widths": [4, 4, 8, 8], "network.bottleneck.width": 16})
    torch.manual_seed(0)
    return build_network(config.network).eval()


def run(network, image, case_id="case", settings=SETTINGS, **changes):
    return run_passes(network, image, case_id, PATCH, settings.model_copy(update=changes), INFERENCE, CPU)


def draw_image(*shape):
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_logits_are_averaged_over_windows_and_softmax_comes_after(network):
    image = draw_image(16, 16, 28)  # windows that start at 0 and 12 on the last axis
    found = run(network, image)
    passes = IdhPasses(network, "all")
    windows = [image[None, ..., start : start + 16] for start in (0, 12)]
    keys = [name_pass(2, "case", number) for number in range(3)]
    logits = torch.stack([torch.cat([passes.run(passes.share(window), [key]) for key in keys]) for window in windows])
    torch.testing.assert_close(found.passes, logits.mean(dim=0))
    torch.testing.assert_close(torch.tensor(found.mutant_probabilities), logits.mean(dim=0).softmax(1)[:, 1])


def test_passes_over_too_many_windows_are_refused_before_the_first(network, monkeypatch):
    monkeypatch.setattr("mttu.inference.windows.MOST_WINDOWS", 7)
    run(network, draw_image(16, 16, 28))
    said = r"need 4 windows for 16x28x28 voxels, and mc\.passes 3 times as many; at most 7"
    with pytest.raises(InputError, match=said):
        run(None, draw_image(16, 28, 28))


@pytest.mark.parametrize("active", ["all", "transformer+head", "head"])
def test_without_dropout_it_is_what_prediction_says(network, active):
    image = draw_image(20, 16, 28)
    prediction = predict_volume(network, image, PATCH, INFERENCE, CPU)
    found = run(network, image, active_dropout=active)
    assert found.deterministic_probability == pytest.approx(float(prediction.idh_probabilities[1]), abs=1e-6)
    assert len(set(found.mutant_probabilities)) == 3


def test_same_bits_whatever_was_computed_before_and_other_bits_for_another_seed_or_case(network):
    image = draw_image(16, 16, 28)
    first = run(network, image)
    torch.manual_seed(99)
    run(network, draw_image(16, 16, 16), "other")
    again = run(network, image)
    assert torch.equal(first.passes, again.passes)
    assert torch.equal(first.deterministic, again.deterministic)
    assert torch.equal(run(network, image, passes=5).passes[:3], first.passes)  # more leave the first as they are
    for other in (run(network, image, seed=3), run(network, image, "another")):
        assert not torch.isclose(other.passes, first.passes).any()
        assert torch.equal(other.deterministic, first.deterministic)


def test_passes_in_one_batch_are_the_same_up_to_rounding(network):
    image = draw_image(16, 16, 28)
    one, three = run(network, image), run(network, image, passes_per_forward=2)
    torch.testing.assert_close(three.passes, one.passes, rtol=0, atol=1e-5)


def test_masks_that_are_shared_by_windows_do_not_average_out(network):
    """With masks of their own per window the deviation over passes would shrink by about the root of their number."""
    window = draw_image(16, 16, 16)
    image = torch.cat([window] * 4, dim=3)  # four equal windows, no overlap
    many = MonteCarloSettings(passes=40, active_dropout="head")
    plain = InferenceSettings(overlap=0.0)
    alone = run_passes(network, window, "case", PATCH, many, plain, CPU).passes
    tiled = run_passes(network, image, "case", PATCH, many, plain, CPU).passes
    torch.testing.assert_close(tiled, alone, rtol=0, atol=1e-5)


def test_bfloat16_is_near(network):
    image = draw_image(16, 16, 16)
    half = run_passes(network, image, "case", PATCH, SETTINGS, INFERENCE, CPU, "bfloat16")
    found = torch.tensor(half.mutant_probabilities)
    torch.testing.assert_close(found, torch.tensor(run(network, image).mutant_probabilities), rtol=0, atol=0.03)


def test_output_that_is_not_finite_is_an_error(network):
    image = draw_image(16, 16, 16)
    image[0, 3, 3, 3] = float("nan")
    with pytest.raises(FloatingPointError, match="idh_logits are not finite"):
        run(network, image)


@dataclass(frozen=True)
class Box:
    shape: tuple[int, int, int]
    first: tuple[int, int, int]
    last: tuple[int, int, int]
    start: tuple[int, int, int]


@pytest.mark.parametrize(
    "box",
    [
        Box((32, 32, 32), (10, 12, 14), (13, 19, 17), (4, 8, 8)),  # centres 12, 16, 16
        Box((32, 32, 32), (0, 28, 15), (3, 31, 16), (0, 16, 8)),  # moved inside at both ends
        Box((32, 32, 10), (8, 8, 2), (23, 23, 7), (8, 8, -3)),  # padded on both sides of the last axis
    ],
)
def test_the_tumour_window_is_centred_and_moved_inside(box):
    classes = np.zeros(box.shape, np.uint8)
    classes[tuple(slice(low, high + 1) for low, high in zip(box.first, box.last, strict=True))] = 2
    places = np.stack(np.meshgrid(*(np.arange(extent) + 100 for extent in box.shape), indexing="ij")).astype(np.float16)
    window = cut_tumour_window(places, classes, PATCH)
    assert window.shape == (3, *PATCH)
    inside = [max(0, -start) for start in box.start]
    assert [int(window[axis, *inside]) - 100 for axis in range(3)] == [max(0, start) for start in box.start]
    assert (window[:, :, :, :3] == 0).all() == (box.shape[2] == 10)


def test_no_tumour_no_window():
    assert cut_tumour_window(np.zeros((4, 8, 8, 8), np.float16), np.zeros((8, 8, 8), np.uint8), PATCH) is None

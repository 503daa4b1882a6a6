import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from mttu.config import InferenceSettings, override
from mttu.errors import InputError
from mttu.inference.windows import explain_windows, predict_volume, segment
from mttu.networks import build_network
from mttu.search.presets import preset

CPU = torch.device("cpu")


class Pointwise(nn.Module):
    """Each voxel's logits are multiples of its value; IDH logits are the window's corner value and its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.windows: list[Tensor] = []

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.windows.append(image)
        return {
            "seg_logits": torch.cat([image * factor for factor in (0.0, 1.0, -1.0, 2.0)], dim=1),
            "idh_logits": torch.stack([image[:, 0, 0, 0, 0], image.mean(dim=(1, 2, 3, 4))], dim=1),
        }


class Positional(Pointwise):
    """Logits that depend on where in the window a voxel lies, as those of any network at its borders do."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        ramp = torch.linspace(0, 3, image.shape[2])[:, None, None]
        return super().forward(image * ramp)


def random_image(*shape: int) -> Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(7))


def expected_probabilities(image: Tensor) -> Tensor:
    return torch.stack([image[0] * factor for factor in (0.0, 1.0, -1.0, 2.0)]).softmax(dim=0)


@pytest.mark.parametrize(
    ("shape", "overlap", "flips"), [((33, 16, 20), 0.5, False), ((24, 9, 25), 0.9, True), ((16, 16, 16), 0.9, True)]
)
def test_a_case_of_too_many_windows_is_refused_before_the_first(
    shape: tuple[int, int, int], overlap: float, flips: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, network = InferenceSettings(overlap=overlap, flips=flips), Pointwise()
    predict_volume(network, random_image(*shape), (16, 16, 16), settings, CPU)
    needed = len(network.windows)
    monkeypatch.setattr("mttu.inference.windows.MOST_WINDOWS", needed)
    predict_volume(network, random_image(*shape), (16, 16, 16), settings, CPU)
    monkeypatch.setattr("mttu.inference.windows.MOST_WINDOWS", needed - 1)
    with pytest.raises(InputError, match=f"at most {needed - 1} go through a network"):
        predict_volume(network, random_image(*shape), (16, 16, 16), settings, CPU)
    assert len(network.windows) == 2 * needed


def test_small_windows_that_overlap_much_are_refused_and_the_paper_s_are_not() -> None:
    assert explain_windows((240, 240, 155), (8, 8, 8), 0.9, 8, "inference.flips") == [
        "patch.size 8x8x8 and inference.overlap 0.9 need 8034772 windows for 240x240x155 voxels, and inference.flips 8 "
        "times as many; at most 262144 go through a network; choose larger windows or a smaller overlap, or change "
        "inference.flips"
    ]
    assert explain_windows((480, 480, 310), (128, 128, 128), 0.9, 8) == []
    assert explain_windows((240, 240, 155), (128, 128, 128), 0.125, 10_000) == []


def test_eight_windows_of_one_case_each_cover_the_grid_of_brats() -> None:
    shapes = []

    class Counting(nn.Module):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            shapes.append(tuple(image.shape))
            return {"seg_logits": image.expand(1, 4, -1, -1, -1)}

    prediction = predict_volume(Counting(), torch.zeros(1, 240, 240, 155), (128, 128, 128), InferenceSettings(), CPU)
    assert shapes == [(1, 1, 128, 128, 128)] * 8
    assert prediction.seg_probabilities.shape == (4, 240, 240, 155)


@pytest.mark.parametrize("shape", [(16, 16, 16), (23, 40, 17), (9, 16, 21)], ids=["exact", "larger", "smaller"])
def test_blending_keeps_what_all_windows_agree_on(shape: tuple[int, int, int]) -> None:
    image = random_image(*shape)
    prediction = predict_volume(Pointwise(), image, (16, 16, 16), InferenceSettings(), CPU)
    torch.testing.assert_close(prediction.seg_probabilities, expected_probabilities(image), atol=1e-6, rtol=0)


def test_disagreeing_windows_are_weighted_by_distance_from_their_centre() -> None:
    class FirstOrSecond(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            logits = torch.zeros(1, 4, *image.shape[2:])
            logits[:, 1 + self.calls] = 20.0
            self.calls += 1
            return {"seg_logits": logits}

    settings = InferenceSettings(overlap=0.5)
    image = torch.zeros(1, 24, 16, 16)
    probabilities = predict_volume(FirstOrSecond(), image, (16, 16, 16), settings, CPU).seg_probabilities
    first = probabilities[1, :, 8, 8]
    assert torch.all(first[:8] > 0.999)
    assert torch.all(first[16:] < 0.001)
    weight = [math.exp(-((x - 7.5) ** 2) / (2 * 2.0**2)) for x in (10, 2)]  # voxel 10 in window 1, and in window 2
    assert first[10].item() == pytest.approx(weight[0] / sum(weight), abs=1e-3)


def test_volume_smaller_than_the_window_is_padded_with_background() -> None:
    network = Pointwise()
    predict_volume(network, torch.ones(1, 8, 16, 16), (16, 16, 16), InferenceSettings(), CPU)
    (window,) = network.windows
    assert window.shape == (1, 1, 16, 16, 16)
    assert window[:, :, 4:12].eq(1).all()
    assert window.sum().item() == 8 * 16 * 16


def test_idh_logits_are_averaged_over_windows_and_softmax_comes_after() -> None:
    image = torch.zeros(1, 32, 16, 16)
    image[:, 16:] = 2.0  # without overlap: one window of zeros, one of twos
    prediction = predict_volume(Pointwise(), image, (16, 16, 16), InferenceSettings(overlap=0.0), CPU)
    assert prediction.idh_logits.tolist() == [[1.0, 1.0]]
    image[:, 0, 0, 0] = 4.0  # corner of the first window; its mean stays near zero
    prediction = predict_volume(Pointwise(), image, (16, 16, 16), InferenceSettings(overlap=0.0), CPU)
    gap = (4.0 + 2.0) / 2 - (4.0 / 16**3 + 2.0) / 2
    assert prediction.idh_probabilities[0].item() == pytest.approx(1 / (1 + math.exp(-gap)), abs=1e-6)


def test_flips_average_softmax_of_the_eight_orientations() -> None:
    image = random_image(16, 16, 16)
    settings = InferenceSettings(flips=True)
    prediction = predict_volume(Positional(), image, (16, 16, 16), settings, CPU)
    ramp = torch.linspace(0, 3, 16)[:, None, None]
    seg, idh = torch.zeros(4, 16, 16, 16), torch.zeros(2)
    for flipped in product((False, True), repeat=3):
        axes = [axis + 1 for axis, on in enumerate(flipped) if on]
        seen = image.flip(axes) * ramp
        seg += expected_probabilities(seen).flip(axes) / 8
        idh += torch.stack([seen[0, 0, 0, 0], seen.mean()]).softmax(dim=0) / 8
    assert prediction.idh_logits.shape == (8, 2)
    torch.testing.assert_close(prediction.seg_probabilities, seg, atol=1e-6, rtol=0)
    torch.testing.assert_close(prediction.idh_probabilities, idh, atol=1e-6, rtol=0)


def test_flips_make_the_result_independent_of_orientation() -> None:
    image, settings = random_image(20, 16, 16), InferenceSettings(flips=True)
    once = predict_volume(Positional(), image, (16, 16, 16), settings, CPU).seg_probabilities
    mirrored = predict_volume(Positional(), image.flip(1), (16, 16, 16), settings, CPU).seg_probabilities
    unmirrored = predict_volume(Positional(), image, (16, 16, 16), InferenceSettings(), CPU).seg_probabilities
    torch.testing.assert_close(mirrored.flip(1), once, atol=1e-6, rtol=0)
    assert not torch.allclose(unmirrored, once, atol=1e-2)


@pytest.mark.parametrize(("tasks", "segments", "classifies"), [(["segmentation"], True, False), (["idh"], False, True)])
def test_a_single_task_network_leaves_the_other_task_out(tasks: list[str], segments: bool, classifies: bool) -> None:
    config = override(preset("demo"), {"network.tasks": tasks})
    network = build_network(config.network)
    image = torch.randn(4, 36, 32, 32)
    prediction = predict_volume(network, image, config.patch.size, config.inference, CPU)
    assert (prediction.seg_probabilities is not None) == segments
    assert (prediction.idh_probabilities is not None) == classifies
    if prediction.seg_probabilities is not None:
        torch.testing.assert_close(prediction.seg_probabilities.sum(dim=0), torch.ones(36, 32, 32))


def test_a_network_in_training_is_scored_in_evaluation_and_left_as_it_was() -> None:
    config = preset("demo")
    network = build_network(config.network).train()
    frozen = next(module for module in network.modules() if isinstance(module, nn.BatchNorm3d))
    frozen.eval()
    modes = [module.training for module in network.modules()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    image = torch.randn(4, 32, 32, 32)
    first = predict_volume(network, image, config.patch.size, config.inference, CPU)
    second = predict_volume(network, image, config.patch.size, config.inference, CPU)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.equal(first.seg_probabilities, second.seg_probabilities)  # no dropout, no batch statistics
    assert not first.seg_probabilities.requires_grad


def test_modes_are_restored_when_the_network_fails() -> None:
    class Failing(nn.Module):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            raise RuntimeError("out of memory")

    network = Failing().train()
    with pytest.raises(RuntimeError, match="out of memory"):
        predict_volume(network, torch.zeros(1, 8, 8, 8), (8, 8, 8), InferenceSettings(), CPU)
    assert network.training


def test_bfloat16_is_used_inside_and_float32_comes_out() -> None:
    seen = []

    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv3d(1, 4, kernel_size=1)

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            logits = self.layer(image)
            seen.append(logits.dtype)
            return {"seg_logits": logits, "idh_logits": logits.mean(dim=(2, 3, 4))[:, :2]}

    network, image = Convolution(), random_image(8, 8, 8)
    full = predict_volume(network, image, (8, 8, 8), InferenceSettings(), CPU)
    half = predict_volume(network, image, (8, 8, 8), InferenceSettings(), CPU, "bfloat16")
    assert seen == [torch.float32, torch.bfloat16]
    assert half.seg_probabilities.dtype == half.idh_logits.dtype == torch.float32
    torch.testing.assert_close(half.seg_probabilities, full.seg_probabilities, atol=0.02, rtol=0)


def test_half_precision_images_are_read_and_left_unchanged() -> None:
    image = random_image(12, 12, 12).half()
    before = image.clone()
    prediction = predict_volume(Pointwise(), image, (8, 8, 8), InferenceSettings(flips=True), CPU)
    assert torch.equal(image, before)
    torch.testing.assert_close(prediction.seg_probabilities, expected_probabilities(image.float()), atol=1e-6, rtol=0)


@pytest.mark.parametrize("broken", ["seg_logits", "idh_logits"])
def test_output_that_is_not_finite_is_refused_by_name(broken: str) -> None:
    class Broken(Pointwise):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            outputs = super().forward(image)
            outputs[broken] = outputs[broken] * float("nan")
            return outputs

    with pytest.raises(FloatingPointError, match=broken):
        predict_volume(Broken(), torch.zeros(1, 8, 8, 8), (8, 8, 8), InferenceSettings(), CPU)


def one_hot(classes: Tensor) -> Tensor:
    return nn.functional.one_hot(classes.long(), 4).movedim(-1, 0).float()


@pytest.mark.parametrize(
    ("voxels", "voxel_volume_mm3", "threshold", "kept"),
    [(499, 1.0, 500.0, False), (500, 1.0, 500.0, True), (70, 8.0, 500.0, True), (10, 1.0, 0.0, True)],
    ids=["too little", "just enough", "large voxels", "switched off"],
)
def test_too_little_enhancing_tumour_becomes_necrosis(
    voxels: int, voxel_volume_mm3: float, threshold: float, kept: bool
) -> None:
    classes = torch.zeros(10, 10, 10, dtype=torch.uint8)
    classes.view(-1)[:voxels] = 3
    classes.view(-1)[voxels : voxels + 50] = 2
    found = segment(one_hot(classes), InferenceSettings(min_enhancing_mm3=threshold), voxel_volume_mm3)
    assert found.dtype == torch.uint8
    expected = classes if kept else torch.where(classes == 3, torch.tensor(1, dtype=torch.uint8), classes)
    assert torch.equal(found, expected)

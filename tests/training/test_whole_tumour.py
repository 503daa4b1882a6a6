"""A cohort whose masks know the whole tumour only: from its files to metrics."""

import math
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from mttu.config import PrepareSettings, override
from mttu.data.augment import Augmentation, augment_batch
from mttu.data.cache import cache_case, open_cached
from mttu.data.labels import WHOLE_TUMOUR
from mttu.data.loaders import PatchDataset, collate
from mttu.data.manifest import Manifest, read_manifest, write_manifest
from mttu.errors import InputError
from mttu.inference.windows import VolumePrediction
from mttu.networks.checkpoint import read_checkpoint, write_checkpoint
from mttu.predict import plan_predictions, predict_cases
from mttu.training.evaluation import score_case, summarise
from mttu.training.inputs import TrainingTask, check_inputs
from mttu.training.loop import fit, task_losses
from mttu.training.run import task_of
from mttu.training.runtime import LocalRuntime
from mttu.training.start import find_learned_parts


@pytest.fixture(scope="module")
def whole_cohort(phantom_manifest, tmp_path_factory):
    """Folder with `cohort.parquet` and `cache`: the phantom's train and val cases with masks of 0 and 1."""
    folder = tmp_path_factory.mktemp("whole")
    cases = []
    for case in (*phantom_manifest.split("train"), *phantom_manifest.split("val")):
        truth = nib.load(case.seg)
        binary = (np.asarray(truth.dataobj) > 0).astype(np.uint8)
        seg = folder / f"{case.case_id}_mask.nii.gz"
        nib.save(nib.Nifti1Image(binary, truth.affine), seg)
        cases.append(replace(case, seg=seg, labels="whole-tumour"))
        cache_case(cases[-1], folder / "cache", phantom_manifest.modalities, PrepareSettings())
    root = tmp_path_factory.getbasetemp()
    manifest = Manifest(root, tuple(cases), phantom_manifest.modalities, synthetic=True)
    write_manifest(manifest, folder / "cohort.parquet")
    return folder


@pytest.fixture
def whole(tiny, whole_cohort):
    """The tiny settings on that cohort, one epoch."""
    changes = {"data.manifest": str(whole_cohort / "cohort.parquet"), "data.cache_dir": str(whole_cohort / "cache")}
    return override(tiny, {**changes, "train.epochs": 1})


def test_an_epoch_trains_and_scores_the_whole_tumour_only(whole, tmp_path):
    (note,) = check_inputs(whole).notes
    assert note.startswith("no training mask tells the parts of a tumour")
    runtime = LocalRuntime(tmp_path / "train")
    [row] = fit(task_of(whole), runtime).history
    with runtime.resume() as folder:
        assert read_checkpoint(folder)[0].learned_parts is False
    assert 0 < row["train/loss_segmentation"] < 1
    assert {name for name in row if "dice" in name} == {"val/dice_wt", "val/dice"}
    assert row["val/dice"] == row["val/dice_wt"]
    assert math.isfinite(row["val/score"])


def test_a_mixed_cohort_trains_with_focal_loss_and_scores_what_each_mask_knows(
    whole, tmp_path, phantom_manifest, phantom_cache
):
    task, full = task_of(whole), {case.case_id: case for case in phantom_manifest.cases}
    mixed = [full[case.case_id] if index % 2 else case for index, case in enumerate((*task.train, *task.val))]
    cache = tmp_path / "cache"
    cache.mkdir()
    for case in mixed:
        source = whole.data.cache_dir if case.labels == "whole-tumour" else phantom_cache
        (cache / case.case_id).symlink_to(source / case.case_id)
    config = override(whole, {"loss.segmentation": "focal", "train.global_batch": 4, "train.batch_per_worker": 4})
    task = TrainingTask(config, tuple(mixed[: len(task.train)]), tuple(mixed[len(task.train) :]), cache)
    [row] = fit(task, LocalRuntime(tmp_path / "train")).history
    assert row["train/loss_segmentation"] > 0
    assert {"val/dice_wt", "val/dice_tc", "val/dice_et"} <= set(row)


def test_batches_say_which_masks_know_the_whole_tumour_only(whole, phantom_manifest, phantom_cache):
    cases = read_manifest(whole.data.manifest).split("train")
    dataset = PatchDataset(cases, whole.data.cache_dir, override(whole, {"patch.size": [8, 8, 8]}))
    patches = [dataset[(0, position, 0)] for position in range(40)]
    assert {int(patch.seg.max()) for patch in patches} == {0, WHOLE_TUMOUR}  # some crops miss the tumour
    batch = collate(patches).to(torch.device("cpu"))
    assert batch.only_wt.all()
    full = PatchDataset(phantom_manifest.split("train"), phantom_cache, dataset.config)
    assert collate([patches[0], full[(0, 0, 0)]]).only_wt.tolist() == [True, False]


@pytest.mark.parametrize("kind", ["dice", "dice_ce", "focal"])
def test_the_loop_gives_each_mask_its_own_loss_and_weighs_them_alike(
    whole, tmp_path, phantom_manifest, phantom_cache, kind
):
    changes = {"loss.segmentation": kind, "augment.foreground_crop_probability": 1.0, "augment.rotation_degrees": 0.0}
    config = override(whole, changes)
    cases = read_manifest(whole.data.manifest).split("train")
    sources = ((cases, whole.data.cache_dir), (phantom_manifest.split("train"), phantom_cache))
    patches = [PatchDataset(*source, config)[(0, 1, 0)] for source in sources]
    generator, runtime, weights = torch.Generator().manual_seed(2), LocalRuntime(tmp_path), torch.tensor([0.5, 0.5])
    logits = torch.randn(2, 4, 16, 16, 16, generator=generator)

    def loss_of(chosen):
        batch = collate([patches[index] for index in chosen]).to(torch.device("cpu"))
        outputs = {"seg_logits": logits[list(chosen)]}
        losses, labelled = task_losses(outputs, batch, batch.seg, weights, config, runtime)
        assert labelled == {"segmentation": True}
        return losses["segmentation"].item()

    assert loss_of([0]) != pytest.approx(loss_of([1]), rel=0.01)
    assert loss_of([0, 1]) == pytest.approx((loss_of([0]) + loss_of([1])) / 2, rel=1e-6)


def test_rotations_keep_the_class_beyond_the_network_s(whole):
    cases = read_manifest(whole.data.manifest).split("train")
    seg = torch.from_numpy(np.array(open_cached(whole.data.cache_dir, cases[0].case_id).seg))[None]
    turn = Augmentation((True, False, True), 10.0, (1.1,) * 4, (0.1,) * 4)
    _, turned = augment_batch(torch.zeros(1, 4, *seg.shape[1:]), seg, [turn], seg.shape[1:])
    assert turned.dtype == torch.uint8
    assert turned.unique().tolist() == [0, WHOLE_TUMOUR]
    assert int((turned > 0).sum()) == pytest.approx(int((seg > 0).sum()), rel=0.1)


def test_dice_of_the_whole_tumour_by_hand(whole, monkeypatch):
    case = read_manifest(whole.data.manifest).split("val")[0]
    cached = open_cached(whole.data.cache_dir, case.case_id)
    truth = torch.from_numpy(np.array(cached.seg)) > 0
    voxels = truth.nonzero()
    probabilities = torch.zeros(4, *truth.shape)
    probabilities[0] = 0.5
    found = voxels[: len(voxels) // 2]
    for part in (1, 2, 3):  # a third of the found voxels each
        where = found[part - 1 :: 3]
        probabilities[part, where[:, 0], where[:, 1], where[:, 2]] = 0.9
    prediction = VolumePrediction(probabilities, None)
    monkeypatch.setattr("mttu.training.evaluation.predict_volume", lambda *arguments: prediction)
    row = score_case(SimpleNamespace(learned_parts=True), case, cached, whole, torch.device("cpu"), "float32")
    assert row["dice_wt"] == pytest.approx(2 * len(found) / (len(found) + len(voxels)))
    assert (row["dice_tc"], row["dice_et"]) == (None, None)
    metrics = summarise([row], "dice")[0]
    assert {"val/dice_wt", "val/dice", "val/score"} <= set(metrics)
    assert not [name for name in metrics if name.endswith(("_tc", "_et"))]


def test_a_network_that_learned_no_parts_tells_none(whole, tiny_checkpoint, phantom_manifest, phantom_cache, tmp_path):
    network, config = read_checkpoint(tiny_checkpoint)
    write_checkpoint(tmp_path / "best", network.state_dict(), config, {}, learned_parts=False)
    network, _ = read_checkpoint(tmp_path / "best")
    [*_, case] = phantom_manifest.split("val")  # whose own mask tells the parts
    row = score_case(network, case, open_cached(phantom_cache, case.case_id), whole, torch.device("cpu"), "float32")
    assert row["dice_wt"] is not None
    assert (row["dice_tc"], row["dice_et"]) == (None, None)
    started = override(whole, {"train.start_from": str(tmp_path / "best")})
    assert not find_learned_parts(started, read_manifest(whole.data.manifest).split("train"))
    assert not find_learned_parts(started, [replace(case, seg=None)])
    assert find_learned_parts(started, [case])
    folder = case.images["flair"].parent
    with pytest.raises(InputError, match=r"learned from masks of the whole tumour, .* pass --labels whole-tumour"):
        plan_predictions(tmp_path / "best", [folder], tmp_path / "out")
    [predicted] = predict_cases(plan_predictions(tmp_path / "best", [folder], tmp_path / "out", "whole-tumour"))
    assert predicted.wt_ml > 0
    assert (predicted.tc_ml, predicted.et_ml) == (None, None)
    mask = np.asarray(nib.load(tmp_path / "out" / f"{case.case_id}_seg.nii.gz").dataobj)
    assert np.unique(mask).tolist() == [0, 1]

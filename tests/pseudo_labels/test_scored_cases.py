import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from mttu.cohort.build import discover
from mttu.data import cache
from mttu.data.manifest import write_manifest
from mttu.errors import InputError
from mttu.inference.device import choose_device
from mttu.pseudo_labels import scoring
from mttu.pseudo_labels.scoring import plan_scoring, score_cases

CPU = torch.device("cpu")


def test_a_split_is_scored_row_by_row(tiny_checkpoint, manifest_file):
    told = []
    plan = plan_scoring(tiny_checkpoint, manifest_file, "val")
    table = score_cases(plan, CPU, lambda done, row: told.append((done, row.case_id)))
    assert told == [(1, plan.cases[0].case_id), (2, plan.cases[1].case_id)]
    for row in table.rows:
        assert row.error == ""
        assert len(set(row.mutant_probabilities)) == 4
        assert all(0 < value < 1 for value in row.mutant_probabilities)
        assert row.mean_probability == pytest.approx(np.mean(row.mutant_probabilities))
        assert row.uncertainty == pytest.approx(np.std(row.mutant_probabilities, ddof=1))
        assert row.seconds > 0
    assert (table.about["device"], table.about["precision"]) == ("cpu", "float32")
    assert table.about["threads"] == torch.get_num_threads()
    assert score_cases(plan, CPU).digest == table.digest
    other = plan_scoring(tiny_checkpoint, manifest_file, "val", {"mc.seed": 1})
    assert score_cases(other, CPU).digest != table.digest


def test_precision_is_that_of_training_unless_asked(write_tiny, manifest_file, tmp_path):
    half = write_tiny(tmp_path / "half" / "best", {"train.precision": "bfloat16", "mc.passes": 2})
    full = score_cases(plan_scoring(half, manifest_file, "test", {"train.precision": "float32"}), CPU)
    found = score_cases(plan_scoring(half, manifest_file, "test"), CPU)
    assert (found.about["precision"], full.about["precision"]) == ("bfloat16", "float32")
    assert found.digest != full.digest


def test_a_case_is_the_same_alone(tiny_checkpoint, manifest_file):
    plan = plan_scoring(tiny_checkpoint, manifest_file, "train")
    together = score_cases(plan, CPU)
    alone = score_cases(replace(plan, cases=plan.cases[-1:]), CPU)
    assert replace(alone.rows[0], seconds=0) == replace(together.rows[-1], seconds=0)


def test_a_case_that_cannot_be_read_is_a_row_with_its_reason(tiny_checkpoint, phantom_folder, tmp_path):
    names = [f"phantom_{index:03d}" for index in range(3)]
    for name in names:
        shutil.copytree(phantom_folder / name, tmp_path / "data" / name)
    write_manifest(discover(tmp_path / "data", val_fraction=0.0), tmp_path / "cohort.parquet")
    broken = tmp_path / "data" / names[1] / f"{names[1]}_t1.nii.gz"
    broken.write_bytes(broken.read_bytes()[:500])
    (tmp_path / "data" / names[2] / f"{names[2]}_seg.nii.gz").write_bytes(b"odd")  # the mask is not needed
    table = score_cases(plan_scoring(tiny_checkpoint, tmp_path / "cohort.parquet", "train"), CPU)
    assert [bool(row.error) for row in table.rows] == [False, True, False]
    assert table.rows[1].error.startswith(f"case {names[1]}: {broken.name}: voxels cannot be read")
    assert table.rows[1].mutant_probabilities is None
    assert table.rows[1].confidence is None


@pytest.mark.parametrize("spoil", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_a_row_with_its_reason(write_tiny, manifest_file, tmp_path, spoil):
    folder = write_tiny(tmp_path / "run" / "best", spoil=spoil)
    table = score_cases(plan_scoring(folder, manifest_file, "test"), CPU)
    (row,) = table.rows
    assert row.error == (
        f"case {row.case_id}: FloatingPointError: the network's idh_logits are not finite: "
        "its weights or this image are damaged"
    )
    assert row.mean_probability is None


def test_true_prepared_cases_are_read_and_others_prepared(
    tiny_checkpoint, manifest_file, phantom_cache, tmp_path, monkeypatch
):
    prepared = []

    def prepare(case, *arguments):
        prepared.append(case.case_id)
        return original(case, *arguments)

    original = scoring.prepare_case
    monkeypatch.setattr(scoring, "prepare_case", prepare)
    fresh = score_cases(plan_scoring(tiny_checkpoint, manifest_file, "val"), CPU)
    first, second = (row.case_id for row in fresh.rows)
    assert prepared == [first, second]
    copy = tmp_path / "cache"
    shutil.copytree(phantom_cache, copy)
    prepared.clear()
    assert score_cases(plan_scoring(tiny_checkpoint, manifest_file, "val", cache_dir=copy), CPU).digest == fresh.digest
    assert prepared == []
    shutil.rmtree(copy / first)
    about = copy / second / "case.json"
    about.write_text(about.read_text().replace(cache.open_cached(copy, second).content_hash, "0" * 64))
    assert score_cases(plan_scoring(tiny_checkpoint, manifest_file, "val", cache_dir=copy), CPU).digest == fresh.digest
    assert prepared == [first, second]


def test_tumour_windows(tiny_checkpoint, manifest_file, phantom_cache, monkeypatch):
    changes = {"mc.windows": "tumour", "mc.tumour_mask": "given"}
    given = score_cases(plan_scoring(tiny_checkpoint, manifest_file, "test", changes), CPU)
    cached = score_cases(plan_scoring(tiny_checkpoint, manifest_file, "test", changes, phantom_cache), CPU)
    assert given.rows[0].error == ""
    assert cached.digest == given.digest
    sliding = score_cases(plan_scoring(tiny_checkpoint, manifest_file, "test"), CPU)
    assert given.digest != sliding.digest
    plan = plan_scoring(tiny_checkpoint, manifest_file, "test", changes)
    bare = replace(plan, cases=tuple(replace(case, seg=None) for case in plan.cases))
    assert "has no mask; choose mc.tumour_mask=predicted" in score_cases(bare, CPU).rows[0].error
    true_seg = scoring.prepare_case(plan.cases[0], plan.config.data.modalities, plan.config.data.prepare).seg
    predicted = plan_scoring(tiny_checkpoint, manifest_file, "test", {"mc.windows": "tumour"})
    monkeypatch.setattr(scoring, "segment", lambda *arguments: torch.from_numpy(true_seg))
    assert score_cases(predicted, CPU).digest == given.digest  # the same mask, the same window
    monkeypatch.setattr(scoring, "segment", lambda *arguments: torch.zeros(true_seg.shape, dtype=torch.uint8))
    assert "no tumour in the predicted mask; choose mc.windows=sliding" in score_cases(predicted, CPU).rows[0].error


def test_the_predicted_mask_is_the_networks(tiny_checkpoint, manifest_file, monkeypatch):
    masks = []

    def segment(probabilities, *arguments):
        masks.append(original(probabilities, *arguments))
        return masks[-1]

    original = scoring.segment
    monkeypatch.setattr(scoring, "segment", segment)
    plan = plan_scoring(tiny_checkpoint, manifest_file, "test", {"mc.windows": "tumour"})
    (row,) = score_cases(plan, CPU).rows
    (mask,) = masks
    prepared = scoring.prepare_case(plan.cases[0], plan.config.data.modalities, plan.config.data.prepare)
    assert mask.shape == prepared.image.shape[1:]
    assert bool(row.error) == (not mask.any())


def test_device_is_checked():
    assert choose_device("cpu") == CPU
    with pytest.raises(InputError, match="device 'tpu': choose auto, cpu or gpu"):
        choose_device("tpu")


@pytest.mark.slow
@pytest.mark.real
def test_two_real_patients_and_a_truncated_one(real_data, write_tiny, tmp_path):
    data = tmp_path / "data"
    for name in ("TCGA-DU-7294", "TCGA-FG-6692"):
        shutil.copytree(real_data / "tcga_lgg" / name, data / name)
    broken = data / "TCGA-XX-0001"
    shutil.copytree(data / "TCGA-FG-6692", broken)
    for file in broken.iterdir():
        file.rename(broken / file.name.replace("TCGA-FG-6692", broken.name))
    (tmp_path / "clinical.csv").write_text(
        "case_id,idh,split\n"
        + "".join(f"{name},,unlabelled\n" for name in sorted(path.name for path in data.iterdir()))
    )
    write_manifest(discover(data, tmp_path / "clinical.csv"), tmp_path / "cohort.parquet")
    flair = broken / f"{broken.name}_flair.nii.gz"
    flair.write_bytes(flair.read_bytes()[:100_000])
    small = {"patch.size": [64, 64, 64], "data.prepare.spacing_mm": 3.0, "mc.passes": 3}  # for speed
    folder = write_tiny(tmp_path / "run" / "best", small)
    table = score_cases(plan_scoring(folder, tmp_path / "cohort.parquet", "unlabelled"), CPU)
    first, second, truncated = table.rows
    for row in (first, second):
        assert row.error == ""
        assert len(set(row.mutant_probabilities)) == 3
    assert truncated.case_id == broken.name
    assert truncated.error.startswith(f"case {broken.name}: {flair.name}: voxels cannot be read")

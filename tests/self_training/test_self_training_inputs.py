"""What a self-training refuses before it starts."""

from dataclasses import replace
from pathlib import Path

import pytest

from mttu.cohort.splits import draw_folds
from mttu.config import override
from mttu.data.manifest import write_manifest
from mttu.errors import InputError
from mttu.self_training import check_self_training, run_self_training


def test_what_cannot_work_is_refused_before_anything_starts(make_config, here, pool_manifest, tmp_path):
    cases = tuple(replace(case, split="test") if case.split == "unlabelled" else case for case in pool_manifest.cases)
    write_manifest(replace(pool_manifest, cases=cases), tmp_path / "nopool.parquet")
    (tmp_path / "truth.csv").write_text("case_id,true_idh\nelsewhere,1\n")
    changes = {
        "data.manifest": str(tmp_path / "nopool.parquet"),
        "self_training.truth": str(tmp_path / "truth.csv"),
        "network.dropout": dict.fromkeys(("stem", "embedding", "attention", "projection", "branch", "mlp", "head"), 0),
    }
    with pytest.raises(InputError) as caught:
        run_self_training(make_config(changes), here)
    text = str(caught.value)
    assert "no case has split unlabelled, so there is nothing to label" in text
    assert "knows no case of the pool" in text
    assert "dropout" in text
    with pytest.raises(InputError, match=r"network\.tasks: \['segmentation'\] has no idh"):
        run_self_training(make_config({"network.tasks": ["segmentation"]}), here)
    patient = pool_manifest.split("val")[0].patient_id
    cases = tuple(replace(one, patient_id=patient) if one.split == "unlabelled" else one for one in pool_manifest.cases)
    write_manifest(replace(pool_manifest, cases=cases), tmp_path / "leak.parquet")
    with pytest.raises(
        InputError, match="are of patients who validate or test; training on them would give the answer"
    ):
        run_self_training(make_config({"data.manifest": str(tmp_path / "leak.parquet")}), here)
    assert not (tmp_path / "runs").exists()


def test_direct_needs_masks_to_learn_from_and_nothing_to_score_with(make_config, pool_manifest, tmp_path, monkeypatch):
    direct = {"selection.method": "direct"}
    check_self_training(make_config({**direct, "network.tasks": ["segmentation"]}))  # as the U-Nets of Table VI
    with pytest.raises(InputError, match=r"\['idh'\] has no segmentation, and selection\.method=direct learns from"):
        check_self_training(make_config({**direct, "network.tasks": ["idh"]}))
    for name in ("_check_cached", "_describe_changes"):
        monkeypatch.setattr(f"mttu.training.inputs.{name}", lambda *arguments: [])  # they were prepared with masks
    bare = tuple(replace(one, seg=None) if one.split == "unlabelled" else one for one in pool_manifest.cases)
    write_manifest(replace(pool_manifest, cases=bare), tmp_path / "bare.parquet")
    with pytest.raises(InputError, match=r"no case of split unlabelled has a mask \(6 cases\), which .*`mttu train`"):
        check_self_training(make_config({**direct, "data.manifest": str(tmp_path / "bare.parquet")}))


def test_what_would_fail_only_after_hours_is_refused_at_once(make_config, pool_manifest, tmp_path, monkeypatch):
    for name in ("_check_cached", "_describe_changes"):
        monkeypatch.setattr(f"mttu.training.inputs.{name}", lambda *arguments: [])  # they were prepared with masks
    given = {"mc.windows": "tumour", "mc.tumour_mask": "given"}
    bare = tuple(replace(one, seg=None) if one.split == "unlabelled" else one for one in pool_manifest.cases)
    write_manifest(replace(pool_manifest, cases=bare), tmp_path / "bare.parquet")
    with pytest.raises(InputError, match=r"no unlabelled case has a mask, which mc\.tumour_mask=given needs"):
        check_self_training(make_config({**given, "data.manifest": str(tmp_path / "bare.parquet")}))
    lost = pool_manifest.split("unlabelled")[0]
    gone = replace(lost, images={name: Path(f"{path}.gone") for name, path in lost.images.items()})
    cases = tuple(gone if one.case_id == lost.case_id else one for one in pool_manifest.cases)
    write_manifest(replace(pool_manifest, cases=cases), tmp_path / "gone.parquet")
    config = make_config({"data.manifest": str(tmp_path / "gone.parquet")})
    with pytest.raises(InputError, match=rf"image files of {lost.case_id} \(1 of 6 unlabelled cases\) are gone"):
        check_self_training(config)


def test_a_head_that_never_saw_a_label_is_not_asked_to_label_the_pool(make_config, pool_manifest, tmp_path):
    cases = tuple(replace(one, idh=-1) if one.split == "train" else one for one in pool_manifest.cases)
    write_manifest(replace(pool_manifest, cases=cases), tmp_path / "unknown.parquet")
    config = make_config({"data.manifest": str(tmp_path / "unknown.parquet")})
    with pytest.raises(InputError, match="no training case has a known IDH status, so no network would know how to"):
        check_self_training(config)
    (note,) = check_self_training(override(config, {"selection.method": "none"})).inputs.notes
    assert "no scores for pseudo-labels" in note


def test_a_cross_validation_is_checked_by_its_folds_and_not_by_the_split_that_they_replace(
    make_config, pool_manifest, tmp_path
):
    patient = pool_manifest.split("val")[0].patient_id
    pool = pool_manifest.split("unlabelled")
    cases = tuple(replace(one, patient_id=patient) if one is pool[0] else one for one in pool_manifest.cases)
    manifest = replace(pool_manifest, cases=cases)
    write_manifest(manifest, tmp_path / "shared.parquet")
    config = make_config({"data.manifest": str(tmp_path / "shared.parquet"), "self_training.folds": 2})
    check_self_training(config)
    for fold in draw_folds(manifest, 2, 0):
        check_self_training(config, fold)

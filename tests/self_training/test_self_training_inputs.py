"""What a self-training refuses before it starts."""

from dataclasses import replace
from pathlib import Path

import pytest

from mttu.cohort.splits import draw_folds
from mttu.config import override
from mttu.data.manifest import read_manifest, write_manifest
from mttu.errors import InputError
from mttu.self_training import check_self_training, run_self_training


@pytest.fixture
def with_cases(make_config, pool_manifest, tmp_path):
    """Settings for a cohort of changed cases: `with_cases(change, {...})`."""

    def write(change, settings=None):
        path = tmp_path / "changed.parquet"
        write_manifest(replace(pool_manifest, cases=tuple(map(change, pool_manifest.cases))), path)
        return make_config({**(settings or {}), "data.manifest": str(path)})

    return write


@pytest.fixture
def any_cache(monkeypatch):
    """Lets manifests disagree with the prepared cases."""
    for name in ("_check_cached", "_describe_changes"):
        monkeypatch.setattr(f"mttu.training.inputs.{name}", lambda *arguments: [])


def in_pool(**changes):
    return lambda case: replace(case, **changes) if case.split == "unlabelled" else case


def test_what_cannot_work_is_refused_before_anything_starts(with_cases, make_config, here, pool_manifest, tmp_path):
    (tmp_path / "truth.csv").write_text("case_id,true_idh\nelsewhere,1\n")
    changes = {
        "self_training.truth": str(tmp_path / "truth.csv"),
        "network.dropout": dict.fromkeys(("stem", "embedding", "attention", "projection", "branch", "mlp", "head"), 0),
    }
    with pytest.raises(InputError) as caught:
        run_self_training(with_cases(in_pool(split="test"), changes), here)
    text = str(caught.value)
    assert "no case has split unlabelled, so there is nothing to label" in text
    assert "knows no case of the pool" in text
    assert "dropout" in text
    with pytest.raises(InputError, match=r"network\.tasks: \['segmentation'\] has no idh"):
        run_self_training(make_config({"network.tasks": ["segmentation"]}), here)
    patient = pool_manifest.split("val")[0].patient_id
    with pytest.raises(
        InputError, match="are of patients who validate or test; training on them would give the answer"
    ):
        run_self_training(with_cases(in_pool(patient_id=patient)), here)
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("any_cache")
def test_direct_needs_masks_to_learn_from_and_nothing_to_score_with(with_cases, make_config):
    direct = {"selection.method": "direct"}
    check_self_training(make_config({**direct, "network.tasks": ["segmentation"]}))  # as the U-Nets of Table VI
    with pytest.raises(InputError, match=r"\['idh'\] has no segmentation, and selection\.method=direct learns from"):
        check_self_training(make_config({**direct, "network.tasks": ["idh"]}))
    with pytest.raises(InputError, match=r"no case of split unlabelled has a mask \(6 cases\), which .*`mttu train`"):
        check_self_training(with_cases(in_pool(seg=None), direct))


@pytest.mark.usefixtures("any_cache")
def test_a_teacher_with_nothing_to_choose_by_is_refused_and_one_with_nothing_to_do_is_told(with_cases, make_config):
    teaches = {"teacher.masks": True, "self_training.rounds": 0}
    told = "teacher.masks has no effect: the teacher begins in round 1, and self_training.rounds is 0"
    assert told in check_self_training(make_config(teaches)).inputs.notes
    direct = make_config({**teaches, "selection.method": "direct"})  # whose only round it teaches
    assert told not in check_self_training(direct).inputs.notes
    chooses = {"self_training.teacher": "best"}
    without = with_cases(lambda case: replace(case, split="test") if case.split == "val" else case, chooses)
    with pytest.raises(InputError, match=r"no case has split val, by which self_training\.teacher=best chooses"):
        check_self_training(without)
    check_self_training(make_config(chooses))


@pytest.mark.usefixtures("any_cache")
def test_what_would_fail_only_after_hours_is_refused_at_once(with_cases, pool_manifest):
    given = {"mc.windows": "tumour", "mc.tumour_mask": "given"}
    with pytest.raises(InputError, match=r"no unlabelled case has a mask, which mc\.tumour_mask=given needs"):
        check_self_training(with_cases(in_pool(seg=None), given))
    lost = pool_manifest.split("unlabelled")[0]
    gone = replace(lost, images={name: Path(f"{path}.gone") for name, path in lost.images.items()})
    with pytest.raises(InputError, match=rf"image files of {lost.case_id} \(1 of 6 unlabelled cases\) are gone"):
        check_self_training(with_cases(lambda case: gone if case == lost else case))


def test_a_head_that_never_saw_a_label_is_not_asked_to_label_the_pool(with_cases):
    config = with_cases(lambda case: replace(case, idh=-1) if case.split == "train" else case)
    with pytest.raises(InputError, match="no training case has a known IDH status, so no network would know how to"):
        check_self_training(config)
    (note,) = check_self_training(override(config, {"selection.method": "none"})).inputs.notes
    assert "no scores for pseudo-labels" in note


def test_a_cross_validation_is_checked_by_its_folds_and_not_by_the_split_that_they_replace(with_cases, pool_manifest):
    patient, first = pool_manifest.split("val")[0].patient_id, pool_manifest.split("unlabelled")[0]
    config = with_cases(lambda case: replace(case, patient_id=patient) if case == first else case, {"data.folds": 2})
    check_self_training(config)
    for fold in draw_folds(read_manifest(config.data.manifest), 2, 0):
        check_self_training(config, fold)

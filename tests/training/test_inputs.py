import json
import shutil
from dataclasses import replace

import pytest

from mttu.config import override
from mttu.data.manifest import SPLITS, read_manifest, write_manifest
from mttu.errors import InputError
from mttu.training.inputs import check_inputs


def problems_of(config):
    with pytest.raises(InputError) as caught:
        check_inputs(config)
    return caught.value.problems


def rewrite(config, change):
    manifest = read_manifest(config.data.manifest)
    write_manifest(replace(manifest, cases=tuple(change(case) for case in manifest.cases)), config.data.manifest)


def test_a_sound_cohort_passes(tiny):
    inputs = check_inputs(tiny)
    assert len(inputs.manifest.split("train")) == 4
    assert inputs.cache_dir == tiny.data.cache_dir
    assert inputs.fingerprint == check_inputs(tiny).fingerprint


def test_windows_that_no_validation_would_get_through_are_refused_before_training(tiny, monkeypatch):
    monkeypatch.setattr("mttu.inference.windows.MOST_WINDOWS", 0)
    val = read_manifest(tiny.data.manifest).split("val")
    found = problems_of(tiny)
    assert [problem.partition(": patch.size ")[0] for problem in found] == [f"case {case.case_id}" for case in val]
    with pytest.raises(InputError) as refused:  # as a self-training checks them, whose test cases come last
        check_inputs(tiny, SPLITS)
    later = [*val, *read_manifest(tiny.data.manifest).split("test")]
    assert [text.partition(": patch.size ")[0] for text in refused.value.problems] == [
        f"case {case.case_id}" for case in later
    ]
    assert len(later) > len(val)


def test_no_manifest(tiny):
    [problem] = problems_of(override(tiny, {"data.manifest": None}))
    assert problem.startswith("data.manifest: not set; give the file that `mttu cohort` wrote")


def test_unprepared_cases_are_all_named(tiny, tmp_path):
    found = problems_of(override(tiny, {"data.cache_dir": str(tmp_path / "empty")}))
    assert len(found) == 6
    assert all("not prepared in" in problem and "mttu prepare" in problem for problem in found)


def test_modalities_that_the_manifest_lacks(tiny):
    manifest = read_manifest(tiny.data.manifest)
    two = ("flair", "t1ce")
    cases = tuple(replace(case, images={name: case.images[name] for name in two}) for case in manifest.cases)
    write_manifest(replace(manifest, modalities=two, cases=cases), tiny.data.manifest)
    [problem] = problems_of(tiny)
    assert "the manifest has no t1, t2" in problem
    assert "data.modalities=[flair,t1ce] network.in_channels=2" in problem


def test_workers_that_cannot_share_the_global_batch_are_told_with_the_rest(tiny):
    rewrite(tiny, lambda case: replace(case, split="val" if case.split == "train" else case.split))
    no_case, workers = problems_of(override(tiny, {"workers.num_workers": 3}))
    assert "no case has split train" in no_case
    assert "workers.num_workers: 3 is more than train.global_batch (2), whose patches are split" in workers
    assert "set workers.num_workers to 1 or 2, or train.global_batch to a multiple of 3, such as 3" in workers


def test_training_cases_of_one_class(tiny):
    rewrite(tiny, lambda case: replace(case, idh=1 if case.split == "train" else case.idh))
    [problem] = problems_of(tiny)
    assert "IDH of the training cases is mutant only; both classes are needed" in problem
    check_inputs(override(tiny, {"network.tasks": ["segmentation"], "train.validation_metric": "dice"}))


def test_no_masks_and_no_labels(tiny):
    rewrite(tiny, lambda case: replace(case, seg=None, idh=-1))
    found = "\n".join(problems_of(tiny))
    assert "no training case has a mask" in found
    assert "train.validation_metric=dice_minus_ce needs a mask or a known IDH status" in found
    assert "IDH of the training cases is unknown in every case" in "\n".join(
        problems_of(override(tiny, {"network.tasks": ["idh"], "train.validation_metric": "negative_idh_ce"}))
    )


def test_no_training_case(tiny):
    rewrite(tiny, lambda case: replace(case, split="test"))
    [problem] = problems_of(tiny)
    assert "no case has split train" in problem


def test_a_cache_of_other_settings_is_refused(tiny):
    found = problems_of(override(tiny, {"data.prepare.margin_voxels": 9}))
    assert len(found) == 6
    assert all("prepared with data.prepare.margin_voxels=4, now it is 9" in problem for problem in found)


def test_a_cache_with_other_masks_is_refused(tiny):
    rewrite(tiny, lambda case: replace(case, seg=None if case.split == "val" else case.seg))
    found = problems_of(tiny)
    assert len(found) == 2
    assert all("was prepared with a mask, the manifest says otherwise" in problem for problem in found)


def test_a_cache_of_other_labels_is_refused(tiny):
    rewrite(tiny, lambda case: replace(case, labels="whole-tumour" if case.split == "val" else case.labels))
    found = problems_of(tiny)
    assert len(found) == 2
    said = "its mask was prepared with labels brats, the manifest says whole-tumour"
    assert all(said in problem for problem in found)


def test_cases_prepared_anew_from_other_images_are_another_run(tiny, tmp_path):
    before = check_inputs(tiny).fingerprint
    cache = tmp_path / "cache"
    shutil.copytree(tiny.data.cache_dir, cache)
    trained = check_inputs(tiny).manifest.split("train")[0].case_id
    about = cache / trained / "case.json"
    content = json.loads(about.read_text())
    about.write_text(json.dumps(content | {"content_hash": "0" * 64}))
    assert check_inputs(override(tiny, {"data.cache_dir": str(cache)})).fingerprint != before


def test_a_metric_that_the_validation_cases_cannot_define_is_refused(tiny):
    rewrite(tiny, lambda case: replace(case, idh=1 if case.split == "val" else case.idh))
    [problem] = problems_of(override(tiny, {"train.validation_metric": "idh_auc"}))
    assert "train.validation_metric=idh_auc needs both IDH classes among the 2 validation cases" in problem
    check_inputs(tiny)


def test_quotas_are_described_and_refused_where_no_case_fits(tiny):
    config = override(tiny, {"train.quotas.labelled": 1, "train.quotas.pseudo": 1})
    assert check_inputs(tiny).notes == ()
    [note] = check_inputs(config).notes
    assert note.startswith(
        "train.quotas: with the cases of split train, each step holds 2 labelled (no case is pseudo-"
    )
    [problem] = problems_of(override(tiny, {"train.quotas.unlabelled": 2, "network.tasks": ["segmentation"]}))
    assert problem.startswith("train.quotas: no case of split train is unlabelled (there are 4 labelled, ")

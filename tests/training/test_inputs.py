from dataclasses import replace

import pytest

from mttu.config import override
from mttu.data.cohort import read_manifest, write_manifest
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
    manifest, cache = check_inputs(tiny)
    assert len(manifest.split("train")) == 4
    assert cache == tiny.data.cache_dir


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


def test_training_cases_of_one_class(tiny):
    rewrite(tiny, lambda case: replace(case, idh=1 if case.split == "train" else case.idh))
    [problem] = problems_of(tiny)
    assert "IDH of the training cases is mutant only; both classes are needed" in problem
    check_inputs(override(tiny, {"network.tasks": ["segmentation"], "train.validation_metric": "dice"}))


def test_no_masks_and_no_labels(tiny):
    rewrite(tiny, lambda case: replace(case, seg=None, idh=-1))
    [masks] = problems_of(tiny)
    assert "no training case has a mask" in masks
    [labels] = problems_of(override(tiny, {"network.tasks": ["idh"]}))
    assert "IDH of the training cases is unknown in every case" in labels


def test_no_training_case(tiny):
    rewrite(tiny, lambda case: replace(case, split="test"))
    [problem] = problems_of(tiny)
    assert "no case has split train" in problem

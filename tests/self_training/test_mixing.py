from dataclasses import replace
from pathlib import Path

import pytest

from mttu.data.manifest import Case, Manifest, read_manifest, write_manifest
from mttu.errors import InputError
from mttu.self_training.mixture import Mixture, find_pool_leaks, first_mixture, mix, read_pseudo_labels

ROOT = Path("/data")


def case(name, split, idh=-1, mask=True, patient=None):
    seg = ROOT / f"{name}_seg.nii.gz" if mask else None
    images = {"flair": ROOT / f"{name}.nii.gz"}
    return Case(name, patient or name, split, images, seg, None, idh, None, None, None, "brats")


COHORT = Manifest(
    ROOT,
    (
        case("a", "train", 1),
        case("b", "train", 0),
        case("c", "val", 0),
        case("d", "test", 1),
        case("e", "unlabelled"),
        case("f", "unlabelled", mask=False),
        case("g", "unlabelled"),
        case("h", "unlabelled", mask=False),
    ),
    ("flair",),
    synthetic=True,
)


def test_a_mixed_manifest_by_hand():
    mixture = mix(COHORT, {"e": 0, "f": 1})
    found = {one.case_id: (one.split, one.idh, one.pseudo_label) for one in mixture.manifest.cases}
    assert found == {
        "a": ("train", 1, False),
        "b": ("train", 0, False),
        "c": ("val", 0, False),
        "d": ("test", 1, False),
        "e": ("train", 0, True),
        "f": ("train", 1, True),  # without a mask it can still train the classifier
        "g": ("train", -1, False),  # its mask trains the decoder
    }
    assert mixture.left_out == ("h",)
    assert read_pseudo_labels(mixture.manifest) == {"e": 0, "f": 1}
    assert [one.images for one in mixture.manifest.cases] == [one.images for one in COHORT.cases[:-1]]


def test_nothing_selected_leaves_masks_only():
    mixture = mix(COHORT, {})
    assert [one.case_id for one in mixture.manifest.cases] == ["a", "b", "c", "d", "e", "g"]
    assert mixture.left_out == ("f", "h")
    assert read_pseudo_labels(mixture.manifest) == {}


def test_a_teacher_keeps_the_cases_without_a_mask():
    mixture = mix(COHORT, {"e": 0}, has_teacher=True)
    assert mixture.left_out == ()
    bare = [one for one in mixture.manifest.cases if one.seg is None]
    assert [(one.case_id, one.split, one.idh, one.pseudo_label) for one in bare] == [
        ("f", "train", -1, False),
        ("h", "train", -1, False),
    ]
    assert first_mixture(COHORT, "UPS", has_teacher=True) == Mixture(COHORT, ())
    assert first_mixture(COHORT, "direct", has_teacher=True) == mix(COHORT, {}, has_teacher=True)


def test_it_is_read_back_from_a_file_and_a_wrong_pseudo_label_is_refused(tmp_path):
    mixed = mix(COHORT, {"e": 0}).manifest
    write_manifest(mixed, tmp_path / "round.parquet")
    assert read_manifest(tmp_path / "round.parquet").cases == mixed.cases
    for wrong in ({"split": "val"}, {"idh": -1}):
        cases = tuple(replace(one, **wrong) if one.pseudo_label else one for one in mixed.cases)
        write_manifest(replace(mixed, cases=cases), tmp_path / "wrong.parquet")
        with pytest.raises(InputError, match=r"case e: has a pseudo-label, .* expected split train and idh 0 or 1"):
            read_manifest(tmp_path / "wrong.parquet")


def test_a_pool_case_of_a_patient_with_test_cases_is_a_leak():
    again = case("d2", "unlabelled", patient="d")
    assert find_pool_leaks(replace(COHORT, cases=(*COHORT.cases, again))) == [again]
    assert find_pool_leaks(COHORT) == []

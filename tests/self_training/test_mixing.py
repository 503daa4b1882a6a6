import math
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from scipy.stats import entropy

from mttu.data.manifest import Case, Manifest, read_manifest, write_manifest
from mttu.errors import InputError
from mttu.pseudo_labels.selection import SelectedCase, Selection
from mttu.self_training.mixture import Mixture, find_pool_leaks, first_mixture, mix, read_pseudo_labels
from mttu.self_training.soft_labels import SoftLabel, find_soft_labels, read_soft_labels, weigh

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
    assert [one.case_id for one in mixture.manifest.cases if one.teacher_mask] == ["f", "h"]
    assert first_mixture(COHORT, "UPS", has_teacher=True) == Mixture(COHORT, ())
    assert first_mixture(COHORT, "direct", has_teacher=True) == mix(COHORT, {}, has_teacher=True)


def test_a_manifest_marks_cases_that_a_teacher_masks_and_stays_what_it_is(tmp_path):
    path, taught = tmp_path / "round.parquet", mix(COHORT, {"e": 0}, has_teacher=True).manifest
    write_manifest(taught, path)
    assert read_manifest(path) == taught
    unmarked = replace(taught, cases=tuple(replace(one, teacher_mask=False) for one in taught.cases))
    assert unmarked != taught
    assert unmarked.fingerprint == taught.fingerprint  # a round that was begun without the mark goes on
    wrong = tuple(replace(one, teacher_mask=True) if one.case_id == "e" else one for one in taught.cases)
    write_manifest(replace(taught, cases=wrong), path)
    with pytest.raises(InputError, match=r"case e: is marked as teacher_mask, and seg is '.*'; expected none"):
        read_manifest(path)


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


def test_without_soft_labels_a_manifest_has_the_columns_and_the_fingerprint_of_before(tmp_path):
    mixed = mix(COHORT, {"e": 0}).manifest
    write_manifest(mixed, tmp_path / "round.parquet")
    assert pq.read_schema(tmp_path / "round.parquet").names == [
        *("case_id", "patient_id", "split", "image_flair", "seg", "brain_mask", "idh", "grade", "age", "sex"),
        *("labels", "site", "dataset", "pseudo_label"),
    ]
    assert mixed.fingerprint == "a4eaf08a5ee15b5144f604ff946b6facf0f8c41e47cd88305a438807969534b6"


def test_soft_labels_travel_in_the_manifest(tmp_path):
    soft = {"e": SoftLabel(0.25, 0.5), "f": SoftLabel(1.0, 0.0)}
    mixed = mix(COHORT, {"e": 0, "f": 1}, soft).manifest
    write_manifest(mixed, tmp_path / "round.parquet")
    again = read_manifest(tmp_path / "round.parquet")
    assert again == mixed
    assert read_soft_labels(again) == soft
    found = {one.case_id: (one.idh_terms, one.idh_probability) for one in again.split("train")}
    assert found == {
        "a": ((0.0, 1.0), None),
        "b": ((1.0, 0.0), None),
        "e": ((0.375, 0.125), 0.25),
        "f": ((0.0, 0.0), 1.0),
        "g": ((0.0, 0.0), None),
    }
    hard = mix(COHORT, {"e": 0, "f": 1}).manifest
    other = mix(COHORT, {"e": 0, "f": 1}, {**soft, "e": SoftLabel(0.25, 0.75)}).manifest
    assert len({one.fingerprint for one in (mixed, hard, other)}) == 3
    write_manifest(replace(mixed, cases=hard.cases), tmp_path / "hard.parquet")
    assert "idh_weight" not in pq.read_schema(tmp_path / "hard.parquet").names
    assert read_soft_labels(hard) == {}


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("e", {"idh_probability": 1.5}, "case e: idh_probability is 1.5; expected a number from 0 to 1"),
        ("e", {"idh_weight": math.nan}, "case e: idh_weight is nan; expected a number from 0 to 1"),
        (
            "e",
            {"idh_weight": None},
            "case e: has pseudo_label True, idh_probability 0.25, idh_weight None; expected idh_probability and "
            "idh_weight together, and of a pseudo-label only",
        ),
        ("a", {"idh_probability": 0.5, "idh_weight": 1.0}, "case a: has pseudo_label False, idh_probability 0.5"),
    ],
)
def test_soft_labels_that_are_none_are_refused(tmp_path, name, changes, problem):
    mixed = mix(COHORT, {"e": 0}, {"e": SoftLabel(0.25, 0.5)}).manifest
    cases = tuple(replace(one, **changes) if one.case_id == name else one for one in mixed.cases)
    write_manifest(replace(mixed, cases=cases), tmp_path / "wrong.parquet")
    with pytest.raises(InputError) as caught:
        read_manifest(tmp_path / "wrong.parquet")
    [found] = caught.value.problems
    assert problem in found


def test_one_column_of_soft_labels_alone_is_no_manifest(tmp_path):
    path = tmp_path / "round.parquet"
    write_manifest(mix(COHORT, {"e": 0}, {"e": SoftLabel(0.25, 0.5)}).manifest, path)
    pq.write_table(pq.read_table(path).drop_columns("idh_weight"), path)
    with pytest.raises(InputError, match=r"idh_probability\) are not those of format 3"):
        read_manifest(path)


def selected(name, label, confidence, chosen=True):
    return SelectedCase(name, label, confidence, 0.01, meets_thresholds=chosen, selected=chosen, reason="")


def test_soft_labels_of_a_selection():
    cases = (selected("e", 1, 0.75), selected("f", 0, 0.9), selected("g", 0, 0.8, chosen=False), selected("h", 1, 0.5))
    selection = Selection(cases, balanced=False, wild_per_mutant=None, notes=())
    found = find_soft_labels(selection, {})
    assert list(found) == ["e", "f", "h"]
    assert {name: label.probability for name, label in found.items()} == pytest.approx({"e": 0.75, "f": 0.1, "h": 0.5})
    entropies = {name: entropy([p, 1 - p], base=2) for name, p in {"e": 0.75, "f": 0.9, "h": 0.5}.items()}
    assert {name: label.weight for name, label in found.items()} == pytest.approx(
        {name: 1 - bits for name, bits in entropies.items()}, abs=1e-12
    )
    kept = SoftLabel(0.2, 0.3)  # of an earlier round, whatever the scores are now
    assert find_soft_labels(selection, {"e": kept, "g": kept}) == {**found, "e": kept}


def test_the_weight_of_a_probability():
    assert [weigh(p) for p in (0.0, 0.5, 1.0)] == [1.0, 0.0, 1.0]
    assert weigh(0.9) == pytest.approx(1 - 0.4689956, abs=1e-7)  # 0.9 log2(1/0.9) + 0.1 log2(10)
    assert weigh(0.9) == pytest.approx(weigh(0.1), abs=1e-15)
    weights = [weigh(0.5 + step / 2000) for step in range(1001)]
    assert weights == sorted(weights)
    assert 0 <= weights[0] <= weights[-1] <= 1

from pathlib import Path

import pytest

from mttu.cohort.splits import assign_splits, draw_validation
from mttu.data.manifest import Case
from mttu.errors import InputError


def case(case_id, idh=-1, patient_id=None, seg=True, split=""):
    mask = Path(f"/{case_id}_seg.nii") if seg else None
    return Case(case_id, patient_id or case_id, split, {}, mask, None, idh, None, None, None, "brats")


def assign(*cases, fraction=0.2, seed=0):
    return {item.case_id: item.split for item in assign_splits(cases, fraction, seed)}


def test_each_stratum_gives_a_fifth():
    strata = {f"m{index}": 1 for index in range(57)} | {f"w{index}": 0 for index in range(91)}
    drawn = draw_validation(strata, 0.2, seed=0)
    assert sum(name.startswith("m") for name in drawn) == 11
    assert sum(name.startswith("w") for name in drawn) == 18


def test_the_draw_depends_on_the_seed_and_not_on_the_order():
    strata = {f"p{index}": index % 2 for index in range(40)}
    drawn = draw_validation(strata, 0.2, seed=3)
    assert draw_validation(dict(reversed(strata.items())), 0.2, seed=3) == drawn
    assert draw_validation(strata, 0.2, seed=4) != drawn


@pytest.mark.parametrize(
    ("strata", "count"),
    [
        ({}, 0),
        ({"a": 0}, 0),
        ({"a": 0, "b": 1}, 0),  # one of each class: both are needed for learning
        ({"a": 0, "b": 0}, 1),
        ({"a": 0, "b": 0, "c": 1}, 1),
        ({"a": 0, "b": 0, "c": 1, "d": 1}, 2),
    ],
)
def test_tiny_cohorts(strata, count):
    drawn = draw_validation(strata, 0.2, seed=0)
    assert len(drawn) == count
    assert {strata[name] for name in strata if name not in drawn} == set(strata.values())


def test_a_fraction_of_zero_draws_nobody_and_a_large_one_leaves_one():
    strata = {f"p{index}": 0 for index in range(5)}
    assert draw_validation(strata, 0, seed=0) == frozenset()
    assert len(draw_validation(strata, 0.99, seed=0)) == 4


def test_labelled_cases_train_and_validate_and_the_others_are_unlabelled():
    split = assign(*(case(f"l{index}", idh=index % 2) for index in range(10)), case("u", seg=True))
    assert sorted(split.values()).count("val") == 2
    assert sorted(split.values()).count("train") == 8
    assert split["u"] == "unlabelled"


def test_without_any_idh_status_cases_with_a_mask_train_and_validate():
    split = assign(*(case(f"s{index}") for index in range(5)), case("bare", seg=False))
    assert [split[f"s{index}"] for index in range(5)].count("val") == 1
    assert split["bare"] == "unlabelled"


def test_named_splits_are_kept_and_the_rest_is_drawn():
    labelled = [case(f"l{index}", idh=index % 2) for index in range(10)]
    split = assign(case("t", idh=1, split="test"), case("u", idh=0, split="unlabelled"), *labelled)
    assert split["t"] == "test"
    assert split["u"] == "unlabelled"
    assert [split[item.case_id] for item in labelled].count("val") == 2


def test_named_splits_without_idh_status_serve_leave_one_out():
    split = assign(case("p3", split="train"), case("p5", split="train"), case("p6", split="val"))
    assert split == {"p3": "train", "p5": "train", "p6": "val"}


def test_all_examinations_of_a_patient_are_on_one_side():
    cases = [case(f"{patient}_{scan}", patient % 2, f"p{patient}") for patient in range(10) for scan in range(2)]
    split = assign(*cases, seed=1)
    assert all(split[f"{patient}_0"] == split[f"{patient}_1"] for patient in range(10))
    assert list(split.values()).count("val") == 4


def test_an_unknown_examination_follows_its_patient_out_of_training():
    split = assign(case("a", idh=1, patient_id="p", split="val"), case("b", patient_id="p"), case("c", idh=0))
    assert split["b"] == "val"
    split = assign(case("a", idh=1, patient_id="p", split="train"), case("b", patient_id="p"))
    assert split["b"] == "unlabelled"


def test_a_patient_on_two_sides_or_with_two_states_is_refused():
    with pytest.raises(InputError) as caught:
        assign(
            case("a", idh=1, patient_id="p", split="unlabelled"),
            case("b", idh=1, patient_id="p", split="test"),
            case("c", idh=0, patient_id="q"),
            case("d", idh=1, patient_id="q"),
        )
    assert caught.value.problems == [
        *(
            f"case {name}: patient p is in several splits (a unlabelled, b test); a patient belongs to one side only"
            for name in "ab"
        ),
        *(
            f"case {name}: patient q is IDH mutant and wild type (c wild type, d mutant); correct the clinical table"
            for name in "cd"
        ),
    ]


def test_a_training_case_with_nothing_to_learn_is_refused():
    with pytest.raises(InputError, match="case a: is in split train but has neither a tumour mask nor an IDH status"):
        assign(case("a", seg=False, split="train"))
    assert assign(case("a", seg=False, split="test")) == {"a": "test"}

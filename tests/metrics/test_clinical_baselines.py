import csv
from pathlib import Path

import pytest

from mttu.errors import InputError
from mttu.metrics.clinical_baselines import (
    Baseline,
    Subject,
    check_grades,
    estimate_auc_by_grade,
    fit_baselines,
    is_high_grade,
)
from mttu.metrics.delong import compare_auc, estimate_auc, measure_auc

TRAINING = [
    Subject("t1", 1, 30, "LGG", "A"),
    Subject("t2", 1, 40, "LGG", "A"),
    Subject("t3", 0, 60, "HGG", "A"),
    Subject("t4", 0, 70, "HGG", "B"),
    Subject("t5", 0, 50, "LGG", "B"),
    Subject("t6", -1, 20, "LGG", "B"),
]


def by_name(baselines: list[Baseline]) -> dict[str, Baseline]:
    return {baseline.name: baseline for baseline in baselines}


@pytest.mark.parametrize(
    ("grade", "high"),
    [
        *[(word, True) for word in ("HGG", "hgg", "4", "4.0", "IV", "G4", "WHO grade IV", "Grade 4", "GBM")],
        *[(word, False) for word in ("LGG", "2", "3.0", "II", "iii", "who 2")],
        *[(word, None) for word in (None, "", "5", "astrocytoma")],
    ],
)
def test_grades(grade: str | None, high: bool | None) -> None:
    assert is_high_grade(grade) is high


def test_the_site_prior_is_smoothed_towards_the_overall_share() -> None:
    cases = [Subject("a", 1, site="A"), Subject("b", 0, site="B"), Subject("c", 0, site="C"), Subject("d", 0)]
    site = by_name(fit_baselines(TRAINING, cases))["site"]
    # overall 2 of 5; A: 2 of 3, B: 0 of 2 (the case of unknown status does not count), C: never seen
    assert site.probabilities == {
        "a": pytest.approx((2 + 0.4) / 4),
        "b": pytest.approx(0.4 / 3),
        "c": pytest.approx(0.4),
    }
    assert (site.num_training, site.post_operative) == (5, False)


def test_logistic_baselines_follow_age_and_grade_and_name_what_surgery_tells() -> None:
    cases = [Subject("young", 1, 25, "LGG"), Subject("old", 0, 75, "HGG"), Subject("odd", 0, 75, None)]
    found = by_name(fit_baselines(TRAINING, cases))
    late = {name: one.post_operative for name, one in found.items()}
    assert late == {"age": False, "grade": True, "age + grade": True, "site": False}
    age = found["age"].probabilities
    assert age["young"] > 0.5 > age["old"] == age["odd"]
    assert set(found["grade"].probabilities) == set(found["age + grade"].probabilities) == {"young", "old"}


def test_without_facts_there_is_no_baseline() -> None:
    found = fit_baselines([Subject("t1", 1), Subject("t2", 0, 50.0)], [Subject("a", 1, 30.0)])
    assert all((one.num_training, one.probabilities) == (0, {}) for one in found)


def test_unknown_words_and_shared_cases_are_refused() -> None:
    with pytest.raises(InputError, match=r"grade 'oligo' of 2 cases \(x, y\): expected LGG, 2 or 3, HGG or 4"):
        check_grades([Subject("x", 1, 30, "oligo"), Subject("y", 0, 40, "oligo"), Subject("z", 0)])
    with pytest.raises(InputError, match="case t1: a baseline would be fitted on it and scored on it"):
        fit_baselines(TRAINING, TRAINING[:1])


def test_auc_within_a_grade_by_hand() -> None:
    cases = [
        Subject("a", 1, grade="LGG"),
        Subject("b", 0, grade="2"),
        Subject("c", 0, grade="3"),
        Subject("d", 0, grade="HGG"),
        Subject("e", -1, grade="LGG"),
        Subject("f", 1),
    ]
    found = estimate_auc_by_grade({"a": 0.5, "b": 0.9, "c": 0.1, "d": 0.0, "e": 0.9, "f": 0.9}, cases)
    assert (found["low"].auc, found["low"].num_mutant, found["low"].num_wild) == (0.5, 1, 2)
    assert (found["high"].auc, found["high"].num_mutant, found["high"].num_wild) == (None, 0, 1)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_labelled(path: Path) -> list[Subject]:
    status = {"Mutant": 1, "WT": 0}
    rows = [row for row in read(path) if row["IDH_status"] in status]
    ids = [row["TCIA_Subject_ID"] for row in rows]
    return [
        Subject(case_id, status[row["IDH_status"]], float(row["Age"]), row["Grade"], case_id.split("-")[1])
        for case_id, row in zip(ids, rows, strict=True)
    ]


@pytest.mark.real
def test_baselines_of_the_papers_test_set(real_data: Path) -> None:
    """Fitted on the paper's 148 labelled cases, applied to its 70 test cases, with PrognosAIs beside them."""
    tables = real_data / "brats2020_idh_tables"
    training = read_labelled(tables / "IDH_train_data.csv")
    test = read_labelled(tables / "IDH_test_data.csv")
    assert (len(training), sum(one.idh for one in training)) == (148, 57)
    assert (len(test), sum(one.idh for one in test)) == (70, 32)
    rows = read(real_data / "prognosais" / "test_predictions.csv")
    scores = {row["Patient"]: float(row["Prediction_score_IDH_mutated"]) for row in rows}
    shared = [one for one in test if one.case_id in scores]
    assert len(shared) == 69
    prognosais = estimate_auc([scores[one.case_id] for one in shared], [one.idh for one in shared])
    assert prognosais.auc == pytest.approx(0.8879, abs=5e-5)
    print(f"PrognosAIs on {len(shared)}: AUC {prognosais.auc:.4f} ({prognosais.low:.4f} to {prognosais.high:.4f})")
    expected = {"age": (0.7656, 0.7598), "grade": (0.8396, 0.8391), "age + grade": (0.9149, 0.9130)}
    found = by_name(fit_baselines(training, test))
    for name, aucs in expected.items():
        own = found[name].probabilities
        assert found[name].num_training == 148
        for cases, auc in zip((test, shared), aucs, strict=True):
            reached = measure_auc([own[one.case_id] for one in cases], [one.idh for one in cases])
            assert reached == pytest.approx(auc, abs=5e-5)
    of_site = measure_auc(list(found["site"].probabilities.values()), [one.idh for one in test])
    assert of_site == pytest.approx(0.862, abs=5e-4)
    within = estimate_auc_by_grade(found["age"].probabilities, test)
    assert within["low"].auc == pytest.approx(0.7874, abs=5e-5)
    assert (within["low"].num_mutant, within["low"].num_wild) == (31, 11)
    assert (within["high"].num_mutant, within["high"].num_wild) == (1, 27)
    for name, baseline in found.items():
        values = [baseline.probabilities[one.case_id] for one in shared]
        result = compare_auc([scores[one.case_id] for one in shared], values, [one.idh for one in shared])
        print(
            f"PrognosAIs minus {name}: {result.difference:+.4f} ({result.low:+.4f} to {result.high:+.4f}), "
            f"z {result.z:.3f}, p {result.p:.4f}"
        )
        assert 0 < result.p < 1

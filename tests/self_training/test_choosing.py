import pytest

from mttu.config import SelectionSettings
from mttu.pseudo_labels.score_table import ScoreRow, ScoreTable
from mttu.self_training.evaluation import choose_round, measure_prior
from mttu.self_training.mixture import KEPT, choose_labels, search_settings
from mttu.self_training.round_folder import RoundRecord

UPS = SelectionSettings(wild_per_mutant=1.0)


def row(case_id, mean, uncertainty=0.01):
    predicted = int(mean >= 0.5)
    confidence = mean if predicted else 1 - mean
    return ScoreRow(case_id, 1.0, "", (mean, mean), mean, uncertainty, predicted, confidence, mean)


def table(*rows, split="unlabelled"):
    return ScoreTable(rows, {"split": split, "learned_from": []})


def test_labels_are_chosen_anew():
    scores = table(row("a", 0.95), row("b", 0.02), row("c", 0.6), row("d", 0.97, 0.2))
    assert choose_labels(scores, UPS, {}).pseudo_labels == {"a": 1, "b": 0}


def test_labels_that_stay_are_not_asked_again_and_others_join_balanced_among_themselves():
    scores = table(row("a", 0.95), row("b", 0.02), row("c", 0.6), row("d", 0.99), row("e", 0.98, 0.02))
    selection = choose_labels(scores, UPS, {"a": 0, "c": 1})
    assert selection.pseudo_labels == {"a": 0, "c": 1, "b": 0, "d": 1}  # e: one mutant too many beside b
    assert [case.case_id for case in selection.cases] == ["a", "b", "c", "d", "e"]
    assert {case.case_id for case in selection.cases if case.reason == KEPT} == {"a", "c"}
    assert selection.notes[0] == "2 pseudo-labels are kept from earlier rounds"


def test_a_label_that_stays_has_the_probability_of_its_own_class():
    selection = choose_labels(table(row("a", 0.95), row("b", 0.02)), UPS, {"a": 0, "b": 0})
    assert [case.confidence for case in selection.cases] == pytest.approx([0.05, 0.98])
    assert [case.pseudo_label for case in selection.cases] == [0, 0]


def test_none_selects_nothing_whatever_is_there():
    selection = choose_labels(table(row("a", 0.99), ScoreRow("b", 0.0)), SelectionSettings(method="none"), {})
    assert selection.pseudo_labels == {}
    assert {case.reason for case in selection.cases} == {"selection.method is none"}
    assert selection.notes == ("selection.method is none: no pseudo-labels",)


def test_one_class_only_keeps_none():
    selection = choose_labels(table(row("a", 0.99), row("b", 0.98)), UPS, {})
    assert selection.pseudo_labels == {}
    assert any(
        "every case that meets the thresholds (2) is called mutant; with balancing" in note for note in selection.notes
    )


def test_searched_thresholds_are_those_of_lowest_error_that_select_enough():
    validation = table(row("a", 0.9), row("b", 0.1), row("c", 0.65, 0.2), row("d", 0.35, 0.2), split="val")
    truth = {"a": 1, "b": 0, "c": 0, "d": 1}
    found, notes = search_settings(validation, truth, UPS, 0.5)
    assert (found.confidence_threshold, found.uncertainty_threshold) == (0.5, 0.15)
    assert notes == []
    assert found.model_copy(update={"confidence_threshold": 0.9, "uncertainty_threshold": 0.05}) == UPS


def test_where_no_pair_selects_enough_the_thresholds_stay():
    validation = table(row("a", 0.9, 0.4), row("b", 0.1, 0.4), split="val")
    found, notes = search_settings(validation, {"a": 1, "b": 0}, UPS, 0.5)
    assert found == UPS
    assert notes == ["no pair of thresholds selects 50% of the validation cases: as set in `selection`"]


def test_no_thresholds_are_searched_on_cases_that_the_network_may_know():
    validation = ScoreTable((row("a", 0.9), row("b", 0.1)), {"split": "val", "learned_from": None})
    found, notes = search_settings(validation, {"a": 1, "b": 0}, UPS, 0.5)
    assert found == UPS
    assert notes[0].startswith("the weights that training started from do not say whom they learned from, so no thresh")


def record(number, score):
    metrics = {} if score is None else {"val/score": score}
    return RoundRecord(number, {}, "", "", None, None, 1, 1, 0, 0, 0, None, None, metrics)


@pytest.mark.parametrize(
    ("scores", "chosen"), [([0.1, 0.3, 0.2], 1), ([0.1, 0.3, 0.3], 1), ([None, None], 1), ([-0.5, -0.7], 0)]
)
def test_validation_chooses_the_first_of_the_best(scores, chosen):
    assert choose_round([record(number, score) for number, score in enumerate(scores)]) == chosen


def test_the_prior_of_the_pool(pool_manifest):
    pool = [case.case_id for case in pool_manifest.split("unlabelled")]
    assert measure_prior(pool_manifest, {}) is None
    assert measure_prior(pool_manifest, dict.fromkeys(pool[:3], 0) | {pool[3]: 1, "elsewhere": 1}) == 0.75

from contextlib import nullcontext

import pytest

from mttu.errors import InputError
from mttu.pseudo_labels.score_table import ScoreRow, ScoreTable, summarise_passes
from mttu.pseudo_labels.thresholds import LabelledScore, pool_scores, search_thresholds, suggest_thresholds

SCORES = [
    LabelledScore("a", 0.95, 0.01, right=True),
    LabelledScore("b", 0.92, 0.04, right=True),
    LabelledScore("c", 0.91, 0.20, right=False),
    LabelledScore("d", 0.70, 0.10, right=True),
    LabelledScore("e", 0.60, 0.30, right=False),
]


def test_the_grid_by_hand():
    rows = search_thresholds(SCORES, [0.9, 0.5], [0.05, 0.3])
    found = [
        (row.confidence_threshold, row.uncertainty_threshold, row.num_selected, row.num_wrong, row.coverage)
        for row in rows
    ]
    assert found == [(0.5, 0.05, 2, 0, 0.4), (0.5, 0.3, 5, 2, 1.0), (0.9, 0.05, 2, 0, 0.4), (0.9, 0.3, 3, 1, 0.6)]
    assert [row.error for row in rows] == [0.0, 0.4, 0.0, pytest.approx(1 / 3)]
    # Wilson: centre (p + z^2/2n) / (1 + z^2/n), half width z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n)
    assert (rows[1].error_low, rows[1].error_high) == (
        pytest.approx(0.11762, abs=1e-5),
        pytest.approx(0.76928, abs=1e-5),
    )
    assert (rows[0].error_low, rows[0].error_high) == (0.0, pytest.approx(0.65762, abs=1e-5))


def test_where_nothing_is_selected_no_error_is_defined():
    (row,) = search_thresholds(SCORES, [0.99], [0.001])
    assert (row.num_selected, row.error, row.error_low, row.error_high, row.coverage) == (0, None, None, None, 0.0)


def test_a_suggestion_selects_enough():
    rows = search_thresholds(SCORES, [0.5, 0.9], [0.05, 0.1, 0.3])
    loose = suggest_thresholds(rows, 0.5)
    assert (loose.confidence_threshold, loose.uncertainty_threshold, loose.error) == (0.5, 0.1, 0.0)  # a, b and d
    everything = suggest_thresholds(rows, 1.0)
    assert (everything.num_selected, everything.num_wrong) == (5, 2)
    equal = suggest_thresholds(search_thresholds(SCORES, [0.8, 0.9], [0.04, 0.05]), 0.1)
    assert (equal.confidence_threshold, equal.uncertainty_threshold) == (0.8, 0.05)  # all select a and b: the looser
    assert suggest_thresholds(search_thresholds(SCORES, [0.99], [0.001]), 0.0) is None
    assert suggest_thresholds(search_thresholds(SCORES, [0.9], [0.05]), 0.9) is None


ABOUT = {"split": "val", "learned_from": [], "mc": {"windows": "sliding", "seed": 0, "passes": 2}}
FOLD_1 = ScoreTable((summarise_passes("a", [0.9, 0.8], 0.9, 0), summarise_passes("b", [0.3, 0.1], 0.1, 0)), ABOUT)
FOLD_2 = ScoreTable(
    (
        summarise_passes("c", [0.7, 0.7], 0.7, 0),
        summarise_passes("d", [0.7, 0.6], 0.7, 0),
        ScoreRow("e", 0.0, "broken"),
    ),
    {**ABOUT, "mc": {**ABOUT["mc"], "seed": 5}},
)


def test_folds_are_pooled_by_case():
    scores, notes = pool_scores({"one": FOLD_1, "two": FOLD_2}, {"a": 1, "b": 1, "c": 1})
    assert [(score.case_id, score.right) for score in scores] == [("a", True), ("b", False), ("c", True)]
    assert scores[1].confidence == pytest.approx(0.8)
    assert notes == ["without a score and left out: e", "without a true class and left out: d"]


def test_a_table_that_does_not_say_whom_its_network_knows_is_named():
    silent = ScoreTable(FOLD_1.rows, {**ABOUT, "learned_from": None})
    _, notes = pool_scores({"one": silent, "two": FOLD_2}, {"a": 1, "b": 1, "c": 1, "d": 0})
    assert notes[1].startswith(
        "scores one: do not say whom the network learned from; if that were these cases, their e"
    )


def test_test_cases_are_named_as_such():
    table = ScoreTable(FOLD_1.rows, {**ABOUT, "split": "test"})
    _, notes = pool_scores({"one": table}, {"a": 1, "b": 0})
    assert notes == ["these are test cases: a result on them is no test of thresholds that were chosen with them"]


def test_tables_of_several_precisions_are_named():
    tables = {
        "one": ScoreTable(FOLD_1.rows, {**ABOUT, "precision": "bfloat16"}),
        "two": ScoreTable(FOLD_2.rows, {**FOLD_2.about, "precision": "float32"}),
    }
    _, notes = pool_scores(tables, {"a": 1, "b": 1, "c": 1, "d": 0})
    assert notes[1:] == [
        "scores were computed in several precisions: bfloat16 in one; float32 in two; thresholds are best searched in "
        "one"
    ]


def test_a_table_older_than_a_setting_is_pooled_with_the_value_of_then(monkeypatch):
    monkeypatch.setattr("mttu.config.earlier.NEWER", {"mc.newer": 3})
    for newer, refused in ((3, False), (4, True)):
        tables = {"old": FOLD_1, "new": ScoreTable(FOLD_2.rows, {**ABOUT, "mc": {**ABOUT["mc"], "newer": newer}})}
        with pytest.raises(InputError, match=r"scores new: mc is") if refused else nullcontext():
            pool_scores(tables, {"a": 1, "b": 1, "c": 1, "d": 0})


def test_what_cannot_be_pooled_is_refused_all_at_once():
    other = ScoreTable(FOLD_1.rows[:1], {"split": "train", "mc": {**ABOUT["mc"], "windows": "tumour"}})
    with pytest.raises(InputError) as caught:
        pool_scores({"one": FOLD_1, "two": other}, {"z": 1})
    train, twice, windows, nothing = caught.value.problems
    assert train.startswith("scores two: are of training cases")
    assert twice == "cases a: are in more than one table; give each case once, out of fold"
    assert windows.startswith("scores two: mc is {'windows': 'tumour'")
    assert nothing.startswith("no case has both a score and a true class")

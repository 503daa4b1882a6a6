"""Selection by hand-worked tables, every degenerate case, and properties that hold for any table."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mttu.config import SelectionSettings
from mttu.errors import InputError
from mttu.pseudo_labels.score_table import ScoreRow, ScoreTable
from mttu.pseudo_labels.selection import SelectionCounts, count_selected, select


def row(case_id, label, confidence, uncertainty, error=""):
    mean = confidence if label == 1 else 1 - confidence
    return ScoreRow(case_id, 1.0, error, (mean, mean), mean, uncertainty, label, confidence, mean)


def table(*rows, mutant=5, wild=8):
    return ScoreTable(tuple(rows), {"labelled": {"mutant": mutant, "wild": wild}})


HAND = table(
    row("a", 1, 0.95, 0.02),
    row("b", 1, 0.90, 0.05),  # on both thresholds: eq. (19) has >= and <=
    row("c", 1, math.nextafter(0.90, 0), 0.01),
    row("d", 1, 0.99, math.nextafter(0.05, 1)),
    row("e", 0, 0.97, 0.03),
    row("f", 0, 0.91, 0.01),
    row("g", 0, 0.92, 0.04),
    row("h", 0, 0.93, 0.04),
    row("i", 0, 0.60, 0.20),
    ScoreRow("j", 0.1, "case j: unreadable"),
)


def chosen(scores, **changes):
    return sorted(select(scores, SelectionSettings(**changes)).pseudo_labels)


def test_the_three_methods_by_hand():
    assert chosen(HAND, method="PL") == list("abcdefghi")
    assert chosen(HAND, method="CPL", balance=False) == list("abdefgh")
    assert chosen(HAND, method="UPS", balance=False) == list("abefgh")


def test_balance_by_hand():
    # UPS: 2 mutants, 4 wild types; 1:1.6 leaves floor(3.2) = 3 wild types; g and h are equally uncertain: h goes
    selection = select(HAND, SelectionSettings())
    assert selection.pseudo_labels == {"a": 1, "b": 1, "e": 0, "f": 0, "g": 0}
    assert (selection.balanced, selection.wild_per_mutant) == (True, 1.6)
    dropped = {case.case_id: case.reason for case in selection.cases}["h"]
    assert dropped == "balance: wild types beyond 1:1.6 (mutant:wild), the most uncertain first"
    assert "balancing to 1:1.6 (mutant:wild type) drops 1 of 6 cases" in selection.notes
    # PL: 4 mutants, 5 wild types; ceil(5 / 1.6) = 4 mutants may stay
    assert chosen(HAND, method="PL", balance=True) == list("abcdefghi")
    assert chosen(HAND, method="UPS", wild_per_mutant=1.0) == list("abef")
    assert chosen(HAND, method="UPS", wild_per_mutant=100.0) == list("aefgh")  # ceil(4 / 100) = 1 mutant stays
    assert chosen(HAND, method="UPS", wild_per_mutant=0.5) == list("abf")  # 2 mutants, so ceil(0.5 x 2) = 1 wild type


@pytest.mark.parametrize(
    ("mutants", "wilds", "ratio", "expected"),
    [
        (2, 3, 1.6, (2, 3)),  # as near to 1:1.6 as can be
        (5, 8, 1.6, (5, 8)),
        (5, 9, 1.6, (5, 8)),
        (6, 8, 1.6, (5, 8)),
        (1, 9, 1.6, (1, 1)),
        (9, 1, 1.6, (1, 1)),
        (3, 209, 91 / 57, (3, 4)),
        (1, 1, 0.1, (1, 1)),
        (30, 1, 0.1, (10, 1)),
        (1, 30, 0.1, (1, 1)),
    ],
)
def test_balance_rounds_so_that_nothing_is_lost_without_need(mutants, wilds, ratio, expected):
    rows = [row(f"m{at:03d}", 1, 0.95, 0.01) for at in range(mutants)]
    rows += [row(f"w{at:03d}", 0, 0.95, 0.01) for at in range(wilds)]
    selection = select(table(*rows), SelectionSettings(wild_per_mutant=ratio))
    counts = count_selected(selection)
    assert (counts.num_mutant, counts.num_wild) == expected
    assert sorted(selection.pseudo_labels)[0] == "m000"  # ties by case id: the last ones go


def test_every_case_has_its_reason():
    reasons = {case.case_id: case.reason for case in select(HAND, SelectionSettings(balance=False)).cases}
    assert reasons == {
        **dict.fromkeys("abefgh", ""),
        "c": "confidence 0.9000 < 0.9",
        "d": "uncertainty 0.0500 > 0.05",
        "i": "confidence 0.6000 < 0.9; uncertainty 0.2000 > 0.05",
        "j": "has an error, see the scores",
    }


def test_default_balance_follows_the_method():
    assert [select(HAND, SelectionSettings(method=name)).balanced for name in ("PL", "CPL", "UPS")] == [
        False,
        True,
        True,
    ]
    assert not select(HAND, SelectionSettings(balance=False)).balanced


def test_counts_with_and_without_balance():
    truth = {**dict.fromkeys("abcd", 1), **dict.fromkeys("efg", 0), "h": 1}
    selection = select(HAND, SelectionSettings())
    assert count_selected(selection, truth) == SelectionCounts(2, 3, 5, 2, 3)
    assert count_selected(select(HAND, SelectionSettings(balance=False)), truth) == SelectionCounts(2, 4, 6, 2, 3)
    assert count_selected(selection, {"a": 0, "z": 1}) == SelectionCounts(2, 3, 1, 0, 0)
    assert count_selected(selection) == SelectionCounts(2, 3, 0, 0, 0)


def test_nothing_selected_is_told():
    selection = select(table(row("a", 1, 0.8, 0.1), row("b", 0, 0.7, 0.2)), SelectionSettings())
    assert selection.pseudo_labels == {}
    assert selection.notes == (
        "nothing is selected: the highest confidence is 0.8000 (threshold 0.9), the lowest uncertainty 0.1000 "
        "(threshold 0.05)",
    )


def test_that_nothing_is_selected_comes_first_and_names_what_the_method_asks_for():
    broken, low = row("x", 1, 0.5, 0.1, error="case x: unreadable"), row("a", 1, 0.8, 0.01)
    assert select(table(low, broken), SelectionSettings(method="CPL")).notes == (
        "nothing is selected: the highest confidence is 0.8000 (threshold 0.9)",
        "1 case has an error and cannot be selected: x",
    )
    one_class = table(row("a", 1, 0.95, 0.01), row("b", 1, 0.96, 0.01), broken)
    for method in ("PL", "CPL", "UPS"):
        notes = select(one_class, SelectionSettings(method=method, balance=True)).notes
        assert notes[0].startswith("nothing is selected: every case that meets the thresholds (2) is called mutant")


@pytest.mark.parametrize(("label", "name"), [(0, "wild type"), (1, "mutant")])
def test_one_class_only_is_told(label, name):
    scores = table(row("a", label, 0.95, 0.01), row("b", label, 0.96, 0.02), row("c", 1 - label, 0.5, 0.3))
    balanced = select(scores, SelectionSettings())
    assert balanced.pseudo_labels == {}
    assert balanced.notes == (
        f"nothing is selected: every case that meets the thresholds (2) is called {name}; with balancing on none "
        "is kept (selection.balance=false keeps them)",
    )
    free = select(scores, SelectionSettings(balance=False))
    assert free.pseudo_labels == {"a": label, "b": label}
    assert free.notes == (f"every case that meets the thresholds (2) is called {name}",)


def test_everything_selected_is_told():
    scores = table(row("a", 1, 0.95, 0.01), row("b", 0, 0.96, 0.02))
    selection = select(scores, SelectionSettings())
    assert selection.pseudo_labels == {"a": 1, "b": 0}
    assert selection.notes == ("every case with a score meets the thresholds: they exclude nothing",)


@pytest.mark.parametrize("method", ["PL", "CPL", "UPS"])
def test_errors_and_numbers_that_are_none_are_never_selected(method):
    scores = table(
        row("a", 1, 0.95, 0.01),
        row("b", 0, 0.95, 0.01),
        row("c", 0, math.nan, 0.01),
        row("d", 1, 0.99, math.nan),
        row("e", 1, math.inf, 0.01),
        row("f", 1, 0.99, 0.01, error="case f: unreadable"),
        ScoreRow("g", 0.0),
    )
    selection = select(scores, SelectionSettings(method=method, balance=False))
    assert selection.pseudo_labels == {"a": 1, "b": 0}
    assert "1 case has an error and cannot be selected: f" in selection.notes
    assert "4 cases have scores that are missing or not finite: c, d, e, g" in selection.notes


@pytest.mark.parametrize("scores", [table(), table(ScoreRow("a", 0.0, "case a: unreadable"))])
def test_a_table_without_a_score(scores):
    selection = select(scores, SelectionSettings())
    assert selection.pseudo_labels == {}
    assert selection.notes[0] == "nothing is selected: no case has a score"


def test_balance_needs_a_ratio():
    for scores in (ScoreTable((row("a", 1, 0.95, 0.01),)), table(row("a", 1, 0.95, 0.01), mutant=0)):
        with pytest.raises(InputError, match=r"selection.wild_per_mutant: not set, and the scores name 0 mutants"):
            select(scores, SelectionSettings())
        assert select(scores, SelectionSettings(balance=False)).pseudo_labels == {"a": 1}
    assert select(ScoreTable(HAND.rows), SelectionSettings(wild_per_mutant=1.6)).wild_per_mutant == 1.6


def test_the_order_of_rows_does_not_matter():
    backwards = ScoreTable(tuple(reversed(HAND.rows)), HAND.about)
    assert select(backwards, SelectionSettings()) == select(HAND, SelectionSettings())


ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.floats(0.5, 1), st.floats(0, 0.5), st.sampled_from(["", "", "", "broken"])),
    max_size=30,
).map(lambda rows: table(*(row(f"case{at:02d}", *content) for at, content in enumerate(rows))))
THRESHOLD = st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.6, 0.75, 0.9, 0.95, 1.0])


@given(ROWS, THRESHOLD, THRESHOLD, THRESHOLD, THRESHOLD, st.sampled_from(["PL", "CPL", "UPS"]))
@settings(max_examples=150, deadline=None)
def test_stricter_thresholds_never_add_a_case(scores, one, two, three, four, method):
    (low_c, high_c), (low_u, high_u) = sorted((one, two)), sorted((three, four))

    def names(tau_c, tau_u):
        changes = {"confidence_threshold": tau_c, "uncertainty_threshold": tau_u, "balance": False}
        return set(chosen(scores, method=method, **changes))

    loose = names(low_c, high_u)
    assert names(high_c, high_u) <= loose
    assert names(low_c, low_u) <= loose
    assert loose <= set(chosen(scores, method="PL"))


@given(ROWS, st.floats(0.1, 10), st.sampled_from(["PL", "CPL", "UPS"]))
@settings(max_examples=150, deadline=None)
def test_balance_never_exceeds_the_ratio_and_only_takes_away(scores, ratio, method):
    changes = {"method": method, "confidence_threshold": 0.6, "uncertainty_threshold": 0.3}
    free = select(scores, SelectionSettings(**changes, balance=False))
    balanced = select(scores, SelectionSettings(**changes, balance=True, wild_per_mutant=ratio))
    assert set(balanced.pseudo_labels) <= set(free.pseudo_labels)
    before, after = count_selected(free), count_selected(balanced)
    assert (after.num_mutant == before.num_mutant) or (after.num_wild == before.num_wild)  # one class is cut, not both
    assert bool(after.num_mutant) == bool(after.num_wild)
    major, minor = (after.num_wild, after.num_mutant) if ratio >= 1 else (after.num_mutant, after.num_wild)
    share = max(ratio, 1 / ratio)
    assert major <= share * minor + 1e-6  # the ratio is never exceeded
    assert minor <= major / share + 1  # nor missed by a case on the other side
    kept = [case for case in balanced.cases if case.selected]
    for case in balanced.cases:
        if case.reason.startswith("balance"):
            rivals = [one for one in kept if one.pseudo_label == case.pseudo_label]
            assert all((one.uncertainty, one.case_id) < (case.uncertainty, case.case_id) for one in rivals)

import csv
import re
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.errors import InputError
from mttu.pseudo_labels.thresholds import LabelledScore, search_thresholds, suggest_thresholds
from mttu.search.offline import (
    COLUMNS,
    Point,
    choose_point,
    describe_limits,
    draw_points,
    estimate_optimism,
    evaluate_points,
    mark_front,
    write_points,
)

SCORES = [
    LabelledScore("a", 0.95, 0.01, right=True),
    LabelledScore("b", 0.92, 0.04, right=True),
    LabelledScore("c", 0.91, 0.20, right=False),
    LabelledScore("d", 0.70, 0.10, right=True),
    LabelledScore("e", 0.60, 0.30, right=False),
]
FIELDS = (
    "confidence_threshold",
    "uncertainty_threshold",
    "num_selected",
    "num_wrong",
    "num_cases",
    "error_low",
    "error_high",
)
lowest_error = partial(choose_point, metric="error", min_coverage=0.1, max_error=1.0)


def make_scores(count, seed=0):
    generator = np.random.default_rng(seed)
    confidence = np.round(generator.uniform(0.5, 1, count), 2)  # rounded: some meet a threshold exactly
    uncertainty = np.round(generator.uniform(0, 0.4, count), 2)
    right = generator.random(count) < confidence
    classes = generator.integers(0, 2, count).tolist()
    rows = zip(confidence.tolist(), uncertainty.tolist(), right.tolist(), classes, strict=True)
    return [LabelledScore(f"case-{place:03}", *row) for place, row in enumerate(rows)]


def make_pairs(count, seed=1):
    generator = np.random.default_rng(seed)
    drawn = zip(generator.uniform(0.5, 0.99, count), generator.uniform(0.005, 0.3, count), strict=True)
    return [(float(tau_c), float(tau_u)) for tau_c, tau_u in drawn]


def point(num_selected, num_wrong, tau_c=0.9, tau_u=0.1, num_cases=10):
    return Point(tau_c, tau_u, num_selected, num_wrong, num_cases, None, None)


def test_pairs_by_hand():
    found = evaluate_points(SCORES, [(0.9, 0.3), (0.9, 0.05), (0.9, None), (None, 0.1), (None, None), (0.99, 0.001)])
    counts = [(one.num_selected, one.num_wrong, one.coverage, one.on_front) for one in found]
    assert counts == [
        (3, 1, 0.6, False),
        (2, 0, 0.4, False),
        (3, 1, 0.6, False),  # CPL
        (3, 0, 0.6, True),
        (5, 2, 1.0, True),  # PL
        (0, 0, 0.0, False),
    ]
    assert [one.error for one in found] == [1 / 3, 0.0, 1 / 3, 0.0, 0.4, None]
    assert (found[4].error_low, found[4].error_high) == pytest.approx((0.11762, 0.76928), abs=1e-5)
    assert (found[5].error_low, found[5].error_high) == (None, None)
    assert evaluate_points(SCORES, []) == []


@pytest.mark.parametrize("count", [1, 60])
def test_a_grid_is_that_of_search_thresholds(count):
    scores = make_scores(count)
    rows = search_thresholds(scores)
    found = evaluate_points(scores, [(row.confidence_threshold, row.uncertainty_threshold) for row in rows])
    shared = [*FIELDS, "coverage", "error"]
    assert [[getattr(one, name) for name in shared] for one in found] == [
        [getattr(row, name) for name in shared] for row in rows
    ]
    for min_coverage in (0.0, 0.2, 0.4, 1.0):
        suggested = suggest_thresholds(rows, min_coverage)
        chosen = choose_point(found, "error", min_coverage, 0.0)
        if suggested is None:
            assert chosen is None
        else:
            assert [getattr(chosen, name) for name in FIELDS] == [getattr(suggested, name) for name in FIELDS]


def test_a_thousand_pairs_in_several_blocks(monkeypatch):
    scores, pairs = make_scores(500), make_pairs(1000)
    at_once = evaluate_points(scores, pairs)
    monkeypatch.setattr("mttu.search.offline._BLOCK", 500 * 300 + 7)
    assert evaluate_points(scores, pairs) == at_once
    for one in at_once[::97]:
        chosen = [
            score
            for score in scores
            if score.confidence >= one.confidence_threshold and score.uncertainty <= one.uncertainty_threshold
        ]
        assert (one.num_selected, one.num_wrong) == (len(chosen), sum(not score.right for score in chosen))


def test_what_cannot_be_evaluated_is_refused():
    with pytest.raises(InputError) as caught:
        evaluate_points([], [(1.5, 0.1), (0.9, -0.1), (float("nan"), float("inf")), (0.9, 0.1)])
    assert caught.value.problems == [
        "no case has both a score and a true class; give the tables of labelled cases",
        "selection.confidence_threshold: found 1.5; expected 0 to 1",
        "selection.uncertainty_threshold: found -0.1; expected 0 or more",
        "selection.confidence_threshold: found nan; expected 0 to 1",
        "selection.uncertainty_threshold: found inf; expected 0 or more",
    ]
    with pytest.raises(InputError) as caught:
        choose_point([], "f1", 1.1, -0.1)
    assert len(caught.value.problems) == 3
    with pytest.raises(InputError, match="at least 2"):
        estimate_optimism(SCORES[:1], [(0.9, 0.1)], lowest_error, 0)


@given(st.lists(st.integers(0, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), max_size=30))
def test_the_front_is_what_nothing_dominates(counts):
    points = mark_front([point(selected, wrong, num_cases=12) for selected, wrong in counts])
    for one in points:
        dominated = any(
            other.error <= one.error
            and other.coverage >= one.coverage
            and (other.error < one.error or other.coverage > one.coverage)
            for other in points
            if other.error is not None and one.error is not None
        )
        assert one.on_front == (one.error is not None and not dominated)


def test_lowest_error_with_enough_coverage():
    points = [point(2, 0), point(5, 1), point(10, 2), point(9, 3), point(0, 0)]
    assert choose_point(points, "error", 0.2, 0.0) == points[0]
    assert choose_point(points, "error", 0.5, 0.0) == points[2]  # of equal errors, the larger coverage
    assert choose_point(points[:2], "error", 0.6, 0.0) is None
    assert choose_point(points[4:], "error", 0.0, 0.0) is None
    equal = [point(5, 1, 0.8, 0.1), point(5, 1, 0.7, 0.05), point(5, 1, 0.7, 0.2), point(5, 1, 0.7, None)]
    assert choose_point(equal[:3], "error", 0.5, 0.0) == equal[2]
    assert choose_point(equal, "error", 0.5, 0.0) == equal[3]
    assert choose_point([*equal, point(5, 1, None, 0.01)], "error", 0.5, 0.0).confidence_threshold is None


def test_largest_coverage_with_small_error():
    points = [point(2, 0), point(5, 1), point(8, 2), point(10, 4), point(0, 0)]
    assert choose_point(points, "coverage", 1.0, 0.25) == points[2]
    assert choose_point(points, "coverage", 1.0, 0.2) == points[1]
    assert choose_point(points[1:], "coverage", 0.0, 0.1) is None
    equal = [point(8, 2), point(8, 1, 0.9, 0.1), point(8, 1, 0.8, 0.1), point(8, 1, 0.8, 0.2)]
    assert choose_point(equal, "coverage", 0.0, 0.25) == equal[3]


def test_points_are_written_in_full(tmp_path):
    points = evaluate_points(SCORES, [(0.9, 0.3), (1 / 3, None), (0.99, 0.001)])
    write_points(points, tmp_path / "new" / "points.csv")
    with (tmp_path / "new" / "points.csv").open(newline="") as file:
        first, second, third = csv.DictReader(file)
    assert tuple(first) == COLUMNS
    assert float(first["error"]) == 1 / 3
    assert float(first["error_high"]) == points[0].error_high
    assert (float(second["confidence_threshold"]), second["uncertainty_threshold"]) == (1 / 3, "")
    assert [row["on_front"] for row in (first, second, third)] == ["true", "true", "false"]
    assert [third[name] for name in COLUMNS[2:]] == ["0", "0", "5", "0.0", "", "", "", "false"]


def test_points_are_drawn_with_their_front_and_choice():
    points = evaluate_points(SCORES, [(0.9, 0.3), (0.9, 0.05), (None, 0.1), (None, None), (0.99, 0.001)])
    figure = draw_points(points, points[2], "Out of fold", ["Remark."])
    (panel,) = figure.axes
    (front,) = [line for line in panel.lines if line.get_label() == "Pareto front"]
    assert (list(front.get_xdata()), list(front.get_ydata())) == ([60.0, 100.0], [0.0, 40.0])
    assert panel.get_title() == "Out of fold, n = 5"
    assert "1 pair selects nothing" in figure.get_supxlabel()
    assert figure.get_supxlabel().endswith("Remark.")
    assert "No pair qualified" in draw_points(points, None, "").get_supxlabel()


def test_limits_are_told_in_numbers():
    plain = " ".join(describe_limits(SCORES))
    assert plain.startswith("5 cases; the network is wrong on 2 of them")
    assert "only 2 cases are wrong" in plain
    classes = [IDH_MUTANT] * 8 + [IDH_WILD] * 21 + [IDH_UNKNOWN]
    known = [LabelledScore(f"{place}", 0.9, 0.1, place > 9, idh) for place, idh in enumerate(classes)]
    told = " ".join(describe_limits(known))
    assert told.startswith("30 cases (8 mutant, 21 wild type, 1 of unknown class); the network is wrong on 10")
    # Wilson, none of n: z^2 / (n + z^2) with z = 1.95996
    assert re.search(r"11\.4% for 30, 20\.4% for 15 selected", told)
    assert "only" not in told


def test_each_class_is_halved():
    classes = [IDH_MUTANT] * 6 + [IDH_WILD] * 4
    scores = [LabelledScore(f"{place}", 0.9, 0.1, idh == IDH_WILD, idh) for place, idh in enumerate(classes)]
    found = estimate_optimism(scores, [(0.5, 0.3)], lowest_error, seed=0, repeats=30)
    assert (found.num_repeats, found.num_without_choice, found.num_unselected) == (30, 0, 0)
    assert (found.error_chosen, found.error_other) == (pytest.approx(0.6), pytest.approx(0.6))  # 3 of 5 in every half
    assert (found.coverage_chosen, found.coverage_other) == (1.0, 1.0)


def test_the_halves_are_apart_and_together_all_cases():
    sizes = []

    def choose(points):
        sizes.append(points[0].num_cases)
        return points[0]

    scores = [LabelledScore(f"{place}", 0.9, 0.1, place < 3) for place in range(7)]
    found = estimate_optimism(scores, [(None, None)], choose, seed=3, repeats=100)
    assert set(sizes) == {3, 4}
    # one pair only: right cases of one half are missing in the other, and no choice makes a difference on average
    assert found.error_chosen == pytest.approx(4 / 7, abs=0.06)
    assert found.error_other == pytest.approx(4 / 7, abs=0.06)
    even = estimate_optimism(scores[1:], [(None, None)], choose, seed=3, repeats=100)
    assert even.error_chosen + even.error_other == pytest.approx(2 * 4 / 6)


def test_a_choice_on_noise_looks_better_than_it_is():
    """Right with 0.7, whatever the scores: every pair has a true error of 0.3."""
    generator = np.random.default_rng(5)
    choose = partial(choose_point, metric="error", min_coverage=0.2, max_error=1.0)
    pairs, found = make_pairs(200), []
    for _ in range(25):
        places = generator.uniform((0.5, 0), (1, 0.3), (60, 2)).tolist()
        scores = [
            LabelledScore(f"{row:03}", *place, bool(generator.random() < 0.7)) for row, place in enumerate(places)
        ]
        found.append(estimate_optimism(scores, pairs, choose, seed=0, repeats=10))
    assert np.mean([one.error_chosen for one in found]) < 0.2
    assert np.mean([one.error_other for one in found]) == pytest.approx(0.3, abs=0.05)


def test_an_estimate_depends_on_the_seed_and_not_on_the_order():
    scores, pairs = make_scores(60), make_pairs(50)
    found = estimate_optimism(scores, pairs, lowest_error, seed=0, repeats=20)
    assert estimate_optimism(scores[::-1], pairs, lowest_error, seed=0, repeats=20) == found
    assert estimate_optimism(scores, pairs, lowest_error, seed=1, repeats=20) != found
    assert f"error {found.error_chosen:.1%} where chosen, {found.error_other:.1%} on the other half" in str(found)


def test_halvings_without_a_result_are_counted():
    scores = [LabelledScore("a", 0.9, 0.1, right=True)] + [LabelledScore(name, 0.6, 0.1, right=True) for name in "bcd"]
    choose = partial(choose_point, metric="error", min_coverage=0.0, max_error=1.0)
    found = estimate_optimism(scores, [(0.8, 0.3)], choose, seed=0, repeats=40)
    assert found.num_repeats == 0
    assert found.num_without_choice + found.num_unselected == 40
    assert min(found.num_without_choice, found.num_unselected) > 5
    assert found.error_other is None
    assert "not possible" in str(found)

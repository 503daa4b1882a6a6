"""Thresholds for pseudo-labels, searched on stored out-of-fold scores: no training and no prediction takes place.

Each pair of tau_c and tau_u (eq. 19) yields an error and a coverage; both are reported, and the Pareto front shows what
one costs in terms of the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mttu.data.labels import CLASS_NAMES, IDH_UNKNOWN
from mttu.errors import InputError, raise_if_any, say_count
from mttu.figures.estimates import Estimate
from mttu.figures.pareto import TradeOff, draw_pareto
from mttu.files import atomic_file, write_csv_rows
from mttu.metrics.intervals import wilson_bounds, wilson_interval
from mttu.pseudo_labels.thresholds import LabelledScore

Pair = tuple[float | None, float | None]
"""tau_c and tau_u; None where a threshold is not applied: (tau_c, None) is CPL, (None, None) is PL."""
REPEATS = 200
"""Random halvings of `estimate_optimism`."""
_BLOCK = 2**22
"""Most pairs times cases that are compared at once."""
_FEW_WRONG = 10
COLUMNS = (
    "confidence_threshold",
    "uncertainty_threshold",
    "num_selected",
    "num_wrong",
    "num_cases",
    "coverage",
    "error",
    "error_low",
    "error_high",
    "on_front",
)
"""Of the file that `write_points` writes; they are attributes of a `Point`."""


@dataclass(frozen=True)
class Point:
    """What one pair of thresholds selects by eq. (19), without balancing."""

    confidence_threshold: float | None
    """tau_c; None if it is not applied (PL)."""
    uncertainty_threshold: float | None
    """tau_u; None if it is not applied (PL, CPL)."""
    num_selected: int
    num_wrong: int
    """Selected cases whose predicted class is not the true one."""
    num_cases: int
    error_low: float | None
    """Lower end of the 95% Wilson interval of the error; None if nothing is selected."""
    error_high: float | None
    """Its upper end."""
    on_front: bool = False
    """Whether no other pair has an error as small and a coverage as large, one of them better."""

    @property
    def coverage(self) -> float:
        """Share of the cases that are selected."""
        return self.num_selected / self.num_cases

    @property
    def error(self) -> float | None:
        """Share of the selected cases whose class is wrong; None if nothing is selected."""
        return self.num_wrong / self.num_selected if self.num_selected else None


Choose = Callable[[Sequence[Point]], Point | None]
"""One of the points, or None if no point will do."""


def evaluate_points(scores: Sequence[LabelledScore], pairs: Sequence[Pair]) -> list[Point]:
    """Error and coverage of each pair, in the order of the pairs; those on the Pareto front are marked.

    Raises:
        InputError: There are no scores, or a threshold is outside its range: tau_c 0 to 1, tau_u 0 or more.
    """
    _check(scores, pairs)
    everyone = np.ones((1, len(scores)), np.float32)
    selected, wrong = _count_selected(scores, pairs, everyone)
    return mark_front(_make_points(pairs, selected[0], wrong[0], len(scores)))


def _check(scores: Sequence[LabelledScore], pairs: Sequence[Pair]) -> None:
    problems = [] if scores else ["no case has both a score and a true class; give the tables of labelled cases"]
    for tau_c, tau_u in dict.fromkeys(pairs):
        if tau_c is not None and not 0 <= tau_c <= 1:
            problems.append(f"selection.confidence_threshold: found {tau_c}; expected 0 to 1")
        if tau_u is not None and not 0 <= tau_u < np.inf:
            problems.append(f"selection.uncertainty_threshold: found {tau_u}; expected 0 or more")
    raise_if_any(problems)


def _count_selected(
    scores: Sequence[LabelledScore], pairs: Sequence[Pair], members: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Selected and wrongly selected cases of sets of cases, (sets, pairs) each.

    Args:
        scores: One per case.
        pairs: Thresholds.
        members: 1 where a case belongs to a set, else 0, (sets, cases).
    """
    confidence = np.array([one.confidence for one in scores])
    uncertainty = np.array([one.uncertainty for one in scores])
    is_wrong = np.array([not one.right for one in scores], np.float32)
    tau_c = np.array([-np.inf if pair[0] is None else pair[0] for pair in pairs])
    tau_u = np.array([np.inf if pair[1] is None else pair[1] for pair in pairs])
    selected, wrong = (np.empty((len(members), len(pairs)), np.int64) for _ in range(2))
    step = max(1, _BLOCK // len(scores))
    for start in range(0, len(pairs), step):
        block = slice(start, start + step)
        meets = (confidence >= tau_c[block, None]) & (uncertainty <= tau_u[block, None])
        chosen = meets.T.astype(np.float32)  # sums of up to 2^24 ones are exact
        selected[:, block] = members @ chosen
        wrong[:, block] = (members * is_wrong) @ chosen
    return selected, wrong


def _make_points(
    pairs: Sequence[Pair], selected: NDArray[np.int64], wrong: NDArray[np.int64], num_cases: int
) -> list[Point]:
    low, high = wilson_bounds(wrong, selected)
    rows = zip(pairs, selected.tolist(), wrong.tolist(), low.tolist(), high.tolist(), strict=True)
    return [
        Point(*pair, num_selected, num_wrong, num_cases, *((below, above) if num_selected else (None, None)))
        for pair, num_selected, num_wrong, below, above in rows
    ]


def mark_front(points: Sequence[Point]) -> list[Point]:
    """The points, with those marked that are on the Pareto front of small error and large coverage.

    Points with equal error and coverage are on it together; a point that selects nothing has no error and never is.
    """
    lowest: dict[int, float] = {}
    for point in points:
        if point.error is not None:
            lowest[point.num_selected] = min(point.error, lowest.get(point.num_selected, np.inf))
    front, best = {}, np.inf
    for count in sorted(lowest, reverse=True):
        if lowest[count] < best:
            best = front[count] = lowest[count]
    return [
        replace(point, on_front=point.error is not None and front.get(point.num_selected) == point.error)
        for point in points
    ]


def choose_point(
    points: Sequence[Point], metric: Literal["error", "coverage"], min_coverage: float, max_error: float
) -> Point | None:
    """One point by one of two rules; None if none qualifies.

    Args:
        points: All of the same cases.
        metric: `error`: the lowest error among the points that select at least `min_coverage` of the cases; of equals,
            the one that selects most. `coverage`: the largest coverage among the points whose error is at most
            `max_error`; of equals, the one of lower error. Then the loosest, as in `suggest_thresholds`; a threshold
            that is not applied is looser than any.
        min_coverage: 0 to 1; without effect on the metric `coverage`.
        max_error: 0 to 1; without effect on the metric `error`.

    Raises:
        InputError: The metric is unknown, or a limit is outside its range.
    """
    limits = {"min_coverage": min_coverage, "max_error": max_error}
    problems = [f"{name}: found {value}; expected 0 to 1" for name, value in limits.items() if not 0 <= value <= 1]
    if metric not in ("error", "coverage"):
        problems.append(f"metric: found {metric!r}; expected error or coverage")
    raise_if_any(problems)
    ranked: list[tuple[tuple[float, float, float, float], Point]] = []
    for point in points:
        error, count = point.error, -point.num_selected
        if error is None:
            continue
        if metric == "error" and point.coverage >= min_coverage:
            ranked.append(((error, count, *_measure_strictness(point)), point))
        elif metric == "coverage" and error <= max_error:
            ranked.append(((count, error, *_measure_strictness(point)), point))
    return min(ranked, key=lambda item: item[0])[1] if ranked else None


def _measure_strictness(point: Point) -> tuple[float, float]:
    tau_c = -np.inf if point.confidence_threshold is None else point.confidence_threshold
    tau_u = np.inf if point.uncertainty_threshold is None else point.uncertainty_threshold
    return tau_c, -tau_u


def write_points(points: Sequence[Point], path: Path) -> None:
    """Writes a CSV file, one line per point in all digits; a cell is empty where nothing is defined or applied."""
    with atomic_file(path) as partial:
        rows = ([_to_cell(getattr(point, name)) for name in COLUMNS] for point in points)
        write_csv_rows(partial, COLUMNS, rows)


def _to_cell(value: float | bool | None) -> float | str | None:
    return str(value).lower() if isinstance(value, bool) else value


def draw_points(points: Sequence[Point], chosen: Point | None, title: str, remarks: Sequence[str] = ()) -> Figure:
    """Error over coverage, see `mttu.figures.pareto.draw_pareto`."""
    marked = None if chosen is None else _to_trade_off(chosen)
    return draw_pareto([_to_trade_off(point) for point in points], marked, title, remarks)


def _to_trade_off(point: Point) -> TradeOff:
    return TradeOff(
        point.confidence_threshold,
        point.uncertainty_threshold,
        point.num_selected,
        point.num_cases,
        Estimate(point.error, point.error_low, point.error_high),
        point.on_front,
    )


def describe_limits(scores: Sequence[LabelledScore]) -> list[str]:
    """What so many cases can show and what not, as sentences for the user."""
    total = len(scores)
    wrong = sum(not one.right for one in scores)
    classes = [one.true_class for one in scores]
    listed = [f"{classes.count(label)} {name}" for label, name in CLASS_NAMES.items()]
    unknown = classes.count(IDH_UNKNOWN)
    of_class = "" if unknown == total else f" ({', '.join(listed + [f'{unknown} of unknown class'] * (unknown > 0))})"
    cases = say_count(total, "case", "cases")
    sentences = [f"{cases}{of_class}; the network is wrong on {wrong} of them"]
    bounds = [f"{wilson_interval(0, count).high or 0.0:.1%} for {count}" for count in _list_sizes(total)]
    sentences.append(
        "an error of 0 among the selected cases is not 0 in general: the upper end of its 95% Wilson interval is "
        f"{', '.join(bounds)} selected"
    )
    if wrong < _FEW_WRONG:
        subject = say_count(wrong, "case is", "cases are")
        sentences.append(f"only {subject} wrong: which thresholds look best depends on these few")
    sentences.append(
        "choosing among many pairs on the cases that measure them is optimistic: the error of the chosen pair tends to "
        "be too small, and its interval does not allow for the choice"
    )
    sentences.append("error and coverage are those before the classes are balanced")
    return sentences


def _list_sizes(total: int) -> list[int]:
    """All cases, and half of them."""
    return sorted({total, max(1, total // 2)}, reverse=True)


@dataclass(frozen=True)
class Optimism:
    """How much better a chosen pair looks on the cases that chose it than on others; means over random halvings."""

    num_repeats: int
    """Halvings in which a pair was chosen on one half and selected cases of the other half: those of the means."""
    num_without_choice: int
    """Halvings in which no pair qualified."""
    num_unselected: int
    """Halvings in which the chosen pair selected no case of the other half."""
    error_chosen: float | None
    """Error of the chosen pair on the half that chose it; None without repeats, as are the others."""
    error_other: float | None
    """Its error on the other half."""
    coverage_chosen: float | None
    coverage_other: float | None

    def __str__(self) -> str:
        if None in (self.error_chosen, self.error_other, self.coverage_chosen, self.coverage_other):
            return "chosen on one half and measured on the other: not possible, no half had both a pair and cases"
        lost = self.num_without_choice + self.num_unselected
        left_out = f"; {lost} further halvings gave no pair or selected no case" if lost else ""
        return (
            f"chosen on one half of the cases and measured on the other, mean of {self.num_repeats} halvings: error "
            f"{self.error_chosen:.1%} where chosen, {self.error_other:.1%} on the other half; coverage "
            f"{self.coverage_chosen:.1%} and {self.coverage_other:.1%}{left_out}"
        )


def estimate_optimism(
    scores: Sequence[LabelledScore], pairs: Sequence[Pair], choose: Choose, seed: int, repeats: int = REPEATS
) -> Optimism:
    """Chooses a pair on a random half of the cases and measures it on the other half, many times.

    Each true class is halved by itself. Whether a prediction is right is not balanced: that would tie the error of one
    half to that of the other. Half the cases choose worse than all of them do; the estimate is a little pessimistic.

    Args:
        scores: One per case; their order has no effect.
        pairs: What is chosen from.
        choose: E.g. `choose_point` with metric and limits; gets the points of a half, not marked.
        seed: Of the halvings.
        repeats: Number of halvings.

    Raises:
        InputError: As `evaluate_points`, or there is only one case.
    """
    _check(scores, pairs)
    if len(scores) < 2:
        raise InputError("estimate of optimism: found 1 case; halves need at least 2")
    ordered = sorted(scores, key=lambda one: one.case_id)
    in_first = _halve([one.true_class for one in ordered], seed, repeats)
    members = np.concatenate([in_first, ~in_first]).astype(np.float32)
    selected, wrong = _count_selected(ordered, pairs, members)
    sizes = members.sum(axis=1).astype(int).tolist()
    place = {pair: index for index, pair in enumerate(pairs)}
    found: list[tuple[float, float, float, float]] = []
    num_without_choice = num_unselected = 0
    for row in range(repeats):
        chosen = choose(_make_points(pairs, selected[row], wrong[row], sizes[row]))
        if chosen is None or chosen.error is None:
            num_without_choice += 1
            continue
        column, other = place[chosen.confidence_threshold, chosen.uncertainty_threshold], row + repeats
        kept = int(selected[other, column])
        if kept == 0:
            num_unselected += 1
            continue
        error = int(wrong[other, column]) / kept
        found.append((chosen.error, error, chosen.coverage, kept / sizes[other]))
    means = np.mean(found, axis=0).tolist() if found else [None] * 4
    return Optimism(len(found), num_without_choice, num_unselected, *means)


def _halve(classes: Sequence[int], seed: int, repeats: int) -> NDArray[np.bool_]:
    """Random halves, (repeats, cases); sizes differ by at most one, in all and within each class."""
    generator = np.random.default_rng(seed)
    _, strata = np.unique(classes, return_inverse=True)
    keys = strata + generator.random((repeats, len(classes)))
    rank = keys.argsort(axis=1).argsort(axis=1)
    halves: NDArray[np.bool_] = (rank + generator.integers(0, 2, (repeats, 1))) % 2 == 0
    return halves

"""Thresholds for pseudo-labels, searched on labelled cases that the scoring network did not learn from (section IV-B).

The paper reads them off the error over a grid of both (Fig. 3b, 3c). With a few dozen cases an error of 0 means little:
every error comes with its interval, and a suggested pair must select a minimum share of the cases.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.errors import name_some, raise_if_any
from mttu.metrics.intervals import wilson_interval
from mttu.pseudo_labels.certainty import read_certainty
from mttu.pseudo_labels.score_table import ScoreTable, complete_about

CONFIDENCE_GRID = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.5 to 0.95."""
UNCERTAINTY_GRID = (0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3)
"""A probability's standard deviation is rarely above 0.3."""
ALIKE = ("mc", "inference", "patch", "prepare")
"""Entries of `about` that must agree for scores to be pooled, except for seeds and chunks."""


@dataclass(frozen=True)
class LabelledScore:
    """A case's score beside its true class."""

    case_id: str
    confidence: float
    uncertainty: float
    right: bool
    """Whether the predicted class is the true one."""
    true_class: int = IDH_UNKNOWN
    """1 mutant, 0 wild type; -1 where only `right` is known."""

    @property
    def mutant_probability(self) -> float:
        """Mean over the passes; for a case whose true class is known."""
        return self.confidence if self.right == (self.true_class == IDH_MUTANT) else 1 - self.confidence


@dataclass(frozen=True)
class ThresholdRow:
    """What one pair of thresholds selects by eq. (19), without balancing."""

    confidence_threshold: float
    uncertainty_threshold: float
    num_selected: int
    num_wrong: int
    num_cases: int
    error_low: float | None
    """Lower end of the 95% Wilson interval of the error; None if nothing is selected."""
    error_high: float | None
    """Its upper end."""

    @property
    def coverage(self) -> float:
        """Share of the cases that are selected."""
        return self.num_selected / self.num_cases

    @property
    def error(self) -> float | None:
        """Share of the selected cases whose class is wrong; None if nothing is selected."""
        return self.num_wrong / self.num_selected if self.num_selected else None


def pool_scores(tables: Mapping[str, ScoreTable], truth: Mapping[str, int]) -> tuple[list[LabelledScore], list[str]]:
    """Pools out-of-fold tables by name, such as one per fold: each case scored once, by a network that has not seen it.

    Returns:
        One score per usable case, and notes for the user.

    Raises:
        InputError: A case is in two tables, a table holds training cases, the tables were made with different passes,
            windows or preparation, or no usable case is left.
    """
    problems = [
        f"scores {name}: are of training cases, which the network knows; score the held-out ones (val, test)"
        for name, table in tables.items()
        if table.about.get("split") == "train"
    ]
    problems += [
        f"scores {name}: the network learned from patients of the same ids as those of {name_some(known)}; score "
        "cases that it does not know, such as each fold's `val` by that fold's network; if they are other people, "
        "give them other ids in the manifest"
        for name, table in tables.items()
        if table.about.get("split") != "train" and (known := table.about.get("learned_from"))
    ]
    counts = Counter(row.case_id for table in tables.values() for row in table.rows)
    twice = sorted(case_id for case_id, count in counts.items() if count > 1)
    if twice:
        problems.append(f"cases {', '.join(twice)}: are in more than one table; give each case once, out of fold")
    first = next(iter(tables), "")
    for name, table in tables.items():
        for section in ALIKE:
            here, there = (read_section(one, section) for one in (table, tables[first]))
            if here != there:
                problems.append(
                    f"scores {name}: {section} is {here}, in {first} it is {there}; thresholds hold for one only"
                )
    scores, failed, unknown = [], [], []
    for row in (row for table in tables.values() for row in table.rows):
        certainty = read_certainty(row)
        if certainty is None:
            failed.append(row.case_id)
        elif truth.get(row.case_id) not in (IDH_WILD, IDH_MUTANT):
            unknown.append(row.case_id)
        else:
            idh = truth[row.case_id]
            right = idh == certainty.predicted_class
            scores.append(LabelledScore(row.case_id, certainty.confidence, certainty.uncertainty, right, idh))
    if not scores:
        problems.append("no case has both a score and a true class; give the tables of labelled cases and --truth")
    raise_if_any(problems)
    notes = []
    if failed:
        notes.append(f"without a score and left out: {', '.join(sorted(failed))}")
    if unknown:
        notes.append(f"without a true class and left out: {', '.join(sorted(unknown))}")
    silent = [name for name, table in tables.items() if table.about.get("learned_from") is None]
    if silent:
        notes.append(
            f"scores {', '.join(silent)}: do not say whom the network learned from; if that were these cases, their "
            "errors are too small"
        )
    precisions: dict[str, list[str]] = {}
    for name, table in tables.items():
        precisions.setdefault(str(table.about.get("precision", "unknown")), []).append(name)
    if len(precisions) > 1:
        told = "; ".join(f"{precision} in {', '.join(names)}" for precision, names in precisions.items())
        notes.append(f"scores were computed in several precisions: {told}; thresholds are best searched in one")
    if any(table.about.get("split") == "test" for table in tables.values()):
        notes.append("these are test cases: a result on them is no test of thresholds that were chosen with them")
    return sorted(scores, key=lambda score: score.case_id), notes


def read_section(table: ScoreTable, name: str) -> object:
    """An entry of `about`, see `ALIKE`, as it is compared."""
    section = complete_about(name, table.about.get(name))
    if not isinstance(section, Mapping):
        return section
    return {key: value for key, value in section.items() if key not in ("seed", "passes_per_forward")}


def search_thresholds(
    scores: Sequence[LabelledScore],
    confidence_grid: Sequence[float] = CONFIDENCE_GRID,
    uncertainty_grid: Sequence[float] = UNCERTAINTY_GRID,
) -> list[ThresholdRow]:
    """Error and coverage of every pair of tau_c and tau_u, on at least one score."""
    rows = []
    for tau_c in sorted(set(confidence_grid)):
        for tau_u in sorted(set(uncertainty_grid)):
            chosen = [one for one in scores if one.confidence >= tau_c and one.uncertainty <= tau_u]
            wrong = sum(not one.right for one in chosen)
            error = wilson_interval(wrong, len(chosen))
            rows.append(ThresholdRow(tau_c, tau_u, len(chosen), wrong, len(scores), error.low, error.high))
    return rows


def suggest_thresholds(rows: Sequence[ThresholdRow], min_coverage: float) -> ThresholdRow | None:
    """The pair of lowest error among those that select at least `min_coverage` of the cases; None if no pair does.

    Among equal errors, the pair that selects most; among those, the loosest, because the data do not support a stricter
    one.
    """
    enough = [row for row in rows if row.num_selected and row.coverage >= min_coverage]
    return min(
        enough,
        key=lambda row: (row.error, -row.num_selected, row.confidence_threshold, -row.uncertainty_threshold),
        default=None,
    )

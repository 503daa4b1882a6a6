"""Scores of a study or a comparison: means over repeated trainings or over cases, paired differences to one row."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from statistics import fmean
from typing import Any, Literal

from scipy.stats import t as student_t

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD, REGIONS
from mttu.errors import name_some, raise_if_any
from mttu.figures.differences import DifferencePanel, RowDifference
from mttu.figures.estimates import Estimate
from mttu.metrics.classification import score_classification
from mttu.metrics.comparisons import adjust_holm, compare_paired_t
from mttu.metrics.intervals import LEVEL, describe

CaseScores = Mapping[str, Any]
"""A case: case_id, idh (1, 0, -1), mutant_probability, and dice_ and hd95_ (mm) of wt, tc, et; None where undefined.
It may have `LESIONS`."""

SIGNIFICANT = 0.05
"""Adjusted p below which a difference is marked."""


@dataclass(frozen=True)
class Metric:
    """How a metric is shown."""

    title: str
    unit: str = "%"
    factor: float = 100.0
    """From the value to the number that is shown."""
    decimals: int = 1
    smaller_is_better: bool = False

    @property
    def label(self) -> str:
        """Title with unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


def _distance(title: str) -> Metric:
    return Metric(title, "mm", 1.0, 1, smaller_is_better=True)


METRICS: Mapping[str, Metric] = {
    "dice": Metric("Dice"),
    **{f"dice_{region}": Metric(f"Dice {region.upper()}") for region in REGIONS},
    "hd95": _distance("HD95"),
    **{f"hd95_{region}": _distance(f"HD95 {region.upper()}") for region in REGIONS},
    **{f"lesion_dice_{region}": Metric(f"Dice {region.upper()}") for region in REGIONS},
    **{f"lesion_hd95_{region}": _distance(f"HD95 {region.upper()}") for region in REGIONS},
    "auc": Metric("AUC", "", 1.0, 3),
    "accuracy": Metric("Acc"),
    "sensitivity": Metric("Sens"),
    "specificity": Metric("Spec"),
}
"""Metrics of a training or a system by name; `dice` and `hd95` are means of the three regions' means, those of lesions
are BraTS 2023's."""

COSTS: Mapping[str, Metric] = {
    "parameters": Metric("Params", "M", 1e-6, 2),
    "multiply_adds": Metric("MACs", "G", 1e-9, 2),
    "step_seconds": Metric("Step", "s", 1.0, 3),
    "volume_seconds": Metric("Volume", "s", 1.0, 2),
}
"""What a network costs, in a table of networks; neither compared nor marked."""

SEGMENTATION = tuple(f"{metric}_{region}" for metric in ("dice", "hd95") for region in REGIONS)
LESIONS = tuple(f"lesion_{name}" for name in SEGMENTATION)
IDH = ("auc", "accuracy", "sensitivity", "specificity")
COMPARED = ("dice", "auc")
"""Metrics whose paired differences are written below the scores."""


def measure_cell(cases: Sequence[CaseScores]) -> dict[str, float]:
    """Metrics of one training: means over the cases, and the scores of IDH status at threshold 0.5.

    Args:
        cases: See `CaseScores`. A case of unknown IDH status, or without a probability, counts for segmentation only.

    Returns:
        Names of `METRICS` to values: Dice and IDH scores in [0, 1], HD95 in mm. What the cases leave undefined is left
        out; `dice` and `hd95` need all three regions.

    Raises:
        InputError: A value is missing or impossible, or a case occurs twice; lists all.
    """
    _check_cases(cases)
    scores = {}
    for name in (*SEGMENTATION, *LESIONS):
        values = [float(case[name]) for case in cases if case.get(name) is not None]
        if values:
            scores[name] = fmean(values)
    for metric in ("dice", "hd95"):
        means = [scores[f"{metric}_{region}"] for region in REGIONS if f"{metric}_{region}" in scores]
        if len(means) == len(REGIONS):
            scores[metric] = fmean(means)
    known = [case for case in cases if case["mutant_probability"] is not None]
    found = score_classification([case["mutant_probability"] for case in known], [case["idh"] for case in known])
    idh = {name: getattr(found, name) for name in IDH}
    return {**scores, **{name: value for name, value in idh.items() if value is not None}}


def _check_cases(cases: Sequence[CaseScores]) -> None:
    problems: list[str] = []
    seen: set[str] = set()
    allowed = {name: (0.0, 1.0 if name.startswith("dice") else math.inf) for name in SEGMENTATION}
    allowed["mutant_probability"] = (0.0, 1.0)
    for number, case in enumerate(cases, 1):
        who = f"case {case.get('case_id', f'number {number}')}"
        missing = [name for name in ("case_id", "idh", *allowed) if name not in case]
        if missing:
            problems.append(f"{who}: has no {', '.join(missing)}; give None where a score is undefined")
        if who in seen:
            problems.append(f"{who}: occurs twice; give each case once")
        seen.add(who)
        if "idh" in case and case["idh"] not in (IDH_MUTANT, IDH_WILD, IDH_UNKNOWN):
            problems.append(f"{who}: idh is {case['idh']!r}; allowed are 1 (mutant), 0 (wild type), -1 (unknown)")
        for name, (low, high) in allowed.items():
            value = case.get(name)
            if value is not None and not (_is_finite(value) and low <= value <= high):
                limits = f"from {low:g} to {high:g}" if math.isfinite(high) else f"from {low:g} (mm)"
                problems.append(f"{who}: {name} is {value!r}; allowed are numbers {limits}, or None where undefined")
    raise_if_any(problems)


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


@dataclass(frozen=True)
class Score:
    """A metric of a row over its repeats, or over its cases."""

    n: int
    """Repeats, or cases, that define it."""
    mean: float | None = None
    """None without any. Over cases, of AUC and shares the value itself."""
    std: float | None = None
    """Of the sample: ddof = 1. None with fewer than two, and where the value is no mean."""
    low: float | None = None
    """95 % interval, by Student's t over repeats or by the bootstrap over patients. None with fewer than two."""
    high: float | None = None


@dataclass(frozen=True)
class Difference:
    """A row minus the reference row in one metric, over the repeats that both have."""

    repeats: Mapping[str, float]
    """Repeat to its difference."""
    mean: float | None = None
    """None without repeats."""
    low: float | None = None
    """95 % t-interval of the mean. None with fewer than two repeats."""
    high: float | None = None
    p: float | None = None
    """Of the summary's tests; of `compare_paired_t` over the repeats unless others are given."""
    p_holm: float | None = None
    """Adjusted over the other rows of this metric."""
    test: str = ""
    """What p is of; empty where nothing is tested."""
    tested: int = 0
    """Pairs of that test, repeats or cases."""

    @property
    def n(self) -> int:
        """Number of pairs: repeats, or cases where there are none."""
        return len(self.repeats) or self.tested

    @property
    def is_significant(self) -> bool:
        """Whether the adjusted p is below `SIGNIFICANT`."""
        return self.p_holm is not None and self.p_holm < SIGNIFICANT


@dataclass(frozen=True)
class CaseTest:
    """A test on cases."""

    test: str
    tested: int
    """Pairs of cases."""
    p: float | None
    """None where it is not defined."""
    p_holm: float | None
    """Adjusted over the other rows of the metric."""


@dataclass(frozen=True)
class CaseTests:
    """Tests on cases, in place of those over repeats."""

    name: str
    """What they are, to stand in a caption."""
    found: Mapping[str, Mapping[str, CaseTest]]
    """Row to metric to test; of a metric that is not here, nothing is tested."""


@dataclass(frozen=True)
class Row:
    """A row of a study."""

    name: str
    title: str
    n: int
    """Repeats that are finished, i.e. have any metric."""
    scores: Mapping[str, Score]
    """Every metric of the summary; the mean is None where this row lacks it."""
    differences: Mapping[str, Difference]
    """Every metric of the summary; empty for the reference row."""
    costs: Mapping[str, Score] = field(default_factory=dict)
    """Those of `COSTS` that are known of this row."""


@dataclass(frozen=True)
class Summary:
    """A study, row by row."""

    reference: str
    """Name of the row that the others are compared with."""
    metrics: tuple[str, ...]
    """Those of `METRICS` that any row has."""
    rows: tuple[Row, ...]
    costs: tuple[str, ...] = ()
    """Those of `COSTS` that any row has."""
    tests: str = "paired t-test over repeats"
    """What p-values are of."""
    over: Literal["repeats", "cases"] = "repeats"
    """What means are over: repeats with intervals by Student's t, or cases with intervals by the bootstrap."""

    @property
    def reference_title(self) -> str:
        """Title of the reference row."""
        return next(row.title for row in self.rows if row.name == self.reference)

    @property
    def others(self) -> tuple[Row, ...]:
        """Rows without the reference."""
        return tuple(row for row in self.rows if row.name != self.reference)


def summarise(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]],
    reference: str,
    titles: Mapping[str, str],
    costs: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    tests: CaseTests | None = None,
) -> Summary:
    """Means over repeats, and paired differences to one row.

    A repeat is a seed or a fold. Trainings of two folds share cases, so that intervals and p-values over folds are
    shorter and smaller than they should be (doi:10.1023/A:1024068626366); those over seeds say nothing about other
    cases.

    Args:
        scores: Row to repeat to what `measure_cell` returned. An unfinished row has no repeats.
        reference: Row that is subtracted from the others.
        titles: Row to the text of its first cell; the row's name where not given.
        costs: Row to names of `COSTS` to values: numbers of parameters and multiply-adds, and seconds of each repeat.
        tests: Tests in place of the paired t-test over repeats.

    Raises:
        InputError: The reference is not a row, a metric is unknown, or a value is not finite; lists all.
    """
    _check_scores(scores, reference)
    measured = {metric for repeats in scores.values() for cell in repeats.values() for metric in cell}
    metrics = tuple(metric for metric in METRICS if metric in measured)
    differences: dict[str, dict[str, Difference]] = {row: {} for row in scores}
    for metric in metrics:
        for row, difference in _compare(scores, reference, metric).items():
            if tests is not None:
                on_cases = tests.found[row].get(metric, CaseTest("", 0, None, None))
                difference = replace(difference, **vars(on_cases))
            differences[row][metric] = difference
    rows = []
    for row, repeats in scores.items():
        averages = {
            metric: _average([cell[metric] for cell in repeats.values() if metric in cell]) for metric in metrics
        }
        finished = sum(bool(cell) for cell in repeats.values())
        own = {name: _average(values) for name, values in (costs or {}).get(row, {}).items() if values}
        rows.append(Row(row, titles.get(row, row), finished, averages, differences[row], own))
    known = tuple(name for name in COSTS if any(name in row.costs for row in rows))
    summary = Summary(reference, metrics, tuple(rows), known)
    return summary if tests is None else replace(summary, tests=tests.name)


def _check_scores(scores: Mapping[str, Mapping[str, Mapping[str, float]]], reference: str) -> None:
    problems = []
    if reference not in scores:
        problems.append(f"reference {reference!r}: no such row; choose one of {name_some(list(scores)) or '(none)'}")
    for row, repeats in scores.items():
        for repeat, cell in repeats.items():
            for metric, value in cell.items():
                where = f"row {row}, {repeat}"
                if metric not in METRICS:
                    problems.append(f"{where}: metric {metric!r}: unknown; allowed are {', '.join(METRICS)}")
                elif not _is_finite(value):
                    problems.append(f"{where}: {metric} is {value!r}; leave out what is undefined")
    raise_if_any(problems)


def _average(values: Sequence[float]) -> Score:
    spread = describe(values)
    return Score(spread.n, spread.mean, spread.std, *_t_interval(values))


def _t_interval(values: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    """Interval of the mean by Student's t; of no width where all values are equal."""
    spread = describe(values)
    if spread.mean is None or spread.std is None:
        return None, None
    half = float(student_t.ppf((1 + LEVEL) / 2, spread.n - 1)) * spread.std / math.sqrt(spread.n)
    return spread.mean - half, spread.mean + half


def _compare(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]], reference: str, metric: str
) -> dict[str, Difference]:
    """Differences of one metric, for every row but the reference."""
    own = {repeat: cell[metric] for repeat, cell in scores[reference].items() if metric in cell}
    pairs = {
        row: {
            repeat: (cell[metric], own[repeat]) for repeat, cell in repeats.items() if metric in cell and repeat in own
        }
        for row, repeats in scores.items()
        if row != reference
    }
    tests = [
        compare_paired_t([one for one, _ in members.values()], [other for _, other in members.values()])
        for members in pairs.values()
    ]
    adjusted = adjust_holm([test.p for test in tests])
    differences = {}
    for (row, members), test, p_holm in zip(pairs.items(), tests, adjusted, strict=True):
        values = {repeat: one - other for repeat, (one, other) in members.items()}
        low, high = _t_interval(list(values.values()))
        mean = describe(list(values.values())).mean
        differences[row] = Difference(values, mean, low, high, test.p, p_holm, f"{test.name} over repeats", test.n)
    return differences


def to_panels(summary: Summary, metrics: Iterable[str] = COMPARED) -> list[DifferencePanel]:
    """Input of `mttu.figures.differences.draw_differences`, in the units of the tables.

    Args:
        summary: A study.
        metrics: One panel each; those that no row has are left out.

    Raises:
        InputError: Unknown metrics.
    """
    metrics = list(metrics)
    raise_if_any(
        [f"metric {name!r}: unknown; allowed are {', '.join(METRICS)}" for name in metrics if name not in METRICS]
    )
    panels = []
    for name in metrics:
        if name in summary.metrics:
            metric = METRICS[name]
            rows = [_to_row_difference(summary, row, name) for row in summary.others]
            panels.append(DifferencePanel(metric.title, difference_unit(metric), metric.smaller_is_better, rows))
    return panels


def difference_unit(metric: Metric) -> str:
    """Unit of a difference: percentage points of what is shown in percent."""
    return "percentage points" if metric.unit == "%" else metric.unit


def _to_row_difference(summary: Summary, row: Row, name: str) -> RowDifference:
    found, factor = row.differences[name], METRICS[name].factor
    mean, low, high = (None if value is None else factor * value for value in (found.mean, found.low, found.high))
    repeats = [factor * value for value in found.repeats.values()]
    return RowDifference(
        row.title, Estimate(mean, low, high), repeats, found.is_significant, _explain_absence(summary, row, name)
    )


def _explain_absence(summary: Summary, row: Row, name: str) -> str:
    if row.n == 0:
        return "no finished repeat"
    if row.scores[name].n == 0:
        return "not measured"
    if all(one.scores[name].n == 0 for one in summary.rows if one.name == summary.reference):
        return "not measured for the reference"
    return "no repeat in common"

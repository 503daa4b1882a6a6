"""Tables of a study or a comparison: CSV in full precision, Markdown and LaTeX as in the paper, a terminal's cells."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mttu.files import atomic_file, write_csv_rows, write_text
from mttu.tables.latex import escape_latex
from mttu.tables.scores import (
    COMPARED,
    COSTS,
    IDH,
    LESIONS,
    METRICS,
    SEGMENTATION,
    SIGNIFICANT,
    Metric,
    Row,
    Summary,
    difference_unit,
)

COLUMNS = (
    *("row", "title", "metric", "n", "mean", "std", "low", "high"),
    *("difference", "difference_low", "difference_high", "p", "p_holm", "test", "tested"),
)
"""Of the CSV file; see `mttu.tables.scores.Score` and `Difference`."""
_TERMINAL = {
    "dice": "Dice %",
    **{"dice_wt": "WT %", "dice_tc": "TC %", "dice_et": "ET %"},
    **{"hd95": "HD95 mm", "auc": "AUC", "accuracy": "Acc %"},
}
_GROUPS = {"Segmentation": SEGMENTATION, "IDH genotyping": IDH}
_LESION_GROUPS = {"Segmentation by lesions, BraTS 2023": LESIONS}


def write_csv(summary: Summary, path: Path) -> None:
    """Writes one line per row and metric; what is not defined is empty, and so are the reference's differences.

    Args:
        summary: A study.
        path: File. Values are as measured: Dice and IDH scores in [0, 1], HD95 in mm; intervals of 95 %. The costs of
            networks come after a row's metrics.
    """
    lines: list[list[Any]] = []
    for row in summary.rows:
        for metric, score in row.scores.items():
            line = [row.name, row.title, metric, score.n, score.mean, score.std, score.low, score.high]
            found = row.differences.get(metric)
            compared: list[Any] = [None] * 7
            if found is not None:
                compared = [found.mean, found.low, found.high, found.p, found.p_holm, found.test, found.tested]
            lines.append([*line, *compared])
        for name, cost in row.costs.items():
            lines.append([row.name, row.title, name, cost.n, cost.mean, cost.std, cost.low, cost.high, *[None] * 7])
    with atomic_file(path) as partial:
        write_csv_rows(partial, COLUMNS, lines)


def tabulate(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Headers and cells for a terminal of 80 columns: means, a star where a row differs from the reference.

    Returns:
        At most row, n, Dice (mean of regions), WT, TC, ET, HD95 (mean of regions), AUC and accuracy; columns that no
        row has are left out, as are the costs of networks, and a row without a value has a dash.
    """
    metrics = [name for name in _TERMINAL if name in summary.metrics]
    rows = []
    for row in summary.rows:
        title = f"{row.title} (ref.)" if row.name == summary.reference else row.title
        cells = [_measure(summary, row, name) for name in metrics]
        means = ["-" if cell is None else f"{cell.mean}{'*' * cell.is_significant}" for cell in cells]
        rows.append([title, str(row.n), *means])
    return ["row", "n", *(_TERMINAL[name] for name in metrics)], rows


@dataclass(frozen=True)
class _Cell:
    """A score as it is shown."""

    mean: str
    interval: tuple[str, ...]
    """Empty, a half-width, or both ends."""
    is_best: bool
    is_significant: bool


def _show(metric: Metric, value: float, sign: str = "") -> str:
    return f"{metric.factor * value:{sign}z.{metric.decimals}f}"


def _measure(summary: Summary, row: Row, name: str) -> _Cell | None:
    metric, score, difference = METRICS[name], row.scores[name], row.differences.get(name)
    if score.mean is None:
        return None
    interval: tuple[str, ...] = ()
    if score.low is not None and score.high is not None:
        ends = _show(metric, score.low), _show(metric, score.high)
        interval = ends if summary.over == "cases" else (_show(metric, score.high - score.mean),)
    means = [one.scores[name].mean for one in summary.rows]
    shown = [float(_show(metric, mean)) for mean in means if mean is not None]  # as shown, so that ties are seen
    best = min(shown) if metric.smaller_is_better else max(shown)
    mean = _show(metric, score.mean)
    is_best = len(shown) > 1 and float(mean) == best
    return _Cell(mean, interval, is_best, difference is not None and difference.is_significant)


def _measure_cost(row: Row, name: str) -> _Cell | None:
    mean = row.costs[name].mean if name in row.costs else None
    return None if mean is None else _Cell(_show(COSTS[name], mean), (), is_best=False, is_significant=False)


@dataclass(frozen=True)
class _Markup:
    """How a language writes what the tables contain."""

    escape: Callable[[str], str]
    bold: str
    plus_minus: str
    star: str
    dash: str
    number: str
    """Of a number with a sign."""
    has_groups: bool
    """Whether groups of columns have a title, which holds the units."""
    ends: str
    """Of a cell with the ends of its interval."""

    def show(self, cell: _Cell | None) -> str:
        """`88.3 ± 1.2*`, or `88.3* [86.9, 89.4]`."""
        if cell is None:
            return self.dash
        mean, star = self.bold.format(cell.mean) if cell.is_best else cell.mean, self.star * cell.is_significant
        if len(cell.interval) == 2:
            return self.ends.format(f"{mean}{star}", ", ".join(cell.interval))
        return f"{mean}{''.join(self.plus_minus + half for half in cell.interval)}{star}"

    def show_difference(self, row: Row, name: str) -> str:
        """`+1.2 [-0.3, +2.7]*`."""
        found = row.differences[name]
        mean, low, high = (
            None if value is None else self.number.format(_show(METRICS[name], value, "+"))
            for value in (found.mean, found.low, found.high)
        )
        if mean is None:
            return self.dash
        return f"{mean}{'' if low is None else f' [{low}, {high}]'}{self.star * found.is_significant}"


_MARKDOWN_SPECIAL = {ord(sign): f"\\{sign}" for sign in "\\`*_[]<>|#~$"}


def escape_markdown(text: str) -> str:
    """A text of any origin as one line that Markdown shows as it is."""
    return " ".join(text.split()).translate(_MARKDOWN_SPECIAL)


_MARKDOWN = _Markup(escape_markdown, "**{}**", " ± ", "\\*", "-", "{}", has_groups=False, ends="{} [{}]")
_LATEX = _Markup(
    *(escape_latex, r"\textbf{{{}}}", r"\,$\pm$\,", "$^{*}$", "--", "${}$"),
    has_groups=True,
    ends=r"\begin{{tabular}}{{@{{}}c@{{}}}}{}\\{{\tiny [{}]}}\end{{tabular}}",
)


def write_markdown(summary: Summary, caption: str, path: Path) -> None:
    """Writes scores, and below them the differences to the reference.

    Args:
        summary: A study.
        caption: Sentences of plain text: what was measured, on which split, over how many repeats, how empty masks
            count. What the signs in the table mean is added to it.
        path: File.
    """
    blocks = [escape_markdown(" ".join([caption, *_explain(summary)]))]
    blocks += [_lay_out_markdown(*_list_scores(summary, _MARKDOWN, groups)) for groups in _choose_groups(summary)]
    titles, rows = _list_differences(summary, _MARKDOWN)
    if rows:
        blocks += [escape_markdown(f"Below: {_explain_differences(summary)}"), _lay_out_markdown(titles, rows)]
    write_text(path, "\n\n".join(blocks) + "\n")


def _lay_out_markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in titles[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rule, *rows))


def write_latex(summary: Summary, caption: str, path: Path) -> None:
    """Writes a `table*`, which spans both columns of a two-column page; it needs the packages booktabs and graphicx.

    A table that is wider than the page is shrunk to its width.

    Args:
        summary: A study.
        caption: See `write_markdown`; its special characters are escaped.
        path: File, for an `input` of the document.
    """
    sentences = [caption, *_explain(summary)]
    blocks: list[str] = []
    for groups in _choose_groups(summary):
        titles, rows = _list_scores(summary, _LATEX, groups)
        alignment = "lr" + "c" * (len(titles) - 2)
        blocks += ["", r"\medskip"] if blocks else []
        blocks += _lay_out_latex(titles, rows, alignment, _head_groups(summary, groups))
    titles, rows = _list_differences(summary, _LATEX)
    if rows:
        sentences.append(f"Below: {_explain_differences(summary)}")
        blocks += [
            "",
            r"\medskip",
            *_lay_out_latex(
                titles, rows, "l" + ("crr" if summary.over == "cases" else "cr") * len(_list_compared(summary))
            ),
        ]
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{escape_latex(' '.join(sentences))}}}",
        r"\medskip",
        r"\scriptsize",
        r"\setlength{\tabcolsep}{2pt}",
        *blocks,
        r"\end{table*}",
    ]
    write_text(path, "\n".join(lines) + "\n")


def _lay_out_latex(
    titles: Sequence[str], rows: Sequence[Sequence[str]], alignment: str, head: Sequence[str] = ()
) -> list[str]:
    lines = [rf"{' & '.join(cells)} \\" for cells in rows]
    titles_line = rf"{' & '.join(titles)} \\"
    begin, end = rf"\sbox0{{\begin{{tabular}}{{{alignment}}}", r"\end{tabular}}%"
    fit = r"\ifdim\wd0>\textwidth\resizebox{\textwidth}{!}{\usebox0}\else\usebox0\fi"
    return [begin, r"\toprule", *head, titles_line, r"\midrule", *lines, r"\bottomrule", end, fit]


_Groups = Mapping[str, Sequence[str]]
"""Title of a group of columns to its metrics."""


def _choose_groups(summary: Summary) -> list[_Groups]:
    """The groups of each table of scores; a second table has what only some studies measure."""
    has_lesions = any(name in summary.metrics for name in LESIONS)
    return [_GROUPS, _LESION_GROUPS] if has_lesions else [_GROUPS]


def _list_costs(summary: Summary, groups: _Groups) -> tuple[str, ...]:
    return summary.costs if groups is _GROUPS else ()


def _head_groups(summary: Summary, groups: _Groups) -> list[str]:
    """The upper line of the header, with a rule below each group of columns."""
    cells, rules, first = ["", ""], [], 3
    known = {title: [METRICS[name] for name in names if name in summary.metrics] for title, names in groups.items()}
    for title, metrics in {**known, "Cost": [COSTS[name] for name in _list_costs(summary, groups)]}.items():
        size = len(metrics)
        if size:
            cells.append(rf"\multicolumn{{{size}}}{{c}}{{{escape_latex(title + _list_units(metrics))}}}")
            rules.append(rf"\cmidrule(lr){{{first}-{first + size - 1}}}")
            first += size
    return [rf"{' & '.join(cells)} \\".lstrip(), " ".join(rules)] if rules else []


def _list_units(metrics: Sequence[Metric]) -> str:
    """` (Dice in %, HD95 in mm)`: metrics by unit, without their regions."""
    units: dict[str, dict[str, None]] = {}
    for metric in metrics:
        if metric.unit:
            units.setdefault(metric.unit, {})[metric.title.split()[0]] = None
    listed = ", ".join(f"{', '.join(titles)} in {unit}" for unit, titles in units.items())
    return f" ({listed})" if listed else ""


def _list_scores(summary: Summary, markup: _Markup, groups: _Groups) -> tuple[list[str], list[list[str]]]:
    metrics, costs = [name for name in _name_all(groups) if name in summary.metrics], _list_costs(summary, groups)
    columns = [*(METRICS[name] for name in metrics), *(COSTS[name] for name in costs)]
    by_lesions = "by lesions " if groups is _LESION_GROUPS else ""
    labels = [column.title if markup.has_groups else f"{by_lesions}{column.label}" for column in columns]
    titles = ["", "n", *(markup.escape(label) for label in labels)]
    rows = []
    for row in summary.rows:
        title = f"{row.title} (ref.)" if row.name == summary.reference else row.title
        cells = [markup.show(_measure(summary, row, name)) for name in metrics]
        cells += [markup.show(_measure_cost(row, name)) for name in costs]
        rows.append([markup.escape(title), str(row.n), *cells])
    return titles, rows


def _list_compared(summary: Summary) -> list[str]:
    return [name for name in COMPARED if name in summary.metrics]


def _list_differences(summary: Summary, markup: _Markup) -> tuple[list[str], list[list[str]]]:
    metrics = _list_compared(summary)
    titles = [""]
    for name in metrics:
        unit = difference_unit(METRICS[name])
        titles += [markup.escape(f"{METRICS[name].title} ({unit})" if unit else METRICS[name].title), "n"]
        titles += ["p (Holm)"] if summary.over == "cases" else []
    rows = []
    for row in summary.others if metrics else ():
        cells = [markup.escape(row.title)]
        for name in metrics:
            found = row.differences[name]
            cells += [markup.show_difference(row, name), str(found.n)]
            cells += [markup.escape(_show_p(found.p_holm, markup.dash))] if summary.over == "cases" else []
        rows.append(cells)
    return titles, rows


def _show_p(value: float | None, dash: str) -> str:
    return dash if value is None else "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _name_all(groups: _Groups) -> list[str]:
    return [name for names in groups.values() for name in names]


def _explain(summary: Summary) -> list[str]:
    """What the tables of scores show, and which of their cells rest on fewer repeats or cases than n says."""
    over_repeats = "Mean ± half-width of its 95 % t-interval over repeats (n; no interval for one)."
    over_cases = (
        "Mean over the n cases, AUC and shares (Acc, Sens, Spec at threshold 0.5) of them, "
        "[95 % bootstrap interval over patients; none for an AUC or a share of 0 or 1]."
    )
    sentences = [
        over_cases if summary.over == "cases" else over_repeats,
        "Bold: best mean of a column. Ref.: the row that the others are compared with.",
    ]
    marked = any(one.is_significant for row in summary.others for one in row.differences.values())
    if marked or (summary.over == "cases" and summary.others):
        sentences.append(
            f"*: differs from {summary.reference_title} ({summary.tests}, p adjusted by Holm over the other rows of "
            f"the column < {SIGNIFICANT:g})."
        )
    fewer = [
        f"{row.title} {'by lesions ' * (name in LESIONS)}{METRICS[name].title} ({row.scores[name].n})"
        for row in summary.rows
        for groups in _choose_groups(summary)
        for name in _name_all(groups)
        if name in summary.metrics and 0 < row.scores[name].n < row.n
    ]
    return [*sentences, *([f"Over fewer {summary.over} than n: {', '.join(fewer)}."] if fewer else [])]


def _explain_differences(summary: Summary) -> str:
    dice = "; Dice is the mean of the three regions" if "dice" in summary.metrics else ""
    interval = "95 % bootstrap interval over patients" if summary.over == "cases" else "95 % t-interval"
    to = f"paired differences to {summary.reference_title}"
    return f"{to}, mean [{interval}, not adjusted] over the n {summary.over} that both have{dice}."

"""The folder of a comparison: the table as CSV, Markdown and LaTeX, subgroups as CSV and forest plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mttu import __version__
from mttu.figures.style import save_figure
from mttu.figures.subgroups import SubgroupLine, SubgroupPanel, draw_subgroups
from mttu.files import atomic_file, atomic_folder, write_csv_rows, write_json, write_text
from mttu.report.comparison import Comparison, Subgroup
from mttu.report.evaluated import System
from mttu.report.files import check_output
from mttu.tables.files import write_csv, write_latex, write_markdown
from mttu.tables.scores import Summary

FORMAT_VERSION = 1
RECORD = "comparison.json"
CSV, MARKDOWN, LATEX, SUBGROUPS = "table.csv", "table.md", "table.tex", "subgroups"
_README_NAME = "README.txt"
OWN_FILES = (
    *(RECORD, CSV, MARKDOWN, LATEX, _README_NAME),
    *(f"{SUBGROUPS}.{kind}" for kind in ("csv", "png", "pdf")),
)
"""Everything that a comparison writes; a folder with anything else is not replaced."""
_SUBGROUP_COLUMNS = (
    *("kind", "subgroup", "system", "cases", "mutant", "wild_type", "dice_cases"),
    *("auc", "auc_low", "auc_high", "dice", "dice_low", "dice_high"),
)
_CLASSES = ("num_mutant", "num_wild")
_README = """A comparison of systems on the same cases by mttu. Research use only. Not for diagnosis.

table.csv       one line per row and metric, values as measured: Dice and IDH scores 0 to 1, HD95 in mm
                low, high: 95 % bootstrap interval over patients; difference: to the reference of comparison.json;
                p, p_holm, test, tested: the test on cases, adjusted over the other rows of the metric, and its pairs
                dice, hd95: mean of the three regions; lesion_...: lesion-wise as BraTS 2023
table.md, .tex  the same as in the paper; table.tex needs booktabs and graphicx
subgroups       AUC with DeLong's and Dice with the bootstrap's interval, by grade, age, sex and site
                dice: as in table.csv, the mean of the three regions' means; dice_cases: those with all three
comparison.json which folders were compared, and what limits it
"""


def check_comparison(out: Path) -> list[str]:
    """Problems of writing a comparison there, see `mttu.report.files.check_output`."""
    return check_output(out, OWN_FILES, RECORD, "a comparison")


def write_comparison(out: Path, comparison: Comparison, systems: Sequence[System]) -> None:
    """Writes tables and figure, replacing an earlier comparison.

    Args:
        out: Folder, see `check_comparison`.
        comparison: What is written.
        systems: The systems that were compared.
    """
    summary, caption = comparison.summary, write_caption(comparison, systems)
    with atomic_folder(out) as partial:
        write_csv(summary, partial / CSV)
        write_markdown(summary, caption, partial / MARKDOWN)
        write_latex(summary, caption, partial / LATEX)
        with atomic_file(partial / f"{SUBGROUPS}.csv") as file:
            write_csv_rows(file, _SUBGROUP_COLUMNS, [_to_line(one) for one in comparison.subgroups])
        save_figure(draw(comparison.subgroups, summary), partial / SUBGROUPS)
        write_text(partial / _README_NAME, _README)
        write_json(
            partial / RECORD,
            {
                "format_version": FORMAT_VERSION,
                "mttu_version": __version__,
                "reference": summary.reference,
                "systems": [
                    {"name": one.name, "folders": [str(repeat.folder) for repeat in one.repeats]} for one in systems
                ],
                "notes": list(comparison.notes),
            },
        )


def write_caption(comparison: Comparison, systems: Sequence[System]) -> str:
    """Sentences on the cases, the conventions and the limits of a comparison."""
    first = systems[0].repeats[0].summary
    counts = [f"{one.name} ({len(one.repeats)})" for one in systems if len(one.repeats) > 1]
    names = tuple(f"{one.name}:" for one in systems)
    return " ".join(
        [
            f"Systems on the {first.split} cases; empty masks: {first.empty_masks}.",
            *([f"Each case averaged over several trainings first: {', '.join(counts)}."] if counts else []),
            *(f"{note if note.startswith(names) else note[0].upper() + note[1:]}." for note in comparison.notes),
        ]
    )


def _to_line(one: Subgroup) -> list[Any]:
    ends = [value for found in (one.auc, one.dice) for value in (found.value, found.low, found.high)]
    return [one.kind, one.title, one.participant, one.num_cases, one.num_mutant, one.num_wild, one.num_dice, *ends]


def draw(subgroups: Sequence[Subgroup], summary: Summary) -> Figure:
    """The forest plot; a metric that nobody has gets no panel."""
    systems = list(dict.fromkeys(one.participant for one in subgroups))
    groups: dict[tuple[str, str], list[Subgroup]] = {}
    for one in subgroups:
        groups.setdefault((one.kind, one.title), []).append(one)
    panels = []
    if "auc" in summary.metrics:
        counts = [
            f"{max(one.num_mutant for one in own)} / {max(one.num_wild for one in own)}" for own in groups.values()
        ]
        panels.append(_to_panel("IDH AUC", "mut. / wild", groups, counts, "auc"))
    if "dice" in summary.metrics:
        counts = [str(max(one.num_dice for one in own)) for own in groups.values()]
        panels.append(_to_panel("Dice, mean of WT, TC and ET", "n", groups, counts, "dice"))
    return draw_subgroups(panels, systems, ["Intervals: DeLong (AUC), bootstrap over patients (Dice). Not adjusted."])


def _to_panel(
    title: str, counted: str, groups: dict[tuple[str, str], list[Subgroup]], counts: Sequence[str], metric: str
) -> SubgroupPanel:
    lines, before = [], "all"
    for (kind, name), count in zip(groups, counts, strict=True):
        estimates = [getattr(one, metric) for one in groups[kind, name]]
        lines.append(SubgroupLine(name, estimates, count, starts=kind != before))
        before = kind
    return SubgroupPanel(title, counted, lines)

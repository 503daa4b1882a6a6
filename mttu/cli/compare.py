"""`mttu compare`: evaluated systems beside each other."""

from pathlib import Path
from typing import Annotated

import typer

from mttu.cli.display import console, new_table, tell
from mttu.errors import collecting, raise_if_any


def compare(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]FOLDER[,FOLDER]...",
            help="Folders that `mttu evaluate` wrote; several of one system, such as seeds, separated by commas",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the table and the forest plot")],
    reference: Annotated[
        str | None, typer.Option(help="System that the others are compared with; the first if not given")
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Resamples of each bootstrap over patients")] = 2000,
) -> None:
    """Compare evaluated systems on the same cases, with tests. Baselines without images, and subgroups, in the same table."""
    from mttu.report.comparison import compare_systems
    from mttu.report.comparison_files import CSV, LATEX, MARKDOWN, SUBGROUPS, check_comparison, write_comparison
    from mttu.report.evaluated import System, read_systems
    from mttu.tables.files import tabulate

    problems = check_comparison(output)
    found: list[System] = []
    with collecting(problems):
        found = read_systems(systems)
    raise_if_any(problems)
    comparison = compare_systems(found, reference, resamples)
    write_comparison(output, comparison, found)
    columns, lines = tabulate(comparison.summary)
    shown = new_table(columns, title=f"{output.name}: means over cases")
    for line in lines:
        shown.add_row(*line)
    console.print(shown)
    for note in comparison.notes:
        tell(note)
    console.print(f"{output}: {CSV}, {MARKDOWN}, {LATEX}, {SUBGROUPS}.png. Research use only.")

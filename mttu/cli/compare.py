"""`mttu compare`: evaluated systems beside each other; `mttu failures`: the worst cases of one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mttu.cli.display import console, new_table, show_progress, show_table, tell
from mttu.cli.output import give
from mttu.errors import collecting, raise_if_any


def failures(
    scores: Annotated[Path, typer.Argument(help="Folder that `mttu evaluate` wrote")],
    predictions: Annotated[Path, typer.Argument(help="Folder of the predictions that were evaluated")],
    manifest: Annotated[Path, typer.Argument(help="Manifest of the cases")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the list and the overlays")],
    most: Annotated[int, typer.Option(min=1, help="Cases of lowest Dice, and of wrong IDH calls, at most")] = 6,
) -> None:
    """Show the worst cases of an evaluation. With their overlays, and what is odd about them."""
    from mttu.data.manifest import Manifest, read_manifest
    from mttu.predict.results import TABLE
    from mttu.report.evaluated import Evaluated, read_evaluated
    from mttu.report.failures import PAGE, REFERENCES, check_failures, find_failures, find_mismatches, write_failures
    from mttu.report.predictions import Predictions, read_predictions

    problems = check_failures(output)
    evaluated: Evaluated | None = None
    cohort: Manifest | None = None
    table: Predictions | None = None
    with collecting(problems):
        evaluated = read_evaluated(scores)
    with collecting(problems):
        cohort = read_manifest(manifest)
    if not predictions.is_dir():
        problems.append(f"predictions {predictions}: is no folder; give the one that was evaluated")
    elif (predictions / TABLE).exists():
        with collecting(problems):
            table = read_predictions(predictions)
    raise_if_any(problems)
    if evaluated is None or cohort is None:
        raise ValueError("what was not read is a problem")
    raise_if_any(find_mismatches(evaluated, cohort, table))
    with show_progress("failures", min(2 * most + REFERENCES, len(evaluated.scores))) as advance:
        found = find_failures(evaluated, cohort, most, advance, table)
    write_failures(output, found, evaluated, predictions)
    give({"folder": output, "failures": found})
    for one in found:
        console.print(f"{one.case_id}: {'; '.join([*one.reasons, *(f'odd: {text}' for text in one.oddities)])}")
    console.print(f"{output / PAGE}, and the same as CSV; overlays beside it. Research use only.")


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
    """Compare evaluated systems on the same cases, with tests. Baselines without images and subgroups among them."""
    from mttu.report.evaluated import split_system
    from mttu.tracking import is_address

    named = [split_system(text) for text in systems]
    raise_if_any(
        [
            f"system {name}: {place} is of weights in MLflow, which have no scores; `mttu evaluate` "
            "takes their addresses, predicts a manifest with each, and compares them"
            for name, places in named
            for place in places
            if is_address(place)
        ]
    )
    give({"folder": output, **compare_evaluated(named, output, reference, resamples)})


def compare_evaluated(
    named: Sequence[tuple[str, Sequence[str]]], output: Path, reference: str | None, resamples: int
) -> Mapping[str, Any]:
    """Compares the systems in folders of evaluations, shows the table, and returns what was found."""
    from mttu.report.comparison import compare_systems
    from mttu.report.comparison_files import CSV, LATEX, MARKDOWN, SUBGROUPS, check_comparison, write_comparison
    from mttu.report.evaluated import System, read_systems
    from mttu.tables.files import tabulate

    problems = check_comparison(output)
    found: list[System] = []
    with collecting(problems):
        found = read_systems(named)
    raise_if_any(problems)
    comparison = compare_systems(found, reference, resamples)
    write_comparison(output, comparison, found)
    columns, lines = tabulate(comparison.summary)
    shown = new_table(columns, title=f"{output.name}: means over cases")
    for line in lines:
        shown.add_row(*line)
    show_table(shown)
    for note in comparison.notes:
        tell(note)
    console.print(f"{output}: {CSV}, {MARKDOWN}, {LATEX}, {SUBGROUPS}.png. Research use only.")
    return vars(comparison)

"""`mttu evaluate`: predictions against the truth."""

from pathlib import Path
from typing import Annotated

import typer

from mttu.cli.display import console, show_progress
from mttu.data.labels import CONVENTIONS
from mttu.errors import InputError


def evaluate(
    predictions: Annotated[
        Path, typer.Argument(help="Folder that `mttu predict` wrote, or of another tool, see --labels")
    ],
    manifest: Annotated[Path, typer.Argument(help="Manifest with the true masks and IDH statuses")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for tables and summary")],
    split: Annotated[
        str, typer.Option(help="Split to score; where no calibration is kept, val cases fit one")
    ] = "test",
    empty: Annotated[
        str | None,
        typer.Option(help="Empty masks, both at once: exclude-empty, brats2020, brats2023; else as the network's"),
    ] = None,
    empty_dice: Annotated[str | None, typer.Option(help="Empty masks in Dice: brats or exclude")] = None,
    empty_hd95: Annotated[str | None, typer.Option(help="Empty masks in HD95: exclude, brats2020 or brats2023")] = None,
    clinical_baselines: Annotated[bool, typer.Option(help="Fit age, grade and site without images")] = True,
    compare: Annotated[Path | None, typer.Option(help="Predictions of another system, for paired tests")] = None,
    labels: Annotated[
        str | None, typer.Option(help=f"Labels of another tool's masks CASE.nii.gz: {', '.join(CONVENTIONS)}")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Another tool's CSV with columns case_id and idh_mutant_probability")
    ] = None,
    compare_labels: Annotated[str | None, typer.Option(help="As --labels, for --compare")] = None,
    compare_scores: Annotated[Path | None, typer.Option(help="As --scores, for --compare")] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Resamples of each bootstrap over patients")] = 2000,
) -> None:
    """Score predictions against true masks and IDH statuses, with intervals and tests."""
    from mttu.report import Source, evaluate_cases, plan_evaluation, write_evaluation
    from mttu.report.tables import build_tables, describe_cases

    if compare is None and (compare_labels is not None or compare_scores is not None):
        raise InputError("--compare-labels and --compare-scores: are of the predictions of --compare; give these")
    plan = plan_evaluation(
        Source(predictions, labels, scores),
        manifest,
        output,
        split,
        empty,
        clinical_baselines,
        None if compare is None else Source(compare, compare_labels, compare_scores),
        resamples,
        empty_dice,
        empty_hd95,
    )
    with show_progress("evaluate", sum(len(plan.with_masks(system)) for system in plan.systems)) as advance:
        found = evaluate_cases(plan, advance)
    tables = found.fact_rows, found.baseline_rows
    write_evaluation(output, found.region_rows, found.idh_rows, found.summary, *tables)
    for line in describe_cases(found.summary):
        console.print(line)
    for table in build_tables(found.summary):
        console.print(table, soft_wrap=False)
    console.print(f"{output}: scored. Research use only.")

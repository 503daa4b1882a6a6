"""`mttu evaluate`: predictions against the truth."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from mttu.cli.display import console, show_progress, show_table
from mttu.cli.output import give
from mttu.cli.settings import DeviceName
from mttu.data.labels import CONVENTIONS
from mttu.errors import InputError, raise_if_any


def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(help="Folder that `mttu predict` wrote, or of another tool, see --labels; or a checkpoint"),
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
    predict_into: Annotated[
        Path | None,
        typer.Option(help="Of a checkpoint: folder for its predictions; OUTPUT-predictions if not given"),
    ] = None,
    device: DeviceName = "auto",
) -> None:
    """Score predictions against the truth, with intervals. Masks and IDH status, with tests and figures."""
    from mttu.report import Source, evaluate_cases, plan_evaluation, write_evaluation
    from mttu.report.tables import build_tables, describe_cases

    if compare is None and (compare_labels is not None or compare_scores is not None):
        raise InputError("--compare-labels and --compare-scores: are of the predictions of --compare; give these")
    into = _predict_first(predictions, manifest, output, split, predict_into, labels, device, scores is not None)
    plan = plan_evaluation(
        Source(predictions, labels, scores) if into is None else Source(into),
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
    give(found.summary)
    for line in describe_cases(found.summary):
        console.print(line)
    for table in build_tables(found.summary):
        show_table(table)
    console.print(f"{output}: scored. Research use only.")
    if into is not None and any(found.summary["cases"]["failed"].values()):
        raise typer.Exit(1)


def _predict_first(
    place: Path,
    manifest: Path,
    output: Path,
    split: str,
    into: Path | None,
    labels: str | None,
    device: str,
    has_scores: bool,
) -> Path | None:
    """Predicts the split if `place` is a checkpoint; returns the folder of predictions, None if it was none."""
    from mttu.networks.checkpoint import is_checkpoint
    from mttu.predict.results import TABLE
    from mttu.report.files import check_output

    if (place / TABLE).exists() or not is_checkpoint(place):
        if into is not None:
            raise InputError(f"--predict-into: {place} is no checkpoint, so that nothing is predicted; leave it out")
        return None
    problems = check_output(output)
    if has_scores:
        problems.append(f"--scores: {place} is a checkpoint, which predicts them itself; leave it out")
    raise_if_any(problems)
    folder = output.absolute().with_name(f"{output.absolute().name}-predictions") if into is None else into
    from mttu.cli import predict  # that module imports this one

    with suppress(typer.Exit):  # of cases that failed, which are told with the scores
        predict(place, [manifest], folder, split=split, labels=labels or "brats", device=device)
    return folder

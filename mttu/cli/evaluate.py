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
    from mttu.report import Source, check_before_predicting, evaluate_cases, plan_evaluation, write_evaluation
    from mttu.report.tables import build_tables, describe_cases

    if compare is None and (compare_labels is not None or compare_scores is not None):
        raise InputError("--compare-labels and --compare-scores: are of the predictions of --compare; give these")
    rival = None if compare is None else Source(compare, compare_labels, compare_scores)
    source, predicted = Source(predictions, labels, scores), _is_to_predict(predictions)
    if predicted:
        into = _name_predictions(output) if predict_into is None else predict_into
        problems = _find_folder_problems(into, output, compare)
        if scores is not None:
            problems.append(f"--scores: {predictions} is a checkpoint, which predicts them itself; leave it out")
        problems += check_before_predicting(
            manifest, output, split, empty, clinical_baselines, rival, empty_dice, empty_hd95
        )
        raise_if_any(problems)
        _predict(predictions, manifest, into, split, labels, device)
        source = Source(into)
    else:
        unused = {"--predict-into": predict_into is not None, "--device": device != "auto"}
        reason = f"{predictions} is no checkpoint, so that nothing is predicted; leave it out"
        raise_if_any([f"{name}: {reason}" for name, given in unused.items() if given])
    plan = plan_evaluation(
        *(source, manifest, output, split, empty, clinical_baselines, rival, resamples, empty_dice, empty_hd95)
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
    if predicted and any(found.summary["cases"]["failed"].values()):
        raise typer.Exit(1)


def _is_to_predict(place: Path) -> bool:
    """Whether a place holds a checkpoint, and no predictions."""
    from mttu.networks.checkpoint import is_checkpoint
    from mttu.predict.results import TABLE

    return not (place / TABLE).exists() and is_checkpoint(place)


def _name_predictions(output: Path) -> Path:
    return output.absolute().with_name(f"{output.absolute().name}-predictions")


def _find_folder_problems(into: Path, output: Path, compare: Path | None) -> list[str]:
    """Whether predictions would lie where the scores, or those of the other system, are."""
    own, other = into.resolve(), output.resolve()
    problems = []
    if own == other or own in other.parents or other in own.parents:
        problems.append(
            f"--predict-into {into}: one folder holds the other with output {output}; give two beside each other"
        )
    if compare is not None and own == compare.resolve():
        problems.append(f"--predict-into {into}: holds the predictions of --compare; give another folder")
    return problems


def _predict(checkpoint: Path, manifest: Path, into: Path, split: str, labels: str | None, device: str) -> None:
    """Predicts the split; these predictions are not the result of the command."""
    from mttu.cli import predict  # that module imports this one

    try:
        with suppress(typer.Exit):  # of cases that failed, which are told with the scores
            predict(checkpoint, [manifest], into, split=split, labels=labels or "brats", device=device)
    finally:
        give(None)

"""Commands of Monte Carlo dropout: score, select, thresholds."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mttu.cli.display import console, show_progress, tell, tell_failures
from mttu.cli.output import give
from mttu.cli.settings import CheckpointFolder, DeviceName, ManifestFile, Precision, complete_settings
from mttu.config import Config, SelectionSettings, override, parse_overrides
from mttu.errors import InputError

if TYPE_CHECKING:
    from mttu.pseudo_labels.prior import Correction
    from mttu.pseudo_labels.score_table import ScoreTable
    from mttu.pseudo_labels.selection import Selection

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SECTION.NAME=VALUE]...", help="Settings, e.g. mc.passes=20", autocompletion=complete_settings
    ),
]


def score(
    checkpoint: CheckpointFolder,
    manifest: ManifestFile,
    split: Annotated[str, typer.Option(help="train, val, unlabelled or test")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write (.parquet)")],
    arguments: Overrides = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of prepared cases; else prepared on the way")] = None,
    actors: Annotated[
        int, typer.Option(min=0, help="Cases at the same time; 0: one after the other in this process, without Ray")
    ] = 1,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each actor; on a CPU decides last bits")] = 2,
    device: DeviceName = "auto",
    gpus_per_actor: Annotated[float, typer.Option(help="Share of a GPU that an actor takes, e.g. 0.5")] = 1.0,
    precision: Precision = None,
) -> None:
    """Score cases by Monte Carlo dropout. IDH probability, confidence, uncertainty. Research use only."""
    import torch

    from mttu.cluster.cases import score_on_ray
    from mttu.inference.device import choose_device, describe_device
    from mttu.pseudo_labels.score_table import ScoreRow, check_score_target, write_scores
    from mttu.pseudo_labels.scoring import plan_scoring, score_cases

    check_score_target(output)
    changes = parse_overrides(arguments or []) | ({} if precision is None else {"train.precision": precision})
    plan = plan_scoring(checkpoint, manifest, split, changes, cache)
    started = time.perf_counter()

    def show(done: int, row: ScoreRow) -> None:
        advance(done, f"{row.case_id}  {done / (time.perf_counter() - started):.3g} volumes/s")

    with show_progress("score", len(plan.cases)) as advance:
        if actors:
            table = score_on_ray(plan, actors, threads, device, gpus_per_actor, show)
        else:
            torch.set_num_threads(threads)
            chosen = choose_device(device)
            console.print(f"score: {describe_device(chosen)}")
            table = score_cases(plan, chosen, show)
    write_scores(table, output)
    failed = tell_failures((row.case_id, row.error) for row in table.rows if row.error)
    errors = {row.case_id: row.error for row in table.rows if row.error}
    give({"table": output, "sha256": table.digest, "scored": len(table.rows) - failed, "failed": errors})
    console.print(f"{output}: {len(table.rows) - failed} scored, {failed} failed. Research use only.")
    console.print(f"SHA-256 of the scores: {table.digest}")
    for sentence in table.about.get("notes", ()):
        tell(sentence)
    if table.about["learned_from"] is None:
        tell("the checkpoint does not say whom it learned from")
    if known := table.about["learned_from"]:
        tell(f"the network learned from the patients of {len(known)} of these {len(table.rows)} cases")
    if failed:
        raise typer.Exit(1)


def _selection_settings(arguments: list[str] | None) -> SelectionSettings:
    changes = parse_overrides(arguments or [])
    others = [name for name in changes if not name.startswith("selection.")]
    if others:
        raise InputError([f"argument {name}: only settings of `selection` have an effect here" for name in others])
    return override(Config(), changes, "argument").selection


def select(
    scores: Annotated[Path, typer.Argument(help="Table that `mttu score` wrote")],
    arguments: Overrides = None,
    truth: Annotated[Path | None, typer.Option(help="True classes: a manifest or a CSV with case_id and idh")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the table and pictures")] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(help="Table of held-out labelled cases by the same network, for selection.calibrate"),
    ] = None,
    calibration_truth: Annotated[
        Path | None, typer.Option(help="Their true classes, as --truth, which is used if this is not given")
    ] = None,
) -> None:
    """Select pseudo-labels from scores by PL, CPL or UPS. E.g. selection.method=CPL. Research use only."""
    from mttu.cohort.truth import match_truth, read_truth
    from mttu.data.labels import CLASS_NAMES
    from mttu.pseudo_labels.advice import advise
    from mttu.pseudo_labels.reports import check_report, compare_methods, write_selection
    from mttu.pseudo_labels.score_table import read_scores
    from mttu.pseudo_labels.selection import add_estimates
    from mttu.pseudo_labels.selection import select as select_cases

    settings = _selection_settings(arguments)
    if output is not None:
        check_report(output, "selection")
    table = read_scores(scores)
    known = None
    matched: list[str] = []
    if truth is not None:
        known = read_truth(truth, matched)
        if calibration and calibration_truth is None and not any(row.case_id in known for row in table.rows):
            known = None  # it is that of the calibration cases alone
        else:
            matched.append(match_truth(known, [row.case_id for row in table.rows], truth))
    correction, told = _read_correction(settings, table, calibration or [], calibration_truth, truth)
    selection = add_estimates(select_cases(table, settings, correction), table, correction)
    width = max([len(case.case_id) for case in selection.cases], default=0)
    for case in selection.cases:
        if case.selected:
            console.print(
                f"{case.case_id:{width}}  {CLASS_NAMES[case.pseudo_label]:9}  confidence {case.confidence:.4f}  "
                f"uncertainty {case.uncertainty:.4f}"
            )
    console.print(f"{settings.method}: {len(selection.pseudo_labels)} of {len(selection.cases)} cases selected")
    learned = len(table.about.get("learned_from") or ())
    if known is not None and learned:
        matched.append(f"the network learned from the patients of {learned} of these cases: accuracy is no fair test")
    for note in [*told, *selection.notes, *matched, *advise(selection, settings)]:
        tell(note)
    _print_precision(selection, known)
    console.print(f"{'method':8}{'balance':9}{'mutant':>7}{'wild':>6}{'right':>7}{'known':>7}  accuracy [95% Wilson]")
    methods = compare_methods(table, settings, known, correction)
    give(
        {
            "method": settings.method,
            "cases": selection.cases,
            "notes": selection.notes,
            "estimates": selection.estimates,
            "methods": methods,
            "folder": output,
        }
    )
    for row in methods:
        counts, accuracy = row.counts, row.accuracy
        shown = "-" if accuracy.value is None else f"{accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}]"
        right = str(counts.num_right_mutant + counts.num_right_wild) if counts.num_known else "-"
        console.print(
            f"{row.method:8}{'yes' if row.balanced else 'no':9}{counts.num_mutant:7}{counts.num_wild:6}{right:>7}"
            f"{counts.num_known:7}  {shown}"
        )
    if output is not None:
        title = str(table.about.get("split", scores.stem))
        pictures = write_selection(output, table, selection, settings, known, title, correction)
        console.print(f"{output / 'selection.parquet'}, and the same as CSV")
        for picture in pictures:
            console.print(str(picture))


def _read_correction(
    settings: SelectionSettings, table: "ScoreTable", tables: list[Path], own_truth: Path | None, truth: Path | None
) -> "tuple[Correction | None, list[str]]":
    """Calibration and prior of a table's probabilities, where `selection.calibrate` asks for them, and notes.

    `own_truth` knows the classes of the labelled cases in `tables`; None: `truth` does.
    """
    from mttu.cohort.truth import read_truth
    from mttu.pseudo_labels.correction import fit_correction
    from mttu.pseudo_labels.score_table import read_scores

    given = [name for name, value in (("--calibration", tables), ("--calibration-truth", own_truth)) if value]
    if settings.calibrate == "none" and given:
        raise InputError([f"{name}: has an effect only with selection.calibrate=temperature+bias" for name in given])
    if settings.calibrate == "none" or settings.method in ("none", "direct"):
        return None, []
    truth = own_truth or truth
    if not tables or truth is None:
        raise InputError(
            f"selection.calibrate={settings.calibrate}: needs --calibration, the scores of labelled cases that the "
            "network did not learn from (`mttu score ... --split val`), and their classes by --calibration-truth or "
            "--truth"
        )
    told: list[str] = []
    classes = read_truth(truth, told)
    correction, notes = fit_correction(table, {str(path): read_scores(path) for path in tables}, classes, settings)
    return correction, [*told, *notes]


def _print_precision(selection: "Selection", truth: dict[str, int] | None) -> None:
    """Estimated beside true shares of right labels, where probabilities were calibrated."""
    from mttu.data.labels import CLASS_NAMES
    from mttu.pseudo_labels.prior import say_interval

    if selection.estimates is None:
        return
    console.print(f"{'labels':11}{'selected':>9}  {'estimated right [95%]':24}right")
    for label, name in CLASS_NAMES.items():
        own = [case_id for case_id, idh in selection.pseudo_labels.items() if idh == label]
        known = [truth[case_id] == label for case_id in own if case_id in truth] if truth else []
        found = selection.estimates.precision.get(name)
        shown = f"{sum(known) / len(known):.3f} ({sum(known)} of {len(known)})" if known else "-"
        console.print(f"{name:11}{len(own):9}  {'-' if found is None else say_interval(found):24}{shown}")


def thresholds(
    scores: Annotated[list[Path], typer.Argument(help="Tables of held-out labelled cases, e.g. of each fold's `val`")],
    truth: Annotated[Path, typer.Option(help="True classes: a manifest or a CSV with case_id and idh")],
    min_coverage: Annotated[float, typer.Option(min=0, max=1, help="Least share of the cases to select")] = 0.5,
    confidence: Annotated[str | None, typer.Option(help="Values of tau_c to try, e.g. 0.8,0.9")] = None,
    uncertainty: Annotated[str | None, typer.Option(help="Values of tau_u to try, e.g. 0.05,0.1")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the table and picture")] = None,
) -> None:
    """Try thresholds for pseudo-labels on labelled cases. Suggests a pair and decides nothing."""
    from mttu.cohort.truth import read_truth
    from mttu.pseudo_labels.reports import check_report, write_thresholds
    from mttu.pseudo_labels.score_table import read_scores
    from mttu.pseudo_labels.thresholds import (
        CONFIDENCE_GRID,
        UNCERTAINTY_GRID,
        pool_scores,
        search_thresholds,
        suggest_thresholds,
    )

    if output is not None:
        check_report(output, "thresholds")
    grids = (
        _read_grid("--confidence", confidence, CONFIDENCE_GRID),
        _read_grid("--uncertainty", uncertainty, UNCERTAINTY_GRID),
    )
    tables = {str(path): read_scores(path) for path in scores}
    told: list[str] = []
    labelled, notes = pool_scores(tables, read_truth(truth, told))
    rows = search_thresholds(labelled, *grids)
    suggested = suggest_thresholds(rows, min_coverage)
    give({"pairs": rows, "suggested": suggested, "cases": len(labelled), "folder": output})
    console.print(f"{'tau_c':>6}{'tau_u':>7}{'selected':>10}{'coverage':>10}{'wrong':>7}  error [95% Wilson]")
    for row in rows:
        console.print(_describe(row))
    for note in (*told, *notes):
        tell(note)
    if suggested is None:
        console.print(f"no pair selects {min_coverage:.0%} of the {len(labelled)} cases; lower --min-coverage")
    else:
        alike = [
            row
            for row in rows
            if row.coverage >= min_coverage
            and row.error_low is not None
            and row.error_low <= (suggested.error_high or 0.0)
        ]
        console.print(f"lowest error with at least {min_coverage:.0%} of {len(labelled)} cases selected:")
        console.print(_describe(suggested))
        console.print(
            f"{len(alike)} of the {len(rows)} pairs select enough and have an interval that overlaps with this one's; "
            "a suggestion, nothing is set"
        )
        console.print(
            f"to use it: mttu select SCORES selection.confidence_threshold={suggested.confidence_threshold:g} "
            f"selection.uncertainty_threshold={suggested.uncertainty_threshold:g}"
        )
    if output is not None:
        about: dict[str, Any] = {"min_coverage": min_coverage, "notes": notes}
        about["scores_sha256"] = [table.digest for table in tables.values()]
        for picture in write_thresholds(output, rows, suggested, about, "labelled cases"):
            console.print(str(picture))
        console.print(f"{output / 'thresholds.parquet'}, and the same as CSV")


def _describe(row: Any) -> str:
    error = "nothing selected"
    if row.error is not None:
        error = f"{row.error:.3f} [{row.error_low:.3f}, {row.error_high:.3f}]"
    thresholds_and_counts = f"{row.confidence_threshold:6g}{row.uncertainty_threshold:7g}{row.num_selected:10}"
    return f"{thresholds_and_counts}{row.coverage:10.2f}{row.num_wrong:7}  {error}"


def _read_grid(option: str, text: str | None, default: tuple[float, ...]) -> tuple[float, ...]:
    if text is None:
        return default
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text!r}: expected numbers separated by commas, e.g. 0.8,0.9") from None
    if not all(0 <= value <= 1 for value in values):
        raise InputError(f"{option} {text!r}: expected values from 0 to 1")
    return values

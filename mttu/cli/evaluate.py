"""`mttu evaluate`: predictions against the truth."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mttu.cli.display import console, errors, show_progress, show_table
from mttu.cli.output import give
from mttu.cli.settings import DeviceName
from mttu.data.labels import CONVENTIONS
from mttu.data.manifest import is_one_name
from mttu.errors import InputError, collecting, raise_if_any

if TYPE_CHECKING:
    from mttu.report import Evaluation, EvaluationPlan, Source


@dataclass(frozen=True)
class _Options:
    """What an evaluation is done with, whichever system it is of."""

    manifest: Path
    split: str
    empty: str | None
    empty_dice: str | None
    empty_hd95: str | None
    baselines: bool
    resamples: int
    device: str

    def check(self, out: Path, rival: "Source | None" = None) -> list[str]:
        """Problems that are there whatever will be predicted."""
        from mttu.report import check_before_predicting

        named = self.empty_dice, self.empty_hd95
        return check_before_predicting(self.manifest, out, self.split, self.empty, self.baselines, rival, *named)

    def plan(self, source: "Source", out: Path, rival: "Source | None" = None) -> "EvaluationPlan":
        """Reads and checks all that the scoring needs."""
        from mttu.report import plan_evaluation

        named = self.empty_dice, self.empty_hd95
        return plan_evaluation(
            *(source, self.manifest, out, self.split, self.empty, self.baselines, rival, self.resamples, *named)
        )


def evaluate(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]PREDICTIONS[,PREDICTIONS]...",
            help="Folders that `mttu predict` wrote, or of another tool, see --labels; or checkpoints, which predict "
            "first, also runs:/ID and models:/NAME@ALIAS of MLflow. Several are compared; those of one system, such "
            "as seeds, are separated by commas",
        ),
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
    from mttu.report import Source
    from mttu.report.evaluated import split_system
    from mttu.report.tables import build_tables, describe_cases

    if compare is None and (compare_labels is not None or compare_scores is not None):
        raise InputError("--compare-labels and --compare-scores: are of the predictions of --compare; give these")
    named = [split_system(text) for text in systems]
    options = _Options(manifest, split, empty, empty_dice, empty_hd95, clinical_baselines, resamples, device)
    if len(named) > 1 or len(named[0][1]) > 1:
        single = {"--compare": compare, "--labels": labels, "--scores": scores, "--predict-into": predict_into}
        reason = "is for one folder of predictions; score that alone, then give its scores to `mttu compare`"
        raise_if_any([f"{name}: {reason}" for name, given in single.items() if given is not None])
        _evaluate_several(named, output, options)
        return
    place = _fetch(named[0][1][0], _name_beside(output, "weights"))
    rival = None if compare is None else Source(compare, compare_labels, compare_scores)
    source, predicted = Source(place, labels, scores), _is_to_predict(place)
    if predicted:
        into = _name_beside(output, "predictions") if predict_into is None else predict_into
        problems = _find_folder_problems(into, output, compare)
        if scores is not None:
            problems.append(f"--scores: {place} is a checkpoint, which predicts them itself; leave it out")
        raise_if_any(problems + options.check(output, rival))
        _predict(place, into, options, labels)
        source = Source(into)
    else:
        unused = {"--predict-into": predict_into is not None, "--device": device != "auto"}
        reason = f"{place} is no checkpoint, so that nothing is predicted; leave it out"
        raise_if_any([f"{name}: {reason}" for name, given in unused.items() if given])
    found = _score(options.plan(source, output, rival), output)
    give(found.summary)
    for line in describe_cases(found.summary):
        console.print(line)
    for table in build_tables(found.summary):
        show_table(table)
    console.print(f"{output}: scored. Research use only.")
    if predicted and any(found.summary["cases"]["failed"].values()):
        raise typer.Exit(1)


def _score(plan: "EvaluationPlan", output: Path, title: str = "evaluate") -> "Evaluation":
    from mttu.report import evaluate_cases, write_evaluation

    with show_progress(title, sum(len(plan.with_masks(system)) for system in plan.systems)) as advance:
        found = evaluate_cases(plan, advance)
    write_evaluation(output, found.region_rows, found.idh_rows, found.summary, found.fact_rows, found.baseline_rows)
    return found


_COMPARISON = "comparison"
"""Folder of the comparison of several systems, beside those of their scores."""


def _evaluate_several(named: Sequence[tuple[str, Sequence[str]]], output: Path, options: _Options) -> None:
    """Scores each folder of each system in a folder of its own below `output`, and compares them there."""
    from mttu.cli.compare import compare_evaluated
    from mttu.report import Source

    problems = _find_problems_of_several(named, output)
    raise_if_any(problems)
    parts = {
        name: [Path(name, str(number)) if len(places) > 1 else Path(name) for number in range(1, len(places) + 1)]
        for name, places in named
    }
    sources: dict[Path, Source] = {}
    checkpoints: dict[Path, Path] = {}
    for name, places in named:
        for text, part in zip(places, parts[name], strict=True):
            with collecting(problems):
                place = _fetch(text, _name_beside(output, "weights") / part)
                sources[part] = Source(place)
                if _is_to_predict(place):
                    checkpoints[part], sources[part] = place, Source(_name_beside(output, "predictions") / part)
                    _check_prediction(place, sources[part].place, options)
                    problems += options.check(output / part)
                else:
                    options.plan(sources[part], output / part)
    if options.device != "auto" and not checkpoints:
        problems.append("--device: none is a checkpoint, so that nothing is predicted; leave it out")
    raise_if_any(list(dict.fromkeys(problems)))
    failed: dict[str, Any] = {}
    for part, source in sources.items():
        if part in checkpoints:
            console.print(f"{part}: predicts {options.split} cases")
            _predict(checkpoints[part], source.place, options)
        found = _score(options.plan(source, output / part), output / part, f"evaluate {part}")
        failed |= {str(part): one for one in found.summary["cases"]["failed"].values() if one}
    scored = [(name, [str(output / part) for part in parts[name]]) for name, _ in named]
    compared = compare_evaluated(scored, output / _COMPARISON, None, options.resamples)
    give({"folder": output, "systems": dict(scored), "failed": failed, **compared})
    for name, cases in failed.items():
        errors.print(f"{name}: {len(cases)} cases could not be predicted; they are not in its scores")
    if failed:
        raise typer.Exit(1)


def _find_problems_of_several(named: Sequence[tuple[str, Sequence[str]]], output: Path) -> list[str]:
    """What is wrong with names, which become folders, and with the folder of the comparison."""
    from mttu.report.comparison_files import check_comparison
    from mttu.report.evaluated import find_name_problems

    problems = find_name_problems(named) + check_comparison(output / _COMPARISON)
    return problems + [
        f"system {name!r}: cannot be the name of a folder here; write NAME=FOLDER with another one"
        for name, _ in named
        if name and (not is_one_name(name) or name == _COMPARISON)
    ]


def _check_prediction(checkpoint: Path, into: Path, options: _Options) -> None:
    """Raises `InputError` if `_predict` would."""
    from mttu.predict import plan_predictions

    plan_predictions(checkpoint, [options.manifest], into, device=options.device, split=options.split)  # type: ignore[arg-type]


def _is_to_predict(place: Path) -> bool:
    """Whether a place holds a checkpoint, and no predictions."""
    from mttu.networks.checkpoint import is_checkpoint
    from mttu.predict.results import TABLE

    return not (place / TABLE).exists() and is_checkpoint(place)


def _name_beside(output: Path, what: str) -> Path:
    return output.absolute().with_name(f"{output.absolute().name}-{what}")


def _fetch(place: str, into: Path) -> Path:
    """A place as a path; weights that are in MLflow are brought into a folder first."""
    from mttu.config import Config
    from mttu.tracking import fetch_checkpoint, is_address

    return fetch_checkpoint(place, into, Path(Config().output.folder)) if is_address(place) else Path(place)


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


def _predict(checkpoint: Path, into: Path, options: _Options, labels: str | None = None) -> None:
    """Predicts the split; these predictions are not the result of the command."""
    from mttu.cli import predict  # that module imports this one

    split, device = options.split, options.device
    try:
        with suppress(typer.Exit):  # of cases that failed, which are told with the scores
            predict(checkpoint, [options.manifest], into, split=split, labels=labels or "brats", device=device)
    finally:
        give(None)

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
from mttu.errors import InputError, collecting, name_some, raise_if_any

if TYPE_CHECKING:
    from mttu.config import MetricSettings
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

    def name_conventions(self, own: "MetricSettings") -> str:
        """How empty masks count where a network's settings say `own`."""
        from mttu.metrics.empty_masks import choose_conventions, name_conventions

        return name_conventions(choose_conventions(own, self.empty, self.empty_dice, self.empty_hd95))


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
    from mttu.tracking import is_address

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
    rival = None if compare is None else Source(compare, compare_labels, compare_scores)
    if is_address(named[0][1][0]):
        raise_if_any(options.check(output, rival))
    place = _fetch(named[0][1][0], _name_beside(output, "weights"))
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
    give({"folder": output, **found.summary})
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


@dataclass(frozen=True)
class _Part:
    """One of several folders to score."""

    source: "Source"
    scores: Path
    conventions: str
    """For empty masks, in words."""
    checkpoint: Path | None = None
    """Predicts first; None of predictions that are there."""
    plan: "EvaluationPlan | None" = None
    """Of predictions that are there."""


def _evaluate_several(named: Sequence[tuple[str, Sequence[str]]], output: Path, options: _Options) -> None:
    """Scores each folder of each system in a folder of its own below `output`, and compares them there."""
    from mttu.cli.compare import compare_evaluated

    parts = _plan_several(named, output, options)
    failed: dict[str, Any] = {}
    for part, one in parts.items():
        if one.checkpoint is not None:
            console.print(f"{part}: predicts {options.split} cases")
            _predict(one.checkpoint, one.source.place, options)
        found = _score(one.plan or options.plan(one.source, one.scores), one.scores, f"evaluate {part}")
        failed |= {str(part): reasons for reasons in found.summary["cases"]["failed"].values() if reasons}
    scored = {name: [str(output / part) for part in _name_parts(name, places)] for name, places in named}
    told = {"folder": output, "systems": scored, "failed": failed}
    give(told)
    for name, cases in failed.items():
        errors.print(f"{name}: could not be predicted, in no score: {name_some(cases)}")
    give({**told, **compare_evaluated(list(scored.items()), output / _COMPARISON, None, options.resamples)})
    if failed:
        raise typer.Exit(1)


def _plan_several(named: Sequence[tuple[str, Sequence[str]]], output: Path, options: _Options) -> dict[Path, _Part]:
    """Each folder to score by its place below `output`; weights in MLflow are fetched when all else is checked.

    Raises:
        InputError: Lists all that would keep them from being predicted, scored and compared.
    """
    problems = _find_problems_of_several(named, output, options)
    raise_if_any(problems)
    parts: dict[Path, _Part] = {}
    for name, places in named:
        for part, text in zip(_name_parts(name, places), places, strict=True):
            with collecting(problems):
                place = _fetch(text, _name_beside(output, "weights") / part)
                parts[part] = _plan_part(place, output, part, options)
    if options.device != "auto" and not any(part.checkpoint for part in parts.values()):
        problems.append("--device: none is a checkpoint, so that nothing is predicted; leave it out")
    if len({part.conventions for part in parts.values()}) > 1:
        told = "; ".join(f"{part.conventions} in {place}" for place, part in parts.items())
        problems.append(f"empty masks count as {told}; name one way with --empty")
    raise_if_any(list(dict.fromkeys(problems)))
    return parts


def _plan_part(place: Path, output: Path, part: Path, options: _Options) -> _Part:
    from mttu.metrics.empty_masks import name_conventions
    from mttu.predict import plan_predictions
    from mttu.report import Source

    if not _is_to_predict(place):
        ready = options.plan(Source(place), output / part)
        return _Part(Source(place), output / part, name_conventions(ready.metrics), plan=ready)
    into = _name_beside(output, "predictions") / part
    device: Any = options.device
    plan = plan_predictions(place, [options.manifest], into, device=device, split=options.split)
    return _Part(Source(into), output / part, options.name_conventions(plan.config.metrics), place)


def _name_parts(name: str, places: Sequence[str]) -> list[Path]:
    return [Path(name, str(number)) if len(places) > 1 else Path(name) for number in range(1, len(places) + 1)]


def _find_problems_of_several(named: Sequence[tuple[str, Sequence[str]]], output: Path, options: _Options) -> list[str]:
    """What is wrong with names, which become folders, with the folders to write, and with the manifest."""
    from mttu.report.comparison_files import check_comparison
    from mttu.report.evaluated import find_name_problems

    problems = find_name_problems(named) + check_comparison(output / _COMPARISON)
    problems += [
        f"system {name!r}: cannot be the name of a folder here; write NAME=FOLDER with another one"
        for name, _ in named
        if name and (not is_one_name(name) or name == _COMPARISON)
    ]
    if len(named) == 1 and not options.baselines:
        problems.append(f"system {named[0][0]}: has nothing to be compared with without baselines; give another one")
    if problems:
        return problems
    folders = [output / part for name, places in named for part in _name_parts(name, places)]
    return list(dict.fromkeys(problem for folder in folders for problem in options.check(folder)))


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

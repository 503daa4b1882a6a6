"""The command line. Imports that take seconds happen inside the commands, so that `--help` is quick."""

import io
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from mttu import __version__
from mttu.cli.ablations import ablate, ablations
from mttu.cli.cache import app as cache_app
from mttu.cli.cohort import cohort, describe
from mttu.cli.compare import compare, failures
from mttu.cli.display import (
    console,
    errors,
    name_controls,
    show_log,
    show_progress,
    summarise_epoch,
    tell,
    tell_absences,
    tell_failures,
)
from mttu.cli.evaluate import evaluate
from mttu.cli.export import app as export_app
from mttu.cli.figures import app as figures_app
from mttu.cli.folds import add_folds, cross_validate_shown, split, without_folds_of_rounds
from mttu.cli.groups import CommandLine, Commands
from mttu.cli.networks import ensemble, give_training, networks, print_calibration
from mttu.cli.output import give
from mttu.cli.phantom import phantom
from mttu.cli.postprocess import postprocess
from mttu.cli.report import report
from mttu.cli.scoring import score, select, thresholds
from mttu.cli.self_train import self_train, self_train_shown
from mttu.cli.settings import (
    AblationNames,
    CheckpointFolder,
    ConfigFile,
    DeviceName,
    Fresh,
    ManifestFile,
    Precision,
    PresetName,
    PrintConfig,
    complete_settings,
    read_given,
    resolve,
    resolve_run,
    tell_start,
)
from mttu.cli.tune import tune
from mttu.config import Config, override, to_yaml
from mttu.errors import InputError, RunError, mask_secrets, name_some

app = CommandLine(
    name="mttu",
    cls=Commands,
    help="Glioma segmentation and IDH genotyping from brain MRI (MTTU-Net). Research use only.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(cache_app, name="cache")
app.add_typer(export_app, name="export")
app.add_typer(figures_app, name="figures")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SECTION.NAME=VALUE]...", help="Settings, e.g. optim.lr=1e-4", autocompletion=complete_settings
    ),
]
LabelsName = Annotated[
    str,
    typer.Option(
        "--labels",
        help="Labels of written masks: brats (0 1 2 4), brats2023 (0 1 2 3), msd (1 is edema), whole-tumour (0 1)",
    ),
]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Options of every command."""
    if version:
        console.print(f"mttu {__version__}")
        raise typer.Exit


for command in (
    phantom,
    cohort,
    split,
    describe,
    score,
    select,
    thresholds,
    evaluate,
    compare,
    failures,
    report,
    postprocess,
    self_train,
    tune,
    ablate,
    ablations,
    ensemble,
    networks,
):
    app.command()(command)


@app.command()
def prepare(
    manifest: ManifestFile,
    arguments: Overrides = None,
    cache: Annotated[Path | None, typer.Option(help="Folder to fill; `cache` beside the manifest if not given")] = None,
    config: ConfigFile = None,
    actors: Annotated[int, typer.Option(min=1, help="Cases prepared at the same time")] = 2,
    space_check: Annotated[bool, typer.Option(help="Refuse where the cache may fill the disk")] = True,
) -> None:
    """Prepare every case of a manifest for training. Orientation, spacing, normalisation, crop."""
    paths = {"data.manifest": str(manifest)} | ({} if cache is None else {"data.cache_dir": str(cache)})
    settings = override(resolve("paper", read_given(config, arguments)), paths)
    if prepare_shown(settings, actors, space_check):
        raise typer.Exit(1)


def prepare_shown(settings: Config, actors: int, space_check: bool = True) -> int:
    """Prepares with progress; returns the number of cases that failed, each named on standard error."""
    from mttu.cluster.cases import prepare_cohort
    from mttu.cluster.session import connect
    from mttu.data.cache_space import check_room, check_writable, measure_room
    from mttu.data.manifest import read_manifest
    from mttu.files import lock_folder
    from mttu.training.inputs import resolve_paths

    path, cache_dir = resolve_paths(settings)
    manifest = read_manifest(path)
    room = measure_room(manifest.cases, cache_dir, manifest.modalities, settings.data.prepare)
    console.print(str(room))
    if space_check:
        check_room(room, cache_dir)
    check_writable(cache_dir)
    total = len(manifest.cases)
    with lock_folder(cache_dir), connect(settings.workers), show_progress("prepare", total) as advance:
        rows = prepare_cohort(
            manifest,
            cache_dir,
            manifest.modalities,
            settings.data.prepare,
            actors,
            lambda done, row: advance(done, row["case_id"]),
        )
    failed = tell_failures((row["case_id"], row["error"]) for row in rows if row["error"])
    written = sum(row["written"] for row in rows)
    errors_by_case = {row["case_id"]: row["error"] for row in rows if row["error"]}
    give({"cache": cache_dir, "written": written, "up_to_date": total - written - failed, "failed": errors_by_case})
    console.print(f"{cache_dir}: {written} written, {total - written - failed} up to date, {failed} failed")
    return failed


@app.command()
def train(
    arguments: Overrides = None,
    config: ConfigFile = None,
    preset_name: PresetName = "paper",
    print_config: PrintConfig = False,
    fresh: Fresh = False,
    ablations: AblationNames = None,
    folds: Annotated[int | None, typer.Option(help="Cross-validation and an ensemble; short for data.folds")] = None,
    fold_seed: Annotated[int | None, typer.Option(help="Seed of the folds; short for data.fold_seed")] = None,
) -> None:
    """Train a network, once or on each fold. The same command goes on after an interruption."""
    asked = without_folds_of_rounds(read_given(config, arguments, ablations, "train"))
    given = add_folds(asked, folds, fold_seed)
    settings = resolve_run(preset_name, given, fresh)
    if print_config:
        give(settings.model_dump(mode="json"))
        typer.echo(to_yaml(settings), nl=False)
        return
    if settings.data.folds:
        cross_validate_shown(settings, fresh)
        return
    folder = train_shown(settings, fresh)
    give_training(folder)
    console.print(f"best checkpoint: {folder / 'best'}")
    print_calibration(folder)


def train_shown(settings: Config, fresh: bool = False) -> Path:
    """Trains with progress; returns the run folder."""
    from mttu.cluster.train import launch_on_ray
    from mttu.training.run import run_training

    def show(epoch: int, metrics: Mapping[str, float]) -> None:
        shown.append(epoch)
        advance(epoch, summarise_epoch(metrics))
        tell_absences(metrics, settings)

    shown: list[int] = []
    tell_start(settings, fresh)
    with show_progress("train", settings.train.epochs) as advance:
        folder = run_training(settings, launch_on_ray, fresh, show, tell=tell)
    if not shown:
        console.print("every epoch was trained before; --fresh starts anew")
    return folder


@app.command()
def predict(
    checkpoint: CheckpointFolder,
    inputs: Annotated[list[Path], typer.Argument(help="Case folders, folders of cases, manifests")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for masks, overlays and the table")],
    split: Annotated[
        str | None, typer.Option(help="Of manifests, only train, val, unlabelled or test cases; all if not given")
    ] = None,
    labels: LabelsName = "brats",
    flips: Annotated[bool | None, typer.Option(help="Average over the 8 flips")] = None,
    min_enhancing_mm3: Annotated[
        float | None, typer.Option(help="Relabel less predicted enhancing tumour to NCR/NET; often 500")
    ] = None,
    postprocess: Annotated[
        bool, typer.Option(help="Drop components of masks as `mttu postprocess` chose for this checkpoint")
    ] = True,
    passes: Annotated[
        int, typer.Option(min=0, help="Predictions with dropout for the uncertainty of a case, e.g. 10; each as long")
    ] = 0,
    maps: Annotated[bool, typer.Option("--maps", help="Also write probability and uncertainty of each voxel")] = False,
    device: DeviceName = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; the number of cores if not given")] = None,
    precision: Precision = None,
) -> None:
    """Segment cases and predict their IDH status. Research use only."""
    import torch

    from mttu.inference.device import describe_device
    from mttu.predict import PredictionRow, plan_predictions, predict_cases
    from mttu.predict.standing import is_undecided

    if device not in ("auto", "cpu", "gpu"):
        raise InputError(f"--device {device!r}: choose auto, cpu or gpu")
    if threads is not None:
        torch.set_num_threads(threads)
    named = {
        "inference.flips": flips,
        "inference.min_enhancing_mm3": min_enhancing_mm3,
        "train.precision": precision,
    }
    changes = {name: value for name, value in named.items() if value is not None}
    plan = plan_predictions(
        checkpoint,
        inputs,
        output,
        labels,
        changes,
        device,  # type: ignore[arg-type]
        split,
        postprocess,
        passes,
        maps,
    )
    for note in plan.left_out:
        errors.print(f"note: {note}")
    console.print(f"predict: {describe_device(plan.device)}")

    def show(done: int, row: PredictionRow) -> None:
        advance(done, row.case_id)

    with show_progress("predict", len(plan.cases)) as advance:
        rows = predict_cases(plan, show)
    failed = tell_failures((row.case_id, row.error) for row in rows if row.error)
    give({"folder": output, "cases": rows, "notes": plan.notes, "calibration": plan.calibration.describe()})
    for sentence in plan.notes:
        tell(sentence)
    for row in rows:
        if row.warnings:
            errors.print(f"{row.case_id}: warning: {row.warnings}")
        if row.in_distribution is False:
            errors.print(f"{row.case_id}: warning: {row.standing}")
    console.print(f"{output}: {len(rows) - failed} predicted, {failed} failed. Research use only.")
    if "idh" in plan.config.network.tasks:
        console.print(plan.calibration.describe())
    console.print(plan.distribution.describe())
    if plan.known_patients is None:
        tell("the checkpoint does not say whom it learned from")
    known = sum(bool(row.learned_from) for row in rows)
    if known:
        tell(f"the network learned from the patients of {known} of these {len(rows)} cases")
    if undecided := [row.case_id for row in rows if is_undecided(row)]:
        tell(f"the IDH probability of {len(undecided)} of these {len(rows)} cases is undecided: {name_some(undecided)}")
    if failed:
        raise typer.Exit(1)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for cohort, cache and runs")],
    cases: Annotated[int, typer.Option(min=10, help="Phantom cases")] = 64,
) -> None:
    """Run everything on a synthetic cohort. Phantom, cohort, prepare, self-train, predict."""
    from mttu.phantom import TRUTH_TABLE
    from mttu.self_training.evaluation import read_summary
    from mttu.self_training.tracking import summarise_rounds
    from mttu.tracking import name_source, resolve_uri, show_command, show_page

    data, manifest, output = folder / "phantom", folder / "cohort.parquet", folder / "predictions"
    if not (data / "phantom.json").exists():
        # signs that can be learned in minutes, and a pool where always saying "wild type" is right in 0.7 of the cases
        phantom(
            data,
            cases=cases,
            size=48,
            difficulty=0.2,
            unlabelled_fraction=0.4,
            unlabelled_mutant_fraction=0.3,
            test_fraction=0.15,
        )
    cohort([data], output=manifest, clinical=[data / "clinical.csv"])
    changes = {
        "data.manifest": str(manifest),
        "output.folder": str(folder / "runs"),
        "output.name": "demo",
        "self_training.truth": str(data / TRUTH_TABLE),
    }
    settings = resolve_run("demo", [(changes, "demo")], fresh=False)
    if prepare_shown(settings, actors=2):
        raise typer.Exit(1)
    run = self_train_shown(settings)
    predict(run, [manifest], output)
    summary = read_summary(run) or {}
    rounds = {"chosen_round": summary.get("chosen_round"), "rounds": summarise_rounds(run, {})}
    give({"checkpoint": run / "best", "run": run, "predictions": output, **rounds})
    console.print("")
    console.print(f"checkpoint   {run / 'best'}")
    console.print(f"rounds       {run / 'rounds.png'}, and pictures in each round's folder")
    console.print(f"predictions  {output / 'predictions.csv'}, masks and overlays beside it")
    uri = resolve_uri(settings.tracking.uri, run)
    console.print(f"MLflow       {show_command(uri)}")
    page = show_page(uri, settings.tracking.experiment, name_source(settings.tracking.uri, run))
    console.print(f"             then open {page}")


def _describe_defect(error: BaseException) -> str:
    """A traceback, with the further lines of a message indented, so that they do not look like our own output."""
    text, seen = traceback.format_exc(), [error]
    for failure in seen:
        message = str(failure)
        text = text.replace(message, message.replace("\n", "\n    "))
        seen += [cause for cause in (failure.__cause__, failure.__context__) if cause is not None and cause not in seen]
    return text


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits: 0 fine, 1 failed, 2 input refused, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows `?` instead of stopping
    show_log()
    try:
        app(arguments, prog_name="mttu", standalone_mode=True)
    except InputError as error:
        for problem in error.problems:
            errors.print(f"error: {problem}")
        sys.exit(2)
    except RunError as error:
        errors.print(f"stopped: {error}")
        sys.exit(1)
    except OSError as error:
        errors.print(f"stopped: {error.filename}: {error.strerror}" if error.filename else f"stopped: {error}")
        sys.exit(1)
    except Exception as error:  # a bug: print all that helps to find it, without secrets from a library's message
        if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop from "):  # pathlib's, of any path
            errors.print(f"stopped: {error}; a link leads back to itself; replace it")
            sys.exit(1)
        sys.stderr.write(name_controls(mask_secrets(_describe_defect(error))))
        sys.exit(1)

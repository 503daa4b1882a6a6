"""Folds: `mttu split`, and cross-validation with progress and its results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mttu.cli.display import console, new_table, show_progress, show_table, summarise_epoch, tell, tell_absences
from mttu.cli.networks import print_calibration
from mttu.cli.output import give
from mttu.cli.settings import Given, ManifestFile, tell_start
from mttu.config import Config
from mttu.config.earlier import MOVED
from mttu.errors import raise_if_any

if TYPE_CHECKING:
    from mttu.data.manifest import Manifest
    from mttu.training.folds import FoldsRow

_METRICS = {"dice": "Dice", "idh_auc": "AUC", "idh_accuracy": "acc", "idh_ce": "CE"}
_PARTS = {"val": "each fold's val cases", "test": "the test cases"}


def add_folds(given: Given, folds: int | None, seed: int | None) -> Given:
    """Adds the options `--folds` and `--fold-seed` as the settings that they are short for.

    Raises:
        InputError: An option and its setting are both on the command line.
    """
    options = {"data.folds": (folds, "--folds"), "data.fold_seed": (seed, "--fold-seed")}
    arguments = given[-1][0]
    raise_if_any(
        [
            f"option {option}: the argument {name}={arguments[name]} is given too; leave one of them out"
            for name, (value, option) in options.items()
            if value is not None and name in arguments
        ]
    )
    return [*given, ({name: value for name, (value, _) in options.items() if value is not None}, "option")]


def without_folds_of_rounds(given: Given) -> Given:
    """For a plain training, which never read the earlier names of the folds: leaves them out, and says so."""
    for changes, source in given:
        for name in [name for name in MOVED if name in changes]:
            tell(f"{source}: {name} has no effect on `mttu train`, as before; {MOVED[name]} would have one")
    return [({name: value for name, value in one.items() if name not in MOVED}, source) for one, source in given]


def cross_validate_shown(settings: Config, fresh: bool = False) -> Path:
    """Trains once per fold with progress and shows the table over folds; returns the run folder."""
    from mttu.cluster.train import launch_on_ray
    from mttu.training.folds import cross_validate

    folds, epochs = settings.data.folds, settings.train.epochs

    def show(fold: int, epoch: int, metrics: Mapping[str, float]) -> None:
        advance((fold - 1) * epochs + epoch, f"fold {fold}/{folds}  {summarise_epoch(metrics)}")
        tell_absences(metrics, settings, f"fold {fold}/{folds}: ")

    tell_start(settings, fresh)
    with show_progress("train", folds * epochs) as advance:
        folder = cross_validate(settings, launch_on_ray, fresh, show, tell)
    print_folds(folder)
    return folder


def print_folds(folder: Path) -> None:
    """Prints mean and deviation over folds, and where the ensemble is."""
    from mttu.training.folds import CSV, ENSEMBLE_FOLDER, read_empty_dice, read_folds_table

    rows, empty_dice = read_folds_table(folder), read_empty_dice(folder)
    give({"run": folder, "ensemble": folder / ENSEMBLE_FOLDER, "folds": rows})
    for part in _PARTS:
        if any(row.metric.startswith(f"{part}/") for row in rows):
            show_table(tabulate_folds(rows, part, empty_dice))
    console.print(f"every value of every fold: {folder / CSV}")
    console.print(f"ensemble of the folds: {folder / ENSEMBLE_FOLDER}")
    if (folder / ENSEMBLE_FOLDER).is_dir():  # otherwise it was removed after the run
        print_calibration(folder / ENSEMBLE_FOLDER)


def tabulate_folds(rows: "Sequence[FoldsRow]", part: str, empty_dice: str) -> Table:
    """One row per network: mean and standard deviation over folds of the main metrics on val or test cases.

    If fewer folds define a value, their number follows it.
    """
    known = {(row.network, row.metric): row for row in rows}
    folds = max((len(row.values) for row in rows), default=0)
    title = f"mean and standard deviation over {folds} folds, on {_PARTS[part]}"
    has_dice = any(row.metric == f"{part}/dice" and row.mean is not None for row in rows)
    caption = f"Dice of empty masks: {empty_dice}" if has_dice else None
    columns = ("network", *_METRICS.values())
    table = new_table(columns, no_wrap=True, title=title, caption=caption, caption_justify="left")
    table.columns[0].justify = "left"
    for network in dict.fromkeys(row.network for row in rows):
        table.add_row(network, *(_show(known.get((network, f"{part}/{name}")), folds) for name in _METRICS))
    return table


def _show(row: "FoldsRow | None", folds: int) -> str:
    if row is None or row.mean is None:
        return "-"
    spread = "" if row.std is None else f" ± {row.std:.3f}"
    return f"{row.mean:.3f}{spread}" + (f" ({row.num_folds})" if row.num_folds < folds else "")


def split(
    manifest: ManifestFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for fold_1.parquet, fold_2.parquet, ...")],
    folds: Annotated[int, typer.Option(help="Number of folds")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw")] = 0,
    group: Annotated[str, typer.Option(help="patient, or site: a site is never in two folds")] = "patient",
    exclude_test: Annotated[bool, typer.Option("--exclude-test", help="Leave test cases out of the folds")] = False,
) -> None:
    """Draw folds by patient, stratified by IDH. Train on each with data.manifest=FILE."""
    from mttu.cohort.splits import check_folder, draw_folds, write_folds
    from mttu.data.manifest import read_manifest

    check_folder(output)
    cohort = read_manifest(manifest)
    drawn = draw_folds(cohort, folds, seed, group, exclude_test)
    write_folds(drawn, output)
    give({"folder": output, "folds": [_count_fold(manifest) for manifest in drawn]})
    show_table(_show_folds(drawn))
    console.print(_say_unchanged(cohort, drawn, exclude_test))
    console.print(f"{output}: fold_1.parquet to fold_{folds}.parquet")


def _count_fold(fold: "Manifest") -> dict[str, int]:
    """Number of train and val cases of a fold; of the val cases: patients, sites, IDH status and masks."""
    from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD

    val = fold.split("val")
    statuses = {"mutant": IDH_MUTANT, "wild": IDH_WILD, "unknown": IDH_UNKNOWN}
    return {
        "train": len(fold.split("train")),
        "val": len(val),
        "patients": len({case.patient_id for case in val}),
        "sites": len({case.site for case in val if case.site}),
        **{name: sum(case.idh == status for case in val) for name, status in statuses.items()},
        "masks": sum(case.seg is not None for case in val),
    }


def _show_folds(folds: Sequence["Manifest"]) -> Table:
    counts = [_count_fold(manifest) for manifest in folds]
    table = new_table(("fold", *counts[0]), caption="patients to masks: of val")
    for number, row in enumerate(counts, 1):
        table.add_row(str(number), *map(str, row.values()))
    return table


def _say_unchanged(cohort: "Manifest", folds: Sequence["Manifest"], exclude_test: bool) -> str:
    """What is the same in all folds, and unlabelled cases that are not, because they share a patient with val cases."""
    unlabelled = {case.case_id for case in cohort.split("unlabelled")}
    moved = unlabelled & {case.case_id for fold in folds for case in fold.split("val")}
    gone = {name for fold in folds for name in unlabelled - {case.case_id for case in fold.cases}}
    test = len(cohort.split("test"))
    tests = f"without the {test} test cases" if exclude_test else f"{test} test"
    parts = [f"in each fold: {len(unlabelled)} unlabelled, {tests}"]
    if moved:
        parts.append(f"unlabelled cases that validate with their patient: {', '.join(sorted(moved))}")
    if gone:
        parts.append(
            f"unlabelled cases without mask, left out while their patient validates: {', '.join(sorted(gone))}"
        )
    return "; ".join(parts)

"""`mttu split`: cross-validation folds of a manifest that is already there."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from mttu.display import console

if TYPE_CHECKING:
    from mttu.data.manifest import Manifest

ManifestFile = Annotated[Path, typer.Argument(help="Manifest that `mttu cohort` wrote")]


def split(
    manifest: ManifestFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for fold_1.parquet, fold_2.parquet, ...")],
    folds: Annotated[int, typer.Option(help="Number of folds")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw")] = 0,
    group: Annotated[str, typer.Option(help="patient, or site: a site is never in two folds")] = "patient",
    exclude_test: Annotated[bool, typer.Option("--exclude-test", help="Leave test cases out of the folds")] = False,
) -> None:
    """Draw cross-validation folds by patient, stratified by IDH; train on each with data.manifest=FILE."""
    from mttu.data.folds import check_folder, draw_folds, write_folds
    from mttu.data.manifest import read_manifest

    check_folder(output)
    cohort = read_manifest(manifest)
    drawn = draw_folds(cohort, folds, seed, group, exclude_test)
    write_folds(drawn, output)
    console.print(_show_folds(drawn))
    console.print(_say_unchanged(cohort, drawn, exclude_test), markup=False)
    console.print(f"{output}: fold_1.parquet to fold_{folds}.parquet", markup=False)


def _show_folds(folds: Sequence["Manifest"]) -> Table:
    """How many cases train and validate; of those that validate: patients, sites, IDH status and masks."""
    from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD

    table = Table(box=box.SIMPLE_HEAD, caption="patients to masks: of val")
    titles = ("fold", "train", "val", "patients", "sites", "mutant", "wild", "unknown", "masks")
    for title in titles:
        table.add_column(title, justify="right")
    for number, manifest in enumerate(folds, 1):
        val = manifest.split("val")
        counts = (
            number,
            len(manifest.split("train")),
            len(val),
            len({case.patient_id for case in val}),
            len({case.site for case in val if case.site}),
            *(sum(case.idh == status for case in val) for status in (IDH_MUTANT, IDH_WILD, IDH_UNKNOWN)),
            sum(case.seg is not None for case in val),
        )
        table.add_row(*map(str, counts))
    return table


def _say_unchanged(cohort: "Manifest", folds: Sequence["Manifest"], exclude_test: bool) -> str:
    """What is the same in all folds, and the unlabelled cases that are not, for their patients validate."""
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

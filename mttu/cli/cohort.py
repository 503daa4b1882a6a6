"""`mttu cohort`: from folders and tables to a manifest and its findings; `mttu describe`."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mttu.cli.display import Advance, console, errors, new_table, show_progress, show_table, tell
from mttu.cli.output import give
from mttu.cli.settings import ManifestFile
from mttu.errors import InputError, say_count

if TYPE_CHECKING:
    from mttu.data.findings import Finding
    from mttu.data.manifest import Manifest


def cohort(
    places: Annotated[
        list[Path], typer.Argument(help="Folders that hold case folders at any depth, or CSV files of paths")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Manifest to write (.parquet)")],
    clinical: Annotated[
        list[Path] | None,
        typer.Option(help="Table with ids and IDH, grade, age, sex, split; may be given several times"),
    ] = None,
    clinical_format: Annotated[str | None, typer.Option(help="Kind of the tables; recognised if not given")] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="brats, brats2023, ucsf-pdgm, upenn-gbm, egd, utsw-glioma or plain (bare names); "
            "recognised if not given"
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="What the masks' labels mean: brats, brats2013, brats2023, brats2024, brats2024-no-cavity, msd "
            "(nnU-Net too) or whole-tumour; what the layout documents if not given"
        ),
    ] = None,
    modalities: Annotated[str, typer.Option(help="Comma-separated, in channel order")] = "flair,t1ce,t1,t2",
    follow_ups: Annotated[bool, typer.Option("--follow-ups", help="Keep follow-up and post-operative scans")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave cases with errors out and go on")] = False,
    crosswalk: Annotated[
        Path | None, typer.Option(help="CSV whose rows name one patient under several ids, one column per data set")
    ] = None,
    brats_numbers: Annotated[
        bool,
        typer.Option(
            "--brats-numbers/--no-brats-numbers",
            help="Whether BraTS-GLI-00006-000 is the subject of BraTS2021_00006, and has its clinical row",
        ),
    ] = True,
    same_brain: Annotated[
        float, typer.Option(help="Least similarity of two images of one brain under two names; above 1: not looked for")
    ] = 0.8,
    recipe: Annotated[
        str | None, typer.Option(help="paper: BraTS 2020 training folder, then test folder, as in the paper's Table I")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the train/val split")] = 0,
) -> None:
    """Check folders of cases and write their manifest."""
    from mttu.cohort.build import build_cohort, describe_manifest
    from mttu.cohort.found_cases import CohortRequest
    from mttu.data.findings import check_findings_target
    from mttu.data.manifest import check_target, write_manifest

    if recipe not in (None, "paper"):
        raise InputError(f"--recipe {recipe!r}: unknown; choose paper")
    report = output.with_name(f"{output.stem}-findings.csv")
    check_target(output)  # before all files are read
    check_findings_target(report)
    request = CohortRequest(
        tuple(places),
        tuple(clinical or ()),
        clinical_format=clinical_format,
        layout=layout,
        labels=labels,
        modalities=tuple(name.strip() for name in modalities.split(",") if name.strip()),
        seed=seed,
        follow_ups=follow_ups,
        skip_bad=skip_bad,
        crosswalk=crosswalk,
        brats_numbers=brats_numbers,
        same_brain=same_brain,
        recipe="paper" if recipe else None,
    )
    with ExitStack() as stack:
        bars: list[Advance] = []

        def show(done: int, total: int, case_id: str) -> None:
            if not bars:  # the total is known from the first call on
                bars.append(stack.enter_context(show_progress("check", total)))
            bars[0](done, case_id)

        made = build_cohort(request, show)
    _report(made.findings, report)
    written = None if made.manifest is None else output
    give({"manifest": written, "findings": made.findings} | _count(made.manifest))
    if made.manifest is None:
        number = sum(finding.severity == "error" for finding in made.findings)
        raise InputError(
            f"{say_count(number, 'error', 'errors')}, listed above and in {report}; nothing else was written"
        )
    write_manifest(made.manifest, output)
    for line in describe_manifest(made.manifest):
        console.print(line)
    show_table(_show_table_one(made.manifest))
    console.print(f"{output}: {say_count(len(made.manifest.cases), 'case', 'cases')}")


def describe(manifest: ManifestFile) -> None:
    """Show who is in a cohort, as Table I of the paper. Age, sex, grade, IDH status and masks by use."""
    from mttu.data.manifest import read_manifest
    from mttu.pseudo_labels.pool_shift import find_bare_cases, find_pool_shift

    cohort = read_manifest(manifest)
    notes = [*find_pool_shift(cohort), *find_bare_cases(cohort)]
    give(_count(cohort) | {"notes": notes})
    show_table(_show_table_one(cohort))
    for note in notes:
        tell(note)


def _count(manifest: "Manifest | None") -> dict[str, Any]:
    """For `--json`: cases of each split, and the rows of Table I that have cells."""
    from mttu.cohort.table_one import COLUMNS, table_one

    if manifest is None:
        return {}
    rows = {row.title.strip(): dict(zip(COLUMNS, row.cells, strict=True)) for row in table_one(manifest) if row.cells}
    return {"cases": Counter(case.split for case in manifest.cases), "table_one": rows}


def _show_table_one(manifest: "Manifest") -> Table:
    from mttu.cohort.table_one import COLUMNS, table_one

    table = new_table(("", *COLUMNS))
    table.columns[0].justify = "left"
    for row in table_one(manifest):
        table.add_row(Text(row.title, style="" if row.cells else "bold"), *map(Text, row.cells))
    return table


def _report(findings: Sequence["Finding"], path: Path) -> None:
    """Shows all findings as a table, those that cases share once, and writes each as a row of a CSV."""
    from mttu.data.findings import merge_findings, write_findings

    if findings or path.exists():
        write_findings(path, findings)
    if not findings:
        return
    table = Table("", "finding", box=None, pad_edge=False, show_header=False)
    for severity, style in (("error", "red"), ("warning", "yellow"), ("note", "")):
        for sentence in merge_findings([finding for finding in findings if finding.severity == severity]):
            table.add_row(Text(f"{severity}:", style=style), Text(sentence))
    errors.print(table)
    console.print(f"{path}: {say_count(len(findings), 'finding', 'findings')}")

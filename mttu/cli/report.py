"""`mttu report`: one page about runs."""

from pathlib import Path
from typing import Annotated

import typer

from mttu.cli.display import console, show_progress, tell
from mttu.cli.output import give
from mttu.cli.settings import DeviceName


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of `mttu train` and `mttu self-train`")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Page to write, .html; an earlier one is replaced")],
    evaluation: Annotated[
        list[Path] | None, typer.Option(help="Folder that `mttu evaluate` wrote; as often as there are")
    ] = None,
    manifest: Annotated[
        list[Path] | None, typer.Option(help="Manifest of a training, which keeps no copy, or of evaluated cases")
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Show the best, median and worst case: pictures of patients")
    ] = False,
    passes: Annotated[
        int | None, typer.Option(min=0, max=100, help="Monte Carlo passes of their uncertainty; 10 if not given")
    ] = None,
    device: DeviceName = "auto",
) -> None:
    """Write one page about runs, which needs no network. Cohort, settings, curves, rounds, scores, cases."""
    from mttu.report.page import plan_page, write_page

    if not pictures and (passes is not None or device != "auto"):
        tell("--passes and --device change nothing without --pictures: no case is predicted")
    number = 10 if passes is None else passes
    plan = plan_page(runs, output, evaluation or [], manifest or [], pictures, number, device)
    with show_progress("report", sum(len(choice.cases) for choice in plan.choices.values())) as advance:
        size = write_page(plan, advance)
    if plan.pictures and not plan.synthetic:
        tell(f"{output}: holds pictures of patients; keep it as the scans themselves")
    cases = {str(folder): [case.case_id for _, case, _ in choice.cases] for folder, choice in plan.choices.items()}
    give({"page": output, "bytes": size, "cases": cases, "pictures": plan.pictures, "synthetic": plan.synthetic})
    console.print(f"{output}: {size / 1e6:.1f} MB. Research use only.")

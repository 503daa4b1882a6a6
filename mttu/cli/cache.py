"""The commands `mttu cache ...`: upkeep of prepared cases."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mttu.cli.display import console, show_progress, show_table
from mttu.cli.groups import CommandLine
from mttu.cli.output import give
from mttu.errors import say_count

app = CommandLine(help="Check and tidy up prepared cases.", no_args_is_help=True)

CacheFolder = Annotated[Path, typer.Argument(help="Folder that `mttu prepare` filled")]


@app.command()
def verify(
    cache: CacheFolder,
    manifest: Annotated[
        Path | None, typer.Argument(help="Manifest it was prepared from; its source files are then compared too")
    ] = None,
) -> None:
    """Read every prepared case and check it. Exits with 1 if any is damaged, missing or no longer true."""
    from mttu.data.cache_upkeep import list_cases, verify_cache
    from mttu.data.manifest import read_manifest

    cohort = None if manifest is None else read_manifest(manifest)
    with show_progress("verify", len(list_cases(cache, cohort))) as advance:
        result = verify_cache(cache, cohort, advance)
    for settings, count in result.settings.most_common():
        console.print(f"{say_count(count, 'case', 'cases')}: {settings}")
    if result.findings:
        table = Table()
        for name in ("case", "problem", "what mends it"):
            table.add_column(name, overflow="fold")  # else a long path ends in dots
        for finding in result.findings:
            table.add_row(finding.case_id, finding.problem, finding.mend)
        show_table(table)
    wrong = len({finding.case_id for finding in result.findings})
    give({"cache": cache, "cases": result.cases, "sound": result.cases - wrong, "findings": result.findings})
    console.print(f"{cache}: {result.cases - wrong} of {result.cases} cases are sound")
    if wrong:
        raise typer.Exit(1)


@app.command()
def prune(
    cache: CacheFolder,
    manifests: Annotated[list[Path], typer.Argument(help="All manifests that use the cache")],
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; else they are only listed")] = False,
) -> None:
    """List, and with --yes remove, cases that nobody needs.

    These are prepared cases that no manifest names, and leftovers of interrupted preparations.
    """
    from rich.filesize import decimal

    from mttu.data.cache_upkeep import prune_cache
    from mttu.data.manifest import read_manifest

    removals = prune_cache(cache, [read_manifest(path) for path in manifests], remove=yes)
    for removal in removals:
        console.print(f"{removal.name}: {removal.reason}, {decimal(removal.size_bytes)}")
    give({"cache": cache, "removed": yes, "removals": removals})
    total = decimal(sum(removal.size_bytes for removal in removals))
    if not removals:
        console.print(f"{cache}: nothing to remove")
    elif yes:
        console.print(f"{cache}: {len(removals)} removed, {total}")
    else:
        console.print(f"{cache}: {len(removals)} would be removed, {total}; add --yes to remove them")

"""`mttu ablations`: the rows of the paper's ablation tables."""

from typing import Annotated

import typer

from mttu.search.ablations import ABLATIONS, PAPERS_ROW, TABLES, rows_of


def ablations(
    table: Annotated[str | None, typer.Argument(help=f"One table: {', '.join(TABLES)}; all if not given")] = None,
) -> None:
    """List the rows of the paper's ablation tables: name, settings, and what each asks."""
    for name in [table] if table is not None else TABLES:
        rows = rows_of(name)
        typer.echo(f"{name}: {TABLES[name]}")
        width = max(map(len, rows)) + 2
        for row in rows:
            one, mark = ABLATIONS[row], "*" if row == PAPERS_ROW[name] else " "
            typer.echo(f"{mark} {row:{width}}{one.row}: {one.asks}")
            for setting, value in one.changes.items():
                typer.echo(f"  {'':{width}}{setting}={_show(value)}")
        typer.echo()
    typer.echo("*: the paper's own row, which the others are compared with; take one with --ablation NAME")


def _show(value: object) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)

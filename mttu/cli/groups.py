"""The order of `mttu --help`: commands in groups, as the work goes, each with one line that is never cut."""

from collections.abc import Callable, Mapping
from typing import Any

import typer
from typer.core import TyperGroup

from mttu.cli.output import add_output

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Try it": ("demo", "phantom"),
    "Data": ("cohort", "describe", "split", "prepare", "cache"),
    "Training": ("train", "self-train", "ensemble", "networks"),
    "Pseudo-labels": ("score", "select", "thresholds"),
    "Searches": ("tune", "ablate", "ablations"),
    "Use": ("predict", "evaluate", "compare", "failures", "report", "postprocess", "figures", "export"),
}
"""Every command by its name; one that is in no group comes last, under `More`."""
LONGEST_SUMMARY = 58
"""Characters of a command's line, which with its name and the margins make 80."""


class CommandLine(typer.Typer):
    """A Typer application whose commands all take `--quiet` and `--json`."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """As Typer's; the decorated function stays as it is."""
        register = super().command(name, **options)

        def keep(function: Callable[..., None]) -> Callable[..., None]:
            register(add_output(function))
            return function

        return keep


class Commands(TyperGroup):
    """Lists its commands in groups."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes a section per group; a line is wrapped on a narrow terminal, not cut."""
        grouped = {name for names in GROUPS.values() for name in names}
        more = tuple(name for name in self.commands if name not in grouped)
        width = max(map(len, self.commands))
        for title, names in {**GROUPS, "More": more}.items():
            rows = [(name.ljust(width), self.commands[name].get_short_help_str(1000)) for name in names]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

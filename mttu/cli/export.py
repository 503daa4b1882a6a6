"""The commands `mttu export ...`: a checkpoint for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from mttu.cli.display import console
from mttu.cli.groups import CommandLine
from mttu.cli.output import give
from mttu.cli.settings import CheckpointFolder

app = CommandLine(help="Write a checkpoint for MONAI or for torch.export.", no_args_is_help=True)

_UNSTATED = "not stated"


@app.command()
def bundle(
    checkpoint: CheckpointFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; an older bundle is replaced")],
    bundle_version: Annotated[str, typer.Option(help="Version of the model")] = "1.0.0",
    authors: Annotated[str, typer.Option(help="Who made the model")] = _UNSTATED,
    terms: Annotated[str, typer.Option("--license", help="Copyright and licence of the weights")] = _UNSTATED,
) -> None:
    """Write a MONAI bundle. `python -m monai.bundle run` executes it where mttu is installed."""
    from mttu.export import export_bundle

    export_bundle(checkpoint, output, bundle_version, authors, terms)
    give({"bundle": output})
    console.print(f"{output}: bundle; docs/README.md in it says how to run it. Research use only.")


@app.command()
def program(
    checkpoint: CheckpointFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, .pt2; an older program is replaced")],
) -> None:
    """Write a program of torch.export, which runs without mttu. It is compared with the network first."""
    from mttu.export import export_program

    agreement = export_program(checkpoint, output)
    give({"program": output, "agreement": agreement})
    console.print(f"{output}: written, read back and compared: {agreement.describe()}. Research use only.")

"""The commands `mttu export ...`: a checkpoint for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from mttu.cli.display import console
from mttu.cli.settings import CheckpointFolder

app = typer.Typer(help="Write a checkpoint as a MONAI bundle or as a program of torch.export.", no_args_is_help=True)

_UNSTATED = "not stated"


@app.command()
def bundle(
    checkpoint: CheckpointFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; an older bundle is replaced")],
    bundle_version: Annotated[str, typer.Option(help="Version of the model")] = "1.0.0",
    authors: Annotated[str, typer.Option(help="Who made the model")] = _UNSTATED,
    terms: Annotated[str, typer.Option("--license", help="Copyright and licence of the weights")] = _UNSTATED,
) -> None:
    """Write a MONAI bundle, which `python -m monai.bundle run` executes where mttu is installed."""
    from mttu.export import export_bundle

    export_bundle(checkpoint, output, bundle_version, authors, terms)
    console.print(f"{output}: bundle; docs/README.md in it says how to run it. Research use only.")


@app.command()
def program(
    checkpoint: CheckpointFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, .pt2; an older program is replaced")],
) -> None:
    """Write the network as a program of torch.export, checked against the network; runs without mttu."""
    from mttu.export import export_program

    agreement = export_program(checkpoint, output)
    console.print(f"{output}: written, read back and compared: {agreement.describe()}. Research use only.")

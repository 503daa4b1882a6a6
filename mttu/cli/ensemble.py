"""Command on trained networks: several as one checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from mttu.display import console


def ensemble(
    checkpoints: Annotated[list[Path], typer.Argument(help="Run folders or their `best` folders, one per member")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; an older ensemble is replaced")],
) -> None:
    """Make one checkpoint of several: `mttu predict` and `mttu score` then average over them."""
    from mttu.networks.ensemble import write_ensemble

    write_ensemble(output, checkpoints)
    console.print(f"{output}: ensemble of {len(checkpoints)}; give it in place of a checkpoint", markup=False)
    console.print(
        "IDH, nothing calibrated: members that were picked by hand have no out-of-fold predictions. `mttu evaluate` "
        "fits threshold and temperature on val cases, where no member learned from them",
        markup=False,
    )

"""Command on trained networks: several as one checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from mttu.display import console, tell


def ensemble(
    checkpoints: Annotated[list[Path], typer.Argument(help="Run folders or their `best` folders, one per member")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; an older ensemble is replaced")],
) -> None:
    """Make one checkpoint of several: `mttu predict` and `mttu score` then average over them."""
    from mttu.networks.ensemble import describe_differences, read_members, write_ensemble
    from mttu.networks.learned import describe_voters, explain_missing_answers

    write_ensemble(output, checkpoints)
    networks, _ = read_members(output)
    missing = explain_missing_answers(networks).values()
    for sentence in (*missing, *describe_voters(networks), *describe_differences(output)):
        tell(sentence)
    console.print(f"{output}: ensemble of {len(checkpoints)}; give it in place of a checkpoint", markup=False)
    if all("idh" not in network.tasks for network in networks):
        return
    console.print(
        "IDH, nothing calibrated: members that were picked by hand have no out-of-fold predictions. `mttu evaluate` "
        "fits threshold and temperature on val cases, where no member learned from them",
        markup=False,
    )

"""Trained networks: `mttu ensemble`, and what commands print of a checkpoint's calibration."""

from pathlib import Path
from typing import Annotated

import typer

from mttu.cli.display import console, tell


def print_calibration(folder: Path) -> None:
    """Prints which cases the IDH probability was calibrated on, or why it was not; nothing without an IDH head."""
    from mttu.inference.calibration import read_calibration
    from mttu.networks.ensemble import read_config

    if "idh" not in read_config(folder).network.tasks:
        return
    kept = read_calibration(folder)
    console.print(kept.describe())
    if kept.fitted:
        for note in kept.notes:
            console.print(f"left out of that: {note}")


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
    console.print(f"{output}: ensemble of {len(checkpoints)}; give it in place of a checkpoint")
    if all("idh" not in network.tasks for network in networks):
        return
    console.print(
        "IDH, nothing calibrated: members that were picked by hand have no out-of-fold predictions. `mttu evaluate` "
        "fits threshold and temperature on val cases, where no member learned from them"
    )

"""Trained networks: `mttu ensemble`, and what a command says of a checkpoint's calibration and cases."""

from pathlib import Path
from typing import Annotated

import typer

from mttu.cli.display import console, tell
from mttu.config import Config


def print_calibration(folder: Path) -> None:
    """Prints on which cases the IDH probability is calibrated, or why it is not; nothing without an IDH head.

    Args:
        folder: Run folder with a checkpoint or an ensemble inside.
    """
    from mttu.inference.calibration import read_calibration
    from mttu.networks.ensemble import read_config

    if "idh" not in read_config(folder).network.tasks:
        return
    kept = read_calibration(folder)
    console.print(kept.describe(), markup=False)
    if kept.fitted:
        for note in kept.notes:
            console.print(f"left out of that: {note}", markup=False)


def print_start(settings: Config) -> None:
    """Says it if training starts from weights that do not say whom they learned from."""
    from mttu.training.start import check_start, read_start_patients

    if not check_start(settings) and read_start_patients(settings) is None:
        console.print(
            f"note: train.start_from {settings.train.start_from} does not say whom it learned from. If that were val "
            "cases, figures on them and the epoch that they choose are too good; nothing will be calibrated on them",
            markup=False,
        )


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

"""What a command says of the calibration of a checkpoint, and of weights that do not say whom they learned from."""

from pathlib import Path

from mttu.config import Config
from mttu.display import console


def print_calibration(folder: Path) -> None:
    """Prints on which cases the IDH probability is calibrated, or why it is not; nothing without an IDH head.

    Args:
        folder: Run folder with a checkpoint or an ensemble inside.
    """
    from mttu.networks.ensemble import read_config
    from mttu.training.kept_calibration import read_calibration

    if "idh" not in read_config(folder).network.tasks:
        return
    kept = read_calibration(folder)
    console.print(kept.describe(), markup=False)
    if kept.fitted:
        for note in kept.notes:
            console.print(f"left out of that: {note}", markup=False)


def print_start(settings: Config) -> None:
    """Says it if training starts from weights that do not say whom they learned from."""
    from mttu.training.start import check_start, read_start_teachers

    if not check_start(settings) and read_start_teachers(settings) is None:
        console.print(
            f"note: train.start_from {settings.train.start_from} does not say whom it learned from. If that were val "
            "cases, figures on them and the epoch that they choose are too good; nothing will be calibrated on them",
            markup=False,
        )

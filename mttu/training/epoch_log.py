"""Epochs on their way to a tracker that may not answer for a while: training goes on, and nothing is lost."""

import logging
import time
from collections.abc import Mapping, Sequence

from mttu.errors import RunError
from mttu.tracking import Tracker

AGAIN_SECONDS = 60.0
"""Until a failed tracker is tried again; each try may take as long as `mttu.reach.PATIENCE_SECONDS`."""

logger = logging.getLogger(__name__)


class EpochLog:
    """Writes each epoch to the tracker of a training; what a failing one missed is written at the end."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.logged: set[int] = set()
        self.again: float | None = None
        """Time to try again; None while all is well."""

    def start(self, device: str, num_workers: int) -> None:
        """Notes what the training runs on, in place of what it ran on before a resume."""
        try:
            self.tracker.set_tags({"resolved.device": device, "resolved.num_workers": str(num_workers)})
        except RunError as error:
            self._fail("device and workers are", error)

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Writes an epoch, if the tracker answers."""
        if self.again is not None and time.monotonic() < self.again:
            return
        try:
            self.tracker.log_epoch(epoch, metrics)
        except RunError as error:
            self._fail(f"epoch {epoch} is", error)
            return
        self.logged.add(epoch)
        if self.again is not None:
            self.again = None
            logger.info("MLflow answers again; epochs that it missed are written at the end of the training")

    def complete(self, history: Sequence[Mapping[str, float]]) -> None:
        """Writes every epoch that was not written yet, including those before a kill.

        Raises:
            RunError: The tracker does not answer.
        """
        for row in history:
            if row["epoch"] not in self.logged:
                metrics = {name: value for name, value in row.items() if name != "epoch"}
                self.tracker.log_epoch(int(row["epoch"]), metrics)

    def _fail(self, what: str, error: RunError) -> None:
        if self.again is None:
            reason = str(error).partition(";")[0]
            logger.info(
                "%s not in MLflow (%s); training goes on, MLflow is tried again every %.0f s, and what it missed is "
                "written at the end",
                what,
                reason,
                AGAIN_SECONDS,
            )
        self.again = time.monotonic() + AGAIN_SECONDS

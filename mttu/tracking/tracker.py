"""What a training may ask of its tracker, and the tracker that writes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker(Protocol):
    """Where a training writes what it wants to be remembered. Trackers can be pickled."""

    @property
    def allows_pictures(self) -> bool:
        """Whether `log_picture` would keep a picture of a case; ask before drawing one for nothing."""
        ...

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Logs an epoch's metrics once; an epoch that the run already holds is left as it is."""
        ...

    def log_picture(self, name: str, figure: "Figure", shows_case: bool = True) -> bool:
        """Logs a figure under `pictures/NAME.png`; one that shows a case only if the run allows it.

        Args:
            name: Name of the picture, without ending; slashes make folders.
            figure: What to log.
            shows_case: False for what shows no case, such as learning curves.

        Returns:
            Whether it was logged.
        """
        ...

    def log_checkpoint(self, folder: Path) -> None:
        """Keeps a checkpoint folder as the artifact `best`, in place of an earlier one."""
        ...

    def finish(self, status: Status) -> None:
        """Closes the run; a resume opens it again."""
        ...


@dataclass(frozen=True)
class NullTracker:
    """Writes nothing."""

    @property
    def allows_pictures(self) -> bool:
        """False."""
        return False

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Does nothing."""

    def log_picture(self, name: str, figure: "Figure", shows_case: bool = True) -> bool:
        """Does nothing; returns False."""
        return False

    def log_checkpoint(self, folder: Path) -> None:
        """Does nothing."""

    def finish(self, status: Status) -> None:
        """Does nothing."""

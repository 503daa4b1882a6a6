"""What tracking is told of a self-training: a run for each round below that of the whole, the same names everywhere."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mttu.config import Config
from mttu.data.manifest import Manifest
from mttu.tracking import NullTracker, Tracker, open_tracker


def open_round(parent: Tracker, config: Config, folder: Path, number: int, manifest: Manifest) -> Tracker:
    """The tracker of a round: a run below the parent's, found again on resume."""
    if isinstance(parent, NullTracker):
        return parent
    name = f"round_{number}"
    return open_tracker(config, folder, manifest.fingerprint, manifest.synthetic)


@contextmanager
def closing(tracker: Tracker) -> Iterator[None]:
    """Closes the run at the end of the body, as finished or as what stopped it."""
    try:
        yield
    except BaseException as error:
        with suppress(Exception):  # the first error is the one to tell
            tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.finish("FINISHED")

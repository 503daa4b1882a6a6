"""One database for all tests of the tracker, because to make one takes seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mttu.config import Config, override
from mttu.tracking import MlflowTracker, open_tracker


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs whose name has a space."""
    return tmp_path_factory.mktemp("all runs")


@pytest.fixture
def folder(runs: Path, request: pytest.FixtureRequest) -> Path:
    """The test's own run folder."""
    return runs / request.node.name.partition("[")[0]


@pytest.fixture
def begin(folder: Path) -> Callable[..., MlflowTracker]:
    """Opens a run: `begin(parent=None, name=None, folder=None, labels=None, **settings)`."""

    def open_one(
        parent: MlflowTracker | None = None,
        name: str | None = None,
        place: Path = folder,
        labels: dict[str, object] | None = None,
        **changes: Any,
    ) -> MlflowTracker:
        config = override(Config(), {"output.folder": str(place.parent), "output.name": place.name} | changes)
        tracker = open_tracker(config, place, "3f" * 32, True, parent, name, labels)
        assert isinstance(tracker, MlflowTracker)
        return tracker

    return open_one


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with the files of a checkpoint; its weights are none."""
    best = tmp_path / "best"
    best.mkdir()
    (best / "weights.safetensors").write_bytes(b"weights")
    (best / "checkpoint.json").write_text("{}")
    return best

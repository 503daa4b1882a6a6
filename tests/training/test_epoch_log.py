import logging

import pytest

from mttu.errors import RunError
from mttu.tracking import NullTracker
from mttu.training import epoch_log
from mttu.training.epoch_log import EpochLog


class Moody(NullTracker):
    """A tracker that fails while `broken`."""

    broken = False

    def __init__(self):
        self.epochs = []
        self.tries = 0
        self.tags = {}

    def log_epoch(self, epoch, metrics):
        self.tries += 1
        if self.broken:
            raise RunError("tracking.uri http://host: nothing answers there (Connection refused); start it")
        self.epochs.append(epoch)

    def set_tags(self, tags):
        self.tags |= tags


Moody.__setattr__ = object.__setattr__  # what it extends is frozen


@pytest.fixture
def now(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(epoch_log.time, "monotonic", lambda: clock[0])
    return clock


def test_a_tracker_that_fails_does_not_stop_the_epochs_and_misses_none(now, caplog):
    caplog.set_level(logging.INFO, "mttu")
    tracker = Moody()
    log = EpochLog(tracker)
    log.start("gpu", 2)
    assert tracker.tags == {"resolved.device": "gpu", "resolved.num_workers": "2"}
    for epoch in range(1, 9):
        tracker.broken = 2 <= epoch <= 4
        now[0] += 25.0
        log.log(epoch, {"train/loss": 1.0})
    assert tracker.epochs == [1, 5, 6, 7, 8]
    assert tracker.tries == 6  # 2 fails, 3 and 4 come too soon
    assert caplog.messages == [
        "epoch 2 is not in MLflow (tracking.uri http://host: nothing answers there (Connection refused)); training "
        "goes on, MLflow is tried again every 60 s, and what it missed is written at the end",
        "MLflow answers again; epochs that it missed are written at the end of the training",
    ]
    log.complete([{"epoch": epoch, "train/loss": 1.0} for epoch in range(1, 9)])
    assert tracker.epochs == [1, 5, 6, 7, 8, 2, 3, 4]
    tracker.broken = True
    with pytest.raises(RunError, match="nothing answers there"):
        log.complete([{"epoch": 9, "train/loss": 1.0}])

"""A training killed at any write or rename goes on, by the same command, to the bits of an unbroken run."""

import json
import os
import shutil
import sys
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from mttu.config import override
from mttu.training.run import launch_locally, run_training


class KilledError(BaseException):
    """Not an Exception, so that nothing can catch it by habit."""


class Boundaries:
    """Counts what this process changes below a folder and can stop it right before any of these changes."""

    CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")

    def __init__(self):
        self.folder, self.count, self.kill_at = None, 0, None
        sys.addaudithook(self.see)

    def see(self, event, args):
        if self.folder is None:
            return
        writes = event == "open" and isinstance(args[0], str | os.PathLike) and self.is_write(args[1], args[2])
        if (writes or event in self.CHANGES) and self.folder in os.fspath(args[0]):
            self.count += 1
            if self.count == self.kill_at:
                raise KilledError

    @staticmethod
    def is_write(mode, flags):
        return bool(set(mode or "") & set("wax+")) if mode else bool(flags & (os.O_WRONLY | os.O_RDWR))

    @contextmanager
    def watch(self, folder, kill_at=None):
        self.folder, self.count, self.kill_at = str(folder), 0, kill_at
        try:
            yield
        finally:
            self.folder = None


BOUNDARIES = Boundaries()


def outcome(folder):
    """What must not depend on kills: best weights, everything in the last checkpoint, the history."""
    newest = sorted((folder / "train").glob("epoch_*"))[-1]
    state = torch.load(newest / "state.pt", weights_only=True)
    history = json.loads((folder / "finished.json").read_text())["history"]
    return {
        "best": load_file(folder / "best" / "weights.safetensors"),
        "state": state,
        "history": history,
        "files": sorted(path.name for path in folder.iterdir() if path.name != ".lock"),
    }


def differences(one, two, place=""):
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, two) else [place]
    if isinstance(one, dict):
        if one.keys() != two.keys():
            return [place]
        return [item for key in one for item in differences(one[key], two[key], f"{place}.{key}")]
    return [] if one == two else [f"{place}: {one} {two}"]


def run_killed_everywhere(config, tmp_path, step):
    folder = config.output.folder / config.output.name
    folder.parent.mkdir(exist_ok=True)  # else the first run has one boundary more than the others
    with BOUNDARIES.watch(folder):
        run_training(config, launch_locally)
        total = BOUNDARIES.count
    expected = outcome(folder)
    assert total > 25
    tried = range(1, total + 1, step)
    for boundary in tried:
        shutil.rmtree(folder)
        with pytest.raises(KilledError), BOUNDARIES.watch(folder, kill_at=boundary):
            run_training(config, launch_locally)
        run_training(config, launch_locally)
        assert not differences(expected, outcome(folder)), f"killed at boundary {boundary} of {total}"
    return len(tried)


def test_kills_at_some_boundaries(tiny, tmp_path):
    assert run_killed_everywhere(override(tiny, {"train.epochs": 2}), tmp_path, step=7) >= 5


@pytest.mark.slow
def test_kills_at_every_boundary(tiny, tmp_path):
    assert run_killed_everywhere(tiny, tmp_path, step=1) > 40

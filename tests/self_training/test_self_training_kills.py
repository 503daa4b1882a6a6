"""A self-training killed at any write or rename goes on, by the same command, to the bits of an unbroken run."""

import shutil

import pytest
from boundaries import BOUNDARIES, KilledError, differences
from safetensors.torch import load_file

from mttu.config import override
from mttu.pseudo_labels.reports import read_selection
from mttu.self_training import run_self_training
from mttu.self_training.evaluation import read_rows, read_summary
from mttu.self_training.round_folder import count_finished, read_history, read_record

pytestmark = pytest.mark.usefixtures("sketches")


def outcome(folder):
    """What must not depend on kills: selections, weights, histories, case scores, summary, which files there are."""
    rounds = [folder / f"round_{number}" for number in range(count_finished(folder))]
    return {
        "records": [vars(read_record(place)) for place in rounds],
        "selections": [read_selection(place / "selection.parquet") for place in rounds[1:]],
        "weights": {place.name: load_file(place / "best" / "weights.safetensors") for place in (*rounds, folder)},
        "history": [read_history(place) for place in rounds],
        "validation": [read_rows(place / "val.parquet") for place in rounds],
        "test": read_rows(folder / "test.parquet"),
        "summary": read_summary(folder),
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != ".lock"),
    }


def run_killed_everywhere(config, callables, step, first=1):
    folder = config.output.folder / config.output.name
    for _ in range(2):  # the first run of a process changes a file or two more
        shutil.rmtree(folder, ignore_errors=True)
        with BOUNDARIES.watch(folder):
            run_self_training(config, callables)
            total = BOUNDARIES.count
    expected = outcome(folder)
    tried = range(first, total + 1, step)
    for boundary in tried:
        shutil.rmtree(folder)
        with pytest.raises(KilledError), BOUNDARIES.watch(folder, kill_at=boundary):
            run_self_training(config, callables)
        run_self_training(config, callables)
        assert not differences(expected, outcome(folder)), f"killed at boundary {boundary} of {total}"
    return total, len(tried)


SHORT = {"train.epochs": 1, "self_training.rounds": 1}


def test_kills_at_some_boundaries(make_config, here):
    """A sample; all of them are tried below."""
    total, tried = run_killed_everywhere(make_config(SHORT), here, step=30)
    assert total > 60
    assert tried >= 3


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2, 3, 4])
def test_kills_at_every_boundary(make_config, here, first):
    """In four parts, which run side by side."""
    total, tried = run_killed_everywhere(make_config(), here, step=4, first=first)
    assert total > 80
    assert tried == (total - first) // 4 + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"self_training.optimiser": "kept", "self_training.relabel": False},
        {"self_training.keep": "all", "self_training.thresholds": "search", "selection.method": "CPL"},
        {"self_training.stop_when_unchanged": True, "selection.confidence_threshold": 1.0, "selection.method": "CPL"},
    ],
    ids=["kept", "search", "stopped"],
)
def test_kills_at_every_fourth_boundary(make_config, here, changes):
    total, tried = run_killed_everywhere(override(make_config(), changes), here, step=4)
    assert total > 80
    assert tried > 20

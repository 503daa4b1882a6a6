"""Nothing is doubled and nothing is missing, wherever a self-training was killed and however often."""

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from mttu.tracking import MlflowTracker, connection, resolve_uri
from mttu.tracking import runs as tracking_runs

Begin = Callable[..., MlflowTracker]
WRITES = ("create_", "log_", "set_", "update_")


@pytest.fixture
def play(begin: Begin, tmp_path: Path, checkpoint: Path) -> Callable[[Path], Iterator[MlflowTracker]]:
    """Yields the parent's tracker after each call of a small self-training in a folder."""
    table = tmp_path / "selection.csv"
    table.write_text("case_id\nphantom-001\n")
    picture = tmp_path / "calibration.png"
    picture.write_bytes(b"picture")

    def calls(place: Path) -> Iterator[MlflowTracker]:
        parent = begin(place=place)
        yield parent
        yield parent.log_dataset("pool", "ab" * 32, "unlabelled") or parent
        child = begin(parent, "round 1", place / "round_1", {"round": 1})
        yield parent
        yield child.log_epoch(0, {"val/dice": 0.5}) or parent
        yield child.log_table(table) or parent
        yield child.log_figure(picture) or parent
        yield child.log_step(1, {"best/dice": 0.5, "best/ece": 0.125}) or parent
        version = child.register(place.name, checkpoint, {"round": 1})
        yield parent
        yield child.finish("FINISHED") or parent
        yield parent.log_step(1, {"best/dice": 0.5, "best/ece": 0.125}) or parent
        yield parent.log_step(1, {"test/dice": 0.25}) or parent
        yield parent.set_alias(place.name, version, "best") or parent
        yield parent.finish("FINISHED") or parent

    return calls


def content(parent: MlflowTracker, model_name: str) -> dict[str, Any]:
    """All that MLflow holds of a self-training but ids, times, and the folder's name."""
    client = MlflowClient(parent.uri)
    experiment_id = client.get_run(parent.run_id).info.experiment_id
    condition = f"tags.mlflow.parentRunId = '{parent.run_id}'"
    rows = [client.get_run(parent.run_id), *client.search_runs([experiment_id], filter_string=condition)]
    found: dict[str, Any] = {}
    for number, run in enumerate(rows):
        held = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        own = Path(client.download_artifacts(run.info.run_id, ""))
        found[f"run {number}"] = {
            "status": run.info.status,
            "params": run.data.params,
            "tags": set(run.data.tags),
            "inputs": sorted((item.dataset.name, item.tags[0].value) for item in run.inputs.dataset_inputs),
            "metrics": {name: [(row.step, row.value) for row in values] for name, values in held.items()},
            "artifacts": {
                file.relative_to(own).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
                for file in own.rglob("*")
                if file.is_file() and file.name != "config.yaml"
            },
        }
    for version in client.search_model_versions(f"name = '{model_name}'"):
        by_name = client.get_model_version_by_alias(model_name, "best")
        found[f"version {version.version}"] = (version.tags, by_name.version)
    return found


@pytest.fixture
def unbroken(play: Any, runs: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What an unbroken self-training leaves: two runs and one version."""
    place = runs / f"unbroken-{request.node.name}"
    *_, parent = play(place)
    whole = content(parent, place.name)
    assert sorted(whole) == ["run 0", "run 1", "version 1"]
    return whole


def test_cut_after_each_call_and_begun_again(play: Any, folder: Path, unbroken: dict[str, Any]) -> None:
    number = 1 + sum(1 for _ in play(folder))
    for cut in range(1, number):
        calls = play(folder)
        for _ in range(cut):
            parent = next(calls)
    assert content(parent, folder.name) == unbroken


class Dying:
    """A client that is killed before each write that it has not tried yet; what was tried comes through."""

    def __init__(self, client: MlflowClient) -> None:
        self.client = client
        self.tried: list[str] = []

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.client, name)
        if not name.startswith(WRITES):
            return call

        def write(*arguments: Any, **named: Any) -> Any:
            what = re.sub(r"timestamp=\d+", "", f"{name}{arguments}{named}")
            if what not in self.tried:
                self.tried.append(what)
                raise KeyboardInterrupt
            return call(*arguments, **named)

        return write


def test_killed_before_each_write_and_begun_again(
    play: Any, folder: Path, unbroken: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = Dying(connection.connect(resolve_uri(None, folder)))
    for module in (connection, tracking_runs):
        monkeypatch.setattr(module, "connect", lambda _: dying)
    starts = 0
    while True:
        starts += 1
        assert starts < 60, f"every start writes something new: {dying.tried[-1]}"
        try:
            *_, parent = play(folder)
            break
        except KeyboardInterrupt:
            continue
    kinds = [what.partition("(")[0] for what in dying.tried]
    once = ("create_registered_model", "create_model_version", "set_registered_model_alias")
    assert {kinds.count(name) for name in once} == {1}
    assert {kinds.count(name) for name in ("create_run", "update_run", "set_terminated")} == {2}
    assert kinds.count("log_batch") >= 8
    assert (kinds.count("log_artifact"), kinds.count("log_inputs")) == (3, 3)
    assert content(parent, folder.name) == unbroken

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.artifacts import download_artifacts
from mlflow_runs import client_of

from mttu.errors import InputError, RunError
from mttu.tracking import MlflowTracker, check_model_name

Begin = Callable[..., MlflowTracker]


def versions(tracker: MlflowTracker, name: str) -> list[Any]:
    return sorted(client_of(tracker).search_model_versions(f"name = '{name}'"), key=lambda row: int(row.version))


def test_each_round_is_a_version_of_one_model(begin: Begin, folder: Path, checkpoint: Path) -> None:
    parent = begin()
    for number in (0, 1):
        child = begin(parent, f"round {number}", folder / f"round_{number}")
        (checkpoint / "weights.safetensors").write_bytes(b"weights %d" % number)
        assert child.register("one model", checkpoint, {"round": number, "val/score": 0.5}) == str(number + 1)
    child.set_alias("one model", "1", "best")
    child.set_alias("one model", "2", "best")
    client = client_of(parent)
    model = client.get_registered_model("one model")
    assert {name: str(version) for name, version in model.aliases.items()} == {"best": "2"}
    assert "no pickle" in model.description
    found = versions(parent, "one model")
    assert [row.tags["round"] for row in found] == ["0", "1"]
    assert [row.description for row in found] == [f"round {number}, {folder.name}" for number in (0, 1)]
    assert found[1].run_id == child.run_id
    assert found[1].tags["weights.sha256"] == hashlib.sha256(b"weights 1").hexdigest()
    assert {item.path for item in client.list_artifacts(child.run_id, "best")} == {
        "best/checkpoint.json",
        "best/weights.safetensors",
    }


def test_the_alias_leads_to_the_weights(
    begin: Begin, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = begin()
    tracker.set_alias("for download", tracker.register("for download", checkpoint, {}), "best")
    target = tmp_path / "weights"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    download_artifacts("models:/for download@best", dst_path=str(target))
    assert (target / "weights.safetensors").read_bytes() == b"weights"


def test_a_run_has_one_version_which_holds_its_last_weights(begin: Begin, checkpoint: Path) -> None:
    tracker = begin()
    assert tracker.register("again", checkpoint, {"score": 1}) == "1"
    assert tracker.register("again", checkpoint, {"score": 2, "late": "yes"}) == "1"
    (checkpoint / "weights.safetensors").write_bytes(b"better")
    assert tracker.register("again", checkpoint, {"score": 2}) == "1"
    (version,) = versions(tracker, "again")
    assert version.tags == {"score": "2", "late": "yes", "weights.sha256": hashlib.sha256(b"better").hexdigest()}
    kept = client_of(tracker).download_artifacts(tracker.run_id, "best/weights.safetensors")
    assert Path(kept).read_bytes() == b"better"


def test_members_of_an_ensemble_keep_their_folders(begin: Begin, tmp_path: Path) -> None:
    ensemble = tmp_path / "ensemble"
    for number in (1, 2):
        member = ensemble / f"member_{number}"
        member.mkdir(parents=True)
        (member / "weights.safetensors").write_bytes(b"%d" % number)
    (ensemble / "ensemble.json").write_text("{}")
    tracker = begin()
    tracker.register("ensemble", ensemble, {})
    (version,) = versions(tracker, "ensemble")
    assert version.tags["weights.sha256"] == hashlib.sha256(b"12").hexdigest()
    kept = Path(client_of(tracker).download_artifacts(tracker.run_id, "best"))
    assert sorted(file.relative_to(kept).as_posix() for file in kept.rglob("*") if file.is_file()) == [
        "ensemble.json",
        "member_1/weights.safetensors",
        "member_2/weights.safetensors",
    ]


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "a:b", "-a", "a ", "it's", 'a"b', "a\n", "x" * 257])
def test_names_that_a_model_cannot_have(name: str) -> None:
    with pytest.raises(InputError, match=r"registered model .*: give at most 256 letters"):
        check_model_name(name)


@pytest.mark.parametrize("name", ["a", "mttu-net", "Hirntumor Köln 1.0_b", "007", "x" * 256])
def test_names_that_a_model_can_have_are_names_for_mlflow(name: str) -> None:
    from mlflow.utils.validation import _validate_model_name

    check_model_name(name)
    _validate_model_name(name)


def test_refusals_come_before_anything_is_written(begin: Begin, checkpoint: Path, tmp_path: Path) -> None:
    tracker = begin()
    with pytest.raises(InputError, match="registered model 'a/b'"):
        tracker.register("a/b", checkpoint, {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no safetensors file in it; give the `best` folder"):
        tracker.register("refused", tmp_path / "empty", {})
    (checkpoint / "state.pt").write_bytes(b"pickle")
    with pytest.raises(InputError, match=r"state\.pt cannot be registered"):
        tracker.register("refused", checkpoint, {})
    client = client_of(tracker)
    assert client.search_registered_models("name = 'refused'") == []
    assert [item.path for item in client.list_artifacts(tracker.run_id)] == ["config.yaml"]


@pytest.mark.parametrize("alias", ["", "latest", "v1", "V22", "a b", "ä/b"])
def test_aliases_that_are_none(begin: Begin, folder: Path, alias: str) -> None:
    with pytest.raises(InputError, match=r"alias .*: give at most 255 letters"):
        MlflowTracker("sqlite:////nowhere.db", "0" * 32).set_alias("model", "1", alias)


def test_an_alias_of_no_version_is_told_in_words(begin: Begin) -> None:
    with pytest.raises(RunError, match=r"tracking\.uri sqlite:.*MLflow cannot write \(.*not found\).*go on untracked"):
        begin().set_alias("no such model", "1", "best")

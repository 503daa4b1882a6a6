import pytest

from mttu.errors import InputError
from mttu.tracking import fetch_checkpoint, is_address


@pytest.fixture
def kept(begin, folder, tiny_checkpoint):
    """A run that keeps a checkpoint, also as a version of a registered model."""
    tracker = begin()
    version = tracker.register("glioma", tiny_checkpoint, {})
    tracker.set_alias("glioma", version, "best")
    return tracker


@pytest.mark.parametrize(
    "address", ["runs:/{run}", "runs:/{run}/best", "models:/glioma@best", "models:/glioma/{version}"]
)
def test_weights_come_as_they_were_kept(address, kept, tiny_checkpoint, runs, tmp_path):
    version = kept.register("glioma", tiny_checkpoint, {})
    place = fetch_checkpoint(address.format(run=kept.run_id, version=version), tmp_path / "weights", runs, kept.uri)
    found = {path.name: path.read_bytes() for path in place.rglob("*.safetensors")}
    assert found == {path.name: path.read_bytes() for path in tiny_checkpoint.rglob("*.safetensors")}
    assert found
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    again = fetch_checkpoint(address.format(run=kept.run_id, version=version), tmp_path / "weights", runs, kept.uri)
    assert again == place


def test_what_is_not_there_is_told_and_leaves_nothing(kept, begin, runs, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    empty = begin(place=runs / "without-weights").run_id
    for address, said in {
        "runs:/nothing": "runs:/nothing: not found at sqlite:",
        f"runs:/{empty}": f"runs:/{empty}: not found at sqlite:",
        "models:/glioma@newest": "models:/glioma@newest: not found at sqlite:",
        "models:/glioma/99": "models:/glioma/99: not found at sqlite:",
        "models:/glioma": "models:/glioma: not found at sqlite:",
        "models:/": "models:/: not found at sqlite:",
        "runs:/": "runs:/: not found at sqlite:",
    }.items():
        with pytest.raises(InputError, match=said):
            fetch_checkpoint(address, tmp_path / "weights", runs, kept.uri)
    with pytest.raises(InputError, match=r"mlflow\.db does not exist; say with MLFLOW_TRACKING_URI where"):
        fetch_checkpoint("runs:/x", tmp_path / "weights", tmp_path / "no runs")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine" / "best").mkdir(parents=True)
    (tmp_path / "mine" / "best" / "checkpoint.json").write_text("{}")
    with pytest.raises(InputError, match="mine: is to hold the weights of runs:/x, but holds something else"):
        fetch_checkpoint("runs:/x", tmp_path / "mine", runs, kept.uri)
    assert (tmp_path / "mine" / "best" / "checkpoint.json").read_text() == "{}"


def test_addresses_are_no_paths():
    assert [is_address(text) for text in ("runs:/1", "models:/a/1", "runs/paper", "runs", "models")] == [
        *(True, True),
        *(False, False, False),
    ]

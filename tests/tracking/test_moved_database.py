"""MLflow's database and its artifacts are moved or copied together, or not, and a training goes on there."""

import shutil
import sqlite3
from contextlib import closing

import mlflow.tracking._tracking_service.utils as mlflow_process
import pytest
from matplotlib.figure import Figure
from mlflow.artifacts import download_artifacts
from mlflow_runs import artifacts, client_of, run_of

from mttu.config import override
from mttu.errors import InputError
from mttu.tracking.runs import check_location, follow_database
from mttu.training.run import launch_locally, run_training


@pytest.fixture
def move(monkeypatch):
    """Moves a folder, and takes from this process what another one would not know: where MLflow wrote before."""

    def rename(source, target):
        source.rename(target)
        mlflow_process._artifact_repos_cache.clear()
        return target

    mlflow_process._artifact_repos_cache.clear()
    return rename


@pytest.fixture
def first(runs, begin, tmp_path):
    """A copy of the folder of runs, which has an experiment."""
    begin()
    return shutil.copytree(runs, tmp_path / "first place")


def texts(folder):
    """Everything in the database, as text."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        return "\n".join(line for line in connection.iterdump() if "mlflow-artifacts" in line)


def kept_weights(folder):
    """Places of the weights among the artifacts, below the folder."""
    return {path.relative_to(folder) for path in (folder / "mlflow-artifacts").rglob("best/weights.safetensors")}


def test_a_training_goes_on_where_its_folder_was_moved_to(
    begin, first, checkpoint, tmp_path, move, folder, monkeypatch, runs
):
    before = sorted(runs.rglob("*"))
    parent = begin(place=first / folder.name)
    child = begin(parent, "round 0", first / folder.name / "round_0")
    child.register("moved", checkpoint, {})
    second = move(first, tmp_path / "second place")

    parent = begin(place=second / folder.name)
    child = begin(parent, "round 1", second / folder.name / "round_1")
    (checkpoint / "weights.safetensors").write_bytes(b"better")
    child.set_alias("moved", child.register("moved", checkpoint, {}), "best")
    parent.log_checkpoint(checkpoint)

    assert not first.exists()
    assert sorted(runs.rglob("*")) == before  # the folder that was copied keeps its own
    assert (second / "mlflow-artifacts" / parent.run_id / "artifacts" / "best" / "weights.safetensors").is_file()
    assert {"best", "config.yaml"} <= set(artifacts(parent))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", parent.uri)
    for version, content in (("moved/1", b"weights"), ("moved@best", b"better")):
        target = tmp_path / version.replace("/", "-")
        download_artifacts(f"models:/{version}", dst_path=str(target))
        assert (target / "weights.safetensors").read_bytes() == content
    assert "first%20place" not in texts(second)
    assert "second%20place" in texts(second)


def test_a_run_that_is_half_trained_ends_in_the_new_place(tiny, first, tmp_path, move, monkeypatch):
    """As `mttu train` writes it: with relative paths, from the folder itself."""
    settings = {"tracking.enabled": True, "output.folder": "runs", "train.epochs": 2, "train.steps_per_epoch": 1}
    config = override(tiny, settings)
    monkeypatch.setattr("mttu.training.run.draw_results", lambda *arguments: [("learning_curves", Figure())])
    earlier = kept_weights(first)  # other tests share the folder that was copied
    home = tmp_path / "home"
    home.mkdir()
    move(first, home / "runs")
    monkeypatch.chdir(home)
    seen = []

    def stop(epoch, metrics):
        seen.append(epoch)
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(config, launch_locally, show=stop)
    moved = move(home, tmp_path / "moved")
    monkeypatch.chdir(moved)
    folder = run_training(config, launch_locally, show=lambda epoch, metrics: seen.append(epoch))
    assert folder == moved / "runs" / "tiny"
    assert seen == [1, 2]  # it went on, and did not begin anew
    assert not home.exists()
    [one] = kept_weights(moved / "runs") - earlier
    found = moved / "runs" / one
    assert found.read_bytes() == (folder / "best" / "weights.safetensors").read_bytes()
    assert (found.parent.parent / "pictures" / "learning_curves.png").is_file()
    last = move(moved, tmp_path / "last")
    monkeypatch.chdir(last)
    run_training(config, launch_locally)  # is finished, and MLflow shows it all the same
    assert "/moved/" not in texts(last / "runs")
    assert not moved.exists()


def test_artifacts_that_stayed_behind_are_asked_for(first, begin, folder, tmp_path, move):
    begin(place=first / folder.name)
    second = tmp_path / "second"
    second.mkdir()
    for name in ("mlflow.db", folder.name):
        (first / name).rename(second / name)
    with pytest.raises(InputError) as caught:
        begin(place=second / folder.name)
    old, new = first / "mlflow-artifacts", second / "mlflow-artifacts"
    assert str(caught.value) == (
        f"tracking: {second / 'mlflow.db'} was moved without its artifacts, which are still in {old}; move them, too: "
        f"mv '{old}' '{new}', or link them if they are to stay: ln -s '{old}' '{new}'"
    )
    new.symlink_to(old)
    mlflow_process._artifact_repos_cache.clear()
    tracker = begin(place=second / folder.name)
    assert run_of(tracker).info.artifact_uri.startswith(old.as_uri())
    new.unlink()
    shutil.rmtree(old)
    with pytest.raises(InputError, match=r"are neither beside it nor in .*; bring the folder mlflow-artifacts back"):
        begin(place=second / folder.name)
    new.mkdir()
    mlflow_process._artifact_repos_cache.clear()
    begin(place=second / folder.name)
    assert (new / tracker.run_id / "artifacts" / "config.yaml").is_file()
    assert not old.exists()


def test_a_place_that_somebody_chose_in_mlflow_stays(first, begin, folder, tmp_path):
    tracker = begin(place=first / folder.name)
    chosen = {"elsewhere": tmp_path / "big" / "mlflow-artifacts", "bucket": "s3://bucket/mlflow-artifacts"}
    chosen["elsewhere"].mkdir(parents=True)
    client = client_of(tracker)
    client.create_experiment("elsewhere", artifact_location=chosen["elsewhere"].as_uri())
    client.create_experiment("bucket", artifact_location=chosen["bucket"])
    begin(place=first / "other", **{"tracking.experiment": "elsewhere"})
    before = texts(first)
    follow_database(first / "mlflow.db")
    assert texts(first) == before
    assert list(chosen["elsewhere"].rglob("config.yaml"))


def test_a_chosen_place_whose_disk_is_not_mounted_stays_and_is_asked_for_when_it_is_used(
    first, begin, folder, tmp_path
):
    tracker = begin(place=first / folder.name)
    big = tmp_path / "big" / "mlflow-artifacts"
    big.mkdir(parents=True)
    spare = tmp_path / "spare" / "mlflow-artifacts"  # nothing was ever written there
    for name, place in (("elsewhere", big), ("spare", spare)):
        client_of(tracker).create_experiment(name, artifact_location=place.as_uri())
    begin(place=first / "other", **{"tracking.experiment": "elsewhere"})
    before = texts(first)
    big.parent.rename(tmp_path / "unmounted")
    begin(place=first / folder.name)  # of another experiment: goes on
    assert texts(first) == before
    with pytest.raises(InputError) as caught:
        begin(place=first / "other", **{"tracking.experiment": "elsewhere"})
    assert str(caught.value) == (
        f"tracking.experiment 'elsewhere': MLflow keeps its artifacts in {big}, which is not there any more; bring it "
        f"back or mount its disk, make a link to where it is now (ln -s NEW/mlflow-artifacts {big}), or give "
        "tracking.experiment another name"
    )
    assert not big.exists()
    assert texts(first) == before


def test_what_is_no_database_of_mlflow_is_left_or_refused(tmp_path):
    follow_database(tmp_path / "mlflow.db")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mlflow.db").touch()
    follow_database(tmp_path / "mlflow.db")
    (tmp_path / "mlflow.db").write_text("something else, of some length" * 100)
    with pytest.raises(InputError, match=r"MLflow cannot use it .*not a database"):
        follow_database(tmp_path / "mlflow.db")


def test_a_server_s_artifacts_that_are_gone_are_asked_for(tmp_path):
    """Its database is shared by run folders, and no row of it is ours to change."""
    place = tmp_path / "mlflow-artifacts"
    for location in ("mlflow-artifacts:/3", "s3://bucket/x", (tmp_path / "mlruns").as_uri()):
        check_location(location, True, "mttu")
    check_location(place.as_uri(), False, "mttu")
    with pytest.raises(InputError, match=r"tracking\.experiment 'mttu': .*, which is not there any more"):
        check_location(place.as_uri(), True, "mttu")
    place.mkdir()
    check_location(place.as_uri(), True, "mttu")

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from mlflow_runs import start

from mttu.errors import InputError, mask_secrets
from mttu.tracking import MlflowTracker, describe_environment, resolve_uri, show_command

FINGERPRINT = "3f" * 32


def test_a_database_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database" * 100)
    with pytest.raises(InputError, match=r"tracking\.uri sqlite:.*MLflow cannot use it \(.*not a database"):
        start(tmp_path / "run")


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "sqlite:///", "sqlite://", "ftp://host", ""])
def test_addresses_that_mlflow_does_not_write_to_are_refused(uri: str) -> None:
    with pytest.raises(InputError, match="is not an address that MLflow can write to; give a database"):
        resolve_uri(uri, Path("runs/one"))


def test_addresses_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(None, Path("runs/one")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert resolve_uri("sqlite:///my.db", Path("runs/one")) == f"sqlite:///{tmp_path}/my.db"
    server = "postgresql+psycopg2://someone:secret@host:1/db"
    assert resolve_uri(server, Path("runs/one")) == server
    assert (
        show_command(server).partition("mlflow ui")[2]
        == " --host 127.0.0.1 --backend-store-uri postgresql+psycopg2://host:1/db"
    )
    assert shlex.split(show_command("sqlite:////data/o'brien's/my.db"))[-1] == "sqlite:////data/o'brien's/my.db"
    assert show_command("https://someone:secret@host/x") == "https://host/x"


PASSWORDS = ["S3'cr3t", "s3 cr3t!", "s3/cr3t, it", "p@s3<cr3t>", "s3%20cr3t", "s3\\cr3t", "s3%26cr3t", "s3?cr3t=;"]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize(
    "address",
    [
        "postgresql://someone:{}@host/db",
        "postgresql://host/db?user=someone&password={}",
        "postgresql://host/db?pass%77ord={}&user=someone",
        "https://host/x?token={}#top",
        "mssql+pyodbc:///?odbc_connect=Driver={{x}};UID=someone;PWD={{{}}};DATABASE=d",
        "mssql+pyodbc:///?odbc_connect=Driver%3D%7Bx%7D%3BPWD%3D%7B{}%7D%3BDATABASE%3Dd&x=1",
    ],
)
def test_the_password_in_use_is_masked_whatever_signs_it_holds(
    address: str, password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mttu.errors._known", {})  # of the addresses before it
    uri = address.format(password)
    resolve_uri(uri, tmp_path)
    read = unquote(password)
    for text in (
        uri,
        repr(uri),
        f"no answer of {uri}: it said {password!r}",
        f"someone:{password}@host",
        unquote(uri),
        f"bad dsn 'user=someone password={read}', or {read!r}",
        f"cannot open Driver={{x}};PWD={{{read}}};DATABASE=d",
    ):
        assert "cr3t" not in mask_secrets(text)
        assert "cr3t" not in show_command(uri)


def test_what_is_no_secret_of_the_address_in_use_stays(tmp_path: Path) -> None:
    resolve_uri("postgresql://host/db?user=someone-1&password=short&x=s3cr3t-9", tmp_path)
    assert mask_secrets("someone-1 of s3cr3t-9 is short") == "someone-1 of s3cr3t-9 is short"
    assert mask_secrets("postgresql://host/db?user=someone-1&password=short&x=1").endswith("password=***&x=1")


def test_a_password_that_is_a_word_masks_no_sentence(tmp_path: Path) -> None:
    resolve_uri("postgresql://mttu:mlflow@host/db", tmp_path)
    assert mask_secrets("mlflow says: no") == "mlflow says: no"
    assert "mlflow" not in mask_secrets("postgresql://mttu:mlflow@host/db")


@pytest.mark.parametrize(
    ("chosen", "disabled"),
    [
        ({}, "true"),
        ({"MLFLOW_DISABLE_TELEMETRY": "false"}, "false"),
        ({"DO_NOT_TRACK": "1"}, "true"),
        ({"DO_NOT_TRACK": "false"}, "true"),
        ({"MLFLOW_DISABLE_TELEMETRY": "1"}, "true"),
    ],
)
def test_telemetry_is_off_unless_the_user_says_otherwise(chosen: dict[str, str], disabled: str) -> None:
    names = ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "RAY_USAGE_STATS_ENABLED")
    environment = {name: value for name, value in os.environ.items() if name not in names} | chosen
    script = "import mttu, os; print(os.environ.get('MLFLOW_DISABLE_TELEMETRY'), os.environ['RAY_USAGE_STATS_ENABLED'])"
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [disabled, "0"]


def test_mlflow_s_variable_counts_where_no_setting_does(
    begin: Callable[..., MlflowTracker], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, place = begin(), tmp_path / "one" / "run"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", before.uri)
    tracker = begin(place=place)
    assert tracker.uri == before.uri
    assert begin(place=place).run_id == tracker.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert begin(place=folder) == before  # a run goes on where it is
    assert begin(place=tmp_path / "two" / "run", **{"tracking.uri": before.uri}).uri == before.uri
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(InputError, match="is tracked where MLFLOW_TRACKING_URI said when it was begun, and it is"):
        begin(place=place)
    assert begin(place=place, **{"tracking.uri": before.uri}).run_id == tracker.run_id
    assert not [*tmp_path.rglob("*.db")]


def test_what_becomes_of_mlflow_s_variable_is_said_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert describe_environment(None, tmp_path / "run", False) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://someone:secret@host/x")
    said = "MLflow writes to https://host/x, as MLFLOW_TRACKING_URI says; tracking.uri counts before it"
    assert describe_environment(None, tmp_path / "run", False) == said
    ignored = "MLFLOW_TRACKING_URI is ignored, because "
    assert describe_environment("sqlite:///my.db", tmp_path / "run", False) == f"{ignored}tracking.uri is set"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tracking.json").write_text('{"format_version": 1, "training": "a", "run_id": "b"}')
    assert str(describe_environment(None, tmp_path / "run", False)).startswith(f"{ignored}{tmp_path / 'run'} was begun")
    assert describe_environment(None, tmp_path / "run", True) == said
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
    with pytest.raises(InputError, match=r"MLFLOW_TRACKING_URI: 'mlruns' is not an address .*; tracking\.uri counts"):
        resolve_uri(None, Path("runs/one"))

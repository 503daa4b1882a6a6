import errno
import os
import pickle
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from mttu.data.cache import open_cached
from mttu.data.manifest import read_manifest
from mttu.data.volumes import read_volume
from mttu.errors import InputError, RunError, UnmeasuredError, explain_open_files, mask_secrets, raise_if_any
from mttu.pseudo_labels.reports import read_selection
from mttu.pseudo_labels.score_table import read_scores
from mttu.report.predictions import read_predictions
from mttu.self_training.evaluation import read_rows
from mttu.self_training.round_folder import read_record
from mttu.training.folds import read_folds_table


def test_input_error_shows_every_problem() -> None:
    with pytest.raises(InputError, match=r"case A: no seg\ncase B: no flair") as caught:
        raise_if_any(["case A: no seg", "case B: no flair"])
    assert caught.value.problems == ["case A: no seg", "case B: no flair"]


def test_no_problem_raises_nothing() -> None:
    assert raise_if_any([]) is None


def test_errors_survive_the_way_to_another_process() -> None:
    refused = pickle.loads(pickle.dumps(InputError(["one", "two"])))
    assert refused.problems == ["one", "two"]
    assert type(pickle.loads(pickle.dumps(UnmeasuredError("one")))) is UnmeasuredError
    stopped = pickle.loads(pickle.dumps(RunError("loss is nan in case A", all_ranks=False)))
    assert (str(stopped), stopped.all_ranks) == ("loss is nan in case A", False)


@pytest.mark.parametrize(
    "text",
    [
        "http://user:s3cret@host:5000/x",
        "postgresql+psycopg2://user:s3cret@host/db",
        "mysql://user:pa/s3cret@host/db",
        "http://user:p@s3cret@host",
        "http://user:s3cret#x@host/",
        "http://[user:s3cret@::1]:5000",
        "https://s3cret@host/x",
        "jdbc:postgresql://user:s3cret@host",
        "could not connect to postgresql://user:s3cret@host:5432/db: refused",
        "http://host/x?password=s3cret",
        "http://host/x?a=1&token=s3cret&b=2",
        "postgresql://host/db?user=a&password=s3cret",
        "http%3A//host/%3Fpassword%3Ds3cret",
        "http://host/?api_key=s3cret",
        "http://host/?sig=s3cret",
        "host=h password='s3 s3cret' dbname=x",
        'password="s3 s3cret"',
        "PASSWORD = s3cret",
        "MLFLOW_TRACKING_PASSWORD=s3cret",
        "AWS_SECRET_ACCESS_KEY=s3cret",
        '{"password": "s3cret", "host": "h"}',
        "{'password': 's3cret'}",
        "api_key: s3cret",
        "PGPASSWORD=s3cret",
        "Authorization: Bearer s3cretabcdef",
        "bearer s3cretabcdefghijkl",
        "Authorization: Basic s3cretABC==",
        "Authorization: token s3cretabcdef",
        "postgresql://user:a's3cret@host/db",
        "'postgresql://user:a's3cret@host/db'",
        'http://user:a"s3cret@host',
        "http://o'brien:a<>s3cret@host",
        "sqlite://user:s3cret@host/x",
        "password=a's3cret",
        "pwd=a\\'s3cret",
        "password='a's3cret'",
        "AccountName=x;AccountKey=s3cret==;EndpointSuffix=y",
        "private_key=s3cret",
        "SharedAccessKey=s3cret",
        "login --password s3cret --host h",
        "--api-key s3cret",
    ],
)
def test_no_error_tells_a_secret(text: str) -> None:
    for error in (InputError(text), InputError(["fine", f"tracking.uri {text}: no"]), RunError(f"stopped: {text}")):
        assert "s3cret" not in str(error)
        assert "s3cret" not in repr(error)


@pytest.mark.parametrize(
    "text",
    [
        "tracking.uri: 'mlruns' is no address; give http://127.0.0.1:5000 or sqlite:///mlflow.db",
        "case A: seg has labels {0, 5}; pass --labels NAME",
        "token authentication is off; pass: 3 of 10; write to someone@example.org; basic information",
        "{'uri': 'http://127.0.0.1:5000', 'who': 'a@b'} and <http://h:80>, ask c@d",
        "authorization token expired; Authorization: token missing; give --password or --token to the server",
        "a 'pass' of 2; the private key: none; AUTH_MODE=token",
        "sqlite:////home/jane@uni.de/runs/mlflow.db and file:///data/a@b/x and s3://bucket/key@v1/f",
    ],
)
def test_what_is_no_secret_is_told(text: str) -> None:
    assert mask_secrets(text) == text


READERS: dict[str, Callable[[Path], object]] = {
    "prepared case": lambda folder: open_cached(folder, "A"),
    "source files": lambda folder: read_volume(folder / "a.nii", "A"),
    "manifest": lambda folder: read_manifest(folder / "a.parquet"),
    "scores": lambda folder: read_scores(folder / "a.parquet"),
    "selection": lambda folder: read_selection(folder / "a.parquet"),
    "rows of a round": lambda folder: read_rows(folder / "a.parquet"),
    "predictions": lambda folder: read_predictions(folder),
    "folds": lambda folder: read_folds_table(folder),
    "round": lambda folder: read_record(folder),
}


def test_no_file_is_blamed_where_no_more_can_be_opened(tmp_path: Path) -> None:
    (tmp_path / "A").mkdir()
    for name in ("A/case.json", "a.nii", "a.parquet", "predictions.parquet", "folds.json", "round.json"):
        (tmp_path / name).write_text("?")
    for read in READERS.values():
        with pytest.raises(InputError):
            read(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)  # the lowest that is free
    os.close(free)
    found = {}
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        for name, read in READERS.items():
            try:
                read(tmp_path)
            except (InputError, RunError) as error:
                found[name] = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found.keys() == READERS.keys()
    cure = f"too many files are open (at most {free} at once); allow more with `ulimit -n 65536` in the shell that"
    assert [name for name, text in found.items() if cure not in text or "damaged" in text] == []
    whole_machine = explain_open_files(OSError(errno.ENFILE, ""))
    assert whole_machine == "too many files are open on this machine; end what holds them, or have fs.file-max raised"
    assert explain_open_files(OSError(errno.EIO, "")) == explain_open_files(ValueError()) == ""

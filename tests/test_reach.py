"""Servers that do not answer: said soon, refused after a limit."""

import logging
import socket
import threading
import time
from contextlib import closing

import pytest

from mttu import reach
from mttu.cluster import session
from mttu.config import Config, WorkerSettings, override
from mttu.errors import InputError, RunError
from mttu.reach import ask_port, find_reason
from mttu.tracking import MlflowTracker, open_tracker


@pytest.fixture(autouse=True)
def impatient(monkeypatch, caplog):
    monkeypatch.setattr(reach, "PATIENCE_SECONDS", 0.4)
    monkeypatch.setattr(reach, "_PAUSE_SECONDS", 0.1)
    caplog.set_level(logging.INFO, "mttu")


@pytest.fixture
def closed():
    """A port that nobody listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    return port


@pytest.fixture
def mute():
    """A port where everybody may connect and nobody answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


@pytest.fixture
def other():
    """A port where something answers that is not Ray."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield server.getsockname()[1]


def test_a_server_that_comes_up_is_waited_for_and_that_is_said_once(caplog):
    answers = ["Connection refused", "Connection refused", ""]
    assert find_reason(lambda seconds: answers.pop(0), "Ray at h:1", patience=5.0) == ""
    assert caplog.messages == ["waiting for Ray at h:1 (Connection refused), for at most 5 s"]


def test_a_port_says_why_it_does_not_answer(closed, mute, other):
    assert ask_port("127.0.0.1", closed, 1.0) == "Connection refused"
    assert ask_port("127.0.0.1", mute, 1.0) == ""
    assert ask_port("127.0.0.1", mute, 0.1, speaks_grpc=True) == "no answer"
    assert ask_port("127.0.0.1", other, 1.0, speaks_grpc=True) == "something else than Ray listens there"


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_dead_ray_address_is_refused_before_ray_tries_it(closed, monkeypatch, caplog, scheme):
    monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:{closed}")
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests may have started one
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("Ray was asked"))
    started = time.monotonic()
    with pytest.raises(InputError) as caught, session.connect(WorkerSettings()):
        pass
    assert time.monotonic() - started < 5
    assert str(caught.value) == (
        f"RAY_ADDRESS '{scheme}127.0.0.1:{closed}': no Ray cluster answers there (Connection refused); start it (ray "
        "start --head), mend the address, or unset RAY_ADDRESS to work on this machine alone"
    )
    assert caplog.messages == [f"waiting for Ray at {scheme}127.0.0.1:{closed} (Connection refused), for at most 0 s"]


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        (
            "http://head:8265",
            "is the address of a dashboard, which takes jobs (ray job submit ...); a command connects",
        ),
        ("head", "is not an address of a Ray cluster; expected HOST:PORT"),
        ("head:port", "is not an address of a Ray cluster; expected HOST:PORT"),
        ("redis://head:6379", "is not an address of a Ray cluster; expected HOST:PORT"),
    ],
)
def test_what_is_no_address_of_a_cluster_is_refused_at_once(address, sentence):
    with pytest.raises(InputError) as caught:
        session.check_address(address)
    assert str(caught.value).startswith(f"RAY_ADDRESS {address!r}: {sentence}")


def test_auto_without_a_ray_on_this_machine_is_refused(monkeypatch, closed):
    def find_none(address):
        raise ConnectionError

    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", find_none)
    with pytest.raises(InputError, match="RAY_ADDRESS 'auto': no Ray runs on this machine; start it"):
        session.check_address("auto")
    place = f"127.0.0.1:{closed}"  # of a cluster that was killed
    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", lambda address: place)
    with pytest.raises(InputError, match=f"{place}.*: no Ray cluster answers there"):
        session.check_address("auto")


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://me:hidden@127.0.0.1:{closed}", "Connection refused"),
        ("http://127.0.0.1:{mute}", "no answer"),
        ("postgresql://me:hidden@127.0.0.1:{closed}/mlflow", "Connection refused"),
    ],
)
def test_a_dead_mlflow_is_refused_soon_and_without_its_password(uri, reason, closed, mute, tmp_path, caplog):
    config = override(Config(), {"tracking.uri": uri.format(closed=closed, mute=mute)})
    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        open_tracker(config, tmp_path / "run", "3f" * 32, True)
    assert time.monotonic() - started < 10
    assert f"nothing answers there ({reason}); start it, mend the address, or go on untracked" in str(caught.value)
    assert "hidden" not in str(caught.value) + caplog.text
    assert f"waiting for MLflow's {'database' if 'sql' in uri else 'server'} at" in caplog.text


def test_an_mlflow_that_died_meanwhile_stops_a_call_soon(closed):
    started = time.monotonic()
    with pytest.raises(RunError, match=r"nothing answers there.*the same command goes on from here"):
        MlflowTracker(f"http://127.0.0.1:{closed}", "run").log_epoch(1, {"train/loss": 1.0})
    assert time.monotonic() - started < 10


def test_any_answer_of_a_server_counts(other):
    from mttu.tracking.connection import check_server

    check_server(f"http://127.0.0.1:{other}")
    check_server("sqlite:///somewhere/mlflow.db")
    check_server("postgresql:///mlflow")  # by a socket file

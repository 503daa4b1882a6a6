"""Servers that do not answer: reported soon, refused after a limit."""

import datetime
import http.server
import logging
import socket
import ssl
import threading
import time
from contextlib import closing

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mttu import reach
from mttu.cluster import session
from mttu.config import Config, WorkerSettings, override
from mttu.errors import InputError, RunError
from mttu.reach import ask_port, find_reason
from mttu.tracking import MlflowTracker, open_tracker
from mttu.tracking.connection import check_server, writing_to


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
    """A port that accepts connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


@pytest.fixture
def other():
    """A port with an HTTP server instead of Ray."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield server.getsockname()[1]


def test_a_server_that_comes_up_is_waited_for_and_that_is_logged_once(monkeypatch, caplog):
    monkeypatch.setattr(reach, "PATIENCE_SECONDS", 5.0)
    answers = ["Connection refused", "Connection refused", ""]
    assert find_reason(lambda seconds: answers.pop(0), "Ray at h:1") == ""
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
        ("head..lan:6379", "is not an address of a Ray cluster; expected HOST:PORT"),
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
    check_server(f"http://127.0.0.1:{other}")
    check_server("sqlite:///somewhere/mlflow.db")
    check_server("postgresql:///mlflow")  # by a socket file


@pytest.fixture
def certificate(tmp_path):
    """A file with a self-signed certificate for localhost and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    for extension in (
        x509.SubjectAlternativeName([x509.DNSName("localhost")]),
        x509.BasicConstraints(ca=True, path_length=None),
    ):
        builder = builder.add_extension(extension, critical=False)
    path = tmp_path / "certificate.pem"
    pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(
        key.private_bytes(pem, kind, serialization.NoEncryption())
        + builder.sign(key, hashes.SHA256()).public_bytes(pem)
    )
    return path


@pytest.fixture
def encrypted(certificate):
    """Address of a server that also requires a certificate of its client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()


@pytest.mark.filterwarnings("ignore:Unverified HTTPS")
def test_an_encrypted_mlflow_is_asked_with_the_certificates_that_mlflow_takes(encrypted, certificate, monkeypatch):
    refused = f"tracking.uri {encrypted}: no encrypted connection ("
    cure = "set MLFLOW_TRACKING_SERVER_CERT_PATH to its certificate or its authority's (PEM), MLFLOW_TRACKING_CLIENT_C"
    with pytest.raises(InputError) as caught:
        check_server(encrypted)
    assert str(caught.value).startswith(f"{refused}[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self")
    assert cure in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
    with pytest.raises(InputError) as caught:  # it wants ours, too, and may hang up before it has said so
        check_server(encrypted)
    said, hung_up = str(caught.value), f"tracking.uri {encrypted}: nothing answers there (EOF "
    hint = ", set MLFLOW_TRACKING_CLIENT_CERT_PATH where it asks for a certificate"
    assert (said.startswith(f"{refused}[SSL: ") and cure in said) or (said.startswith(hung_up) and hint in said)
    monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(certificate))
    check_server(encrypted)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", "/nowhere.pem")
    with pytest.raises(RunError) as stopped, writing_to(encrypted):
        pass
    assert str(stopped.value).startswith(f"{refused}Could not find a suitable TLS CA certificate bundle, invalid path:")
    monkeypatch.delenv("MLFLOW_TRACKING_SERVER_CERT_PATH")
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "1")
    check_server(encrypted)
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "yes")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_INSECURE_TLS: 'yes'; MLflow takes true or false"):
        check_server(encrypted)


def test_a_dead_mlflow_is_told_by_the_variable_that_named_it(closed, tmp_path, monkeypatch):
    uri = f"http://127.0.0.1:{closed}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    sentence = f"MLFLOW_TRACKING_URI {uri}: nothing answers there"
    with pytest.raises(InputError, match=sentence):
        open_tracker(Config(), tmp_path / "run", "3f" * 32, True)
    tracker = MlflowTracker(uri, "run", "MLFLOW_TRACKING_URI")
    with pytest.raises(InputError, match=sentence):
        open_tracker(Config(), tmp_path / "run" / "fold_1", "3f" * 32, True, tracker, "fold 1")
    with pytest.raises(RunError, match=f"{sentence}.*the same command goes on from here"):
        tracker.log_epoch(1, {"train/loss": 1.0})


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://u:hid/den@h:notaport/db",
        "postgresql://h:99999/db",
        "postgresql://h..lan/db",
        "mysql://[::1/db",
        "http://u:hidden@127.0.0.1:99999",
        "http://[bad",
        "https://",
    ],
)
def test_what_is_no_address_of_an_mlflow_is_refused_at_once(uri, tmp_path, caplog):
    config = override(Config(), {"tracking.uri": uri})
    with pytest.raises(
        InputError, match=r"^tracking\.uri [^ ]+: is no address.*; expected .*, a port of 1 to 65"
    ) as caught:
        open_tracker(config, tmp_path / "run", "3f" * 32, True)
    with pytest.raises(RunError, match=r"is no address"), writing_to(uri):
        pass
    assert "waiting" not in caplog.text
    assert "hid" not in str(caught.value)

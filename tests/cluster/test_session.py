"""The folder of a private Ray, whose logs name cases: nobody else enters it, and it goes with the command."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import AuthenticationError

from mttu.cluster import session
from mttu.config import WorkerSettings
from mttu.errors import InputError


@pytest.fixture
def fake_ray(monkeypatch, tmp_path):
    """Stands for Ray: writes a log where it is told to, and one more line when it is shut down."""
    told = {}

    def init(**options):
        told.update(options)
        if "_temp_dir" in options:
            Path(options["_temp_dir"]).chmod(0o777)  # as Ray does
            (Path(options["_temp_dir"]) / "session").mkdir(exist_ok=True)
            (Path(options["_temp_dir"]) / "session" / "worker.log").write_text("case A")
        if told.get("fails"):
            raise told["fails"]("no")

    def shutdown():
        told["down"] = True

    monkeypatch.setattr(session, "ray", SimpleNamespace(init=init, shutdown=shutdown, is_initialized=lambda: False))
    monkeypatch.setattr(session, "GUARDS_RAY", True)
    monkeypatch.setattr(session, "find_place", lambda: tmp_path / "ray")  # which is too deep for sockets
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return told


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_logs_go_however_the_command_ends(fake_ray, tmp_path, error):
    try:
        with session.connect(WorkerSettings()):
            (folder,) = (tmp_path / "ray").iterdir()
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700  # Ray opens the one inside
            assert fake_ray["_temp_dir"] == str(folder / "r")
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt, SystemExit):
        assert error is not None
    assert fake_ray["down"]
    assert list((tmp_path / "ray").iterdir()) == []


@pytest.mark.parametrize(("cores", "threads", "promised"), [(8, 2, 8), (1, 2, 4)])
def test_a_private_cluster_has_the_cores_there_are_or_what_its_workers_need(
    fake_ray, monkeypatch, cores, threads, promised
):
    monkeypatch.setattr(session, "count_cores", lambda: cores)
    with session.connect(WorkerSettings(num_workers=2, threads_per_worker=threads)):
        assert fake_ray["num_cpus"] == promised


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_as_an_exception_does(fake_ray, tmp_path, number):
    found = signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may ignore it, as `nohup` does
    try:
        before = signal.getsignal(number)
        with pytest.raises(SystemExit) as ended, session.connect(WorkerSettings()):
            signal.raise_signal(number)
        assert ended.value.code == 128 + number
        assert fake_ray["down"]
        assert list((tmp_path / "ray").iterdir()) == []
        assert signal.getsignal(number) is before
    finally:
        signal.signal(number, found)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (
            RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.10.1\n"),
            "Ray: 2.9.0 Python: 3.10.1; install the same versions",
        ),
        (AuthenticationError("Authentication token not provided"), "wants another token .* set RAY_AUTH_MODE=token"),
        (ConnectionError("timed out"), "no Ray cluster answers there .timed out"),
    ],
    ids=["version", "token", "silent"],
)
def test_a_cluster_that_refuses_says_why_in_a_sentence(fake_ray, monkeypatch, refusal, said):
    def refuse(**options):
        raise refusal

    monkeypatch.setattr(session.ray, "init", refuse)
    monkeypatch.setattr(session, "check_address", lambda address: None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(InputError, match=f"RAY_ADDRESS '10.0.0.1:6379': .*{said}"), session.connect(WorkerSettings()):
        pass


def test_a_signal_that_is_ignored_stays_ignored(fake_ray):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with session.connect(WorkerSettings()):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


LIVE = """
import signal
import time
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from mttu.cluster.session import connect
from mttu.config import WorkerSettings
with connect(WorkerSettings()):
    print("READY", flush=True)
    time.sleep(120)
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_of_a_real_ray(number):
    place = Path(tempfile.mkdtemp(prefix="m"))  # short, for the names of sockets
    environment = {**os.environ, "RAY_TMPDIR": str(place)}
    environment.pop("RAY_ADDRESS", None)
    try:
        with subprocess.Popen(
            [sys.executable, "-c", LIVE], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline() == "READY\n"
            assert list(place.iterdir())
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
            assert process.returncode == 128 + number
            assert out == ""
            assert "received" not in err  # Ray's dump
        assert list(place.rglob("*.log")) == []
        assert list(place.iterdir()) == []
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.parametrize(
    ("failure", "seen"),
    [(ConnectionError, session.RunError), (RuntimeError, RuntimeError), (KeyboardInterrupt, KeyboardInterrupt)],
)
def test_logs_of_a_start_that_failed_go_too(fake_ray, tmp_path, failure, seen):
    fake_ray["fails"] = failure
    with pytest.raises(seen), session.connect(WorkerSettings()):
        pass
    assert list((tmp_path / "ray").iterdir()) == []


def is_running(process):
    """Also where somebody else has asked how it ended."""
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_start_that_fails_is_tried_again_and_leaves_no_process(fake_ray, tmp_path, monkeypatch, caplog):
    started = []

    def init(**options):
        words = [sys.executable, "-c", "import time; time.sleep(60)", options["_temp_dir"]]
        started.append(subprocess.Popen(words))
        if len(started) < 3:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(session.ray, "init", init)
    with caplog.at_level("INFO", session.__name__), session.connect(WorkerSettings()):
        codes = [process.poll() for process in started]
    started[2].kill()
    assert not any(map(is_running, started[:2]))
    assert codes[2] is None  # the start that succeeded keeps its own
    assert caplog.messages == ["Ray did not start (The current node timed out during startup.); trying again"] * 2


@pytest.mark.parametrize(
    ("error", "tries"),
    [(Exception("The current node timed out during startup."), 3), (KeyboardInterrupt(), 1), (OSError("no room"), 1)],
)
def test_a_start_that_ends_in_failure_leaves_no_process_either(fake_ray, tmp_path, monkeypatch, error, tries):
    """Nor one that such a process has started under another name."""
    nested = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print('up', flush=True); time.sleep(60)"
    started = []

    def init(**options):
        words = [sys.executable, "-c", nested, options["_temp_dir"]]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE))
        started[-1].stdout.readline()
        raise error

    monkeypatch.setattr(session.ray, "init", init)
    expected = type(error) if isinstance(error, KeyboardInterrupt) else session.RunError
    with pytest.raises(expected) as caught, session.connect(WorkerSettings()):
        pass
    assert len(started) == tries
    assert not any(map(is_running, started))
    assert all(process.stdout.read() == b"" for process in started)  # ends when the last who may write is gone
    if expected is session.RunError:
        assert str(caught.value).endswith(f"{error} (MTTU_KEEP_RAY_LOGS=1 keeps its logs)")


def test_logs_stay_where_they_are_asked_for(fake_ray, tmp_path, monkeypatch):
    monkeypatch.setenv("MTTU_KEEP_RAY_LOGS", "1")
    with session.connect(WorkerSettings()):
        pass
    assert [path.name for path in (tmp_path / "ray").rglob("*.log")] == ["worker.log"]


def test_workers_of_a_cluster_are_told_to_be_private(fake_ray, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    monkeypatch.setattr(session, "check_address", lambda address: None)
    for private, job, expected in (
        (True, False, {"env_vars": {"MTTU_PRIVATE": "1"}}),
        (True, True, None),  # the job was given its environment when it was submitted
        (False, False, None),
    ):
        monkeypatch.setattr(session, "PRIVATE", private)
        if job:
            monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
        else:
            monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
        with session.connect(WorkerSettings()):
            pass
        assert fake_ray["runtime_env"] == expected
    assert not (tmp_path / "ray").exists()

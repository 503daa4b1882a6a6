import os
import socket
from pathlib import Path

import pytest
import ray

from mttu.cluster.session import LONGEST_SOCKET_BYTES, connect, find_place
from mttu.config import WorkerSettings
from mttu.errors import InputError

INSIDE = len(f"/ray-12345678/r/session_2000-12-31_23-59-59_999999_{os.getpid()}/sockets/plasma_store")


def test_a_socket_s_path_may_have_as_many_bytes_as_the_system_has_room_for(monkeypatch):
    place = Path("/tmp") / ("x" * (LONGEST_SOCKET_BYTES - INSIDE - len("/tmp/")))
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    assert find_place() == place
    monkeypatch.setenv("RAY_TMPDIR", f"{place}yz")
    with pytest.raises(InputError) as caught:
        find_place()
    assert caught.value.problems == [
        f"RAY_TMPDIR {place}yz: is 2 bytes too long for Ray, whose sockets there would have paths of "
        f"{LONGEST_SOCKET_BYTES + 2} bytes; the system allows {LONGEST_SOCKET_BYTES}; set RAY_TMPDIR to a short folder "
        "on a local disk, e.g. RAY_TMPDIR=/tmp"
    ]
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # what the sentence advises
    find_place()


def test_the_limit_is_the_system_s(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for length, works in ((LONGEST_SOCKET_BYTES, True), (LONGEST_SOCKET_BYTES + 1, False)):
        with socket.socket(socket.AF_UNIX) as listening:
            if works:
                listening.bind("s" * length)
            else:
                with pytest.raises(OSError, match="too long"):
                    listening.bind("s" * length)


def test_ray_is_not_started_where_it_has_no_room(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **named: started.append(named))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "file").touch()
    for place, said in (
        ("y" * 99, "too long for Ray"),
        (tmp_path / "file", "file is a file; give another folder, or set"),
    ):
        monkeypatch.setenv("RAY_TMPDIR", str(place))
        with pytest.raises(InputError, match=said):
            connect(WorkerSettings()).__enter__()
    assert started == []

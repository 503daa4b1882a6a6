import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mttu.errors import InputError
from mttu.files import LOCK, MARKER, OWNER, lock_folder

HOLD = "import sys; from pathlib import Path; from mttu.files import lock_folder\n"
AS_NOBODY = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"


def test_the_holder_is_named(tmp_path: Path) -> None:
    script = HOLD + "with lock_folder(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=rf"another mttu is working in this folder \(process {holder.pid} of "):
            lock_folder(tmp_path).__enter__()
        holder.kill()
    with lock_folder(tmp_path):
        assert (tmp_path / LOCK).stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock_folder(tmp_path):
        assert (tmp_path / MARKER).exists()
        with pytest.raises(InputError, match=r"another mttu is working .*if that is gone, remove"):
            lock_folder(tmp_path).__enter__()
    assert not (tmp_path / MARKER).exists()
    with lock_folder(tmp_path):
        pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(precious)
    with pytest.raises(InputError, match="is a link, and links are not followed"):
        lock_folder(tmp_path / "run").__enter__()
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("kind", ["long", "link", "pipe"])
def test_a_note_of_who_holds_it_is_short_and_no_link(tmp_path: Path, kind: str) -> None:
    note = json.dumps({"pid": 7, "user": "one", "host": "two"})
    with lock_folder(tmp_path):
        owner = tmp_path / OWNER
        owner.unlink()
        if kind == "long":
            owner.write_text(note + " " * 1000 + "}")
        elif kind == "link":
            (tmp_path / "elsewhere").write_text(note)
            owner.symlink_to(tmp_path / "elsewhere")
        else:
            os.mkfifo(owner)
        with pytest.raises(InputError) as caught:
            lock_folder(tmp_path).__enter__()
        assert ("process 7 of one on two" in str(caught.value)) == (kind == "long")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_two_users_share_a_folder(tmp_path: Path) -> None:
    for place in (tmp_path, *tmp_path.parents[:3]):
        place.chmod(0o777)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with lock_folder(shared):
        pass
    script = AS_NOBODY + HOLD + "with lock_folder(Path(sys.argv[1])): print('held')"
    command = [sys.executable, "-c", HOLD + script, str(shared)]  # imports need root's rights
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "held\n"
    (shared / LOCK).chmod(0o600)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ".lock belongs to root and cannot be opened by nobody; let its owner run `chmod a+rw" in done.stderr

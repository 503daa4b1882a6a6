import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mttu.files import PREFIX, atomic_file, atomic_folder, find_obstacle, recover_folder, write_json, write_text


class Killed(BaseException):
    """Stands for a kill: only the test catches it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, boundary: int) -> None:
    """Kills the process before its boundary-th sync, rename or removal."""
    count = 0

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == boundary:
                raise Killed
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(os, "fsync", guarded(os.fsync))
    monkeypatch.setattr(os, "replace", guarded(os.replace))
    monkeypatch.setattr(shutil, "rmtree", guarded(shutil.rmtree))


def write_folder(target: Path, word: str) -> None:
    with atomic_folder(target) as partial:
        (partial / "inner").mkdir()
        (partial / "a.txt").write_text(word)
        (partial / "inner" / "b.txt").write_text(word)


def read_folder(target: Path) -> tuple[str, str]:
    return (target / "a.txt").read_text(), (target / "inner" / "b.txt").read_text()


@pytest.mark.parametrize(("inner", "named"), [("", "."), ("inner", "..")])
def test_the_folder_that_a_command_was_started_in_is_replaced_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str, named: str
) -> None:
    write_folder(tmp_path / "out", "old")
    monkeypatch.chdir(tmp_path / "out" / inner)
    write_folder(Path(named), "new")
    assert read_folder(tmp_path / "out") == ("new", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def fill_half(path: Path) -> None:
    path.write_text("half")
    raise OSError("the disk is full")


def test_file_is_written_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "new" / "notes.txt"
    write_text(target, "first")
    write_text(target, "zwölf")
    assert target.read_text(encoding="utf-8") == "zwölf"
    assert os.listdir(target.parent) == ["notes.txt"]


def test_failing_writer_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "notes.txt"
    write_text(target, "old")
    with pytest.raises(OSError, match="full"), atomic_file(target) as partial:
        fill_half(partial)
    assert target.read_text() == "old"
    with pytest.raises(FileNotFoundError), atomic_file(target):
        pass  # a writer that writes nothing must not publish an earlier leftover
    assert target.read_text() == "old"


@pytest.mark.parametrize("boundary", range(1, 4))
def test_killed_file_is_old_or_new_and_the_next_write_mends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boundary: int
) -> None:
    target = tmp_path / "notes.txt"
    write_text(target, "old")
    with monkeypatch.context() as patch:
        kill_at(patch, boundary)
        with pytest.raises(Killed):
            write_text(target, "new")
    assert target.read_text() == ("new" if boundary == 3 else "old")
    write_text(target, "newer")
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_folder_is_written_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "best"
    write_folder(target, "one")
    write_folder(target, "two")
    assert read_folder(target) == ("two", "two")
    assert os.listdir(tmp_path) == ["best"]


def test_killed_folder_is_old_or_new_and_the_next_write_mends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries every boundary of replacing a folder until a write is not hit any more."""
    seen = []
    for boundary in range(1, 30):
        home = tmp_path / str(boundary)
        target = home / "best"
        write_folder(target, "old")
        with monkeypatch.context() as patch:
            kill_at(patch, boundary)
            try:
                write_folder(target, "new")
            except Killed:
                finished = False
            else:
                finished = True
        if not finished and not target.exists():
            seen.append("missing")
        recover_folder(target)
        seen.append(read_folder(target)[0])
        assert read_folder(target) in {("old", "old"), ("new", "new")}
        write_folder(target, "newer")
        assert read_folder(target) == ("newer", "newer")
        assert os.listdir(home) == ["best"]
        if finished:
            break
    assert finished
    assert seen.count("missing") == 1  # the one boundary that needs recover_folder
    assert seen[0] == "old"
    assert seen[-1] == "new"


def test_a_leftover_file_does_not_block_a_folder(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}best").write_text("leftover")
    write_folder(tmp_path / "best", "one")
    assert read_folder(tmp_path / "best") == ("one", "one")


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "metrics.json"
    write_json(target, {"dice": 0.5})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(target, {"dice": float("nan")})
    assert json.loads(target.read_text()) == {"dice": 0.5}
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_the_probe_of_a_killed_process_is_gone_after_the_next(tmp_path: Path) -> None:
    target = tmp_path / "cohort.parquet"
    (tmp_path / f"{PREFIX}probe-cohort.parquet").mkdir()  # left by a kill
    assert find_obstacle(target) is None
    assert list(tmp_path.iterdir()) == []


def test_a_link_among_leftovers_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "a.txt").write_text("theirs")
    for name in ("file.txt", "folder"):
        (tmp_path / f"{PREFIX}{name}").symlink_to(tmp_path / "theirs")
    (tmp_path / "linked.txt").symlink_to(tmp_path / "theirs" / "a.txt")
    write_text(tmp_path / "file.txt", "new")
    write_text(tmp_path / "linked.txt", "new")
    write_folder(tmp_path / "folder", "new")
    assert (tmp_path / "theirs" / "a.txt").read_text() == "theirs"
    assert [(tmp_path / name).read_text() for name in ("file.txt", "linked.txt")] == ["new", "new"]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_is_not_what_a_kill_moved_aside(tmp_path: Path, is_there: bool) -> None:
    write_folder(tmp_path / "theirs", "theirs")
    (tmp_path / f"{PREFIX}old-best").symlink_to(tmp_path / ("theirs" if is_there else "nowhere"))
    recover_folder(tmp_path / "best")
    assert os.listdir(tmp_path) == ["theirs"]
    (tmp_path / "best").symlink_to(tmp_path / ("theirs" if is_there else "nowhere"))
    write_folder(tmp_path / "best", "new")
    assert read_folder(tmp_path / "best") == ("new", "new")
    assert read_folder(tmp_path / "theirs") == ("theirs", "theirs")

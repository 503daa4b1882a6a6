import multiprocessing
from pathlib import Path

import pytest

from mttu.config import override
from mttu.errors import InputError
from mttu.files import lock_folder
from mttu.search.presets import preset
from mttu.training.run import begin_or_continue, move_aside


def hold(folder, ready, done):
    with lock_folder(folder):
        ready.set()
        done.wait(30)


def test_a_second_process_is_refused(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, ready, done))
    other.start()
    assert ready.wait(30)
    with pytest.raises(InputError, match="another mttu is working"), lock_folder(tmp_path):
        pass
    done.set()
    other.join()
    with lock_folder(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_the_same_settings_go_on(tmp_path):
    config = preset("demo")
    begin_or_continue(tmp_path, config, "abc", fresh=False)
    free = override(config, {"tracking.enabled": False, "workers.max_failures": 9})
    begin_or_continue(tmp_path, free, "abc", fresh=False)


def test_changes_are_refused_with_each_difference(tmp_path):
    config = preset("demo")
    begin_or_continue(tmp_path, config, "abc", fresh=False)
    changed = override(config, {"optim.lr": 0.5, "train.epochs": 7})
    with pytest.raises(InputError) as caught:
        begin_or_continue(tmp_path, changed, "def", fresh=False)
    message = str(caught.value)
    said = ("optim.lr: 0.002 -> 0.5", "train.epochs: 30 -> 7", "manifest or prepared cases: abc -> def", "--fresh")
    assert [part for part in said if part not in message] == []


@pytest.mark.parametrize("text", ["{", "7", "[1]"])
def test_damaged_mark_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        begin_or_continue(tmp_path, preset("demo"), "abc", fresh=False)


def test_fresh_keeps_the_old_run_aside(tmp_path):
    config = preset("demo")
    for number in (1, 2):
        begin_or_continue(tmp_path, override(config, {"train.seed": number}), "abc", fresh=True)
        (tmp_path / "best").mkdir()
        (tmp_path / "best" / "weights").write_text(str(number))
    begin_or_continue(tmp_path, config, "abc", fresh=True)
    assert (tmp_path / "replaced-1" / "best" / "weights").read_text() == "1"
    assert (tmp_path / "replaced-2" / "best" / "weights").read_text() == "2"
    assert not (tmp_path / "best").exists()
    assert '"train.seed": 0' in (tmp_path / "run.json").read_text()


def test_moving_aside_an_empty_folder_does_nothing(tmp_path):
    move_aside(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_inside_fresh_never_mixes_old_and_new(tmp_path, monkeypatch):
    config = preset("demo")
    for kill_at in range(1, 4):
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        begin_or_continue(folder, config, "abc", fresh=False)
        (folder / "train").mkdir()
        (folder / "finished.json").write_text("old")
        calls, rename = [], Path.rename

        def killed(self, target, calls=calls, kill_at=kill_at, rename=rename):
            calls.append(self)
            if len(calls) == kill_at:
                raise KeyboardInterrupt
            return rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", killed)
            with pytest.raises(KeyboardInterrupt):
                begin_or_continue(folder, override(config, {"train.seed": 1}), "abc", fresh=True)
        if kill_at == 1:  # nothing has happened yet: it still is the old run
            begin_or_continue(folder, config, "abc", fresh=False)
            assert (folder / "finished.json").exists()
            continue
        begin_or_continue(folder, override(config, {"train.seed": 2}), "abc", fresh=False)
        assert sorted(item.name for item in folder.iterdir() if not item.name.startswith("replaced-")) == ["run.json"]
        kept = {item.name for aside in folder.glob("replaced-*") for item in aside.iterdir()}
        assert kept == {"run.json", "train", "finished.json"}

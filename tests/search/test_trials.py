import json
import math

import pytest
from search_cases import make_trial

from mttu.errors import InputError
from mttu.search.trials import BEGUN, FAILED, FINISHED, STEP, STOPPED, Trial, read_trials

MEND = "remove the trial's folder and run the same command again"
SCORE = "val/score"


def begin(folder, number=0, drawn=None, **labels):
    name = f"{number:04d}"
    trial = Trial(number, name, drawn or {"optim.lr": 1e-3}, folder / "trials" / name, labels)
    trial.begin()
    return trial


def history_of(trial):
    return trial.folder / "history.jsonl"


def test_trials_are_read_as_they_were_written_in_order_of_their_numbers(tmp_path):
    drawn = {"data.modalities": ["flair", "t2"], "optim.lr": 1e-3, "selection.balance": True}
    ten = begin(tmp_path, 10, drawn, row="L = 4", seed="0")
    for epoch, score in ((1, 0.25), (2, 0.75)):
        assert ten.add({STEP: epoch, SCORE: score, "train/loss": 1 / 3})
    ten.end(FINISHED, seconds=1.25)
    ten.mark_tracked()
    two = begin(tmp_path, 2)
    two.end(FAILED, "loss is not finite: ≠", 0.5)
    two.end(FAILED, "again", 0.25)
    one = begin(tmp_path, 1)
    assert read_trials(tmp_path) == [one, two, ten]
    (_, second, last) = read_trials(tmp_path)
    assert (second.seconds, second.reason, second.is_over) == (0.75, "again", True)
    assert (last.drawn, last.labels, last.tracked) == (drawn, {"row": "L = 4", "seed": "0"}, True)
    assert last.history == [
        {STEP: 1.0, SCORE: 0.25, "train/loss": 1 / 3},
        {STEP: 2.0, SCORE: 0.75, "train/loss": 1 / 3},
    ]
    assert last.run_folder == tmp_path / "trials" / "0010" / "run"
    assert read_trials(tmp_path / "nothing") == []


def test_an_epoch_is_recorded_once_and_in_its_place(tmp_path):
    trial = begin(tmp_path)
    assert trial.add({STEP: 1, SCORE: 0.5})
    assert trial.add({STEP: 3, SCORE: 0.25})
    assert not trial.add({STEP: 1, SCORE: 0.75})
    assert trial.add({STEP: 2, "train/loss": 1.0})  # between a checkpoint and a kill
    assert trial.curve(SCORE) == [(1, 0.5), (3, 0.25)]
    assert len(history_of(trial).read_text().splitlines()) == 3
    (read,) = read_trials(tmp_path)
    assert read == trial
    assert [row[STEP] for row in read.history] == [1, 2, 3]
    history_of(trial).write_text(history_of(trial).read_text() + '{"epoch": 1, "val/score": 9}\n')
    assert read_trials(tmp_path) == [trial]


def test_values_that_are_not_finite_are_left_out(tmp_path):
    trial = begin(tmp_path)
    trial.add({STEP: 1, SCORE: math.nan, "val/idh_ce": math.inf, "val/dice": 0.5, "val/hd95": -math.inf})
    assert trial.history == [{STEP: 1.0, "val/dice": 0.5}]
    assert json.loads(history_of(trial).read_text()) == {STEP: 1, "val/dice": 0.5}
    assert trial.best(SCORE, maximise=True) is None


def test_curve_and_best(tmp_path):
    trial = make_trial(tmp_path, 0, {}, 0.25, 0.75, 0.5)
    assert trial.curve(SCORE) == [(1, 0.25), (2, 0.75), (3, 0.5)]
    assert (trial.best(SCORE, maximise=True), trial.best(SCORE, maximise=False)) == (0.75, 0.25)
    assert trial.curve("val/dice") == []
    assert trial.best("val/dice", maximise=True) is None


@pytest.mark.parametrize(("state", "is_over"), [(BEGUN, False), (FINISHED, True), (STOPPED, True), (FAILED, True)])
def test_what_is_over(tmp_path, state, is_over):
    assert make_trial(tmp_path, 0, {}, state=state).is_over is is_over


@pytest.mark.parametrize(
    "cut", ["{", '{"epoch": 2, "val/sc', '{"epoch": 2, "val/score": "x"}', "[1]", "\x00\x00\x00", "12"]
)
def test_a_last_line_that_a_kill_cut_is_removed(tmp_path, cut):
    trial = begin(tmp_path)
    trial.add({STEP: 1, SCORE: 0.5})
    whole = history_of(trial).read_text()
    history_of(trial).write_text(whole + cut)
    (read,) = read_trials(tmp_path, mend=True)
    assert read.history == trial.history
    assert history_of(trial).read_text() == whole
    read.add({STEP: 2, SCORE: 0.25})
    assert read_trials(tmp_path)[0].curve(SCORE) == [(1, 0.5), (2, 0.25)]


@pytest.mark.parametrize("cut", ['{"epoch": 2, "val/sc', '{"epoch": 2, "val/score": 0.25}'], ids=["cut", "no end"])
def test_a_reader_alone_leaves_the_file_as_it_is(tmp_path, cut):
    """`--show` reads a search that another process runs: that line may be half written."""
    trial = begin(tmp_path)
    trial.add({STEP: 1, SCORE: 0.5})
    text = history_of(trial).read_text() + cut
    history_of(trial).write_text(text)
    (read,) = read_trials(tmp_path)
    assert read.curve(SCORE) == ([(1, 0.5), (2, 0.25)] if cut.endswith("}") else [(1, 0.5)])
    assert history_of(trial).read_text() == text


def test_a_last_line_that_lacks_its_end_alone_is_kept(tmp_path):
    trial = begin(tmp_path)
    for epoch in (1, 2):
        trial.add({STEP: epoch, SCORE: 0.5})
    history_of(trial).write_text(history_of(trial).read_text().rstrip("\n"))
    (read,) = read_trials(tmp_path, mend=True)
    read.add({STEP: 3, SCORE: 0.25})
    assert read_trials(tmp_path)[0].curve(SCORE) == [(1, 0.5), (2, 0.5), (3, 0.25)]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    trial = begin(tmp_path)
    for epoch in (1, 2, 3):
        trial.add({STEP: epoch, SCORE: 0.5})
    lines = history_of(trial).read_text().splitlines()
    history_of(trial).write_text("\n".join([lines[0], lines[1][:9], lines[2], ""]))
    with pytest.raises(InputError) as caught:
        read_trials(tmp_path)
    assert str(caught.value) == f"{history_of(trial)}: line 2 is damaged; {MEND}"


def test_a_history_that_is_not_text_is_named(tmp_path):
    trial = begin(tmp_path)
    history_of(trial).write_bytes(b"\xff\xfe\x00\n" * 3)
    with pytest.raises(InputError) as caught:
        read_trials(tmp_path)
    assert str(caught.value) == f"{history_of(trial)}: line 1 is damaged; {MEND}"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"state": "paused"}, "state is 'paused'; expected one of begun, finished, stopped, failed"),
        ({"state": ["begun"]}, "state is ['begun']; expected one of begun, finished, stopped, failed"),
        ({"number": None}, "damaged"),
        ({"number": "one"}, "damaged"),
        ({"drawn": 3}, "damaged"),
        ({"labels": [1, 2]}, "damaged"),
        ({"format_version": 2}, "format_version is 2; this version of mttu reads 1"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, change, problem):
    record = begin(tmp_path).folder / "trial.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), **change}))
    with pytest.raises(InputError) as caught:
        read_trials(tmp_path)
    assert str(caught.value) == f"{record}: {problem}; {MEND}"


@pytest.mark.parametrize("missing", ["number", "drawn", "state", "reason", "seconds", "labels", "tracked"])
def test_a_record_without_a_field_is_named(tmp_path, missing):
    record = begin(tmp_path).folder / "trial.json"
    content = json.loads(record.read_text())
    del content[missing]
    record.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        read_trials(tmp_path)
    assert str(caught.value) == f"{record}: damaged; {MEND}"


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_a_record_that_is_no_object_is_named(tmp_path, text):
    record = begin(tmp_path).folder / "trial.json"
    record.write_text(text)
    with pytest.raises(InputError) as caught:
        read_trials(tmp_path)
    assert str(caught.value) == f"{record}: damaged; {MEND}"

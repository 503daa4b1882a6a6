import re
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from mttu.cli import main
from mttu.cli.display import (
    PROPOSED_CROPS,
    console,
    describe_absences,
    errors,
    name_breaks,
    name_controls,
    new_table,
    show_progress,
    show_table,
    tell,
)
from mttu.cli.folds import cross_validate_shown
from mttu.cli.self_train import show_rounds, tabulate
from mttu.cli.tune import _tabulate
from mttu.config import Config, override
from mttu.errors import InputError, RunError
from mttu.search.presets import preset
from mttu.search.trials import Trial
from mttu.self_training import Step
from mttu.self_training.tracking import RoundSummary

METRICS = {
    **{f"val/predicted_{name}": 4.0 for name in ("background", "ncr_net", "edema")},
    "val/predicted_enhancing": 0.0,
    "val/true_enhancing": 3.0,
    "val/absent_since_enhancing": 20.0,
}


def test_a_class_that_is_never_predicted_is_told_with_what_to_try():
    [sentence] = describe_absences(METRICS, preset("paper"))
    assert sentence == (
        "class enhancing is in training masks and, since epoch 20, in no prediction for a validation case (3 "
        "validation masks hold it); if it stays so, start anew under another output.name with "
        "loss.segmentation=dice_ce, or "
        "augment.foreground_crop_probability=0.33, or --preset robust (it sets both), or more steps (train.epochs is "
        "1000)"
    )
    assert describe_absences({"train/loss": 1.0}, preset("paper")) == []
    assert describe_absences({"val/predicted_background": 4.0}, preset("paper")) == []


def test_what_a_training_has_already_is_not_proposed():
    [sentence] = describe_absences({**METRICS, "val/true_enhancing": 0.0}, preset("small"))
    assert sentence.endswith(
        "(no validation mask holds it, so validation cannot tell whether that is wrong); if it stays so, start anew "
        "under another output.name with more steps (train.epochs is 200)"
    )
    dice = override(preset("small"), {"loss.segmentation": "dice"})
    assert "output.name with loss.segmentation=dice_ce, or more steps" in describe_absences(METRICS, dice)[0]


def test_a_cure_that_was_followed_is_not_proposed_again():
    for crops, proposed in ((0.32, True), (PROPOSED_CROPS, False)):
        [sentence] = describe_absences(METRICS, override(Config(), {"augment.foreground_crop_probability": crops}))
        assert (f"augment.foreground_crop_probability={PROPOSED_CROPS}" in sentence) == proposed
        assert ("(it sets both)" in sentence) == proposed


def test_folds_and_rounds_tell_it_too(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mttu.cli.folds.print_folds", lambda folder: None)

    def validate(settings, launch, fresh, show, tell):
        show(2, 1, METRICS)
        return tmp_path

    monkeypatch.setattr("mttu.training.folds.cross_validate", validate)
    cross_validate_shown(override(tiny, {"data.folds": 3}))
    assert "\nfold 2/3: class enhancing is in training masks" in capsys.readouterr().out
    with show_rounds(override(tiny, {"self_training.epochs": 7}), {"evaluate": 1}) as on_step:
        on_step(Step(1, 3, "train", 1, 4, metrics=METRICS))
        on_step(Step(1, 3, "evaluate", 1, 1, case_id="a"))
        on_step(Step(0, 3, "train", 1, 4, metrics=METRICS))
    later, first = capsys.readouterr().out.split("\nround 0/3: class enhancing")
    assert later.count("\nround 1/3: class enhancing is in training masks") == 1
    assert "more steps (self_training.epochs is 7)" in later
    assert f"more steps (train.epochs is {tiny.train.epochs})" in first


@pytest.fixture
def never_enhancing(monkeypatch):
    """Validation by a network that calls everything NCR/NET that it would call enhancing."""
    from mttu.training import evaluation

    segment = evaluation.segment

    def relabel(*arguments):
        classes = segment(*arguments)
        return classes.masked_fill(classes == 3, 1)

    monkeypatch.setattr("mttu.training.evaluation.segment", relabel)


def test_training_tells_it_at_every_validation_and_through_a_resume(tiny, never_enhancing, monkeypatch, capsys):
    from mttu.cli import train_shown
    from mttu.training.run import launch_locally

    monkeypatch.setattr("mttu.training.run.draw_results", lambda *arguments: ())  # takes longer than the training
    stopped = []

    def stop_once(*arguments):
        history = launch_locally(*arguments)
        if not stopped:
            stopped.append(history)
            newest = sorted((arguments[1] / "train").iterdir())[-1]
            newest.rename(arguments[1] / "last")
            raise KeyboardInterrupt
        return history

    monkeypatch.setattr("mttu.cluster.train.launch_on_ray", stop_once)
    with pytest.raises(KeyboardInterrupt):
        train_shown(tiny)
    out = capsys.readouterr().out
    sentence = "class enhancing is in training masks and, since epoch 2, in no prediction for a validation case (2 val"
    assert out.count(sentence) == 2  # epochs 2 and 3
    train_shown(tiny)
    assert capsys.readouterr().out.count(sentence) == 1  # epoch 3 again: the epoch before is remembered


NASTY = "a\x1b[31m\x9b2J\x07\r\u202eb[bold]x[/]\u2066"
UNSEEN = "\u200b\u2060\ufeff\xad\u206a\u2028\U000e0041\udcff"
UNSEEN += "\ue000\u0378\u034f\u115f\u1160\u17b4\u180b\u3164\ufe0f\uffa0\U000e0100\u2800\xa0\u3000"
BROKEN = f"{NASTY}\nerror: wiped\t{UNSEEN}"
SPELT = r"\nerror: wiped\t\u200b\u2060\ufeff\xad\u206a\u2028\U000e0041\udcff"
SPELT += r"\ue000\u0378\u034f\u115f\u1160\u17b4\u180b\u3164\ufe0f\uffa0\U000e0100\u2800\xa0\u3000"
SEEN = "Jos\u00e9-\u738b Zo\u00eb\u0308 \ud55c\uae00 \u2212\u0664"


def test_names_in_any_writing_are_shown_as_they_are():
    assert name_breaks(SEEN) == name_controls(SEEN) == SEEN


def test_no_name_acts_on_the_terminal(capsys, monkeypatch):
    table = Table(NASTY, title=NASTY)
    table.add_row(BROKEN)
    table.add_row(Text(BROKEN))
    for out, is_terminal in ((console, False), (errors, False), (console, True)):
        monkeypatch.setattr(out, "_force_terminal", is_terminal)
        monkeypatch.setattr(out, "_width", 500)
        for shown in (BROKEN, table, Text(BROKEN)):
            out.print(shown)
        tell(BROKEN)
        with show_progress(BROKEN, 2) as advance:
            advance(1, BROKEN)
        text = "".join(capsys.readouterr())
        if is_terminal:  # what rich itself writes: colours, the cursor
            text = re.sub(r"\x1b\[[0-9;?]*[mAKhlG]|\r", "", text)
        assert r"a\x1b[31m\x9b2J" in text
        assert r"\u202eb[bold]x[/]\u2066" in text
        assert not set(text) & set("\x1b\x9b\x07\r\t\u202e\u2066" + UNSEEN)
        assert text.count(SPELT) >= 6
        assert not re.search(r"^\W*error: wiped", text, re.MULTILINE)


def test_the_time_left_is_known_where_a_unit_takes_minutes(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console, "get_time", lambda: now[0])
    monkeypatch.setattr(console, "_force_terminal", True)
    monkeypatch.setattr(console, "_width", 200)
    with show_progress("train", 10) as advance:
        for done in (4, 5, 6):
            now[0] += 45
            advance(done, "")
    assert "0:03:00" in capsys.readouterr().out


def test_a_refusal_and_a_defect_show_no_control_character(capsys, monkeypatch):
    for error in (
        InputError(BROKEN),
        RunError(BROKEN),
        OSError(2, "not there", BROKEN),
        KeyError(BROKEN),
        Exception(BROKEN),
    ):

        def fail(*arguments, failure=error, **options):
            raise failure

        monkeypatch.setattr("mttu.cli.app", fail)
        with pytest.raises(SystemExit):
            main([])
        text = "".join(capsys.readouterr())
        assert "x1b[31m" in text
        assert not set(text) & set("\x1b\x9b\x07\u202e\u2066" + UNSEEN)
        assert "\nerror: wiped" not in text


def test_a_table_is_wrapped_between_words_and_divided_by_columns_never_cut(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"network.setting_{number}" for number in range(9)]
    table = new_table(("trial", *names), title="the trials", caption="and 3 more")
    for trial in ("0001", "0002"):
        table.add_row(trial, *(f"{trial}-{number}" for number in range(9)))
    show_table(table)
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in out
    heads = [line.split() for line in lines if line.strip().startswith("trial")]
    assert [name for head in heads for name in head if name != "trial"] == names
    assert len(heads) == 3
    assert all(head[0] == "trial" for head in heads)
    cells = [line.split()[1:] for line in lines if line.strip().startswith("0002")]
    assert [cell for part in cells for cell in part] == [f"0002-{number}" for number in range(9)]
    assert (out.count("the trials"), out.count("and 3 more")) == (1, 1)
    assert out.index("the trials") < out.index("setting_0") < out.index("setting_8") < out.index("and 3 more")

    text = Table("", "what was found", "what mends it", title="words")
    text.add_row("case", "a sentence that is rather long", "another sentence, which is as long as the one beside it")
    show_table(text)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("case") == 1  # one part
    assert all(word in out for word in ("sentence", "mends", "beside"))
    monkeypatch.setenv("COLUMNS", "300")
    show_table(table)
    assert len([line for line in capsys.readouterr().out.splitlines() if "trial " in line]) == 1


def test_the_widest_tables_fit_eighty_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    names = ["network.bottleneck.num_layers", "optim.weight_decay", "network.dropout.attention", "loss.task_weighting"]
    drawn = dict.fromkeys(names, 1.25e-4) | {"loss.task_weighting": "uncertainty"}
    trial = Trial(3, "0003", drawn, Path("x"), state="finished", history=[{"epoch": 1, "val/score": 0.5}])
    show_table(_tabulate([trial], names, "val/score", True))
    metrics = {f"{part}/{name}": 0.12345 for part in ("val", "test") for name in ("dice", "idh_auc", "idh_accuracy")}
    metrics |= {"val/idh_ece": 0.25, "test/idh_ece": 0.5}
    for one in tabulate([RoundSummary(10, 1000, 100, 300, 400, 350, metrics)], "UPS", 10, "brats"):
        show_table(one)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    shown = out.split()
    assert {"num_layers", "weight_decay", "attention", "task_weighting", "uncertainty", "350/400"} <= set(shown)
    assert shown.count("0.123") == 6

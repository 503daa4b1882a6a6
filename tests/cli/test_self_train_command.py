import io

import pytest
import yaml
from rich.console import Console

from mttu.cli.display import console
from mttu.cli.self_train import TimeLeft, count_cases, show_rounds, tabulate
from mttu.config import Config, override
from mttu.self_training import Step
from mttu.self_training.tracking import RoundSummary


def test_settings_are_printed(run):
    code, out, _ = run("self-train", "--print-config", "self_training.rounds=5")
    assert code == 0
    assert yaml.safe_load(out)["self_training"]["rounds"] == 5


def test_soft_labels_and_quotas_are_settings(run):
    counts = {"labelled": 2, "pseudo": 1, "unlabelled": 1}
    words = [f"train.quotas.{kind}={count}" for kind, count in counts.items()]
    code, out, _ = run("self-train", "--print-config", "self_training.labels=soft", *words)
    assert code == 0
    settings = yaml.safe_load(out)
    assert settings["train"]["quotas"] == counts
    assert settings["self_training"]["labels"] == "soft"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "data.manifest: not set"),
        (["train.quotas.labelled=3"], "= 3, but global_batch is 4; they must add up to it, or all be 0"),
        (["self_training.labels=fuzzy"], "self_training.labels: Input should be 'hard' or 'soft'"),
        (["data.folds=1"], "folds is 1; give 0 for the manifest's own split, or 2 or more"),
        (["self_training.rounds=-1"], "self_training.rounds: Input should be greater than or equal to 0"),
        (["selection.method=best"], "selection.method: Input should be 'none', 'direct', 'PL', 'CPL' or 'UPS'"),
    ],
)
def test_refusals(run, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("self-train", *words)
    assert code == 2
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_the_table_of_rounds():
    rows = [
        RoundSummary(0, 6, 0, 0, 0, 0, {"val/dice": 0.5}),
        RoundSummary(1, 6, 2, 3, 5, 4, {"val/dice": 0.75, "test/idh_auc": 0.875}),
    ]
    narrow = Console(width=80, file=io.StringIO())
    tables = tabulate(rows, "UPS", 1, "exclude")
    assert tables[1].title.endswith("Dice of empty masks: exclude")
    for table in tables:
        narrow.print(table)
    lines = [line.split() for line in narrow.file.getvalue().splitlines()]
    assert ["pseudo-labels,", "UPS"] in lines
    assert ["0", "6", "0", "0", "-", "-"] in lines
    assert ["*1", "6", "2", "3", "4/5", "0.800"] in lines
    assert ["0", "0.500", *["-"] * 7] in lines
    assert ["*1", "0.750", *["-"] * 4, "0.875", "-", "-"] in lines
    assert ["val"] * 4 + ["test"] * 4 in [line[-8:] for line in lines]
    assert ["Dice", "AUC", "acc", "ECE"] * 2 in [line[-8:] for line in lines]


def test_the_time_left_counts_what_is_to_come_by_the_pace_so_far(monkeypatch):
    clock = iter([0.0, 50.0, 51.0, 100.0, 102.0, 200.0, 203.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    settings = override(Config(), {"train.epochs": 10, "self_training.epochs": 4, "self_training.rounds": 2})
    left = TimeLeft(settings, {"score": 9, "evaluate": 3, "test": 2})
    assert left.describe(Step(0, 2, "train", 1, 10, metrics={"time/epoch_seconds": 5.0})) == "at least 85 s left"
    assert left.describe(Step(0, 2, "evaluate", 1, 3, "v")) == "at least 40 s left"  # eight epochs; no case's pace yet
    # eight epochs and, of 1 s each, 18 cases to score, 7 to evaluate and 6 to test
    assert left.describe(Step(0, 2, "evaluate", 2, 3, "w")) == "about 71 s left"
    assert left.describe(Step(1, 2, "score", 3, 9, "a")) == "about 67 s left"  # 40 s, and 15, 6 and 6 cases of 1 s
    assert left.describe(Step(1, 2, "score", 4, 9, "b")) == "about 80 s left"  # scoring takes 2 s: 40 + 28 + 6 + 6 s
    assert left.describe(Step(1, 2, "test", 1, 2, "a")) == "about 3 s left"  # three cases of 1 s
    assert left.describe(Step(1, 2, "test", 2, 2, "b")) == "about 6 s left"  # round 2 on two cases of 3 s


@pytest.mark.parametrize("output", ["log", "quiet", "terminal"])
def test_a_selection_is_told_when_it_is_made(output, monkeypatch, capsys):
    monkeypatch.setattr("mttu.cli.output._asked.quiet", output == "quiet")
    monkeypatch.setattr(console, "_force_terminal", output == "terminal")
    notes = ("6 of 80 cases of the pool are selected, 2 mutant, 4 wild type", "too few to change much")
    with show_rounds(Config(), {"score": 80, "evaluate": 1}) as on_step:
        on_step(Step(1, 3, "score", 80, 80, "last"))
        on_step(Step(1, 3, "select", 1, 1, fold=2, folds=5, notes=notes))
        so_far = capsys.readouterr().out
    for note in notes:
        assert f"fold 2/5  round 1/3: {note}" in so_far
    assert "round 1/3 select" not in so_far.replace("  ", " ")  # no phase of its own


def test_the_cases_of_each_phase_are_counted_before_they_come(phantom_manifest):
    counted = {"score": 1, "evaluate": 2, "test": 1}
    assert count_cases(Config(), phantom_manifest) == counted
    assert count_cases(override(Config(), {"selection.method": "none"}), phantom_manifest) == {**counted, "score": 0}
    folds = count_cases(override(Config(), {"data.folds": 2}), phantom_manifest)
    assert folds == {**counted, "evaluate": 3}  # of four train and two val cases

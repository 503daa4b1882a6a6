import io

import pytest
import yaml
from rich.console import Console

from mttu.cli.self_train import tabulate
from mttu.self_training.tracking import RoundSummary


def test_settings_are_printed(run):
    code, out, _ = run("self-train", "--print-config", "self_training.rounds=5")
    assert code == 0
    assert yaml.safe_load(out)["self_training"]["rounds"] == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "data.manifest: not set"),
        (["self_training.folds=1"], "folds is 1; give 0 for the manifest's own split, or 2 or more"),
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
    for table in tabulate(rows, "UPS", 1, "brats"):
        narrow.print(table)
    lines = [line.split() for line in narrow.file.getvalue().splitlines()]
    assert ["pseudo-labels,", "UPS"] in lines
    assert ["0", "6", "0", "0", "-", "-"] in lines
    assert ["*1", "6", "2", "3", "4/5", "0.800"] in lines
    assert ["0", "0.500", *["-"] * 7] in lines
    assert ["*1", "0.750", *["-"] * 4, "0.875", "-", "-"] in lines
    assert ["val"] * 4 + ["test"] * 4 in [line[-8:] for line in lines]
    assert ["Dice", "AUC", "acc", "ECE"] * 2 in [line[-8:] for line in lines]

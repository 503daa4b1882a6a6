import pyarrow.csv

from mttu.cli.folds import print_folds
from mttu.config import MetricSettings
from mttu.training.folds import read_folds_table, summarise_folds, write_folds_table


def test_means_and_deviations_are_printed(capsys, tmp_path):
    first = {"val/dice": 0.5, "val/idh_auc": 0.25, "test/dice": 0.75}
    second = {"val/dice": 0.7, "test/dice": 0.75}
    write_folds_table(summarise_folds([{"chosen round": first}, {"chosen round": second}]), tmp_path)
    print_folds(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    val, test = (line.split() for line in lines if line.strip().startswith("chosen round"))
    assert val == ["chosen", "round", "0.600", "±", "0.141", "0.250", "(1)", "-", "-"]
    assert test == ["chosen", "round", "0.750", "±", "0.000", "-", "-", "-"]
    assert "mean and standard deviation over 2 folds, on each fold's val cases" in " ".join(" ".join(lines).split())
    assert "Dice of empty masks: brats" in (line.strip() for line in lines)
    assert lines[-1] == f"ensemble of the folds: {tmp_path / 'ensemble'}"


def test_every_dice_names_its_convention(capsys, tmp_path):
    rows = summarise_folds([{"best": {"val/dice": 0.5, "val/idh_auc": 0.5}}])
    write_folds_table(rows, tmp_path, MetricSettings(empty_dice="exclude"))
    table = pyarrow.csv.read_csv(tmp_path / "folds.csv")
    assert dict(zip(table["metric"].to_pylist(), table["empty_dice"].to_pylist(), strict=True)) == {
        "val/dice": "exclude",
        "val/idh_auc": "",
    }
    assert read_folds_table(tmp_path) == rows
    print_folds(tmp_path)
    assert "Dice of empty masks: exclude" in capsys.readouterr().out


def test_what_no_fold_tested_is_left_out(capsys, tmp_path):
    write_folds_table(summarise_folds([{"best": {"val/dice": 0.5}}, {"best": {"val/dice": 0.5}}]), tmp_path)
    print_folds(tmp_path)
    assert "on the test cases" not in capsys.readouterr().out


def test_a_table_without_dice_names_no_convention(capsys, tmp_path):
    write_folds_table(summarise_folds([{"best": {"val/idh_auc": 0.5}}, {"best": {"val/idh_auc": 0.75}}]), tmp_path)
    print_folds(tmp_path)
    assert "empty masks" not in capsys.readouterr().out

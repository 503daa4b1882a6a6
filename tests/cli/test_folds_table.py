from mttu.cli.cross_validation import print_folds
from mttu.training.fold_results import summarise_folds, write_folds_table


def test_means_and_deviations_are_printed(capsys, tmp_path):
    first = {"val/dice": 0.5, "val/idh_auc": 0.25, "test/dice": 0.75}
    second = {"val/dice": 0.7, "test/dice": 0.75}
    write_folds_table(summarise_folds([{"chosen round": first}, {"chosen round": second}]), tmp_path)
    print_folds(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    val, test = (line.split() for line in lines if line.strip().startswith("chosen round"))
    assert val == ["chosen", "round", "0.600", "±", "0.141", "0.250", "(1)", "-", "-"]
    assert test == ["chosen", "round", "0.750", "±", "0.000", "-", "-", "-"]
    assert "mean and standard deviation over 2 folds, on each fold's val cases" in lines[0]
    assert lines[-1] == f"ensemble of the folds: {tmp_path / 'ensemble'}"


def test_what_no_fold_tested_is_left_out(capsys, tmp_path):
    write_folds_table(summarise_folds([{"best": {"val/dice": 0.5}}, {"best": {"val/dice": 0.5}}]), tmp_path)
    print_folds(tmp_path)
    assert "on the test cases" not in capsys.readouterr().out

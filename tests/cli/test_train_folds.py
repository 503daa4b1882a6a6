import pytest
import yaml
from typer.testing import CliRunner

from mttu.cli import app
from mttu.errors import InputError


def print_config(*words):
    return CliRunner().invoke(app, ["train", "--print-config", *words])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), (0, 0)),
        (("--folds", "3"), (3, 0)),
        (("--folds", "3", "--fold-seed", "7"), (3, 7)),
        (("data.folds=3", "data.fold_seed=7"), (3, 7)),
        (("data.folds=3", "--fold-seed", "7"), (3, 7)),
    ],
)
def test_the_options_are_short_for_settings(words, expected):
    data = yaml.safe_load(print_config(*words).stdout)["data"]
    assert (data["folds"], data["fold_seed"]) == expected


def test_an_option_counts_more_than_a_file(tmp_path):
    (tmp_path / "my.yaml").write_text("data:\n  folds: 3\n")
    result = print_config("--config", str(tmp_path / "my.yaml"), "--folds", "5")
    assert yaml.safe_load(result.stdout)["data"]["folds"] == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--folds", "1"), "option: data: folds is 1; give 0 for the manifest's own split, or 2 or more"),
        (("--folds", "-1"), "option: data.folds: Input should be greater than or equal to 0, found -1"),
        (("--fold-seed", "-1"), "option: data.fold_seed: Input should be greater than or equal to 0, found -1"),
        (("--folds", "5", "data.folds=3"), "option --folds: the argument data.folds=3 is given too; leave one of them"),
    ],
)
def test_what_makes_no_folds_is_refused(words, message):
    result = print_config(*words)
    assert isinstance(result.exception, InputError)
    assert str(result.exception).startswith(message)

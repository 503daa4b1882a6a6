import json
import logging
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mttu.cli.display import console, errors, show_log, show_progress, tell
from mttu.cli.groups import CommandLine
from mttu.cli.output import give, to_plain
from mttu.errors import InputError
from mttu.pseudo_labels.score_table import ScoreTable, summarise_passes, write_scores


@pytest.fixture
def scores(tmp_path):
    rows = [summarise_passes(name, [p - 0.01, p + 0.01], p, 1.0) for name, p in (("a", 0.97), ("b", 0.02))]
    path = tmp_path / "mc.parquet"
    write_scores(ScoreTable(tuple(rows), {"split": "val", "labelled": {"mutant": 10, "wild": 16}}), path)
    return path


@dataclass(frozen=True)
class Found:
    path: Path
    values: tuple[float, ...]


def test_json_holds_paths_arrays_and_nothing_that_is_no_number():
    found = to_plain({"one": Found(Path("a/b"), (0.5, math.nan)), 2: np.float32(0.25), "all": {3, 1}, "no": None})
    assert found == {"one": {"path": "a/b", "values": [0.5, None]}, "2": 0.25, "all": [1, 3], "no": None}
    assert to_plain(np.array([[1, 2]])) == [[1, 2]]
    assert to_plain(True) is True


@pytest.fixture
def speak(capsys):
    """Runs a made-up command that prints all kinds of things: `speak("--json")` gives standard output and error."""
    app = CommandLine(rich_markup_mode=None)

    @app.command()
    def work(fail: bool = False) -> None:
        show_log()
        with show_progress("work", 2) as advance:
            advance(1, "case_1")
        logging.getLogger("mttu.made.up").info("waiting")
        tell("a doubt")
        console.print("a result")
        give({"earlier": 1})
        give({"number": math.inf})
        if fail:
            raise InputError("refused")

    def call(*words):
        with suppress(InputError):
            app(list(words), standalone_mode=False)
        return capsys.readouterr()

    return call


def test_quiet_leaves_out_progress_and_nothing_else(speak):
    assert speak().out == "work 1/2 case_1\nwaiting\nnote: a doubt\na result\n"
    assert speak("--quiet").out == "note: a doubt\na result\n"
    assert speak().out.startswith("work 1/2")  # the next command is not quiet


def test_json_alone_is_on_standard_output_and_the_last_result_counts(speak):
    out, err = speak("--json")
    assert json.loads(out) == {"number": None}
    assert err == "work 1/2 case_1\nwaiting\nnote: a doubt\na result\n"
    out, err = speak("--json", "--quiet", "--fail")  # what was found before it failed
    assert json.loads(out) == {"number": None}
    assert err == "note: a doubt\na result\n"
    assert speak().out.endswith("a result\n")


def test_commands_print_one_json_document(run, manifest_file, phantom_cache, phantom_folder, tiny_checkpoint, tmp_path):
    def ask(*words):
        code, out, err = run(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    assert ask("describe", manifest_file)["cases"] == {"train": 4, "val": 2, "unlabelled": 1, "test": 1}
    folds = ask("split", manifest_file, "-o", tmp_path / "folds", "--folds", 3)["folds"]
    assert [fold["val"] for fold in folds] == [2, 2, 2]
    assert ask("cache", "verify", phantom_cache)["sound"] == 8
    assert ask("cache", "prune", phantom_cache, manifest_file)["removals"] == []
    assert ask("ablations", "V")["V"]["pcgrad"]["changes"] == {"loss.task_weighting": "pcgrad"}
    assert ask("train", "--print-config", "optim.lr=0.5")["optim"]["lr"] == 0.5
    made = ask("ensemble", tiny_checkpoint, "-o", tmp_path / "one")
    assert made == {"ensemble": str(tmp_path / "one"), "members": [str(tiny_checkpoint)]}
    cohort = tmp_path / "cohort.parquet"
    found = ask("cohort", phantom_folder, "--clinical", phantom_folder / "clinical.csv", "-o", cohort)
    assert (found["manifest"], found["findings"]) == (str(cohort), [])
    assert found["table_one"]["Subject n"] == {"Training data": "6", "Additional data": "1", "Testing data": "1"}
    words = ["score", tiny_checkpoint, manifest_file, "--split", "test", "--actors", 0, "--threads", 1]
    assert ask(*words, "-o", tmp_path / "mc.parquet", "mc.passes=2")["scored"] == 1
    predicted = ask("predict", tiny_checkpoint, manifest_file, "--split", "test", "-o", tmp_path / "out")
    assert [0 <= case["idh_mutant_probability"] <= 1 for case in predicted["cases"]] == [True]
    drawn = ask("phantom", tmp_path / "phantom", "--cases", 2, "--size", 24)
    assert (drawn["folder"], drawn["cases"]) == (str(tmp_path / "phantom"), 2)
    (listed,) = ask("networks", "--only", "dmfnet")
    assert (listed["name"], listed["parameters"] > 1e6) == ("dmfnet", True)


def test_evaluations_speak_json(run, tiny_checkpoint, manifest_file, tmp_path, monkeypatch):
    monkeypatch.setattr("mttu.report.files.draw_pictures", lambda *tables: {})
    code, out, err = run(
        "evaluate", tiny_checkpoint, manifest_file, "-o", tmp_path / "s", "--resamples", "20", "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert (found["folder"], found["cases"]["in_split"]) == (str(tmp_path / "s"), 1)
    assert found["segmentation"].keys() == {"wt", "tc", "et"}


def test_selections_and_thresholds_speak_json(run, scores, tmp_path):
    truth = tmp_path / "truth.csv"
    truth.write_text("case_id,idh\na,1\nb,1\n")
    found = json.loads(run("select", scores, "--truth", truth, "--json", "selection.method=PL")[1])
    assert {case["case_id"]: case["pseudo_label"] for case in found["cases"]} == {"a": 1, "b": 0}
    assert found["methods"][0]["counts"]["num_right_mutant"] == 1
    found = json.loads(run("thresholds", scores, "--truth", truth, "--confidence", "0.9", "--json")[1])
    assert {(pair["num_selected"], pair["num_wrong"]) for pair in found["pairs"]} >= {(2, 1)}


def test_a_refused_cohort_says_what_it_found_as_json_too(run, phantom_folder, tmp_path):
    code, out, err = run("cohort", phantom_folder, "--labels", "msd", "-o", tmp_path / "c.parquet", "--json")
    assert code == 2
    found = json.loads(out)
    assert found["manifest"] is None
    assert {finding["severity"] for finding in found["findings"]} >= {"error"}
    assert "nothing else was written" in err


def test_colours_are_for_terminals_alone(run, phantom_folder, tmp_path, monkeypatch):
    words = ("cohort", phantom_folder, "--labels", "msd", "-o", tmp_path / "c.parquet")
    _, out, err = run(*words)
    assert "error:" in err
    assert "\x1b" not in out + err
    monkeypatch.setattr(errors, "_force_terminal", True)
    monkeypatch.setattr(errors, "_color_system", 1)
    assert "\x1b[31m" in run(*words)[2]  # the test can see one

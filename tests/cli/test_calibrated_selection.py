"""`mttu select` with calibration, prior and rule on stored scores; what `mttu describe` says of a pool."""

import math
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from mttu.cli.self_train import tabulate
from mttu.data.manifest import write_manifest
from mttu.pseudo_labels.pool_shift import find_bare_cases, find_pool_shift
from mttu.pseudo_labels.prior import correct
from mttu.pseudo_labels.score_table import ScoreTable, summarise_passes, write_scores
from mttu.self_training.tracking import RoundSummary

ABOUT = {"labelled": {"mutant": 10, "wild": 16}, "weights_sha256": "w"}
POOL = {f"p{at:02d}": 0.95 - 0.02 * at if at < 4 else 0.3 - 0.007 * at for at in range(40)}
VAL = {f"v{at:02d}": 0.05 + 0.08 * at for at in range(12)}
MUTANTS = (4, 7, 8, 9, 10, 11)
CALIBRATE = "selection.calibrate=temperature+bias"


def write(path, probabilities, **about):
    rows = [summarise_passes(name, [p - 0.01, p + 0.01], p, 1.0) for name, p in probabilities.items()]
    write_scores(ScoreTable(tuple(rows), {**ABOUT, **about}), path)
    return path


@pytest.fixture
def scores(tmp_path):
    """A pool of forty, of which four look like mutants."""
    return write(tmp_path / "mc.parquet", POOL, split="unlabelled")


@pytest.fixture
def val(tmp_path):
    """Twelve labelled cases, half of them mutants, one of these and one of the others on the wrong side."""
    return write(tmp_path / "val.parquet", VAL, split="val", learned_from=[])


@pytest.fixture
def classes(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text("case_id,idh\n" + "".join(f"v{at:02d},{int(at in MUTANTS)}\n" for at in range(12)))
    return path


def test_the_pool_is_calibrated_moved_and_ranked(run, scores, val, classes, tmp_path):
    truth = tmp_path / "truth.csv"
    truth.write_text("case_id,idh\n" + "".join(f"p{at:02d},{int(at < 2)}\n" for at in range(40)))
    words = ["select", scores, "--calibration", val, "--calibration-truth", classes, "--truth", truth, CALIBRATE]
    words += ["selection.prior=estimate", "selection.rule=rank", "selection.rank_share=0.5"]
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert "note: calibrated on 12 cases (6 mutant): temperature" in text
    assert "0.500 among the calibration cases; moved to 0." in text
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith(("mutant ", "wild type "))}
    in_val = [int(at in MUTANTS) for at in range(12)]
    found = correct(list(POOL.values()), list(VAL.values()), in_val, "estimate")
    moved = [found.move(value) for value in POOL.values()]
    called = sum(value >= 0.5 for value in moved)
    mutants, wild = min(called, math.ceil(sum(moved) / 2)), math.ceil((40 - sum(moved)) / 2)
    assert mutants >= 1
    assert lines["mutant"][1] == f"{mutants}"
    assert lines["mutant"][-4:] == ["1.000", f"({mutants}", "of", f"{mutants})"]
    assert lines["wild"][2] == f"{wild}"
    assert lines["wild"][-4:] == ["1.000", f"({wild}", "of", f"{wild})"]
    assert "note: 40 of 40 cases have a true class" in out


def test_the_truth_may_be_that_of_the_calibration_cases_alone(run, scores, val, classes, tmp_path, monkeypatch):
    monkeypatch.setattr("mttu.pseudo_labels.reports.draw_selection", lambda *arguments: {})
    out_folder = tmp_path / "selection"
    words = ["select", scores, "--calibration", val, "--truth", classes, CALIBRATE, "selection.prior=0.1"]
    code, out, _ = run(*words, "selection.rule=precision", "selection.wanted_precision=0.95", "-o", out_folder)
    assert code == 0
    assert "moved to 0.1" in out
    table = pq.read_table(out_folder / "selection.parquet").to_pylist()
    chosen = [row["moved_probability"] for row in table if row["selected"]]
    assert len(chosen) >= 10
    assert sum(1 - value for value in chosen) / len(chosen) >= 0.95  # all of them are wild types
    assert max(row["moved_probability"] for row in table) < max(row["calibrated_probability"] for row in table)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([CALIBRATE], "selection.calibrate=temperature+bias: needs --calibration, the scores of labelled cases"),
        (
            ["--calibration", "val.parquet", "--truth", "classes.csv"],
            "--calibration: has an effect only with selection.",
        ),
        (["--calibration-truth", "classes.csv"], "--calibration-truth: has an effect only with selection.calibrate="),
        (["selection.prior=estimate"], "prior is estimate but calibrate is none"),
        (["--calibration", "mc.parquet", "--truth", "classes.csv", CALIBRATE], "do not say whom they learned from"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(run, scores, val, classes, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("select", scores, *words)
    assert (code, out) == (2, "")
    assert message in err


def test_few_labels_by_thresholds_are_said_with_what_helps(run, scores):
    code, out, _ = run("select", scores, "selection.confidence_threshold=0.94", "selection.balance=false")
    assert code == 0
    assert "UPS: 6 of 40 cases selected" in out
    assert "6 of 40 cases with a score are selected, too few to change much; what helps: lower" in " ".join(out.split())


def with_grades(manifest, labelled, pool):
    """A manifest of the same cases, over and over, with (grade, IDH) of labelled and grades of pool cases."""
    first = manifest.cases[0]
    rows = [("train", grade, idh) for grade, idh in labelled] + [("unlabelled", grade, -1) for grade in pool]
    cases = [
        replace(first, case_id=f"c{at:03d}", patient_id=f"c{at:03d}", split=split, grade=grade, idh=idh)
        for at, (split, grade, idh) in enumerate(rows)
    ]
    return replace(manifest, cases=tuple(cases))


def test_a_pool_of_other_grades_is_said_before_anything_is_trained(run, phantom_manifest, tmp_path):
    labelled = [("LGG", 1)] * 8 + [("LGG", 0)] * 2 + [("HGG", 0)] * 9 + [("HGG", 1)]
    other = with_grades(phantom_manifest, labelled, ["HGG"] * 19 + ["LGG"])
    [said] = find_pool_shift(other)
    # 0.95 x 0.1 + 0.05 x 0.8 = 0.135, against 9 of 20
    assert said.startswith(
        "the pool is 95% HGG, the labelled cases are 50%; with their mutants by grade 14% of the pool"
    )
    assert "not 45%" in said
    assert find_pool_shift(with_grades(phantom_manifest, labelled, ["HGG", "LGG"] * 10)) == []
    assert find_pool_shift(with_grades(phantom_manifest, labelled, [None] * 20)) == []
    bare = replace(other, cases=(*other.cases[:-1], replace(other.cases[-1], seg=None)))
    without = "1 case of 20 in the pool have no mask: used only if selected, or with teacher.masks=true"
    assert (find_bare_cases(bare), find_bare_cases(other)) == ([without], [])
    write_manifest(other, tmp_path / "other.parquet")
    code, out, _ = run("describe", tmp_path / "other.parquet")
    assert (code, f"note: {said[:60]}" in " ".join(out.split())) == (0, True)


def test_the_table_of_rounds_has_estimates_beside_the_truth():
    names = ("pool_share", "estimated_precision_mutant", "precision_mutant", "estimated_precision_wild")
    estimates = {f"selected/{name}": 0.1 * (place + 1) for place, name in enumerate(names)}
    rows = [RoundSummary(0, 6, 0, 0, 0, 0, {}), RoundSummary(1, 6, 2, 3, 5, 4, {}, estimates=estimates)]
    _, precision, _ = tabulate(rows, "UPS", 1, "exclude")
    assert [list(column.cells) for column in precision.columns] == [
        ["1"],
        ["0.100"],
        ["0.200"],
        ["0.300"],
        ["0.400"],
        ["-"],
    ]

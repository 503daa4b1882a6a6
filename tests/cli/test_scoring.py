import csv
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from empty_pictures import save_empty

from mttu.cohort.build import discover
from mttu.data.manifest import write_manifest
from mttu.pseudo_labels.score_table import ScoreTable, read_scores, summarise_passes, write_scores


@pytest.fixture
def scores(tmp_path):
    """Two sure mutants, three sure wild types, one unsure case; the paper's class ratio."""
    sure = {"a": 0.97, "b": 0.95, "c": 0.02, "d": 0.03, "e": 0.04}
    rows = [summarise_passes(name, [p - 0.01, p + 0.01], p, 1.0) for name, p in sure.items()]
    rows.append(summarise_passes("f", [0.3, 0.6], 0.5, 1.0))
    path = tmp_path / "mc.parquet"
    write_scores(ScoreTable(tuple(rows), {"split": "val", "labelled": {"mutant": 10, "wild": 16}}), path)
    return path


@pytest.fixture
def truth(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text("case_id,idh\na,1\nb,0\nc,0\nd,0\ne,0\nf,1\n")
    return path


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr("mttu.pseudo_labels.reports.save_figure", save_empty)


def test_scoring_writes_the_table_and_names_failures(run, tiny_checkpoint, phantom_folder, tmp_path):
    for name in ("phantom_000", "phantom_001"):
        shutil.copytree(phantom_folder / name, tmp_path / "data" / name)
    write_manifest(discover(tmp_path / "data", val_fraction=0.0), tmp_path / "cohort.parquet")
    broken = tmp_path / "data" / "phantom_001" / "phantom_001_t2.nii.gz"
    broken.write_bytes(broken.read_bytes()[:400])
    out_file = tmp_path / "mc.parquet"
    words = ["score", tiny_checkpoint, tmp_path / "cohort.parquet", "--split", "train", "-o", out_file]
    code, out, err = run(*words, "--actors", 0, "--threads", 1, "mc.passes=3")
    assert code == 1
    table = read_scores(out_file)
    assert [len(row.mutant_probabilities or ()) for row in table.rows] == [3, 0]
    assert "score 1/2 phantom_000" in out
    assert "volumes/s" in out
    assert "1 scored, 1 failed. Research use only." in out
    assert f"SHA-256 of the scores: {table.digest}" in out
    assert err.startswith("phantom_001: case phantom_001: phantom_001_t2.nii.gz: voxels cannot be read")
    assert table.about["mc"]["passes"] == 3


def test_selection_is_printed_and_written(run, scores, truth, tmp_path, monkeypatch):
    code, out, err = run("select", scores, "--truth", truth, "-o", tmp_path / "selection")
    assert (code, err) == (0, "")
    assert out.splitlines()[:6] == [
        "a  mutant     confidence 0.9700  uncertainty 0.0141",
        "b  mutant     confidence 0.9500  uncertainty 0.0141",
        "c  wild type  confidence 0.9800  uncertainty 0.0141",
        "d  wild type  confidence 0.9700  uncertainty 0.0141",
        "e  wild type  confidence 0.9600  uncertainty 0.0141",
        "UPS: 5 of 6 cases selected",
    ]
    assert "note: 6 of 6 cases have a true class" in out
    assert "PL      no             2     4      4      6  0.667 [0.300, 0.903]" in out
    assert "UPS     yes            2     3      4      5  0.800 [0.376, 0.964]" in out
    folder = tmp_path / "selection"
    table = pq.read_table(folder / "selection.parquet")
    assert table["selected"].to_pylist() == [True] * 5 + [False]
    assert table.schema.metadata[b"format_version"] == b"1"
    assert (folder / "selection.csv").read_text().splitlines()[0].startswith('"case_id","pseudo_label","confidence"')
    pictures = ("candidates.png", "pseudo_labels.png", "selection_error.png", "candidates.pdf")
    assert all((folder / name).stat().st_size > 5000 for name in pictures)
    monkeypatch.setattr("mttu.pseudo_labels.reports.save_figure", save_empty)
    assert run("select", scores, "-o", folder, "selection.method=PL")[0] == 0
    pictures = [f"{name}.{kind}" for name in ("candidates", "pseudo_labels") for kind in ("pdf", "png")]
    left = sorted(path.name for path in folder.iterdir())  # without a truth there is no error to draw
    assert left == sorted([*pictures, "selection.csv", "selection.parquet"])


def test_selection_says_what_is_special(run, scores):
    code, out, _ = run("select", scores, "selection.confidence_threshold=0.99")
    assert code == 0
    assert "UPS: 0 of 6 cases selected" in out
    assert "note: nothing is selected: the highest confidence is 0.9800 (threshold 0.99)" in out


def test_a_truth_of_other_cases_is_refused(run, scores, truth, tmp_path):
    truth.write_text("case_id,idh\nA,1\nB,0\n")
    code, out, err = run("select", scores, "--truth", truth, "-o", tmp_path / "selection")
    assert (code, out) == (2, "")
    assert f"truth {truth}: names A, B and none of the 6 scored cases, such as a, b, c; give the truth" in err
    assert not (tmp_path / "selection").exists()
    assert run("thresholds", scores, "--truth", truth)[0] == 2
    truth.write_text("case_id,idh\na,1\nB,0\n")
    code, out, _ = run("select", scores, "--truth", truth)
    assert (code, "note: 1 of 6 cases have a true class" in out) == (0, True)


def test_thresholds_are_suggested_and_nothing_is_set(run, scores, truth, tmp_path, undrawn):
    words = ["thresholds", scores, "--truth", truth, "--confidence", "0.5,0.9,0.96", "--uncertainty", "0.05,0.3"]
    code, out, _ = run(*words, "--min-coverage", "0.5", "-o", tmp_path / "thresholds")
    assert code == 0
    lines = out.splitlines()
    assert lines[1] == "   0.5   0.05         5      0.83      1  0.200 [0.036, 0.624]"
    at = lines.index("lowest error with at least 50% of 6 cases selected:")
    assert lines[at + 1].split()[:5] == ["0.96", "0.3", "4", "0.67", "0"]
    assert "a suggestion, nothing is set" in lines[at + 2]
    assert pq.read_table(tmp_path / "thresholds" / "thresholds.parquet").num_rows == 6
    assert (tmp_path / "thresholds" / "selection_error.png").exists()
    code, out, _ = run(*words, "--min-coverage", "1.0", "--confidence", "0.99")
    assert code == 0
    assert "no pair selects 100% of the 6 cases; lower --min-coverage" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "none", "none.parquet", "--split", "val", "-o", "x.parquet"], "checkpoint none:"),
        (["score", "none", "none.parquet", "--split", "val", "-o", "x.csv"], "scores x.csv: the name must end in"),
        (["select", "none.parquet"], "scores none.parquet: not found; write them with `mttu score`"),
        (["select", "none.parquet", "mc.passes=3"], "argument mc.passes: only settings of `selection` have an effect"),
        (["select", "none.parquet", "selection.method=ALL"], "selection.method"),
        (["thresholds", "none.parquet", "--truth", "t.csv", "--confidence", "high"], "--confidence 'high': expected"),
        (["thresholds", "none.parquet", "--truth", "t.csv", "--uncertainty", "2"], "--uncertainty '2': expected"),
    ],
)
def test_refusals_exit_with_two(run, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["candidates.png", "selection_error.pdf", "thesis.docx", "mc.parquet"])
def test_files_of_others_are_not_overwritten(run, scores, truth, tmp_path, name):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / name).write_text("mine")
    for words in (["select", scores, "-o", mine], ["thresholds", scores, "--truth", truth, "-o", mine]):
        code, _, err = run(*words)
        assert code == 2
        assert f"holds {name}, not of an earlier" in err
    assert [(path.name, path.read_text()) for path in mine.iterdir()] == [(name, "mine")]
    code, _, err = run("select", scores, "-o", truth)
    assert code == 2
    assert "is a file; give a folder" in err


def test_a_report_is_not_replaced_where_anything_else_lies_beside_it(run, scores, truth, tmp_path, undrawn):
    folder = tmp_path / "selection"
    assert run("select", scores, "-o", folder)[0] == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, _, err = run("thresholds", scores, "--truth", truth, "-o", folder)
    assert code == 2
    assert "holds candidates.pdf, candidates.png, pseudo_labels.pdf, not of an earlier thresholds here" in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "notes.txt").write_text("mine")
    assert "holds notes.txt" in run("select", scores, "-o", folder)[2]


def test_thresholds_are_searched_on_stored_scores(run, scores, truth, tmp_path):
    space = Path(__file__).parents[2] / "tune_spaces" / "ups_thresholds_offline.yaml"
    words = ["tune", space, "--scores", scores, "--truth", truth, f"output.folder={tmp_path}", "output.name=offline"]
    code, out, _ = run(*words)
    assert code == 0
    assert "6 cases (2 mutant, 4 wild type); the network is wrong on 2 of them" in out.replace("\n", " ")
    folder = tmp_path / "offline"
    rows = list(csv.DictReader((folder / "points.csv").open()))
    assert f"{len(rows)} pairs of thresholds on 6 cases" in out
    assert len(rows) == 1001  # and the paper's pair
    best = yaml.safe_load((folder / "best.yaml").read_text())
    chosen = best["selection"]
    pair = {name: float(chosen[name]) for name in ("confidence_threshold", "uncertainty_threshold")}
    (row,) = [one for one in rows if all(float(one[name]) == value for name, value in pair.items())]
    enough = [float(one["error"]) for one in rows if float(one["coverage"]) >= 0.5]
    assert float(row["error"]) == min(enough)
    assert best["output"]["name"] == "offline-best"  # a training with it moves nothing of the search aside
    code, out, _ = run("tune", "--show", folder)
    assert code == 0
    assert "holds a search on stored scores: points.csv, pareto.png, best.yaml" in out.replace("\n", " ")
    told = json.loads(run("tune", "--show", folder, "--json")[1])
    assert told == {
        "folder": str(folder),
        "files": [str(folder / name) for name in ("points.csv", "pareto.png", "best.yaml")],
    }
    assert run("tune", space, f"output.folder={tmp_path}")[0] == 2

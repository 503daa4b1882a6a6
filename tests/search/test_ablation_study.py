import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import t as student_t
from scipy.stats import ttest_rel
from search_cases import SHORT, InProcess, Pretending
from sklearn.metrics import roc_auc_score

from mttu.config import RivalSettings, override, to_yaml
from mttu.data.manifest import read_manifest, write_manifest
from mttu.errors import InputError, RunError
from mttu.networks.measure import count_network
from mttu.search.ablation_study import Study, plan_study, prepare_study, read_summary, run_study
from mttu.search.processes import run_here
from mttu.search.trials import FAILED, FINISHED, STEP, read_trials
from mttu.self_training.evaluation import read_rows, write_rows
from mttu.tables.scores import COSTS
from mttu.training.run import run_training

REGIONS = ("wt", "tc", "et")


def study_of(config, study, runner=None, **options):
    """Runs a study in this process; the run folder."""
    config = override(config, SHORT)
    return run_study(prepare_study(study, config), runner or InProcess(), **options)


def table_of(folder):
    """Row and metric to the line of `table.csv`; numbers, or None where a cell is empty."""
    with (folder / "table.csv").open(encoding="utf-8") as handle:
        return {
            (line["row"], line["metric"]): {
                name: float(value) if value else None
                for name, value in line.items()
                if name not in ("row", "title", "metric", "test")
            }
            for line in csv.DictReader(handle)
        }


def measure(folder, name):
    """Metrics of a training, worked out from the scores of its cases."""
    rows = pq.read_table(folder / "trials" / name / "cases.parquet").to_pylist()
    found = {}
    for metric in ("dice", "hd95"):
        for region in REGIONS:
            values = [row[f"{metric}_{region}"] for row in rows if row[f"{metric}_{region}"] is not None]
            if values:
                found[f"{metric}_{region}"] = np.mean(values)
    if all(f"dice_{region}" in found for region in REGIONS):
        found["dice"] = np.mean([found[f"dice_{region}"] for region in REGIONS])
    known = [row for row in rows if row["mutant_probability"] is not None and row["idh"] >= 0]
    if known:
        truth, probability = ([row[key] for row in known] for key in ("idh", "mutant_probability"))
        found["auc"] = roc_auc_score(truth, probability)
        found["accuracy"] = np.mean([(p >= 0.5) == (t == 1) for t, p in zip(truth, probability, strict=True)])
    return len(rows), found


def test_table_3_over_two_seeds(tiny, tmp_path, sketches):
    study = plan_study("III", (), seeds=2, folds=0, split="val")
    run = InProcess()
    folder = study_of(tiny, study, run)
    rows = ("clsnet", "segnet", "mttu-net")
    assert run.names == [f"{row}-seed-{seed}" for seed in (0, 1) for row in rows]
    trials = {trial.name: trial for trial in read_trials(folder)}
    assert {trial.state for trial in trials.values()} == {FINISHED}
    assert trials["clsnet-seed-1"].labels == {"table": "III", "row": "ClsNet", "seed": "1"}
    for trial in trials.values():
        ((_, step),) = trial.curve("time/step_seconds")
        _, about = read_rows(trial.folder / "cases.parquet")
        assert 0 < step < trial.curve("time/epoch_seconds")[0][1]
        assert float(about["seconds_per_volume"]) > 0
        assert "seconds" not in pq.read_schema(trial.folder / "cases.parquet").names
    assert not {metric for _, metric in table_of(folder)} & COSTS.keys()

    cells = {row: [measure(folder, f"{row}-seed-{seed}") for seed in (0, 1)] for row in rows}
    num_val = len(read_manifest(tiny.data.manifest).split("val"))
    assert {count for cell in cells.values() for count, _ in cell} == {num_val}
    assert "dice" not in cells["clsnet"][0][1]
    assert "auc" not in cells["segnet"][0][1]
    table = table_of(folder)
    for row, repeats in cells.items():
        for metric in ("dice", "dice_wt", "dice_tc", "dice_et", "auc", "accuracy"):
            values = [found[metric] for _, found in repeats if metric in found]
            line = table[row, metric]
            assert line["n"] == len(values) == (0 if metric not in repeats[0][1] else 2)
            if values:
                half = student_t.ppf(0.975, 1) * np.std(values, ddof=1) / np.sqrt(2)
                mean = np.mean(values)
                found = [line[name] for name in ("mean", "std", "low", "high")]
                np.testing.assert_allclose(found, [mean, np.std(values, ddof=1), mean - half, mean + half], atol=1e-12)
    one, other = ([found["dice"] for _, found in cells[row]] for row in ("segnet", "mttu-net"))
    line = table["segnet", "dice"]
    assert line["difference"] == pytest.approx(np.mean(np.subtract(one, other)), abs=1e-12)
    if np.std(np.subtract(one, other)) > 1e-9:
        assert line["p"] == line["p_holm"] == pytest.approx(ttest_rel(one, other).pvalue)
    assert table["mttu-net", "dice"]["difference"] is None
    assert table["clsnet", "dice"]["difference"] is None

    markdown, latex = ((folder / f"table.{ending}").read_text() for ending in ("md", "tex"))
    assert f"Scores of {num_val} val cases by the best weights of each training, over 2 seeds" in markdown
    assert "The weights were chosen on the same cases, so all scores are slightly too good" in markdown
    assert "Intervals are over seeds on the same cases; they say nothing about other cases." in markdown
    assert "The data are synthetic" in markdown
    titles = [line.split("|")[1].strip() for line in markdown.splitlines() if line.startswith("| ")]
    assert titles[2:5] == ["ClsNet", "SegNet", "MTTU-Net (ref.)"]
    assert f"{100 * table['mttu-net', 'dice_wt']['mean']:.1f}" in markdown
    assert all(f"{title} &" in latex for title in ("ClsNet", "SegNet", "MTTU-Net (ref.)"))
    assert (folder / "differences.png").stat().st_size > 5000
    assert json.loads((folder / "finished.json").read_text())["rows"] == {"clsnet": 2, "segnet": 2, "mttu-net": 2}
    summary = read_summary(folder)
    assert {row.name: row.scores["dice"].mean for row in summary.rows if row.scores["dice"].n} == {
        row: table[row, "dice"]["mean"] for row in ("segnet", "mttu-net")
    }
    before = (folder / "table.csv").read_bytes()
    again = Pretending()
    assert study_of(tiny, study, again) == folder
    assert again.names == []
    assert (folder / "table.csv").read_bytes() == before


def test_a_study_over_folds_scores_each_fold_on_its_own_cases(tiny, undrawn):
    study = plan_study("V", ["equal-weights"], seeds=0, folds=2, split="val")
    run = Pretending()
    folder = study_of(tiny, study, run)
    names = [f"{row}-fold-{fold}" for fold in (1, 2) for row in ("equal-weights", "uncertainty-weights")]
    assert run.names == names
    assert not [trial.reason for trial in read_trials(folder) if trial.state != FINISHED]
    seen = {}
    for name in names:
        fold = read_manifest(folder / "manifests" / f"fold_{name[-1]}.parquet")
        scored = pq.read_table(folder / "trials" / name / "cases.parquet").column("case_id").to_pylist()
        assert sorted(scored) == sorted(case.case_id for case in fold.split("val"))
        assert not set(scored) & {case.case_id for case in fold.split("train")}
        seen[name] = set(scored)
    assert seen[names[0]] == seen[names[1]]
    assert not seen[names[0]] & seen[names[2]]
    labelled = [case.case_id for part in ("train", "val") for case in read_manifest(tiny.data.manifest).split(part)]
    assert seen[names[0]] | seen[names[2]] == set(labelled)
    table = table_of(folder)
    values = {name: measure(folder, name)[1]["dice"] for name in names}
    assert table["equal-weights", "dice"]["mean"] == pytest.approx((values[names[0]] + values[names[2]]) / 2)
    differences = [values[names[0]] - values[names[1]], values[names[2]] - values[names[3]]]
    assert table["equal-weights", "dice"]["difference"] == pytest.approx(np.mean(differences), abs=1e-12)
    text = (folder / "table.md").read_text()
    assert "Scores of each fold's val cases by the best weights of each training, over 2 folds" in text
    assert "Folds share training cases, so intervals are too short and p is too small." in text


def test_the_split_of_test_cases_is_scored_and_nothing_is_chosen_on_it(tiny, undrawn):
    study = plan_study("III", ["segnet"], seeds=1, folds=0, split="test")
    folder = study_of(tiny, study, Pretending())
    (hidden,) = read_manifest(tiny.data.manifest).split("test")
    for name in ("segnet-seed-0", "mttu-net-seed-0"):
        scored = pq.read_table(folder / "trials" / name / "cases.parquet").column("case_id").to_pylist()
        assert scored == [hidden.case_id]
    text = (folder / "table.md").read_text()
    assert "Scores of 1 test cases" in text
    assert "chosen on the same cases" not in text


def test_an_interrupted_study_goes_on_and_ends_the_same(tiny, undrawn):
    study = plan_study("V", ["equal-weights"], seeds=1, folds=0, split="val")
    unbroken = study_of(override(tiny, {"output.name": "unbroken"}), study, Pretending())
    first = Pretending(stop_after=1)
    with pytest.raises(RunError, match="switched off"):
        study_of(tiny, study, first)
    folder = tiny.output.place
    assert not (folder / "table.csv").exists()
    assert [row.n for row in read_summary(folder).rows] == [1, 0]
    last = Pretending()
    study_of(tiny, study, last)
    assert last.names == ["uncertainty-weights-seed-0"]
    assert (folder / "table.csv").read_bytes() == (unbroken / "table.csv").read_bytes()


def test_a_training_that_fails_is_in_no_score_and_named(tiny, undrawn):
    study = plan_study("V", ["equal-weights"], seeds=1, folds=0, split="val")

    def run(book):
        trial = book.next()
        book.end(trial.name, FAILED, "no memory")
        Pretending()(book)

    folder = study_of(tiny, study, run)
    assert json.loads((folder / "finished.json").read_text())["rows"] == {"equal-weights": 0, "uncertainty-weights": 1}
    assert table_of(folder)["equal-weights", "dice"]["mean"] is None
    assert "Trainings that failed, in no score: equal-weights-seed-0." in (folder / "table.md").read_text()


def test_another_study_in_the_same_folder_is_refused(tiny, undrawn):
    study = plan_study("V", ["equal-weights"], seeds=2, folds=0, split="val")
    folder = study_of(tiny, study, Pretending())
    before = (folder / "table.csv").read_bytes()
    for other, difference in (
        (plan_study("V", ["pcgrad"], 2, 0, "val"), "rows: ['equal-weights', 'uncertainty-weights'] -> ['pcgrad', "),
        (plan_study("V", ["equal-weights"], 1, 0, "val"), "another study (seeds: 2 -> 1)"),
        (plan_study("V", ["equal-weights"], 0, 3, "val"), "another study (seeds: 2 -> 0; folds: 0 -> 3)"),
        (plan_study("III", [], 2, 0, "val"), "another study (table: V -> III; rows: "),
    ):
        run = Pretending()
        with pytest.raises(InputError) as caught:
            study_of(tiny, other, run)
        assert str(caught.value).startswith(f"run {folder}: was started with another study (")
        assert difference in str(caught.value)
        assert run.names == []
    cases = r"manifest or prepared cases: of a study: (\w{12}) -> of a study: (?!\1)\w{12}\)"
    with pytest.raises(InputError, match=cases):  # test cases are among its data
        study_of(tiny, plan_study("V", ["equal-weights"], 2, 0, "test"), Pretending())
    assert (folder / "table.csv").read_bytes() == before
    study_of(tiny, plan_study("V", [], 1, 0, "val"), Pretending(), fresh=True)
    assert len(read_trials(folder)) == 3
    assert len(read_trials(folder / "replaced-1")) == 4


def test_more_seeds_reopen_a_study_and_run_the_new_repeats_alone(tiny, undrawn):
    one, three = (plan_study("V", ["equal-weights"], seeds, 0, "val") for seeds in (1, 3))
    whole = study_of(override(tiny, {"output.name": "whole"}), three, Pretending())
    folder = study_of(tiny, one, Pretending())
    run = Pretending()
    study_of(tiny, three, run)
    assert run.names == [f"{row}-seed-{seed}" for seed in (1, 2) for row in three.rows]
    assert (folder / "table.csv").read_bytes() == (whole / "table.csv").read_bytes()
    assert json.loads((folder / "finished.json").read_text())["rows"] == dict.fromkeys(three.rows, 3)
    assert read_summary(folder) == read_summary(whole)


def test_a_study_whose_trainings_all_fail_is_not_finished(tiny, undrawn):
    def fail(book):
        while (trial := book.next()) is not None:
            book.end(trial.name, FAILED, "no memory")

    with pytest.raises(RunError, match="all 2 trials failed, the first because: no memory; mend that, remove "):
        study_of(tiny, plan_study("V", ["equal-weights"], 1, 0, "val"), fail)
    assert not {path.name for path in tiny.output.place.iterdir()} & {"finished.json", "table.csv"}


def test_training_and_study_never_share_a_folder(tiny, undrawn):
    study = plan_study("V", ["equal-weights"], 1, 0, "val")

    def switch_off(*arguments):
        raise RunError("the machine was switched off")

    with pytest.raises(RunError, match="switched off"):
        run_training(override(tiny, SHORT), switch_off)
    with pytest.raises(InputError, match=r"\(manifest or prepared cases: \w{12} -> of a study: \w{12}\)"):
        study_of(tiny, study, Pretending())
    other = override(tiny, {**SHORT, "output.name": "study"})
    study_of(other, study, Pretending())
    with pytest.raises(InputError, match=r"\(manifest or prepared cases: of a study: \w{12} -> \w{12}\)"):
        run_training(other, switch_off)


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        (
            ("IX", (), 1, 0, "val"),
            ["table 'IX': unknown; choose one of II, III, IV, V, focal, modalities, VI, VI-semi, VII"],
        ),
        (
            ("III", ("segnet", "conv"), 0, 0, "all"),
            [
                "row 'conv': not in table III; choose from clsnet, segnet, mttu-net",
                "--seeds 0 and --folds 0: give one of them",
                "--split 'all': choose val or test",
            ],
        ),
        (
            ("III", (), 2, 3, "test"),
            [
                "--seeds 2 and --folds 3: give one of them",
                "--split test: with --folds each fold is scored on its own val cases; leave one of them out",
            ],
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments, problems):
    with pytest.raises(InputError) as caught:
        plan_study(*arguments)
    assert caught.value.problems == problems


def test_the_papers_row_is_always_among_them_and_repeats_come_one_by_one():
    study = plan_study("IV", ["levels-5"], 2, 0, "test")
    assert study == Study("IV", ("levels-5", "levels-4-5"), 2, 0, "test")
    assert (study.reference, study.self_trains) == ("levels-4-5", False)
    assert study.list_cells() == [
        {"ablation": row, "train.seed": seed} for seed in (0, 1) for row in ("levels-5", "levels-4-5")
    ]
    folds = plan_study("VII", [], 0, 2, "val")
    assert folds.self_trains
    assert folds.list_cells()[:1] + folds.list_cells()[-1:] == [
        {"ablation": "no-pseudo-labels", "fold": 1},
        {"ablation": "ups", "fold": 2},
    ]


def test_what_cannot_be_run_is_refused_before_anything_starts(tiny, tmp_path):
    study = plan_study("III", (), 1, 0, "test")
    with pytest.raises(InputError, match=r"data\.folds: give --folds, which repeats every row over them"):
        prepare_study(study, override(tiny, {"data.folds": 2}))
    with pytest.raises(InputError) as caught:
        prepare_study(study, override(tiny, {"train.validation_metric": "dice"}))
    assert caught.value.problems == [
        "row clsnet: ablation clsnet: config: train.validation_metric is dice but network.tasks has no segmentation; "
        "choose a metric of idh, or dice_minus_ce"
    ]
    manifest = read_manifest(tiny.data.manifest)
    kept = tuple(case for case in manifest.cases if case.split != "test")
    write_manifest(type(manifest)(**{**vars(manifest), "cases": kept}), tmp_path / "no_test.parquet")
    with pytest.raises(InputError) as caught:
        prepare_study(study, override(tiny, {"data.manifest": str(tmp_path / "no_test.parquet")}))
    assert f"{tmp_path / 'no_test.parquet'}" in str(caught.value)
    assert "no test case has a mask or a known IDH status, so no row can be scored" in str(caught.value)
    assert not (tmp_path / "runs").exists()


class Timed(Pretending):
    """As `Pretending`, with times that depend on row and seed alone."""

    def work(self, book, trial):
        super().work(book, trial)
        seed, first = trial.drawn["train.seed"], trial.drawn["ablation"] == "dmfnet"
        for epoch, seconds in ((3, 9.0), (4, 1.0), (5, 2.0)):
            book.report(trial.name, {STEP: epoch, "time/step_seconds": seconds + seed})
        rows, about = read_rows(trial.folder / "cases.parquet")
        write_rows(rows, trial.folder / "cases.parquet", {**about, "seconds_per_volume": "0.5" if first else "0.25"})


def test_a_table_of_networks_tells_what_they_cost(tiny, undrawn):
    study = plan_study("VI", ["dmfnet", "cmsvnet"], seeds=2, folds=0, split="val")
    assert study.rows == ("dmfnet", "cmsvnet", "mttu-net-vi")
    run = Timed()
    folder = study_of(tiny, study, run)
    assert len(run.names) == 6
    settings = {trial.drawn["ablation"]: trial.run_folder for trial in read_trials(folder)}
    assert settings.keys() == set(study.rows)
    table = table_of(folder)
    small = {"stem_width": 16, "width": 64}  # beside a small MTTU-Net
    for row, network in (
        ("dmfnet", RivalSettings(kind="dmfnet", tasks=("segmentation",), options=small)),
        ("cmsvnet", RivalSettings(kind="cmsvnet", options={"widths": [8, 16, 32, 64, 128], "hidden": [64]})),
        ("mttu-net-vi", tiny.network),
    ):
        count = count_network(network, (16, 16, 16))
        assert (table[row, "parameters"]["mean"], table[row, "multiply_adds"]["mean"]) == (count.parameters, count.macs)
        assert (table[row, "step_seconds"]["n"], table[row, "step_seconds"]["mean"]) == (2, (2.0 + 3.0) / 2)
        assert table[row, "step_seconds"]["p"] is None
    text = (folder / "table.md").read_text()
    assert "All networks but V-Net are smaller than published" in text
    assert "MACs: multiply-adds of one patch of 16 x 16 x 16, without" in text
    (head,) = [line for line in text.splitlines() if "| Params" in line]
    assert head.endswith("| Params (M) | MACs (G) | Step (s) | Volume (s) |")
    lines = [line for line in text.partition("Below")[0].splitlines() if line.startswith("| ")]
    cells = {line.split("|")[1].strip(): line.split(" | ")[-4:] for line in lines}
    assert cells["DMFNet"][0] == f"{table['dmfnet', 'parameters']['mean'] / 1e6:.2f}"
    assert cells["CMSVNet"][2:] == ["2.500", "0.25 |"]
    assert "Cost (Params in M, MACs in G, Step, Volume in s)" in (folder / "table.tex").read_text()
    before = (folder / "table.csv").read_bytes()
    assert study_of(tiny, study, Pretending()) == folder
    assert (folder / "table.csv").read_bytes() == before
    assert [row.costs["volume_seconds"].mean for row in read_summary(folder).rows] == [0.5, 0.25, 0.25]


def test_a_network_that_refuses_the_patch_is_named_before_anything_starts(tiny):
    study = plan_study("VI", ["dmfnet", "cmsvnet"], seeds=1, folds=0, split="val")
    with pytest.raises(InputError) as caught:
        prepare_study(study, override(tiny, {"patch.size": [16, 16, 24]}))
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == ["row dmfnet", "row cmsvnet"]
    assert all("multiples of" in problem for problem in caught.value.problems)
    assert not tiny.output.folder.exists()


def test_networks_with_an_idh_head_train_themselves_on_additional_data(tiny, undrawn):
    study = plan_study("VI-semi", ["seresnet101-ups"], seeds=1, folds=0, split="val")
    assert study.self_trains
    run = Pretending()
    folder = study_of(tiny, study, run)
    assert run.names == ["seresnet101-ups-seed-0", "mttu-net-ups-seed-0"]
    assert ("seresnet101-ups", "parameters") in table_of(folder)
    assert "Step:" not in (folder / "table.md").read_text()


@pytest.mark.slow
def test_processes_of_this_machine_give_what_this_process_gives(tiny, undrawn):
    study = plan_study("V", ["equal-weights"], seeds=1, folds=0, split="val")
    here = study_of(override(tiny, {"output.name": "here"}), study)
    apart = study_of(override(tiny, {"output.name": "apart"}), study, lambda book: run_here(book, 2))
    for name in ("equal-weights-seed-0", "uncertainty-weights-seed-0"):
        tables = [pq.read_table(place / "trials" / name / "cases.parquet") for place in (here, apart)]
        assert tables[0].equals(tables[1])
    assert (apart / "table.csv").read_bytes() == (here / "table.csv").read_bytes()
    failing = override(tiny, {"output.name": "failing", "optim.lr": 1e30})
    with pytest.raises(RunError, match=r"all 2 trials failed, the first because: .*not finite"):
        study_of(failing, study, lambda book: run_here(book, 2))
    assert [trial.state for trial in read_trials(failing.output.place)] == [FAILED, FAILED]
    assert all("not finite" in trial.reason for trial in read_trials(failing.output.place))


PARENT = """
import sys
from pathlib import Path
from mttu.config import load_stored_config
from mttu.search.ablation_study import plan_study, prepare_study, run_study
from mttu.search.processes import run_here

config = load_stored_config(Path(sys.argv[1]))
study = plan_study("V", ["equal-weights"], seeds=1, folds=0, split="val")
run_study(prepare_study(study, config), lambda book: run_here(book, 2))
"""


def is_running(process):
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as handle:
            return handle.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda by: by.name)
def test_trainings_end_with_the_process_that_started_them(tiny, tmp_path, by):
    settings = tmp_path / "config.yaml"
    settings.write_text(to_yaml(override(tiny, {**SHORT, "train.epochs": 100_000})))
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(settings)], stderr=subprocess.DEVNULL)
    trials = tiny.output.place / "trials"
    try:
        until = time.monotonic() + 120
        while len(list(trials.glob("*/history.jsonl"))) < 2:
            assert parent.poll() is None
            assert time.monotonic() < until
            time.sleep(0.2)
        with open(f"/proc/{parent.pid}/task/{parent.pid}/children", encoding="utf-8") as handle:
            children = list(map(int, handle.read().split()))
        assert len(children) == 2
        os.kill(parent.pid, by)
        parent.wait(30)
    finally:
        parent.kill()
        parent.wait()
    until = time.monotonic() + 15
    while any(map(is_running, children)):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert [trial.state for trial in read_trials(tiny.output.place)] == ["begun", "begun"]


def test_the_time_that_a_case_took_is_not_among_its_scores(tmp_path):
    rows = [{"case_id": "a", "idh": 1, "mutant_probability": 0.5, "dice_wt": 0.75}]
    write_rows(rows, tmp_path / "once", {"split": "val"})
    write_rows([{**rows[0], "seconds": 3.0}], tmp_path / "again", {"split": "val"})
    assert (tmp_path / "again").read_bytes() == (tmp_path / "once").read_bytes()
    assert read_rows(tmp_path / "again")[0] == rows


def test_a_table_of_networks_over_folds_is_tested_on_folds(tiny, undrawn):
    study = plan_study("VI", ["cmsvnet"], seeds=0, folds=2, split="val")
    folder = study_of(tiny, study, Pretending())
    with (folder / "table.csv").open(newline="", encoding="utf-8") as file:
        tests = {line["test"] for line in csv.DictReader(file) if line["row"] == "cmsvnet" and line["test"]}
    assert tests == {"paired t over repeats"}
    assert "These tests take each case's mean over the seeds" not in (folder / "table.md").read_text()

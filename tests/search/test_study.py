import csv
import json
import os
import shutil

import pytest
import yaml
from mlflow_runs import client_of
from search_cases import SHORT, InProcess, Pretending, make_book, make_space, search, write_space

from mttu.cli import main
from mttu.cohort.build import discover
from mttu.config import override, to_yaml
from mttu.data.cache import cache_case
from mttu.data.manifest import read_manifest, write_manifest
from mttu.errors import InputError, RunError
from mttu.search.processes import callables_here
from mttu.search.results import describe_best
from mttu.search.study import _shares_start, count_trials
from mttu.search.trials import FAILED, FINISHED, read_trials

LR, KIND, DEPTH = "optim.lr", "network.bottleneck.kind", "network.bottleneck.num_layers"
RATES = {LR: {"choice": [1e-3, 1e-2]}}
MIXED = {
    KIND: {"choice": ["transformer", "convolution"]},
    DEPTH: {"integer": [0, 1], "when": {KIND: "transformer"}},
    LR: {"log_uniform": [1e-4, 1e-2]},
}
BOTH = {**SHORT, "train.epochs": 2}


def rows_of(folder):
    with (folder / "trials.csv").open(encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def results_of(folder):
    """What the trials of a search tried and reported, and how they ended."""
    found = []
    for trial in read_trials(folder):
        rows = [{name: value for name, value in row.items() if "second" not in name} for row in trial.history]
        found.append((trial.name, trial.drawn, trial.state, trial.reason, rows))
    return found


@pytest.fixture
def invoke(monkeypatch, capsys):
    """Runs a command; its exit code, and what it prints."""
    monkeypatch.setenv("COLUMNS", "120")

    def call(*words):
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        return int(caught.value.code or 0), "".join(capsys.readouterr())

    return call


def test_a_whole_search(tiny, tmp_path, invoke, sketches):
    run = InProcess()
    asked = {"searcher": "random", "samples": 2, "description": "Depth or convolution.", "settings": BOTH}
    folder = search(tiny, tmp_path, MIXED, run, **asked)
    assert folder == tmp_path / "runs" / "tiny"
    assert run.names == ["0000", "0001"]
    trials = read_trials(folder)
    assert {trial.state for trial in trials} == {FINISHED}
    assert all([row["epoch"] for row in trial.history] == [1, 2] for trial in trials)

    rows = rows_of(folder)
    assert list(rows[0]) == ["trial", "state", "val/score", "epoch", "seconds", KIND, DEPTH, LR, "reason"]
    for row, trial in zip(rows, trials, strict=True):
        assert (row["trial"], row["state"], row["epoch"], row["reason"]) == (trial.name, "finished", "2", "")
        assert float(row["val/score"]) == max(score for _, score in trial.curve("val/score"))
        assert row[DEPTH] == str(trial.drawn.get(DEPTH, ""))
        assert float(row[LR]) == trial.drawn[LR]
    for name in ("parallel", "importance", "curves"):
        assert (folder / f"{name}.png").stat().st_size > 5000

    best = max(trials, key=lambda trial: trial.best("val/score", maximise=True))
    finished = json.loads((folder / "finished.json").read_text())
    assert (finished["best"], finished["samples"]) == (best.name, 2)
    text = (folder / "best.yaml").read_text()
    assert text.startswith(f"# The best of 2 trials of the search space.yaml: trial {best.name}, val/score ")
    assert f"#   {KIND}={best.drawn[KIND]}\n" in text
    assert "on val cases, which chose it: on them it is too good" in text
    assert "# Take it with: mttu train --config best.yaml\n" in text
    code, out = invoke("train", "--print-config", "--config", folder / "best.yaml")
    assert code == 0
    taken = yaml.safe_load(out)
    wanted = override(tiny, {**BOTH, **best.drawn, "output.name": "tiny-best"}).model_dump(mode="json")
    assert taken == wanted
    assert taken["data"]["manifest"] == str(tiny.data.manifest)  # the whole cohort, not the search's

    code, out = invoke("tune", "--show", folder)
    assert code == 0
    order = sorted(trials, key=lambda trial: -trial.best("val/score", maximise=True))
    shown = [line.split() for line in out.splitlines() if line.split() and line.split()[0] in run.names]
    assert [words[0] for words in shown] == [trial.name for trial in order]
    assert shown[0][1:3] == ["finished", f"{order[0].best('val/score', maximise=True):.4f}"]
    assert "2 of 2 trials: 2 finished" in out
    assert f"settings of the best: mttu train --config {folder / 'best.yaml'}" in out

    told, _ = json.JSONDecoder().raw_decode(invoke("tune", "--show", folder, "--json")[1])  # the rest is for people
    assert told["best"] == {"name": best.name, "val/score": best.best("val/score", maximise=True)}
    assert [trial["state"] for trial in told["trials"]] == ["finished", "finished"]
    assert told["files"] == {"table": str(folder / "trials.csv"), "settings": str(folder / "best.yaml")}

    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    again = InProcess()
    assert search(tiny, tmp_path, MIXED, again, **asked) == folder  # nothing is left to do
    assert again.names == []
    assert {path: path.read_bytes() for path in before} == before


def test_test_cases_are_not_seen(tiny, tmp_path, phantom_folder, undrawn):
    """Every file of a test case, as given and as prepared, is damaged: all results are the same."""
    shutil.copytree(phantom_folder, tmp_path / "cohort")
    manifest = discover(tmp_path / "cohort", tmp_path / "cohort" / "clinical.csv")
    write_manifest(manifest, tmp_path / "cohort.parquet")
    (hidden,) = manifest.split("test")
    config = override(tiny, {"data.cache_dir": str(tmp_path / "cache")})
    for case in manifest.cases:
        cache_case(case, tmp_path / "cache", manifest.modalities, config.data.prepare)
    results = []
    for name in ("sound", "damaged"):
        if name == "damaged":
            prepared = [path for path in (tmp_path / "cache" / hidden.case_id).rglob("*") if path.is_file()]
            given = [path for path in hidden.seg.parent.rglob("*") if path.is_file()]
            assert len(prepared) >= 2
            assert len(given) >= 5
            for path in (*prepared, *given):
                path.write_bytes(b"damaged")
        folder = search(override(config, {"output.name": name}), tmp_path, {LR: {"choice": [1e-3]}})
        seen = read_manifest(folder / "cohort.parquet")
        assert [case.case_id for case in seen.cases] == [one.case_id for one in manifest.cases if one != hidden]
        records = [path for path in (folder / "trials").rglob("*.json*") if path.is_file()]
        assert records
        assert hidden.case_id not in "".join(path.read_text() for path in records)
        results.append(results_of(folder))
    assert results[0] == results[1]
    assert [state for _, _, state, _, _ in results[0]] == [FINISHED]


def test_another_search_in_the_same_folder_is_refused(tiny, tmp_path, undrawn):
    asked = {"searcher": "random", "samples": 1}
    folder = search(tiny, tmp_path, RATES, Pretending(), **asked)
    before = results_of(folder)
    ending = "undo the change, set another output.name, or start anew with --fresh (the old run is kept aside)"
    cases = [
        ({LR: {"choice": [1e-3]}}, asked, "another search (other values in its space)"),
        ({**RATES, "train.seed": {"choice": [0, 1]}}, asked, "another search (other values in its space)"),
        (RATES, {**asked, "seed": 1}, "another search (seed: 0 -> 1)"),
        (RATES, {**asked, "metric": "val/dice", "mode": "min"}, "(metric: val/score -> val/dice; mode: None -> min)"),
        (RATES, {}, "another search (searcher: random -> grid)"),
        (RATES, {**asked, "settings": {**SHORT, "train.seed": 3}}, "other settings or data (train.seed: 0 -> 3)"),
    ]
    for space, others, difference in cases:
        run = Pretending()
        with pytest.raises(InputError) as caught:
            search(tiny, tmp_path, space, run, **others)
        assert str(caught.value).startswith(f"run {folder}: was started with ")
        assert difference in str(caught.value)
        assert str(caught.value).endswith(ending)
        assert run.names == []
    with pytest.raises(InputError, match=r"optim\.weight_decay: .* -> 0\.5"):
        search(override(tiny, {"optim.weight_decay": 0.5}), tmp_path, RATES, **asked)
    assert results_of(folder) == before

    search(tiny, tmp_path, RATES, Pretending(), fresh=True, **{**asked, "seed": 1})
    assert results_of(folder / "replaced-1") == before
    assert len(read_trials(folder)) == 1


def test_more_samples_reopen_a_search_and_run_the_new_trials_alone(tiny, tmp_path, undrawn):
    asked = {"searcher": "random", "seed": 5}
    whole = search(override(tiny, {"output.name": "whole"}), tmp_path, MIXED, Pretending(), samples=5, **asked)
    folder = search(tiny, tmp_path, MIXED, Pretending(), samples=3, **asked)
    assert json.loads((folder / "finished.json").read_text())["samples"] == 3
    run = Pretending()
    search(tiny, tmp_path, MIXED, run, samples=5, **asked)
    assert run.names == ["0003", "0004"]
    assert results_of(folder) == results_of(whole)
    assert len(rows_of(folder)) == 5
    assert json.loads((folder / "finished.json").read_text())["samples"] == 5
    fewer = Pretending()
    search(tiny, tmp_path, MIXED, fewer, samples=1, **asked)
    assert fewer.names == []
    assert len(rows_of(folder)) == 5


def test_an_interrupted_search_ends_as_an_unbroken_one(tiny, tmp_path, undrawn, invoke):
    """Interrupted before its second trial, then in the middle of it."""
    unbroken = search(override(tiny, {"output.name": "unbroken"}), tmp_path, RATES, settings=BOTH)
    folder = tmp_path / "runs" / "tiny"
    first = InProcess(stop_after=1)
    with pytest.raises(RunError, match="switched off"):
        search(tiny, tmp_path, RATES, first, settings=BOTH)
    assert first.names == ["0000", "0001"]
    assert [trial.state for trial in read_trials(folder)] == ["finished", "begun"]
    assert not (folder / "trials.csv").exists()
    code, out = invoke("tune", "--show", folder)
    assert code == 0
    assert "2 of 2 trials: 1 begun, 1 finished" in out
    assert "best.yaml" not in out

    def stop_in_the_middle(book):
        report = book.report

        def report_once(name, row):
            report(name, row)
            raise KeyboardInterrupt

        book.report = report_once
        InProcess()(book)

    with pytest.raises(KeyboardInterrupt):
        search(tiny, tmp_path, RATES, stop_in_the_middle, settings=BOTH)
    assert [row["epoch"] for row in read_trials(folder)[1].history] == [1]
    last = InProcess()
    search(tiny, tmp_path, RATES, last, settings=BOTH)
    assert last.names == ["0001"]
    assert results_of(folder) == results_of(unbroken)
    kept = [name for name in rows_of(folder)[0] if name != "seconds"]
    lines = [[[row[name] for name in kept] for row in rows_of(place)] for place in (folder, unbroken)]
    assert lines[0] == lines[1]


def test_trials_that_fail_are_rows_with_their_reasons(tiny, tmp_path, undrawn, invoke):
    """Some by their loss, others because a width is no multiple of the heads, though each is fine over the settings."""
    width, heads = "network.bottleneck.width", "network.bottleneck.num_heads"
    space = {LR: {"choice": [1e-3, 1e30]}, width: {"choice": [16, 18]}, heads: {"choice": [2, 4]}}
    folder = search(tiny, tmp_path, space, searcher="random", samples=10)
    rows = rows_of(folder)
    kinds = set()
    for row in rows:
        if (row[width], row[heads]) == ("18", "4"):
            kinds.add("refused")
            assert row["state"] == FAILED
            refusal = "network.bottleneck: width 18 is not a multiple of num_heads 4"
            assert row["reason"] == f"trial {row['trial']}: {refusal}"
        elif float(row[LR]) > 1:
            kinds.add("not finite")
            assert row["state"] == FAILED
            assert "not finite" in row["reason"]
        else:
            kinds.add("sound")
            assert (row["state"], row["reason"]) == (FINISHED, "")
    assert kinds == {"refused", "not finite", "sound"}
    finished = {row["trial"]: float(row["val/score"]) for row in rows if row["state"] == FINISHED}
    assert json.loads((folder / "finished.json").read_text())["best"] == max(finished, key=finished.__getitem__)
    _, out = invoke("tune", "--show", folder)
    for row in rows:
        if row["state"] == FAILED:
            assert f"trial {row['trial']} failed: {row['reason']}" in out.replace("\n", " ")
    assert f"10 of 10 trials: {10 - len(finished)} failed, {len(finished)} finished" in out


def test_a_search_in_which_all_trials_fail_says_so_and_can_be_run_again(tiny, tmp_path, undrawn, invoke):
    space = {LR: {"choice": [1e30]}}
    with pytest.raises(RunError) as caught:
        search(tiny, tmp_path, space)
    folder = tiny.output.place
    assert str(caught.value).startswith("all 1 trials failed, the first because: ")
    assert "not finite" in str(caught.value)
    ending = f"; mend that, remove {folder / 'trials'}, and run the same command again"
    assert str(caught.value).endswith(ending)
    assert not {path.name for path in folder.iterdir()} & {"finished.json", "best.yaml", "trials.csv"}
    code, out = invoke("tune", "--show", folder)
    assert code == 0
    assert "1 of 1 trials: 1 failed" in out
    told, _ = json.JSONDecoder().raw_decode(invoke("tune", "--show", folder, "--json")[1])  # the rest is for people
    assert (told["best"], told["files"]) == (None, {})
    shutil.rmtree(folder / "trials")
    search(tiny, tmp_path, space, Pretending())
    assert json.loads((folder / "finished.json").read_text())["best"] == "0000"


def test_a_search_that_a_signal_ends_is_not_finished(tiny, tmp_path, undrawn):
    """Ray Tune returns then, as if all trials were over."""

    def leave(book):
        book.end(book.next().name, FINISHED)

    with pytest.raises(RunError, match="ended before its last trial; the same command goes on from here"):
        search(tiny, tmp_path, RATES, leave)
    assert not (tiny.output.place / "finished.json").exists()
    rest = Pretending()
    search(tiny, tmp_path, RATES, rest)
    assert rest.names == ["0001"]
    assert json.loads((tiny.output.place / "finished.json").read_text())["samples"] == 2


def test_jobs_name_their_files_in_full(tiny, tmp_path, undrawn, monkeypatch):
    """A trial's process has another working folder."""
    monkeypatch.chdir(tmp_path)
    cache = os.path.relpath(tiny.data.cache_dir)
    paths = {"data.manifest": "cohort.parquet", "data.cache_dir": cache, "output.folder": "runs"}
    jobs = []

    class Noting(Pretending):
        def work(self, book, trial):
            jobs.append(book.job_of(trial).config)
            super().work(book, trial)

    folder = search(override(tiny, paths), tmp_path, RATES, Noting())
    assert folder == tmp_path / "runs" / "tiny"
    assert len(jobs) == 2
    for number, job in enumerate(jobs):
        assert job.data.manifest == folder / "cohort.parquet"
        assert job.data.cache_dir == tiny.data.cache_dir
        assert job.output.folder == folder / "trials" / f"000{number}"
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["data"]["manifest"] == str(tmp_path / "cohort.parquet")


def test_paths_that_are_searched_are_named_in_full(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    book = make_book(tmp_path / "search", tiny, [{"train.start_from": "runs/earlier"}])
    assert book.job_of(book.next()).config.train.start_from == tmp_path / "runs" / "earlier"


def test_the_best_settings_have_no_address_of_mlflow(tiny, tmp_path, undrawn):
    config = override(tiny, {"tracking.uri": "postgresql://someone:secret@host/db"})
    folder = search(config, tmp_path, RATES, Pretending())
    text = (folder / "best.yaml").read_text()
    assert "secret" not in text
    assert yaml.safe_load(text)["tracking"]["uri"] is None


def test_a_search_over_self_trainings_shares_its_round_0(tiny, tmp_path, undrawn):
    space = {"selection.confidence_threshold": {"choice": [0.5]}}
    settings = {
        **SHORT,
        "mc.passes": 2,
        "selection.method": "CPL",
        "self_training.rounds": 2,
        "self_training.epochs": 1,
        "self_training.stop_when_unchanged": False,
    }
    asked = {"run": "self-train", "settings": settings}
    trained, told = [], []

    def run(book):
        callables = callables_here()

        def train(config, *arguments):
            trained.append(config.output.place)
            told.append([row["epoch"] for one in read_trials(book.folder) for row in one.history])
            return callables.train(config, *arguments)

        InProcess(callables=type(callables)(train, callables.score, callables.evaluate))(book)

    folder = search(tiny, tmp_path, space, run, **asked)
    assert (folder / "start" / "round_0" / "best").is_dir()
    (trial,) = read_trials(folder)
    assert (trial.state, trial.reason) == (FINISHED, "")
    assert [row["epoch"] for row in trial.history] == [1, 2]  # what round 0 reached says nothing of a trial
    assert all(row["selected/mutant"] + row["selected/wild"] <= 1 for row in trial.history)
    assert all("val/score" in row for row in trial.history)
    assert told == [[], [1]]  # each round when it is finished
    assert not [place for place in trained if "round_0" in str(place)]
    assert len(trained) == 2
    text = (folder / "best.yaml").read_text()
    assert "# Take it with: mttu self-train --config best.yaml" in text
    assert yaml.safe_load(text)["self_training"]["start"] is None


def test_a_search_in_mlflow(tiny, tmp_path, database, undrawn):
    config = override(tiny, {"tracking.enabled": True, "tracking.uri": database, "output.name": "tracked"})
    folder = search(config, tmp_path, RATES, Pretending())
    record = json.loads((folder / "tracking.json").read_text())
    client = client_of(type("Tracker", (), {"uri": database}))
    above = client.get_run(record["run_id"])
    best = json.loads((folder / "finished.json").read_text())["best"]
    assert above.info.status == "FINISHED"
    assert above.data.tags["search.best_trial"] == best
    value = max(float(row["val/score"]) for row in rows_of(folder))
    assert above.data.metrics["search/best/val/score"] == value
    tables = [item.path for item in client.list_artifacts(record["run_id"], "tables")]
    assert tables == ["tables/trials.csv"]
    pictures = {item.path for item in client.list_artifacts(record["run_id"], "pictures")}
    assert pictures == {f"pictures/{name}.png" for name in ("parallel", "importance", "curves")}
    condition = f"tags.mlflow.parentRunId = '{record['run_id']}'"
    runs = client.search_runs([above.info.experiment_id], filter_string=condition)
    assert {run.data.params[LR] for run in runs} == {"0.001", "0.01"}
    for run in runs:
        trial = read_trials(folder)[int(run.data.params["trial"])]
        found = [(row.step, row.value) for row in client.get_metric_history(run.info.run_id, "val/score")]
        assert found == trial.curve("val/score")
        assert client.list_artifacts(run.info.run_id, "best")


def test_a_search_that_is_broken_off_leaves_no_trial_running_in_mlflow(tiny, tmp_path, database, undrawn):
    config = override(tiny, {"tracking.enabled": True, "tracking.uri": database, "output.name": "broken-off"})
    with pytest.raises(RunError, match="switched off"):
        search(config, tmp_path, RATES, Pretending(stop_after=1))
    client = client_of(type("Tracker", (), {"uri": database}))
    parent = json.loads((config.output.place / "tracking.json").read_text())["run_id"]

    def list_children():
        above = client.get_run(parent)
        found = client.search_runs([above.info.experiment_id], f"tags.mlflow.parentRunId = '{parent}'")
        return {run.data.tags["mlflow.runName"].partition(",")[0]: run.info.status for run in found}

    assert list_children() == {"0000": "FINISHED", "0001": "KILLED"}
    search(config, tmp_path, RATES, Pretending())
    assert list_children() == {"0000": "FINISHED", "0001": "FINISHED"}


def test_a_start_that_the_user_gave_stays_in_the_best_settings(tiny, tmp_path):
    config = override(tiny, {"self_training.start": str(tmp_path / "round_0")})
    space = make_space(tmp_path, {"mc.passes": {"choice": [2, 4]}}, run="self-train")
    book = make_book(tmp_path / "search", config, [{"mc.passes": 2}])
    trial = book.next()
    book.report(trial.name, {"epoch": 1, "val/score": 0.5})
    text = describe_best(trial, book, space, config)
    assert yaml.safe_load(text)["self_training"]["start"] == str(tmp_path / "round_0")


@pytest.mark.parametrize(("methods", "shared"), [(["PL", "UPS"], True), (["direct", "UPS"], False)])
def test_round_0_is_shared_unless_a_method_trains_it_on_other_cases(tmp_path, methods, shared):
    space = make_space(tmp_path, {"selection.method": {"choice": methods}}, run="self-train")
    assert _shares_start(space) is shared


def test_trials_of_a_search_are_counted(tiny, tmp_path):
    assert count_trials(make_space(tmp_path, MIXED, searcher="tpe", samples=7)) == 7
    grid = {KIND: MIXED[KIND], DEPTH: MIXED[DEPTH]}
    assert count_trials(make_space(tmp_path, grid)) == 3


def test_the_command_refuses_what_is_no_search(tmp_path, invoke, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out = invoke("tune")
    assert code == 2
    assert "space: not given; name a file of tune_spaces/, or --show a search's folder" in out
    code, out = invoke("tune", "--show", tmp_path)
    assert code == 2
    assert f"{tmp_path}: holds no search (search.json not found)" in out
    make_space(tmp_path, RATES)
    code, out = invoke("tune", "space.yaml", "--truth", "truth.csv")
    assert code == 2
    assert "space.yaml: --scores and --truth are for a space of run select" in out


def write_settings(tiny, folder):
    path = folder / "settings.yaml"
    path.write_text(to_yaml(override(tiny, {"output.name": "mttu"})).replace("  name: mttu\n", ""))
    return path


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("tune", "space.yaml", "optim.lr=0.1"), "argument optim.lr: is searched by space.yaml"),
        (("tune", "rows.yaml", "loss.task_weighting=equal"), "argument loss.task_weighting: is searched by rows.yaml"),
        (("tune", "space.yaml", "train.epochs=0"), "argument: train.epochs"),
        (("ablate", "II", "train.seed=3"), "argument train.seed: --seeds sets it"),
        (("ablate", "II", "--no-ray", "workers.num_workers=2"), "--no-ray: trainings run in processes of one worker"),
        (("ablate", "X"), "table 'X'"),
    ],
    ids=lambda given: given if isinstance(given, str) else "-".join(given),
)
def test_what_the_commands_refuse(tiny, tmp_path, invoke, monkeypatch, words, problem):
    monkeypatch.chdir(tmp_path)
    write_space(tmp_path, {"ablation": {"choice": ["pcgrad"]}}).rename("rows.yaml")
    write_space(tmp_path, RATES)
    code, out = invoke(*words, "--config", write_settings(tiny, tmp_path))
    assert code == 2
    assert problem in out.replace("\n", " ")
    assert not tiny.output.folder.exists()


@pytest.mark.parametrize(
    ("words", "called", "name"),
    [
        (("tune", "space.yaml"), "mttu.search.study.run_search", "search-space"),
        (("tune", "space.yaml", "output.name=mine"), "mttu.search.study.run_search", "mine"),
        (("ablate", "II", "--no-ray"), "mttu.search.ablation_study.run_study", "ablation-II"),
    ],
)
def test_runs_are_named_after_what_they_ask(tiny, tmp_path, invoke, monkeypatch, words, called, name):
    """So that two searches do not meet in one folder."""
    monkeypatch.chdir(tmp_path)
    make_space(tmp_path, RATES)
    started = []

    def run(prepared, *others):
        started.append(prepared.config.output.name)
        raise RunError("stopped here")

    monkeypatch.setattr(called, run)
    code, _ = invoke(*words, "--config", write_settings(tiny, tmp_path))
    assert code != 0
    assert started == [name]

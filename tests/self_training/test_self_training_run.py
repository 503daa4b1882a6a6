import errno
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from mttu.config import override
from mttu.data.manifest import read_manifest, write_manifest
from mttu.data.score_table import ScoreRow, ScoreTable, read_scores, summarise_passes
from mttu.errors import InputError, RunError
from mttu.lock import lock_folder
from mttu.scoring.reports import read_selection
from mttu.self_training import Callables, run_self_training
from mttu.self_training import rounds as rounds_module
from mttu.self_training.finishing import read_summary
from mttu.self_training.round_folder import read_record
from mttu.self_training.run import naming_full_disk
from mttu.training.run import launch_locally, run_training

pytestmark = pytest.mark.usefixtures("sketches")


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def weights(folder):
    return load_file(folder / "best" / "weights.safetensors")


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


def scoring(choose):
    """A `Score` that says what `choose(case_id)` says: probability of mutant in each pass, or an error."""

    def score(plan, on_row):
        rows = []
        for case in plan.cases:
            said = choose(case.case_id)
            error = isinstance(said, str)
            rows.append(
                ScoreRow(case.case_id, 0.0, said) if error else summarise_passes(case.case_id, said, said[0], 0)
            )
            on_row(len(rows), rows[-1])
        return ScoreTable(tuple(rows), plan.about)

    return score


@pytest.fixture
def pool(pool_manifest):
    return [case.case_id for case in pool_manifest.split("unlabelled")]


def test_rounds_from_first_to_last(make_config, here, pool, pool_manifest):
    half = scoring(lambda name: [0.9, 0.92] if pool.index(name) % 2 else [0.1, 0.08])
    evaluated, steps = [], []

    def evaluate(checkpoint, cases, config, on_case):
        evaluated.append((checkpoint.parent.name, {case.split for case in cases}))
        return here.evaluate(checkpoint, cases, config, on_case)

    config = make_config({"selection.method": "UPS"})
    folder = run_self_training(config, Callables(here.train, half, evaluate), show=steps.append)
    assert names(folder) == sorted(
        ["best", "round_0", "round_1", "round_2", "rounds.png", "run.json", "summary.json", "test.json", "test.parquet"]
    )
    assert not (folder / "round_0" / "train").exists()  # retention: the best weights only
    # the test cases are looked at once per round, after the last round
    working = [(f"working-round_{number}", {"val"}) for number in range(3)]
    assert evaluated == [*working, *((f"round_{number}", {"test"}) for number in range(3))]
    record = read_record(folder / "round_1")
    assert record.started_from == read_record(folder / "round_0").weights_sha256
    assert (record.num_pool, record.num_mutant, record.num_wild) == (6, 3, 3)
    labels = {
        case.case_id: case.idh
        for case in read_manifest(folder / "round_1" / "manifest.parquet").cases
        if case.pseudo_label
    }
    assert labels == {name: index % 2 for index, name in enumerate(pool)}
    assert read_scores(folder / "round_2" / "scores.parquet").about["weights_sha256"] == record.weights_sha256
    summary = read_summary(folder)
    assert same(weights(folder), weights(folder / f"round_{summary['chosen_round']}"))
    assert {"val/idh_ece", "val/idh_auc", "val/dice", "test/idh_ece", "test/dice"} <= set(
        summary["rounds"][1]["metrics"]
    )
    assert {(step.round, step.phase) for step in steps} == {
        *((number, phase) for number in (1, 2) for phase in ("score", "train", "evaluate", "test")),
        *((0, phase) for phase in ("train", "evaluate", "test")),
    }
    assert not same(weights(folder / "round_0"), weights(folder / "round_1"))
    before = len(evaluated)
    assert run_self_training(config, Callables(here.train, half, evaluate)) == folder
    assert len(evaluated) == before  # finished: nothing is done again


def test_round_0_is_the_plain_training(make_config, here):
    config = make_config({"self_training.rounds": 0})
    folder = run_self_training(config, here)
    plain = run_training(override(config, {"output.name": "plain"}), launch_locally)
    assert same(weights(folder / "round_0"), weights(plain))


def test_a_round_goes_on_from_the_weights_of_the_one_before(make_config, here):
    """With a learning rate next to nothing the weights stay what they were."""
    folder = run_self_training(make_config({"self_training.lr": 1e-30, "self_training.rounds": 1}), here)
    one, two = weights(folder / "round_0"), weights(folder / "round_1")
    learned = [name for name in one if "running" not in name and "num_batches" not in name]
    assert all(torch.allclose(one[name], two[name], atol=1e-8) for name in learned)


def test_the_optimiser_is_kept_if_asked_for(make_config, here):
    seen = []

    def train(config, folder, on_epoch):
        start = config.train.start_from
        state = start / "state.pt" if start else None
        seen.append((config.train.start_optimiser, bool(state and state.exists())))
        return here.train(config, folder, on_epoch)

    kept = make_config({"self_training.optimiser": "kept", "self_training.rounds": 1})
    folder = run_self_training(kept, replace(here, train=train))
    assert seen == [("fresh", False), ("kept", True)]
    assert not (folder / "round_0" / "train").exists()
    fresh = run_self_training(override(kept, {"self_training.optimiser": "fresh", "output.name": "fresh"}), here)
    assert same(weights(folder / "round_0"), weights(fresh / "round_0"))
    assert not same(weights(folder / "round_1"), weights(fresh / "round_1"))


def test_it_stops_before_a_round_that_would_change_nothing(make_config, here, pool):
    steady = scoring(lambda name: [0.9, 0.9] if pool.index(name) % 2 else [0.1, 0.1])
    config = make_config({"self_training.stop_when_unchanged": True, "self_training.rounds": 3})
    folder = run_self_training(config, replace(here, score=steady))
    assert [name for name in names(folder) if name.startswith(("round_", "unch", "work"))] == [
        "round_0",
        "round_1",
        "unchanged",
    ]
    assert read_summary(folder)["stopped_early"] is True
    one, two = (read_selection(folder / place / "selection.parquet")[0] for place in ("round_1", "unchanged"))
    assert one.pseudo_labels == two.pseudo_labels


def test_none_trains_every_round_on_masks_alone_and_scores_nothing(make_config, here):
    def score(plan, on_row):
        raise AssertionError("nobody asked for scores")

    config = make_config({"selection.method": "none", "self_training.stop_when_unchanged": True})
    folder = run_self_training(config, replace(here, score=score))
    manifest = read_manifest(folder / "round_2" / "manifest.parquet")
    added = [case for case in manifest.split("train") if case.idh == -1]
    assert added
    assert all(case.seg for case in added)
    assert read_record(folder / "round_2").num_mutant == 0


@pytest.mark.parametrize("said", [[0.6, 0.6], [0.99, 0.99]], ids=["nothing selected", "one class only"])
def test_nothing_to_label_still_trains(make_config, here, said):
    config = make_config({"selection.method": "UPS", "self_training.rounds": 1})
    folder = run_self_training(config, replace(here, score=scoring(lambda name: said)))
    record = read_record(folder / "round_1")
    assert (record.num_mutant, record.num_wild) == (0, 0)
    assert any("nothing is selected" in note or "are called mutant" in note for note in record.notes)


def test_scores_that_all_failed_stop_the_run_and_are_made_again(make_config, here, pool):
    config = make_config({"self_training.rounds": 1})
    with pytest.raises(RunError, match="round 1: no unlabelled case could be scored; the first reason: out of memory"):
        run_self_training(config, replace(here, score=scoring(lambda name: "out of memory")))
    some = scoring(lambda name: "lost" if name == pool[0] else [0.2, 0.3])
    folder = run_self_training(config, replace(here, score=some))
    selection, _ = read_selection(folder / "round_1" / "selection.parquet")
    assert set(selection.pseudo_labels) == set(pool[1:])


def test_the_truth_changes_reports_and_nothing_else(make_config, here, pool, tmp_path):
    outcomes = []
    for name, wrong in (("none", None), ("right", 0), ("wrong", 1)):
        truth = tmp_path / f"{name}.csv"
        truth.write_text("case_id,true_idh\n" + "".join(f"{case},{wrong}\n" for case in pool))
        changes = {"self_training.truth": wrong if wrong is None else str(truth), "output.name": name}
        changes["self_training.rounds"] = 1
        folder = run_self_training(make_config(changes), replace(here, score=scoring(lambda case: [0.1, 0.2])))
        summary = read_summary(folder)
        records = [vars(read_record(folder / f"round_{number}")) for number in range(2)]
        outcomes.append((weights(folder), summary["chosen_round"], records))
        assert summary["rounds"][1]["accuracy"] == {None: None, 0: 1.0, 1: 0.0}[wrong]
    for other in outcomes[1:]:
        assert same(outcomes[0][0], other[0])
        assert outcomes[0][1:] == other[1:]


def stopping(here, at):
    """Callables of which one stops the run the n-th time that it is called: train-1, score-0, evaluate-2."""
    calls = {"train": 0, "score": 0, "evaluate": 0}

    def wrap(name):
        def call(*arguments):
            calls[name] += 1
            if f"{name}-{calls[name] - 1}" == at:
                raise RunError(f"stopped in {at}")
            return getattr(here, name)(*arguments)

        return call

    return Callables(wrap("train"), wrap("score"), wrap("evaluate")), calls


def test_it_goes_on_after_a_stop_in_each_phase_without_doing_a_phase_twice(make_config, here):
    unbroken = run_self_training(make_config({"output.name": "unbroken", "self_training.rounds": 1}), here)
    phases = ["train-0", "evaluate-0", "score-0", "train-1", "evaluate-1", "evaluate-2", "evaluate-3"]
    config, done = (
        make_config({"output.name": "stopped", "self_training.rounds": 1}),
        {"train": 0, "score": 0, "evaluate": 0},
    )
    for phase in phases:
        name, number = phase.split("-")
        callables, calls = stopping(here, f"{name}-{int(number) - done[name]}")
        with pytest.raises(RunError, match="stopped in"):
            run_self_training(config, callables)
        done = {key: done[key] + calls[key] - (key == name) for key in done}
        assert done[name] == int(number)  # what was finished before is not called again
    folder = run_self_training(config, here)
    assert same(weights(unbroken / "round_1"), weights(folder / "round_1"))
    assert (folder / "test.json").read_text() == (unbroken / "test.json").read_text()


def test_a_changed_setting_is_refused_with_the_difference_and_fresh_starts_anew(make_config, here):
    config = make_config({"self_training.rounds": 1})
    folder = run_self_training(config, here)
    changed = override(config, {"selection.confidence_threshold": 0.7, "mc.passes": 3, "self_training.relabel": False})
    with pytest.raises(InputError) as caught:
        run_self_training(changed, here)
    for difference in (
        "selection.confidence_threshold: 0.9 -> 0.7",
        "mc.passes: 2 -> 3",
        "self_training.relabel: True -> False",
        "--fresh",
    ):
        assert difference in str(caught.value)
    run_self_training(changed, here, fresh=True)
    assert {"round_0", "round_1", "summary.json"} <= set(names(folder / "replaced-1"))
    assert read_summary(folder) is not None


def test_more_rounds_only_before_the_test_cases_were_looked_at(make_config, here):
    config = make_config({"self_training.rounds": 1})
    callables, _ = stopping(here, "evaluate-2")
    with pytest.raises(RunError):
        run_self_training(config, callables)
    folder = run_self_training(override(config, {"self_training.rounds": 2}), here)
    assert (folder / "round_2").exists()
    with pytest.raises(InputError, match=r"self_training\.rounds: 3, but this run was finished with 2"):
        run_self_training(override(config, {"self_training.rounds": 3}), here)
    (folder / "summary.json").unlink()
    with pytest.raises(InputError, match=r"self_training\.rounds: 1, but round 2 is there already"):
        run_self_training(config, here)


def test_a_second_driver_is_refused(make_config, here):
    config = make_config()
    with lock_folder(config.output.folder / "self"), pytest.raises(InputError, match="another mttu is working"):
        run_self_training(config, here)
    assert names(config.output.folder / "self") == []


def test_a_full_disk_stops_cleanly_and_goes_on_later(make_config, here, monkeypatch):
    config = make_config({"self_training.rounds": 1})
    unbroken = run_self_training(override(config, {"output.name": "unbroken"}), here)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "round.json")

    for name in ("write_manifest", "write_history", "write_rows", "write_metrics", "write_record"):
        with monkeypatch.context() as patch:
            patch.setattr(rounds_module, name, full)
            with pytest.raises(RunError, match="the disk is full; nothing that was finished is lost"):
                run_self_training(config, here)
    folder = run_self_training(config, here)
    assert same(weights(unbroken / "round_1"), weights(folder / "round_1"))


def test_what_fails_where_there_is_no_room_fails_for_want_of_it(tmp_path, monkeypatch):
    """PyTorch and SQLite have errors of their own for a full disk."""
    for failure, free, full in (
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), 4096, True),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), 2**40, False),
        (RuntimeError("database or disk is full"), 2**40, True),
    ):
        monkeypatch.setattr("mttu.self_training.run.shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        with pytest.raises(RuntimeError) as caught, naming_full_disk(tmp_path):
            raise failure
        assert isinstance(caught.value, RunError) is full


def test_round_0_can_be_shared(make_config, here):
    config = make_config({"self_training.rounds": 1, "self_training.keep": "all"})
    first = run_self_training(config, here)
    trained = []

    def train(config, folder, on_epoch):
        trained.append(folder.name)
        return here.train(config, folder, on_epoch)

    shared = override(
        config,
        {
            "output.name": "shared",
            "self_training.start": str(first / "round_0"),
            "self_training.optimiser": "kept",
            "selection.method": "CPL",
            "selection.confidence_threshold": 0.5,
            "selection.balance": False,
        },
    )
    folder = run_self_training(shared, replace(here, train=train))
    assert trained == ["working-round_1"]
    assert same(weights(first / "round_0"), weights(folder / "round_0"))
    other = override(shared, {"output.name": "other", "train.seed": 5})
    with pytest.raises(InputError, match=r"was made from other settings or data \(train\.seed: 0 -> 5\)"):
        run_self_training(other, here)
    with pytest.raises(InputError, match="is round 1; give a round_0"):
        run_self_training(override(other, {"self_training.start": str(first / "round_1")}), here)
    assert not (config.output.folder / "other").exists()  # refused before anything was written


def test_what_cannot_work_is_refused_before_anything_starts(make_config, here, pool_manifest, tmp_path):
    cases = tuple(replace(case, split="test") if case.split == "unlabelled" else case for case in pool_manifest.cases)
    write_manifest(replace(pool_manifest, cases=cases), tmp_path / "nopool.parquet")
    (tmp_path / "truth.csv").write_text("case_id,true_idh\nelsewhere,1\n")
    changes = {
        "data.manifest": str(tmp_path / "nopool.parquet"),
        "self_training.truth": str(tmp_path / "truth.csv"),
        "network.dropout": dict.fromkeys(("stem", "embedding", "attention", "projection", "branch", "mlp", "head"), 0),
    }
    with pytest.raises(InputError) as caught:
        run_self_training(make_config(changes), here)
    text = str(caught.value)
    assert "no case has split unlabelled, so there is nothing to label" in text
    assert "knows no case of the pool" in text
    assert "dropout" in text
    with pytest.raises(InputError, match=r"network\.tasks: \['segmentation'\] has no idh"):
        run_self_training(make_config({"network.tasks": ["segmentation"]}), here)
    patient = pool_manifest.split("val")[0].patient_id
    cases = tuple(replace(one, patient_id=patient) if one.split == "unlabelled" else one for one in pool_manifest.cases)
    write_manifest(replace(pool_manifest, cases=cases), tmp_path / "leak.parquet")
    with pytest.raises(
        InputError, match="are of patients who validate or test; training on them would give the answer"
    ):
        run_self_training(make_config({"data.manifest": str(tmp_path / "leak.parquet")}), here)
    assert not (tmp_path / "runs").exists()


def test_a_damaged_round_is_named(make_config, here):
    config = make_config({"self_training.rounds": 1})
    callables, _ = stopping(here, "train-1")
    with pytest.raises(RunError):
        run_self_training(config, callables)
    record = config.output.folder / "self" / "round_0" / "round.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "format_version": 99}))
    with pytest.raises(InputError, match=r"round\.json: format_version is 99; this version of mttu reads 1"):
        run_self_training(config, here)

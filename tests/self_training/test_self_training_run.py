from dataclasses import replace

import pytest
import torch
from small_self_training import names, same, scoring, stopping, weights

from mttu.config import override
from mttu.data.manifest import read_manifest, write_manifest
from mttu.errors import InputError, RunError
from mttu.pseudo_labels.reports import read_selection
from mttu.pseudo_labels.score_table import read_scores
from mttu.self_training import Callables, run_self_training
from mttu.self_training.evaluation import read_summary
from mttu.self_training.round_folder import read_record
from mttu.training.run import launch_locally, run_training

pytestmark = pytest.mark.usefixtures("sketches")


@pytest.fixture
def pool(pool_manifest):
    return [case.case_id for case in pool_manifest.split("unlabelled")]


def test_rounds_from_first_to_last(make_config, here, pool):
    half = scoring(lambda name: [0.9, 0.92] if pool.index(name) % 2 else [0.1, 0.08])
    evaluated, steps = [], []

    def evaluate(checkpoint, cases, config, on_case):
        evaluated.append((checkpoint.parent.name, {case.split for case in cases}))
        return here.evaluate(checkpoint, cases, config, on_case)

    config = make_config({"selection.method": "UPS"})
    folder = run_self_training(config, Callables(here.train, half, evaluate), show=steps.append)
    files = ["finished.json", "held_out.json", "rounds.png", "run.json", "summary.json", "test.json", "test.parquet"]
    assert names(folder) == sorted(["best", "round_0", "round_1", "round_2", *files])
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
        *((number, phase) for number in (1, 2) for phase in ("score", "select", "train", "evaluate", "test")),
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

    def train(config, folder, on_epoch, on_start):
        start = config.train.start_from
        state = start / "state.pt" if start else None
        seen.append((config.train.start_optimiser, bool(state and state.exists())))
        return here.train(config, folder, on_epoch, on_start)

    kept = make_config({"self_training.optimiser": "kept", "self_training.rounds": 1})
    folder = run_self_training(kept, replace(here, train=train))
    assert seen == [("fresh", False), ("kept", True)]
    assert not (folder / "round_0" / "train").exists()
    fresh = run_self_training(override(kept, {"self_training.optimiser": "fresh", "output.name": "fresh"}), here)
    assert same(weights(folder / "round_0"), weights(fresh / "round_0"))
    assert not same(weights(folder / "round_1"), weights(fresh / "round_1"))


def test_it_stops_before_a_round_that_would_change_nothing(make_config, here, pool):
    """Round 2 gives the same cases other classes and is trained; the next would repeat it."""
    scored = []

    def score(plan, on_row):
        scored.append(plan.checkpoint.parent.name)
        high, low = ([0.9, 0.9], [0.1, 0.1]) if len(scored) == 1 else ([0.1, 0.1], [0.9, 0.9])
        return scoring(lambda name: high if pool.index(name) % 2 else low)(plan, on_row)

    config = make_config({"self_training.stop_when_unchanged": True, "self_training.rounds": 4})
    folder = run_self_training(config, replace(here, score=score))
    assert scored == ["round_0", "round_1", "round_2"]
    places = [name for name in names(folder) if name.startswith(("round_", "unch", "work"))]
    assert places == ["round_0", "round_1", "round_2", "unchanged"]
    assert read_summary(folder)["stopped_early"] is True
    one, two = (read_selection(folder / place / "selection.parquet")[0] for place in ("round_2", "unchanged"))
    assert one.pseudo_labels == two.pseudo_labels
    assert run_self_training(config, here) == folder


def test_none_trains_every_round_on_masks_alone_and_scores_nothing(make_config, here):
    def score(plan, on_row):
        raise AssertionError("scores are not needed")

    config = make_config({"selection.method": "none", "self_training.stop_when_unchanged": True})
    folder = run_self_training(config, replace(here, score=score))
    manifest = read_manifest(folder / "round_2" / "manifest.parquet")
    added = [case for case in manifest.split("train") if case.idh == -1]
    assert added
    assert all(case.seg for case in added)
    assert read_record(folder / "round_2").num_mutant == 0


def test_direct_is_one_training_on_the_labelled_cases_and_the_masks_of_the_pool(
    make_config, here, pool_manifest, tmp_path
):
    """The rows with a dagger of Table VI: from random weights, without scores, selection or rounds."""
    config = make_config({"selection.method": "direct", "train.epochs": 1})
    callables, calls = stopping(here, "evaluate-0")
    with pytest.raises(RunError, match="stopped in evaluate-0"):
        run_self_training(config, callables)
    steps = []
    folder = run_self_training(config, callables, show=steps.append)
    assert calls == {"train": 1, "score": 0, "evaluate": 3}  # it went on; then validation and test
    assert {(step.round, step.rounds, step.phase) for step in steps} == {(0, 0, "evaluate"), (0, 0, "test")}
    files = ["finished.json", "held_out.json", "rounds.png", "run.json", "summary.json", "test.json", "test.parquet"]
    assert names(folder) == sorted(["best", "round_0", *files])
    mixed = read_manifest(folder / "round_0" / "manifest.parquet")
    pool = {case.case_id: case for case in pool_manifest.split("unlabelled")}
    added = [case for case in mixed.split("train") if case.case_id in pool]
    assert {case.case_id for case in added} == {name for name, case in pool.items() if case.seg}
    assert {case.idh for case in added} == {-1}
    write_manifest(mixed, tmp_path / "mixed.parquet")
    plain = {"output.name": "plain", "data.manifest": str(tmp_path / "mixed.parquet")}
    assert same(weights(folder), weights(run_training(override(config, plain), launch_locally)))
    summary = read_summary(folder)
    assert (summary["rounds_wanted"], summary["chosen_round"], summary["stopped_early"]) == (0, 0, False)
    [row] = summary["rounds"]
    assert {"val/dice", "test/dice", "test/idh_ce"} <= set(row["metrics"])
    assert row["notes"] == [
        f"selection.method is direct: one training on the labelled cases and the masks of {len(added)} cases of the "
        "pool; self_training.rounds has no effect"
    ]
    run_self_training(override(config, {"self_training.rounds": 5}), here)  # of no effect afterwards, either
    start = str(folder / "round_0")
    shared = make_config({"train.epochs": 1, "output.name": "ups", "self_training.start": start})
    with pytest.raises(InputError, match=r"was trained on other cases; the round_0 of selection\.method=direct"):
        run_self_training(shared, here)


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


def test_round_0_can_be_shared(make_config, here):
    config = make_config({"self_training.rounds": 1, "self_training.keep": "all"})
    first = run_self_training(config, here)
    trained = []

    def train(config, folder, on_epoch, on_start):
        trained.append(folder.name)
        return here.train(config, folder, on_epoch, on_start)

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


@pytest.mark.parametrize("changes", [{}, {"self_training.init": "fresh"}])
def test_the_best_round_teaches_the_next(make_config, here, pool, changes):
    """Round 1 is spoiled by its learning rate, so round 0 scores the pool for round 2 as well."""
    scores = scoring(lambda name: [0.9, 0.92] if pool.index(name) % 2 else [0.1, 0.08])
    config = make_config({"self_training.lr": 1.0, "self_training.teacher": "best", **changes})
    folder = run_self_training(config, Callables(here.train, scores, here.evaluate))
    first, spoiled, second = (read_record(folder / f"round_{number}") for number in range(3))
    assert spoiled.metrics["val/score"] < first.metrics["val/score"]
    about = read_scores(folder / "round_2" / "scores.parquet").about
    assert about["weights_sha256"] == first.weights_sha256
    started = first.weights_sha256 if not changes else None
    assert (spoiled.started_from, second.started_from) == (started, started)
    assert (first.teacher, spoiled.teacher, second.teacher) == (None, 0, 0)


def test_a_round_whose_start_is_kept_changes_nothing(make_config, here, pool):
    scores = scoring(lambda name: [0.9, 0.92] if pool.index(name) % 2 else [0.1, 0.08])
    config = make_config({"self_training.lr": 1.0, "train.keep_start": True})
    folder = run_self_training(config, Callables(here.train, scores, here.evaluate))
    first, spoiled = (read_record(folder / f"round_{number}") for number in range(2))
    assert spoiled.best_epoch == 0
    assert spoiled.weights_sha256 == first.weights_sha256
    assert spoiled.metrics == first.metrics

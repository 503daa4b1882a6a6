import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray import cloudpickle

from mttu.cluster import cases as cluster_score
from mttu.cluster.cases import RETRIES, Work, build_preparer, build_scorer, run_pool, score_on_ray
from mttu.cluster.resources import Demand
from mttu.cluster.self_train import build_evaluator
from mttu.errors import InputError
from mttu.inference.cases import Row
from mttu.pseudo_labels.scoring import ScoringPlan, plan_scoring, score_cases

CPU = torch.device("cpu")
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file


def die_at_first(marker: Path, times: int) -> None:
    """Kills this process the first few times that it is called."""
    met = len(list(marker.glob("death-*")))
    if met < times:
        (marker / f"death-{met}").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def build_mortal_scorer(
    plan: ScoringPlan, threads: int, device_type: str, marker: Path, victim: str, times: int
) -> Work:
    score = build_scorer(plan, threads, device_type)

    def score_or_die(case_id: str) -> Row:
        if case_id == victim:
            die_at_first(marker, times)
        return score(case_id)

    return score_or_die


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, int], None]:
    """Has the first workers that score a case die: `kill(case_id, times)`."""

    def set_victim(victim: str, times: int) -> None:
        def pool_with_a_kill(names: Any, build: Any, arguments: Any, *rest: Any) -> Any:
            assert build is build_scorer
            return run_pool(names, build_mortal_scorer, (*arguments, tmp_path, victim, times), *rest)

        monkeypatch.setattr(cluster_score, "run_pool", pool_with_a_kill)

    return set_victim


@pytest.mark.slow
@pytest.mark.ray
def test_scores_are_the_same_bits_on_any_number_of_actors_and_without_ray(
    tiny_checkpoint: Path, manifest_file: Path, tmp_path: Path, ray_session: None, kill: Callable[[str, int], None]
):
    plan = plan_scoring(tiny_checkpoint, manifest_file, "train")
    told: list[tuple[int, str]] = []
    expected = score_cases(plan, CPU)
    one = score_on_ray(plan, num_actors=1, threads=1, device="cpu", on_row=lambda n, row: told.append((n, row.case_id)))
    assert one.rows[0].error == ""
    assert one.digest == expected.digest
    assert one.about == expected.about
    assert [n for n, _ in told] == [1, 2, 3, 4]
    assert sorted(case_id for _, case_id in told) == [case.case_id for case in plan.cases]

    kill(plan.cases[2].case_id, 1)
    killed = score_on_ray(plan, num_actors=2, threads=1, device="cpu")
    assert (tmp_path / "death-0").exists()
    assert killed.digest == expected.digest


def build_mortal(marker: Path, victim: str) -> Work:
    def work(case_id: str) -> Row:
        if case_id == victim:
            die_at_first(marker, RETRIES + 1)
        return {"case_id": case_id, "pid": os.getpid()}

    return work


def run_mortal(case_ids: list[str], arguments: tuple[Path, str], demand: Demand) -> tuple[list[Row], list[Row]]:
    """Rows in order, and as they were told."""
    told: list[Row] = []

    def refuse(case_id: str, reason: str) -> Row:
        return {"case_id": case_id, "error": reason}

    rows = run_pool(case_ids, build_mortal, arguments, demand, refuse, "try again", lambda done, row: told.append(row))
    return rows, told


@pytest.mark.slow
@pytest.mark.ray
def test_a_case_that_always_kills_its_worker_is_an_error_and_stops_no_other(ray_session: None, tmp_path: Path):
    rows, told = run_mortal(["a", "b", "c"], (tmp_path, "b"), Demand("cases", 1, 1))
    assert [row["case_id"] for row in rows] == ["a", "b", "c"]
    assert "pid" in rows[0]
    assert "pid" in rows[2]
    assert rows[1]["error"] == "case b: its worker died 3 times; is memory or the disk full? try again"
    assert sorted(told, key=lambda row: row["case_id"]) == rows
    assert len(list(tmp_path.glob("death-*"))) == RETRIES + 1


@pytest.mark.ray
def test_no_case_waits_for_an_actor_that_finds_no_place(ray_session: None, tmp_path: Path):
    """The cluster has four CPUs; somebody else holds one."""
    holder = ray.remote(num_cpus=1)(type("Holder", (), {}))
    held = holder.remote()
    ray.get(held.__ray_ready__.remote())
    rows, _ = run_mortal(["a", "b"], (tmp_path, "none"), Demand("cases", 2, 2))
    assert len({row["pid"] for row in rows}) == 1
    ray.kill(held)


@pytest.mark.slow
@pytest.mark.ray
def test_a_lost_case_gets_its_row(tiny_checkpoint, manifest_file, ray_session, kill):
    plan = plan_scoring(tiny_checkpoint, manifest_file, "val")
    kill(plan.cases[0].case_id, RETRIES + 1)
    told = []
    table = score_on_ray(plan, 1, 1, "cpu", on_row=lambda n, row: told.append(row))
    assert [row.case_id for row in table.rows] == [case.case_id for case in plan.cases]
    lost = f"case {plan.cases[0].case_id}: its worker died 3 times; is memory or the disk full? score it again"
    assert [row.error for row in table.rows] == [lost, ""]
    assert sorted(told, key=lambda row: row.case_id) == list(table.rows)


def test_a_checkpoint_that_a_node_does_not_see_is_every_cases_error(tiny_checkpoint, manifest_file, tmp_path):
    plan = replace(plan_scoring(tiny_checkpoint, manifest_file, "val"), checkpoint=tmp_path / "elsewhere")
    work = build_scorer(plan, 1, "cpu")
    row = work(plan.cases[0].case_id)
    assert row["error"].startswith(f"on node {os.uname().nodename}: checkpoint {tmp_path / 'elsewhere'}")


def test_what_a_failing_case_says_is_kept_without_secrets(tiny_checkpoint, manifest_file, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("lost s3://me:hidden@host/x")

    plan = plan_scoring(tiny_checkpoint, manifest_file, "val")
    case = plan.cases[0]
    monkeypatch.setattr("mttu.pseudo_labels.scoring.CaseScorer._score", fail)
    monkeypatch.setattr("mttu.cluster.cases.cache_case", fail)
    monkeypatch.setattr("mttu.cluster.self_train.CaseEvaluator", lambda *arguments: SimpleNamespace(evaluate=fail))
    works = (
        build_scorer(plan, 1, "cpu"),
        build_evaluator(tiny_checkpoint, {case.case_id: case}, plan.config, 1, "cpu"),
        build_preparer({case.case_id: case}, tmp_path, (), plan.config.data.prepare),
    )
    errors = {work(case.case_id)["error"] for work in works}
    assert errors == {f"case {case.case_id}: RuntimeError: lost s3://host/x"}


@pytest.mark.ray
def test_a_cluster_that_is_too_small_is_refused(tiny_checkpoint, manifest_file, ray_session):
    plan = plan_scoring(tiny_checkpoint, manifest_file, "val")
    with pytest.raises(InputError) as caught:
        score_on_ray(plan, num_actors=50, threads=2, device="gpu", gpus_per_actor=0.5)
    gpus, cpus = caught.value.problems
    assert gpus.startswith("50 actors with 0.5 GPUs each, but the cluster has 0")
    assert cpus.startswith("50 actors with 2 threads each, but the cluster has 4 CPUs; they would starve")
    with pytest.raises(InputError, match="GPUs per actor: -1"):
        score_on_ray(plan, device="cpu", gpus_per_actor=-1)

"""Scoring on Ray: one network per actor, one case after the other."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import ray
import torch

from mttu.cluster.pool import Work, explain_lost, run_pool
from mttu.cluster.resources import Demand, tell_placement, wants_gpus
from mttu.cluster.session import connect
from mttu.config import WorkerSettings
from mttu.data.score_table import ScoreRow, ScoreTable
from mttu.errors import InputError, mask_secrets, raise_if_any
from mttu.scoring.cases import CaseScorer, OnRow, make_table
from mttu.scoring.plan import ScoringPlan


def build_scorer(plan: ScoringPlan, threads: int, device_type: str) -> Work:
    """In an actor: reads the weights once; a checkpoint that cannot be read there is every case's error."""
    torch.set_num_threads(threads)
    cases = {case.case_id: case for case in plan.cases}
    score: Callable[[str], ScoreRow]
    try:
        scorer = CaseScorer(plan, torch.device(device_type))

        def score(case_id: str) -> ScoreRow:
            return scorer.score(cases[case_id])

    except (InputError, OSError) as error:
        reason = mask_secrets(f"on node {os.uname().nodename}: {error}")

        def score(case_id: str) -> ScoreRow:
            return ScoreRow(case_id, 0.0, reason)

    return lambda case_id: asdict(score(case_id))


def choose_device(num_actors: int, threads: int, device: str, gpus_per_actor: float, title: str = "score") -> str:
    """The type of device that the actors get, once it is sure that the cluster can hold them; says which.

    Raises:
        InputError: It cannot; with auto also where it has GPUs, but too few.
    """
    problems = []
    if device not in ("auto", "cpu", "gpu"):
        problems.append(f"device {device!r}: choose auto, cpu or gpu")
    if not gpus_per_actor > 0:
        problems.append(f"GPUs per actor: {gpus_per_actor}; expected more than 0, e.g. 0.5 for two actors on a GPU")
    raise_if_any(problems)
    have = ray.cluster_resources()
    cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
    use_gpu = wants_gpus(device)
    if use_gpu and gpus < num_actors * gpus_per_actor:
        fewer = f"take {int(gpus / gpus_per_actor)} actors, " if gpus >= gpus_per_actor else ""
        problems.append(
            f"{num_actors} actors with {gpus_per_actor:g} GPUs each, but the cluster has {gpus:g}; "
            f"{fewer}a smaller share of a GPU, or device cpu"
        )
    if cpus < num_actors * threads:
        problems.append(
            f"{num_actors} actors with {threads} threads each, but the cluster has {cpus:g} CPUs; they would starve "
            "each other; take fewer actors or threads"
        )
    raise_if_any(problems)
    tell_placement(Demand(title, num_actors, threads, gpus_per_actor if use_gpu else 0.0))
    return "cuda" if use_gpu else "cpu"


def score_on_ray(
    plan: ScoringPlan,
    num_actors: int = 1,
    threads: int = 2,
    device: str = "auto",
    gpus_per_actor: float = 1.0,
    on_row: OnRow | None = None,
) -> ScoreTable:
    """Scores every case of a plan on a pool of Ray actors; the scores are those of `score_cases`, to the last bit.

    Args:
        plan: See `plan_scoring`; every node must see checkpoint, images and cache under the same paths.
        num_actors: Cases at the same time, each with a network of its own.
        threads: CPU threads of each actor; on a CPU the last bits depend on it.
        device: auto: GPUs if the cluster has any; then it must have enough for all actors.
        gpus_per_actor: A fraction puts several actors on one GPU.
        on_row: Told how many cases are done, and the newest row.

    Raises:
        InputError: The cluster is too small, or does not answer.
    """
    done: list[ScoreRow] = []

    def tell(content: Mapping[str, Any]) -> None:
        done.append(_to_row(content))
        if on_row is not None:
            on_row(len(done), done[-1])

    with connect(WorkerSettings(num_workers=num_actors, threads_per_worker=threads)):
        device_type = choose_device(num_actors, threads, device, gpus_per_actor)
        names = [case.case_id for case in plan.cases]
        gpus = gpus_per_actor if device_type == "cuda" else 0.0
        arguments = (plan, threads, device_type)
        found = run_pool(names, build_scorer, arguments, num_actors, threads, gpus, tell, "score")
    for name in names:
        if name not in found:
            tell(asdict(ScoreRow(name, 0.0, explain_lost(name, "score it again"))))
    return make_table(plan, done, device_type, threads)


def _to_row(content: Mapping[str, Any]) -> ScoreRow:
    passes = content["mutant_probabilities"]
    return ScoreRow(**{**content, "mutant_probabilities": None if passes is None else tuple(passes)})

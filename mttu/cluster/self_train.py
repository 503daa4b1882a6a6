"""Self-training on Ray: training by Ray Train, scores and evaluation by pools of actors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mttu.cluster.cases import Work, build_or_refuse, place_actors, run_pool, score_on_ray
from mttu.cluster.session import connect, is_private
from mttu.cluster.train import launch_on_ray
from mttu.config import Config, WorkerSettings, override
from mttu.data.manifest import Case
from mttu.errors import RunError
from mttu.inference.cases import OnRow, Row, run_cases, run_or_refuse
from mttu.pseudo_labels.score_table import ScoreTable
from mttu.pseudo_labels.scoring import OnScored, ScoringPlan
from mttu.self_training import Callables
from mttu.self_training.evaluation import CaseEvaluator
from mttu.self_training.job import CaseRow, OnEvaluated


def callables_on_ray(workers: WorkerSettings) -> Callables:
    """How the rounds' work is done on the cluster that is connected, or on a private one for each step.

    As many actors score and evaluate as workers train, with as many threads each.
    """

    def score(plan: ScoringPlan, on_row: OnScored) -> ScoreTable:
        actors, threads = workers.num_workers, workers.threads_per_worker
        return score_on_ray(plan, actors, threads, workers.device, workers.gpus_per_worker, on_row)

    return Callables(launch_on_ray, score, evaluate_on_ray)


def evaluate_on_ray(
    checkpoint: Path, cases: Sequence[Case], config: Config, on_case: OnEvaluated, distances: bool = False
) -> list[CaseRow]:
    """An `Evaluate` on a pool of Ray actors; the rows are those of one process, to the last bit.

    Every node must see the checkpoint and the cache under the same paths. Instead of a single CPU worker of a private
    cluster, this process does the work.

    Raises:
        InputError: The cluster is too small, or does not answer.
        RunError: A case could not be scored; names all of them.
    """
    workers = config.workers

    def tell(done: int, row: Row) -> None:
        on_case(done, row["scores"] or {"case_id": row["case_id"]})

    with connect(workers):
        actors, threads = workers.num_workers, workers.threads_per_worker
        demand = place_actors("evaluate", actors, threads, workers.device, workers.gpus_per_worker)
        by_name = {case.case_id: case for case in cases}
        secretless = override(config, {"tracking.uri": None})  # the address may hold a password
        arguments = (checkpoint, by_name, secretless, threads, demand.device_type, distances)
        if actors == 1 and demand.device_type == "cpu" and is_private():
            rows = _run_here(list(by_name), arguments, tell)
        else:
            again = "run the same command again"
            rows = run_pool(list(by_name), build_evaluator, arguments, demand, _refuse, again, tell)
    problems = [row["error"] for row in rows if row["error"]]
    if problems:
        raise RunError("evaluation: " + "; ".join(problems))
    return [row["scores"] for row in rows]


def _run_here(names: Sequence[str], arguments: Sequence[Any], tell: OnRow) -> list[Row]:
    threads = torch.get_num_threads()
    try:
        return run_cases(names, build_evaluator(*arguments), tell)  # which sets the threads, as in an actor
    finally:
        torch.set_num_threads(threads)


def build_evaluator(
    checkpoint: Path,
    cases: Mapping[str, Case],
    config: Config,
    threads: int,
    device_type: str,
    distances: bool = False,
) -> Work:
    """In an actor: evaluates cases; what fails is the case's error, for the driver to raise when all are done."""

    def build() -> Work:
        evaluator = CaseEvaluator(checkpoint, config, torch.device(device_type), distances)

        def work(case_id: str) -> Row:
            return run_or_refuse(
                case_id,
                lambda: {"case_id": case_id, "scores": evaluator.evaluate(cases[case_id]), "error": ""},
                lambda reason: _refuse(case_id, reason),
            )

        return work

    return build_or_refuse(build, lambda case_id, reason: _refuse(case_id, f"case {case_id}: {reason}"), threads)


def _refuse(case_id: str, reason: str) -> Row:
    return {"case_id": case_id, "scores": None, "error": reason}

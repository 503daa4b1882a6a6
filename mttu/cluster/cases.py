"""Case after case through a pool of Ray Data actors, to prepare or to score them; a bad case stops no other.

Rows carry case ids, never volumes. A scoring actor builds its network once.
"""

import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypedDict, cast

import ray
import ray.data
import ray.util.client
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mttu.cluster.resources import Demand, tell_placement, telling_unplaced_actors, wants_gpus
from mttu.cluster.session import connect
from mttu.config import PrepareSettings, WorkerSettings
from mttu.data.cache import cache_case
from mttu.data.manifest import Case, Manifest
from mttu.errors import InputError, RunError, mask_secrets, raise_if_any
from mttu.inference.cases import OnRow, Row, run_or_refuse
from mttu.pseudo_labels.score_table import ScoreRow, ScoreTable, to_row
from mttu.pseudo_labels.scoring import CaseScorer, OnScored, ScoringPlan, make_table

RETRIES = 2
"""How often a case is tried again whose worker died, e.g. for want of memory."""

CPU_SHARE = 0.8
"""Part of the cluster's CPUs that the actors take at most; the rest is Ray Data's own work, which else would starve."""


Work = Callable[[str], Row]
"""From a case id to its row. What fails becomes the row's `error`; repeating a case must be harmless."""
Refuse = Callable[[str, str], Row]
"""From a case id and the reason why it has no result to its row."""


class _Worker:
    """An actor: builds what is expensive once, then takes one case after the other."""

    def __init__(self, given: Any) -> None:
        build, arguments = ray.get(given)
        self.work = build(*arguments)

    def __call__(self, row: Row) -> dict[str, str]:
        # as text: columns of lists that are empty in one block and not in the next have no common type
        return {"case_id": row["case_id"], "row": json.dumps(self.work(row["case_id"]))}


def run_pool(
    case_ids: Sequence[str],
    build: Callable[..., Work],
    arguments: Sequence[Any],
    demand: Demand,
    refuse: Refuse,
    again: str,
    on_row: OnRow,
) -> list[Row]:
    """Runs all cases on the Ray cluster that is connected; see `mttu.inference.cases.run_cases` for one process.

    Args:
        case_ids: Cases, each once.
        build: Called once in each actor; gives what is called with each case id, which should not raise.
        arguments: Of `build`.
        demand: Actors at the same time. They get fewer CPUs where they would take more than `CPU_SHARE` of the cluster.
        refuse: Gives the row of a case whose worker died each time.
        again: What to do then, as the end of a sentence.
        on_row: Called with each row as it arrives, in any order.

    Returns:
        A row for each case, in the order of `case_ids`.

    Raises:
        RunError: The process that hands out the cases ended, e.g. with its node.
    """
    if not case_ids:
        return []
    demand = replace(demand, number=min(demand.number, len(case_ids)))
    cpus = min(float(demand.threads), CPU_SHARE * ray.cluster_resources().get("CPU", 1.0) / demand.number)
    pipeline = (list(case_ids), [ray.put((build, tuple(arguments)))], demand.number, cpus, demand.gpus)
    rows: dict[str, Row] = {}
    with telling_unplaced_actors(demand), closing(_run(pipeline, demand.title)) as contents:
        for content in contents:
            row = rows[content["case_id"]] = json.loads(content["row"])
            on_row(len(rows), row)
    for name in case_ids:
        if name not in rows:
            reason = f"its worker died {RETRIES + 1} times; is memory or the disk full? {again}"
            row = rows[name] = refuse(name, f"case {name}: {reason}")
            on_row(len(rows), row)
    return [rows[name] for name in case_ids]


def _run(pipeline: tuple[Any, ...], title: str) -> Generator[dict[str, str]]:
    """The rows of a pipeline, which runs in a process of the cluster on this node.

    In this process Ray would print an error line for each actor (its issue 53727: a restart needs arguments that might
    be lost, which Ray Data keeps); a process of the cluster has a log for that. The pipeline stops when the caller
    stops before the last row, even if the cluster stays up.
    """
    if ray.util.client.ray.is_connected():  # such a client gets no results one by one
        yield from _stream(*pipeline)
        return
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    task = ray.remote(num_cpus=0, max_retries=0, num_returns="streaming", scheduling_strategy=here)(_stream)
    references = task.remote(*pipeline)
    try:
        for reference in references:
            yield ray.get(reference)
    except RayTaskError:  # a bug in the pipeline, with its traceback
        raise
    except RayError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"{title}: the process that hands out the cases ended ({reason}); is memory full, or a node gone? The same "
            "command goes on"
        ) from error
    finally:
        ray.cancel(references)  # nothing, if it has ended


def _stream(
    case_ids: Sequence[str], given: Sequence[Any], actors: int, cpus: float, num_gpus: float
) -> Iterator[dict[str, str]]:
    """Runs the pipeline of Ray Data and yields row after row as `_Worker` gives them.

    `given` holds the reference to `build` and its arguments in a list, as Ray would resolve a bare one here.
    """
    # hides a line per pipeline, and one on progress bars
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    dataset = ray.data.from_items([{"case_id": name} for name in case_ids], override_num_blocks=len(case_ids))
    dataset.context.max_errored_blocks = -1  # a case whose worker always dies is missing from the result, no more
    dataset.context.enable_progress_bars = False
    with warnings.catch_warnings():
        # Without a limit, a case that kills its worker is tried for ever. Ray 2.60 takes the limit only as a remote
        # argument, which it says it will replace. The workers themselves restart without limit, for the other cases.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        done = dataset.map(
            _Worker,
            fn_constructor_args=tuple(given),
            compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
            num_cpus=cpus,
            num_gpus=num_gpus or None,
            max_task_retries=RETRIES,
        )
    for batch in done.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
        for row in batch.to_pylist():  # noqa: UP028 - Ray sends to this generator, which a list's iterator cannot take
            yield row


class PreparedRow(TypedDict):
    """What became of one case."""

    case_id: str
    seconds: float
    written: bool
    """False if the cache already held it, or on an error."""
    error: str
    """Empty if all is well."""


def build_preparer(
    cases: Mapping[str, Case], cache_dir: Path, modalities: Sequence[str], settings: PrepareSettings
) -> Work:
    """In an actor: prepares cases into a cache."""

    def prepare(case_id: str) -> Row:
        start = time.perf_counter()

        def make_row(written: bool, error: str = "") -> PreparedRow:
            seconds = time.perf_counter() - start
            return PreparedRow(case_id=case_id, seconds=seconds, written=written, error=error)

        return run_or_refuse(
            case_id,
            lambda: make_row(cache_case(cases[case_id], cache_dir, modalities, settings)),
            lambda reason: make_row(False, reason),
        )

    return prepare


def prepare_cohort(
    manifest: Manifest,
    cache_dir: Path,
    modalities: Sequence[str],
    settings: PrepareSettings,
    num_actors: int,
    on_row: Callable[[int, PreparedRow], None],
) -> list[PreparedRow]:
    """Prepares all cases into a cache, which all nodes must see, on the Ray cluster that is connected.

    `on_row` is told how many cases are done, and the newest row. Returns a row per case, in the order of the manifest.
    """

    def refuse(case_id: str, reason: str) -> PreparedRow:
        return PreparedRow(case_id=case_id, seconds=0.0, written=False, error=reason)

    cases = {case.case_id: case for case in manifest.cases}
    arguments = (cases, cache_dir.resolve(), tuple(modalities), settings)
    demand = Demand("prepare", min(num_actors, len(cases)), 1)
    tell_placement(demand)
    tell = cast(OnRow, on_row)
    rows = run_pool(list(cases), build_preparer, arguments, demand, refuse, "prepare it again", tell)
    return cast(list[PreparedRow], rows)


def build_or_refuse(build: Callable[[], Work], refuse: Refuse, threads: int) -> Work:
    """In an actor: builds what runs a case, such as a network, once; where that fails, it is every case's error."""
    torch.set_num_threads(threads)
    try:
        return build()
    except (InputError, OSError) as error:
        reason = mask_secrets(f"on node {os.uname().nodename}: {error}")
        return lambda case_id: refuse(case_id, reason)


def build_scorer(plan: ScoringPlan, threads: int, device_type: str) -> Work:
    """In an actor: scores cases of a plan."""
    cases = {case.case_id: case for case in plan.cases}

    def build() -> Work:
        scorer = CaseScorer(plan, torch.device(device_type))
        return lambda case_id: asdict(scorer.score(cases[case_id]))

    return build_or_refuse(build, _refuse_score, threads)


def _refuse_score(case_id: str, reason: str) -> Row:
    return asdict(ScoreRow(case_id, 0.0, reason))


def place_actors(title: str, num_actors: int, threads: int, device: str, gpus_per_actor: float) -> Demand:
    """What the actors get of the cluster, which is checked and told the user.

    Raises:
        InputError: The cluster cannot hold them; with auto also where it has GPUs, but too few.
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
    demand = Demand(title, num_actors, threads, gpus_per_actor if use_gpu else 0.0)
    tell_placement(demand)
    return demand


def score_on_ray(
    plan: ScoringPlan,
    num_actors: int = 1,
    threads: int = 2,
    device: str = "auto",
    gpus_per_actor: float = 1.0,
    on_row: OnScored | None = None,
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

    def tell(done: int, row: Row) -> None:
        if on_row is not None:
            on_row(done, to_row(row))

    with connect(WorkerSettings(num_workers=num_actors, threads_per_worker=threads)):
        demand = place_actors("score", num_actors, threads, device, gpus_per_actor)
        names, arguments = [case.case_id for case in plan.cases], (plan, threads, demand.device_type)
        rows = run_pool(names, build_scorer, arguments, demand, _refuse_score, "score it again", tell)
    return make_table(plan, [to_row(row) for row in rows], demand.device_type, threads)

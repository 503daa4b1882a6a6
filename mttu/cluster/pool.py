"""Case after case through a pool of Ray Data actors: rows carry case ids, never volumes; a bad case stops no other."""

import json
import logging
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import ray
import ray.data
import ray.util.client
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mttu.cluster.resources import Demand, telling_unplaced_actors
from mttu.errors import RunError

RETRIES = 2
"""How often a case is tried again whose worker died, e.g. for want of memory."""

CPU_SHARE = 0.8
"""Part of the cluster's CPUs that the actors take at most; the rest is Ray Data's own work, which else would starve."""

Work = Callable[[str], Mapping[str, Any]]
"""From a case id to its row of JSON values; repeating a case must be harmless."""


class _Worker:
    """An actor: what is expensive is built once, then one case comes after the other."""

    def __init__(self, given: Any) -> None:
        build, arguments = ray.get(given)
        self.work = build(*arguments)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, str]:
        # as text: columns of lists that are empty in one block and not in the next have no common type
        return {"case_id": row["case_id"], "row": json.dumps(self.work(row["case_id"]))}


def run_pool(
    case_ids: Sequence[str],
    build: Callable[..., Work],
    arguments: Sequence[Any],
    num_actors: int,
    threads: int = 1,
    num_gpus: float = 0.0,
    on_row: Callable[[Mapping[str, Any]], None] | None = None,
    title: str = "cases",
) -> dict[str, Mapping[str, Any]]:
    """Runs all cases on the Ray cluster that is connected.

    Args:
        case_ids: Cases, each once.
        build: Called once in each actor; gives what is called with each case id, which should not raise.
        arguments: Of `build`.
        num_actors: Cases at the same time.
        threads: CPUs that an actor asks for, less where actors would take more than `CPU_SHARE` of the cluster.
        num_gpus: GPUs, or a fraction of one, that an actor asks for.
        on_row: Called with each row as it arrives.
        title: Of the work, where it has to wait.

    Returns:
        Case to row; a case whose worker died each time is not among them.

    Raises:
        RunError: The process that hands out the cases ended, e.g. with its node.
    """
    if not case_ids:
        return {}
    actors = min(num_actors, len(case_ids))
    cpus = min(float(threads), CPU_SHARE * ray.cluster_resources().get("CPU", 1.0) / actors)
    pipeline = (list(case_ids), [ray.put((build, tuple(arguments)))], actors, cpus, num_gpus)
    rows: dict[str, Mapping[str, Any]] = {}
    with telling_unplaced_actors(Demand(title, actors, threads, num_gpus)), closing(_run(pipeline, title)) as contents:
        for content in contents:
            rows[content["case_id"]] = json.loads(content["row"])
            if on_row is not None:
                on_row(rows[content["case_id"]])
    return rows


def _run(pipeline: tuple[Any, ...], title: str) -> Generator[dict[str, str]]:
    """The rows of a pipeline, which runs in a process of the cluster on this node.

    In this process Ray would print an error line for each actor (its issue 53727: a restart needs arguments that might
    be lost, which Ray Data keeps); a process of the cluster has a log for that. When the caller stops before the last
    row, so does the pipeline, on a cluster that lives on, too.
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
    except RayTaskError:  # a defect of the pipeline, with its trace
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
    """The pipeline of Ray Data; yields row after row as `_Worker` gives them.

    Args:
        case_ids: Cases, each once.
        given: The reference to `build` and its arguments, which only the actors read; in a list, as Ray would read it.
        actors: Cases at the same time.
        cpus: That an actor asks for.
        num_gpus: That an actor asks for.
    """
    # one line per pipeline, and one on progress bars, are of no use
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    dataset = ray.data.from_items([{"case_id": name} for name in case_ids], override_num_blocks=len(case_ids))
    dataset.context.max_errored_blocks = -1  # a case whose worker always dies is missing from the result, no more
    dataset.context.enable_progress_bars = False
    with warnings.catch_warnings():
        # Without a bound, a case that kills its worker is tried for ever. Ray 2.60 takes the bound only as a remote
        # argument, which it announces to replace. The workers themselves restart without bound, for the other cases.
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


def explain_lost(case_id: str, advice: str) -> str:
    """What to say of a case that `run_pool` gave no row."""
    return f"case {case_id}: its worker died {RETRIES + 1} times; is memory or the disk full? {advice}"

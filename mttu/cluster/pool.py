"""Case after case through a pool of Ray actors: rows carry case ids, never volumes; a bad case stops no other.

An actor that dies is replaced by a new one, and its case is tried again. Ray's own restart is not used: it would build
the actor anew from arguments in the object store, which may be lost by then, as Ray says in an error line each time.
"""

import json
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from mttu.cluster.resources import Demand, Waiting
from mttu.errors import RunError

RETRIES = 2
"""How often a case is tried again whose worker died, e.g. for want of memory."""
_LOOK_SECONDS = 2.0

Work = Callable[[str], Mapping[str, Any]]
"""From a case id to its row of JSON values; repeating a case must be harmless."""


class _Worker:
    """An actor: what is expensive is built once, then one case comes after the other."""

    work: Work

    def prepare(self, build: Callable[..., Work], arguments: Sequence[Any]) -> None:
        """Comes first, and apart from the start, which so says when the actor has got its place in the cluster."""
        self.work = build(*arguments)

    def run(self, case_id: str) -> str:
        """The row of a case, as JSON."""
        return json.dumps(self.work(case_id))


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
        threads: CPUs that an actor asks for; less where all actors would take more than the cluster has.
        num_gpus: GPUs, or a fraction of one, that an actor asks for.
        on_row: Called with each row as it arrives.
        title: Of the work, where it has to wait.

    Returns:
        Case to row; a case whose worker died each time is not among them.

    Raises:
        RunError: Workers die before they have done anything.
    """
    actors = min(num_actors, len(case_ids))
    if actors == 0:
        return {}
    cpus = min(float(threads), math.floor(ray.cluster_resources().get("CPU", 1.0) / actors * 1e4) / 1e4)
    make = ray.remote(num_cpus=cpus, num_gpus=num_gpus)(_Worker)
    given = ray.put(tuple(arguments))
    waiting = Waiting(Demand(title, actors, threads, num_gpus))
    unplaced: list[Any] = []
    busy: dict[Any, tuple[Any, str | None]] = {}  # what an actor was asked to do, to the actor and its case, if any

    def start() -> None:
        actor = make.remote()
        unplaced.append(actor.__ray_ready__.remote())
        busy[actor.prepare.remote(build, given)] = (actor, None)

    rows: dict[str, Mapping[str, Any]] = {}
    to_do, deaths, early_deaths = deque(case_ids), Counter[str](), 0
    for _ in range(actors):
        start()
    while to_do or any(case_id is not None for _, case_id in busy.values()):  # an actor without a case may never start
        ready, _ = ray.wait(list(busy), timeout=_LOOK_SECONDS)
        unplaced = ray.wait(unplaced, num_returns=len(unplaced), timeout=0)[1] if unplaced else []
        if not ready:
            if unplaced:
                waiting.tell(len(unplaced))
            continue
        actor, case_id = busy.pop(ready[0])
        try:
            row = ray.get(ready[0])
        except RayTaskError:
            raise  # of `build` or of the work, which is a defect
        except RayError as error:  # the actor died, was killed for memory, or its node is gone
            with suppress(Exception):
                ray.kill(actor)
            if case_id is None:
                early_deaths += 1
                if early_deaths > RETRIES:
                    reason = str(error).strip().splitlines()[0]
                    raise RunError(f"{title}: workers die as soon as they start ({reason}); is memory full?") from None
            else:
                deaths[case_id] += 1
                if deaths[case_id] <= RETRIES:
                    to_do.append(case_id)
            if to_do:
                start()
            continue
        if case_id is not None:
            early_deaths = 0
            rows[case_id] = json.loads(row)
            if on_row is not None:
                on_row(rows[case_id])
        if to_do:
            case_id = to_do.popleft()
            busy[actor.run.remote(case_id)] = (actor, case_id)
    return rows


def explain_lost(case_id: str, advice: str) -> str:
    """What to say of a case that `run_pool` gave no row."""
    return f"case {case_id}: its worker died {RETRIES + 1} times; is memory or the disk full? {advice}"

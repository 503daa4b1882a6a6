"""What work needs of a cluster: its device, and what the user is told of placement and waiting."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass

import ray
from ray._private import state
from ray.util import placement_group_table

from mttu.cluster.session import is_private
from mttu.errors import say_count


@contextmanager
def watching(watch: Callable[[threading.Event], None], name: str) -> Iterator[None]:
    """Runs a function in its own thread while the body runs, and waits for its end.

    The function gets an event that is set when the body is over, and catches its own errors.
    """
    stop = threading.Event()
    thread = threading.Thread(target=watch, args=(stop,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


FIRST_SECONDS = 10.0
"""Until waiting is said for the first time: workers of a free cluster need a few seconds to start."""
AGAIN_SECONDS = 120.0
"""Until it is said again."""
_LOOK_SECONDS = 2.0

logger = logging.getLogger(__name__)
_said: dict[str, str] = {}


@dataclass(frozen=True)
class Demand:
    """Processes that work at the same time."""

    title: str
    """Of the work, e.g. `train`."""
    number: int
    threads: int
    """CPUs of each."""
    gpus: float = 0.0
    """GPUs of each, or a share of one."""

    @property
    def device_type(self) -> str:
        """As torch calls it."""
        return "cuda" if self.gpus else "cpu"

    def __str__(self) -> str:
        cpus = say_count(self.threads, "CPU thread", "CPU threads")
        one = f"{say_gpus(self.gpus)} and {cpus}" if self.gpus else cpus
        return f"{say_count(self.number, 'worker', 'workers')} with {one}{' each' if self.number > 1 else ''}"


def say_gpus(number: float) -> str:
    """`1 GPU`, `0.5 GPUs`."""
    return f"{number:g} {'GPU' if number == 1 else 'GPUs'}"


def wants_gpus(device: str) -> bool:
    """Whether work gets GPUs; `auto` takes the CPU only where the cluster has no GPU at all."""
    return device == "gpu" or (device == "auto" and ray.cluster_resources().get("GPU", 0.0) > 0)


def tell_placement(demand: Demand) -> None:
    """Says what the work runs on, unless the same was said of it before."""
    have = ray.cluster_resources()
    total = f"{say_gpus(have.get('GPU', 0.0))} and {say_count(int(have.get('CPU', 0.0)), 'CPU', 'CPUs')}"
    text = f"on the {'GPU' if demand.gpus else 'CPU'}: {demand}; the cluster has {total}"
    if _said.get(demand.title) != text:
        _said[demand.title] = text
        logger.info("%s: %s", demand.title, text)


class Waiting:
    """Says after some seconds, and then now and again, that work waits for a place in the cluster."""

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        self.due = time.monotonic() + FIRST_SECONDS

    def tell(self, number: int) -> None:
        """Called regularly with the number of processes that have no place."""
        now = time.monotonic()
        if not number:
            self.due = now + FIRST_SECONDS
        if not number or now < self.due:
            return
        self.due = now + AGAIN_SECONDS
        have, free = ray.cluster_resources(), ray.available_resources()
        places = ", ".join(
            f"{free.get(kind, 0.0):g} of {have[kind]:g} {kind}s" for kind in ("CPU", "GPU") if have.get(kind)
        )
        logger.info(
            "%s: waiting for a place in the cluster for %d of %s; free: %s; it starts by itself as soon as others are "
            "done, and ends with Ctrl-C",
            self.demand.title,
            number,
            self.demand,
            places or "nothing",
        )


def telling_pending_group(demand: Demand) -> AbstractContextManager[None]:
    """Says while the body runs that its workers, which Ray Train places as one group, wait for their place."""
    before = set(placement_group_table())

    def count() -> int:
        groups = {name: group for name, group in placement_group_table().items() if name not in before}
        pending = any(group["state"] == "PENDING" and is_of(group["bundles"], demand) for group in groups.values())
        return demand.number if pending else 0

    return _telling(demand, count)


def telling_unplaced_actors(demand: Demand) -> AbstractContextManager[None]:
    """Says while the body runs that actors of this job, such as those of Ray Data, wait for their place."""
    job = ray.get_runtime_context().get_job_id()

    def count() -> int:
        own = [actor for actor in state.actors().values() if actor["JobID"] == job]
        return sum(actor["Pid"] == 0 and actor["State"] != "DEAD" for actor in own)

    return _telling(demand, count)


@contextmanager
def _telling(demand: Demand, count: Callable[[], int]) -> Iterator[None]:
    """Counts regularly how many processes have no place, and says so."""
    if is_private():  # nobody else takes a place there
        yield
        return
    waiting = Waiting(demand)

    def watch(stop: threading.Event) -> None:
        with suppress(Exception):  # the work itself reports a cluster that is gone
            while not stop.wait(_LOOK_SECONDS):
                waiting.tell(count())

    with watching(watch, "mttu-waiting"):
        yield


def is_of(bundles: dict[int, dict[str, float]], demand: Demand) -> bool:
    """Whether the parts of a placement group are those of the workers."""
    asked = {"CPU": float(demand.threads), **({"GPU": demand.gpus} if demand.gpus else {})}
    return len(bundles) == demand.number and all(
        {name: part.get(name, 0.0) for name in asked} == asked for part in bundles.values()
    )

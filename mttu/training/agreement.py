"""What ranks agree on before any of them waits for another: that none was stopped, and that they read the same.

A rank that stops alone leaves the others in a collective, which waits for as long as the process group's time-out: half
an hour and more. So what may fail on one machine and not on the next is done first, and what was found is exchanged.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mttu.errors import InputError, RunError, name_some
from mttu.training.runtime import Runtime

_MOST = 20
"""Problems that a rank tells; a node without the cache would name every case."""


class AgreedError(InputError):
    """Input that some ranks cannot use; every rank stops with it."""


@contextmanager
def agreeing(runtime: Runtime) -> Iterator[None]:
    """Runs the body on every rank; where it fails on some, all stop with what each of them found.

    The body must not wait for another rank. With a single rank its error is left as it is.

    Raises:
        AgreedError: Some rank refused its input or could not read a file; names each rank, its node and its problems.
        RunError: Some rank stopped itself, see `RunError.all_ranks`; an error of another kind is raised unchanged where
            it happened, and the other ranks say that they stop for it, so that they may be tried again.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        if runtime.world_size == 1:
            raise
        failure = error
    if runtime.world_size == 1:
        return
    found = runtime.gather([{"rank": runtime.rank, "node": os.uname().nodename, **_describe(failure)}])
    kinds = {row["kind"] for row in found}
    if kinds == {""}:
        return
    sentences = _tell(found)
    if "other" in kinds:
        if failure is not None and not isinstance(failure, InputError | RunError | OSError):
            raise failure
        raise RunError("; ".join(sentences), all_ranks=False) from failure
    if "run" in kinds:
        raise RunError("; ".join(sentences)) from failure
    raise AgreedError(sentences) from failure


def _describe(failure: Exception | None) -> dict[str, Any]:
    if failure is None:
        return {"kind": "", "problems": []}
    if isinstance(failure, InputError):
        problems = failure.problems
        more = [f"and {len(problems) - _MOST} more problems"] if len(problems) > _MOST else []
        return {"kind": "input", "problems": [*problems[:_MOST], *more]}
    if isinstance(failure, OSError):
        return {"kind": "input", "problems": [f"cannot read or write ({failure})"]}
    if isinstance(failure, RunError):
        return {"kind": "run", "problems": [str(failure)]}
    text = (str(failure).strip().splitlines() or [""])[0]
    return {"kind": "other", "problems": [f"{type(failure).__name__}: {text}"]}


def _tell(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence per problem and rank; what all ranks say is said once."""
    by_problem: dict[str, list[str]] = {}
    for row in found:
        for problem in row["problems"]:
            by_problem.setdefault(problem, []).append(_name(row))
    return [
        f"{'every worker' if len(names) == len(found) else ', '.join(names)}: {problem}"
        for problem, names in by_problem.items()
    ]


def _name(row: Mapping[str, Any]) -> str:
    return f"worker {row['rank']} on node {row['node']}"


def check_same(runtime: Runtime, seen: Mapping[str, str]) -> None:
    """Refuses ranks that read different things, such as a node's own copy of the cache that was left behind.

    Args:
        runtime: Of this rank.
        seen: Name, such as `case A`, to what this rank read under it.

    Raises:
        AgreedError: On every rank; names the rank and what it sees otherwise than rank 0.
    """
    if runtime.world_size == 1:
        return
    own: dict[str, Any] = {"rank": runtime.rank, "node": os.uname().nodename, "seen": dict(seen)}
    found = runtime.gather([own])
    first, problems = found[0], []
    for row in found[1:]:
        names = sorted(first["seen"].keys() | row["seen"].keys())
        differing = [name for name in names if first["seen"].get(name) != row["seen"].get(name)]
        if differing:
            problems.append(
                f"{_name(row)} reads another {name_some(differing)} than {_name(first)}; manifest, cache, checkpoints "
                "and run folder have to lie on storage that all nodes share, under the same paths"
            )
    if problems:
        raise AgreedError(problems)

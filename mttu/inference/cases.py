"""Case after case, in this process or in an actor of a pool: the row that a case becomes, also one that fails."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from mttu.errors import explain_failure

Row = Mapping[str, Any]
"""JSON values of a case, `case_id` among them."""
OnRow = Callable[[int, Row], None]
"""Told how many cases are done, and the newest row."""

_Case = TypeVar("_Case")
_Row = TypeVar("_Row")


def run_cases(
    cases: Iterable[_Case], work: Callable[[_Case], _Row], on_row: Callable[[int, _Row], None] | None = None
) -> list[_Row]:
    """Runs one case after the other in this process; returns their rows in order.

    `on_row` is told how many cases are done, and the newest row. `mttu.cluster.cases.run_pool` does the same on Ray.
    """
    rows: list[_Row] = []
    for case in cases:
        rows.append(work(case))
        if on_row is not None:
            on_row(len(rows), rows[-1])
    return rows


def run_or_refuse(case_id: str, run: Callable[[], _Row], refuse: Callable[[str], _Row]) -> _Row:
    """A case's row; an error of any kind becomes what `refuse` makes of its reason, so that no other case is lost."""
    try:
        return run()
    except Exception as failure:
        return refuse(explain_failure(case_id, failure))
